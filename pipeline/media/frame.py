"""One shown picture, and how it is scaled and turned."""

from __future__ import annotations

import threading
from typing import Any, Final

import av
import cv2
import numpy as np

from pipeline.media.info import MediaInfo

#: FFmpeg's scaler needs two steps to shrink a side further (filters of 256 taps, bicubic ones of 4 per pixel left
#: out), and refuses them where the picture has not more than 4 times the pixels of the target (libswscale/utils.c).
MOST_SHRUNK: Final = 60


class Frame:
    """One shown picture, turned as displayed; pixels are converted when they are asked for.

    Several threads may ask at once; FFmpeg's converter belongs to one picture and serves one.

    Attributes:
        index: among the shown frames, from 0.
        seconds: when it is shown, since the first frame.
        height, width: as displayed, of the file's first frame: later ones are scaled to it.
    """

    __slots__ = ("_lock", "_rgb", "_rotation", "_source", "height", "index", "seconds", "width")

    def __init__(self, source: av.VideoFrame | np.ndarray, index: int, info: MediaInfo) -> None:
        self._source = source
        self._rgb: np.ndarray | None = source if isinstance(source, np.ndarray) else None
        self._rotation = info.rotation
        self._lock = threading.Lock()
        self.index = index
        self.seconds = float(info.frame_seconds[min(index, len(info.frame_seconds) - 1)])
        self.height = info.height
        self.width = info.width

    def stored(self) -> av.VideoFrame:
        """As it was decoded: not turned, and of the size that it has in the file."""
        assert isinstance(self._source, av.VideoFrame)
        return self._source

    def rgb(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """[H, W, 3] uint8 RGB, at the displayed size or averaged over areas to another one."""
        with self._lock:
            if self._rgb is None:
                assert isinstance(self._source, av.VideoFrame)
                image = np.rot90(
                    _scaler().reformat(self._source, format="rgb24", threads=1).to_ndarray(),
                    self._rotation // 90,
                )
                self._rgb = resized(np.ascontiguousarray(image), self.height, self.width)
        return resized(self._rgb, height or self.height, width or self.width)

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
        small = _scaler().reformat(self._source, *stored, "rgb24", interpolation="BICUBIC", threads=1)
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), self._rotation // 90))

    def luma(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """[H, W] uint8, 0 black to 255 white (full range), at the displayed or another size."""
        height, width = height or self.height, width or self.width
        plane = self._luma_plane()
        if plane is None:
            return cv2.cvtColor(self.rgb(height, width), cv2.COLOR_RGB2GRAY)
        stored = (width, height) if self._rotation % 180 else (height, width)
        image = np.rot90(resized(plane, *stored), self._rotation // 90)
        source: Any = self._source
        full_range = source.color_range == av.video.reformatter.ColorRange.JPEG
        return np.ascontiguousarray(image) if full_range else cv2.LUT(image, _TO_FULL_RANGE)

    def _luma_plane(self) -> np.ndarray | None:
        """[H, W] uint8 as stored, where the pixel format keeps 8-bit luma in a plane of its own."""
        frame = self._source
        if isinstance(frame, np.ndarray) or not frame.format.name.startswith(_PLANAR_8_BIT):
            return None
        if frame.format.components[0].bits != 8:
            return None
        plane: Any = frame.planes[0]  # holds the buffer protocol, which its type does not say
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return rows[: frame.height, : frame.width]


_scaling: Final = threading.local()


def _scaler() -> Any:
    """FFmpeg's converter of this thread. To set one up takes long, and so does starting threads for it."""
    if not hasattr(_scaling, "by"):
        _scaling.by = av.video.reformatter.VideoReformatter()
    return _scaling.by


#: Studio luma, 16 black to 235 white, as 0 to 255 (ITU-R BT.601).
_TO_FULL_RANGE: Final = np.clip((np.arange(256) - 16) * 255 / 219, 0, 255).round().astype(np.uint8)
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
