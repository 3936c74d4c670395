"""One shown picture, and how it is scaled and turned."""

from __future__ import annotations

import math
import struct
import threading
from typing import Any, Final

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type

from clipsheet.media.hdr import ToneMap
from clipsheet.media.info import MediaInfo

#: FFmpeg's scaler needs two steps to shrink a side further (filters of 256 taps, bicubic ones of 4 per pixel left
#: out), and refuses them where the picture has not more than 4 times the pixels of the target (libswscale/utils.c).
MOST_SHRUNK: Final = 60


def _unnamed(cls: Any, number: int) -> Any:
    """A kind of side data that FFmpeg has and PyAV has no name for."""
    kind = object.__new__(cls)
    kind._value_, kind._name_ = number, f"TYPE_{number}"
    return kind


# Else PyAV 18 raises ValueError for all side data of a picture if it does not know one kind, as with Exif.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]


def orientation(picture: av.VideoFrame) -> tuple[int, bool]:
    """How a decoded picture is to be shown, by its display matrix (ISO/IEC 14496-12, 6.2.2).

    Returns:
        Degrees counter-clockwise, a multiple of 90, and whether it is mirrored left to right before it is turned.
    """
    matrix = picture.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return 0, False
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(matrix))
    mirrored = a * d - b * c < 0
    clockwise = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
    return round(-clockwise / 90) * 90 % 360, mirrored


class Frame:
    """One shown picture, turned as displayed; pixels are converted when they are asked for.

    Several threads may ask at once; FFmpeg's converter belongs to one picture and serves one.

    Args:
        tone: maps pictures of high dynamic range to the standard one; None leaves them as they are.

    Attributes:
        index: among the shown frames, from 0.
        seconds: when it is shown, since the first frame.
        height, width: as displayed, of the file's first frame: later ones are scaled to it.
    """

    __slots__ = (
        "_codes", "_lock", "_mirrored", "_rgb", "_rotation", "_source", "_tone", "height", "index", "seconds", "width",
    )  # fmt: skip

    def __init__(
        self, source: av.VideoFrame | np.ndarray, index: int, info: MediaInfo, tone: ToneMap | None = None
    ) -> None:
        self._source = source
        self._rgb: np.ndarray | None = source if isinstance(source, np.ndarray) else None
        self._codes: np.ndarray | None = None  # of high dynamic range, as displayed
        self._tone = tone
        self._rotation, self._mirrored = info.rotation, info.mirrored
        self._lock = threading.Lock()
        self.index = index
        self.seconds = float(info.frame_seconds[min(index, len(info.frame_seconds) - 1)])
        self.height = info.height
        self.width = info.width

    def stored(self) -> av.VideoFrame:
        """Not turned, and of the size that it has in the file."""
        if isinstance(self._source, np.ndarray):
            return av.VideoFrame.from_ndarray(self._source, format="rgb24")
        return self._source if self._tone is None else self._tone.picture(self._source)

    def rgb(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """[H, W, 3] uint8 RGB, at the displayed size or averaged over areas to another one."""
        height, width = height or self.height, width or self.width
        with self._lock:
            if self._rgb is None and self._tone is not None:
                if self._codes is None:
                    self._codes = self._displayed("gbrp10le")
                if (height, width) != (self.height, self.width):
                    return self._tone(resized(self._codes, height, width))
                self._rgb = self._tone(self._codes)
            elif self._rgb is None:
                self._rgb = self._displayed("rgb24")
        return resized(self._rgb, height, width)

    def _displayed(self, pixel_format: str) -> np.ndarray:
        assert isinstance(self._source, av.VideoFrame)
        image = _scaler().reformat(self._source, format=pixel_format, threads=1).to_ndarray()
        return resized(self._turned(image), self.height, self.width)

    def scaled(self, height: int, width: int) -> np.ndarray:
        """[H, W, 3] uint8 RGB, by FFmpeg's bicubic scaler straight from the picture as it was decoded.

        For pictures much smaller than the frame, and for networks that were trained on such.
        """
        if isinstance(self._source, np.ndarray):
            return np.ascontiguousarray(
                cv2.resize(self._source, (width, height), interpolation=cv2.INTER_AREA)
            )
        shrinks = max(self.height / height, self.width / width)
        if shrinks > MOST_SHRUNK and self.height * self.width <= 4 * height * width:
            return resized(self.rgb(min(height, self.height), min(width, self.width)), height, width)
        stored = (height, width) if self._rotation % 180 else (width, height)
        pixel_format = "rgb24" if self._tone is None else "gbrp10le"
        small = (
            _scaler()
            .reformat(self._source, *stored, pixel_format, interpolation="BICUBIC", threads=1)
            .to_ndarray()
        )
        return self._turned(small if self._tone is None else self._tone(small))

    def luma(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """[H, W] uint8, 0 black to 255 white (full range), at the displayed or another size."""
        height, width = height or self.height, width or self.width
        if isinstance(self._source, np.ndarray) or _is_rgb(self._source):
            return cv2.cvtColor(self.rgb(height, width), cv2.COLOR_RGB2GRAY)
        if self._tone is not None:
            return cv2.transform(self.rgb(height, width), LUMA_OF_BT709)
        plane, full_range = _luma_plane(self._source)
        stored = (width, height) if self._rotation % 180 else (height, width)
        image = self._turned(resized(plane, *stored))
        return image if full_range else cv2.LUT(image, _TO_FULL_RANGE)

    def _turned(self, image: np.ndarray) -> np.ndarray:
        """An image as it is displayed."""
        image = image[:, ::-1] if self._mirrored else image
        return np.ascontiguousarray(np.rot90(image, self._rotation // 90))


_scaling: Final = threading.local()


def _scaler() -> Any:
    """FFmpeg's converter of this thread. To set one up takes long, and so does starting threads for it."""
    if not hasattr(_scaling, "by"):
        _scaling.by = av.video.reformatter.VideoReformatter()
    return _scaling.by


def _is_rgb(picture: av.VideoFrame) -> bool:
    return bool(picture.format.is_rgb or picture.format.has_palette)


def _luma_plane(picture: av.VideoFrame) -> tuple[np.ndarray, bool]:
    """[H, W] uint8 as stored, and whether its range is 0 to 255."""
    if not picture.format.name.startswith(_PLANAR_8_BIT) or picture.format.components[0].bits != 8:
        return _scaler().reformat(picture, format="gray", threads=1).to_ndarray(), True
    plane: Any = picture.planes[0]  # holds the buffer protocol, which its type does not say
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    full_range = picture.color_range == av.video.reformatter.ColorRange.JPEG
    return rows[: picture.height, : picture.width], bool(full_range)


#: Studio luma, 16 black to 235 white, as 0 to 255 (ITU-R BT.601).
_TO_FULL_RANGE: Final = np.clip((np.arange(256) - 16) * 255 / 219, 0, 255).round().astype(np.uint8)
#: Of red, green and blue (ITU-R BT.709).
LUMA_OF_BT709: Final = np.array([[0.2126, 0.7152, 0.0722]], np.float32)
_PLANAR_8_BIT: Final = ("yuv4", "yuvj4", "yuva4", "nv12", "nv21")


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    smaller = height <= image.shape[0] and width <= image.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def fit(height: int, width: int, *, short: int | None = None, long: int | None = None) -> tuple[int, int]:
    """(height, width) shrunk, never enlarged, so that its short or long side is at most that many."""
    ratio = 1.0
    if short is not None:
        ratio = min(ratio, short / min(height, width))
    if long is not None:
        ratio = min(ratio, long / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))
