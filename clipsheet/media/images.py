"""Pictures and animated WebP, read by Pillow, and which picture format a file has, by its first bytes."""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipsheet import places
from clipsheet.errors import MediaError
from clipsheet.media.container import MAX_PIXELS
from clipsheet.media.packets import MAX_FRAME_SECONDS

HEAD_BYTES: Final = 4096  # a page; of most PNG files it holds all that stands before the pixels
MAX_CHUNKS: Final = 1000  # of a PNG or WebP that are looked at before it counts as a still picture
MAX_JPEG_BYTES: Final = 64 << 20  # of a JPEG in which a second one is looked for
#: Brands of the `ftyp` box of single pictures and of sequences in HEVC and AV1 (ISO/IEC 23008-12, 10 and
#: annex B; AV1 Image File Format, 6). EITHER_BRAND is the major one of both.
STILL_BRANDS: Final = frozenset((b"avif", b"heic", b"heix", b"heim", b"heis"))
SEQUENCE_BRANDS: Final = frozenset((b"avis", b"msf1", b"hevc", b"hevx", b"hevm", b"hevs"))
AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
EITHER_BRAND: Final = b"mif1"
#: A frame of an animated WebP that is to be shown for at most QUICK_MS is shown for QUICK_AS_MS. The format
#: leaves that to its readers (RFC 9649, 2.7.1.1); Firefox (image/FrameTimeout.h), WebKit (webkit.org/b/36082)
#: and Chromium do this, and FFmpeg does it with GIF.
QUICK_MS: Final = 10
QUICK_AS_MS: Final = 100
#: FFmpeg's demuxers of animations. It is told which one: by itself it looks at the first 2 kB of a PNG only, and
#: at a JPEG's name.
DEMUXERS: Final = {"PNG": "apng", "JPEG": "mjpeg", "GIF": "gif"}
TIFF_NEW_SUBFILE_TYPE: Final = 254  # TIFF 6.0, section 8; bit 0: a smaller version of another picture
TIFF_DNG_VERSION: Final = 50706  # DNG 1.7, chapter 4

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow fails only at twice as many


@dataclass(frozen=True)
class Signature:
    """What the first bytes of a file say.

    Attributes:
        format: of the picture, by Pillow's name; empty where it is none that is known here.
        moving: whether it is an animation: a video, not a picture.
        certain: whether the bytes are long enough to rule out chance.
    """

    format: str = ""
    moving: bool = False
    certain: bool = True

    @property
    def still(self) -> bool:
        """Whether it is a picture."""
        return bool(self.format) and not self.moving


def signature(path: str) -> Signature:
    """What the first bytes of a regular file say of it; nothing is decoded.

    Raises:
        MediaError: unreadable.
    """
    with closing(_Bytes(path)) as file:
        head = file.head
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return Signature("PNG", _png_moves(file))
        if head.startswith(b"\xff\xd8\xff"):
            return Signature("JPEG", _jpeg_goes_on(file))
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return Signature("WEBP", len(_webp_durations(file, most=2)) > 1)
        if head[4:8] == b"ftyp":
            return _iso(head)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return Signature("GIF", moving=True)
        if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return Signature("TIFF")
        if head.startswith(b"BM"):
            return Signature("BMP", certain=False)
        if re.match(rb"P[1-6]\s", head):
            return Signature("PPM", certain=False)
    return Signature()


class _Bytes:
    """A file of which a few bytes here and there are wanted."""

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = places.descriptor(path)
        except OSError as error:
            raise MediaError("unreadable", error.strerror or "") from error
        try:
            self.head = os.pread(self._descriptor, HEAD_BYTES, 0)
        except OSError as error:
            self.close()
            raise MediaError("unreadable", error.strerror or "") from error

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        return places.status(self._descriptor).st_size

    def read(self, at: int, count: int) -> bytes:
        """Bytes from a place in the file on; fewer at its end."""
        if at + count <= len(self.head):
            return self.head[at : at + count]
        try:
            return os.pread(self._descriptor, count, at)
        except OSError as error:
            raise MediaError("unreadable", error.strerror or "") from error


def _png_moves(file: _Bytes) -> bool:
    """Whether a PNG says ahead of its pixels that it is an animation of two frames or more.

    The chunk acTL (PNG, third edition, 11.3.6.1).
    """
    at = 8
    for _ in range(MAX_CHUNKS):
        header = file.read(at, 12)
        if len(header) < 12 or header[4:8] in (b"IDAT", b"IEND"):
            return False
        if header[4:8] == b"acTL":
            return int.from_bytes(header[8:], "big") > 1
        at += 12 + int.from_bytes(header[:4], "big")
    return False


def _webp_durations(file: _Bytes, most: int | None = None) -> list[int]:
    """Milliseconds for which each frame of an animated WebP is to be shown; of a still one, nothing.

    Args:
        most: frames after which to stop.

    Raises:
        MediaError: decode_error, where `most` is not given and the file ends too early.
    """
    head, found = file.head, list[int]()
    if head[12:16] != b"VP8X" or len(head) < 21 or not head[20] & 2:
        return found
    at, end = 12, min(file.size, 8 + int.from_bytes(head[4:8], "little"))
    chunks = 0
    while at + 8 <= end and (most is None or (len(found) < most and chunks < MAX_CHUNKS)):
        header = file.read(at, 24)
        if header[:4] == b"ANMF" and len(header) == 24:
            found.append(int.from_bytes(header[20:23], "little"))
        size = int.from_bytes(header[4:8], "little")
        at += 8 + size + size % 2
        chunks += 1
    if most is None and (at > file.size or file.size < 8 + int.from_bytes(head[4:8], "little")):
        raise MediaError("decode_error", "the file is cut off")
    return found


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height in pixels of the canvas (RFC 9649, 2.5 to 2.7); 0, 0 where they do not stand there."""
    kind, body = head[12:16], head[20:30]
    if len(body) < 10:
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _iso(head: bytes) -> Signature:
    """Of a file that begins with a `ftyp` box: its major brand decides, and where both kinds of file have that
    one, a file which also names a sequence is one (libavif chooses in the same way)."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    major = head[8:12]
    brands = {major, *(head[at : at + 4] for at in range(16, size - 3, 4))}
    if major not in STILL_BRANDS | SEQUENCE_BRANDS | {EITHER_BRAND}:
        return Signature()
    moving = major in SEQUENCE_BRANDS or (major == EITHER_BRAND and bool(brands & SEQUENCE_BRANDS))
    return Signature("AVIF" if brands & AVIF_BRANDS else "HEIF", moving)


_NEXT_MARKER: Final = re.compile(
    rb"\xff[^\x00\xd0-\xd7\xff]"
)  # behind the entropy-coded data (T.81, B.1.1.2)
_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF (T.81, table B.1)


def _jpeg_goes_on(file: _Bytes) -> bool:
    """Whether one JPEG picture is followed by another of its size: a stream of Motion JPEG.

    A picture whose file holds further ones, as phones write it (CIPA DC-007, Multi-Picture Format), is a picture.
    """
    data = file.read(0, min(file.size, MAX_JPEG_BYTES))
    if data.find(b"\xff\xd9\xff\xd8\xff") < 0:
        return False
    size, end = _jpeg_size_and_end(data, 0)
    again, _ = _jpeg_size_and_end(data, end) if end and data[end : end + 2] == b"\xff\xd8" else (b"", 0)
    return bool(size) and size == again


def _jpeg_size_and_end(data: bytes, at: int) -> tuple[bytes, int]:
    """Height and width as they stand in the JPEG at a place of `data`, and where it ends.

    Empty where it holds an index of several pictures or is no JPEG; the end is 0 where it is cut off.
    """
    size, at = b"", at + 2
    while found := _NEXT_MARKER.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:  # EOI
            return size, at
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == 0xE2 and data[at + 2 : at + 6] == b"MPF\0":
            return b"", 0
        if marker in _FRAME_MARKERS:
            size = data[at + 3 : at + 7]
        at += max(2, length)
    return size, 0


def _iso_ends_early(file: _Bytes) -> bool:
    """Whether a file ends ahead of the end of one of its outermost boxes (ISO/IEC 14496-12, 4.2)."""
    at = 0
    for _ in range(MAX_CHUNKS):
        header = file.read(at, 16)
        if len(header) < 8:
            return False
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: up to the end of the file
            return False
        at += size
        if at > file.size:
            return True
    return False


# --- pictures ----------------------------------------------------------------------------------


def picture(real_path: str, found: Signature) -> np.ndarray | None:
    """[H, W, 3] uint8 RGB, turned and mirrored as displayed; None where it is no such picture after all.

    Raises:
        MediaError: too_large, before anything is decoded; decode_error for a damaged or cut-off file;
            format_not_allowed for a camera's raw picture, of which there is a thumbnail only.
    """
    with _opened(real_path, found) as image:
        if image is None:
            return None
        if image.format == "TIFF":
            _refuse_thumbnail(image)
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@contextmanager
def _opened(real_path: str, found: Signature) -> Iterator[Any]:
    """A picture by Pillow, not yet decoded; None where an uncertain signature was wrong."""
    with closing(_Bytes(real_path)) as file:
        if found.format == "WEBP":  # Pillow makes room for its pixels before it says how many there are
            _check_size(*_webp_size(file.head))
        if found.format == "HEIF":
            if _iso_ends_early(file):  # libheif would leave tiles grey
                raise MediaError("decode_error", "the file is cut off")
            _register_heif()
    try:
        try:
            image = Image.open(real_path, formats=(found.format,))
        except (OSError, ValueError, SyntaxError) as error:
            if found.certain:
                raise MediaError("decode_error", f"a {found.format} file: {_reason(error)}") from error
            yield None
            return
        with image:
            _check_size(*image.size)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError("too_large", str(error)) from error
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error) as error:
        raise MediaError("decode_error", str(error)) from error


def _reason(error: Exception) -> str:
    return "damaged or cut off" if isinstance(error, UnidentifiedImageError) else str(error)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError("too_large", f"{width}x{height}")


def _refuse_thumbnail(image: Any) -> None:
    tags = image.tag_v2
    if TIFF_DNG_VERSION in tags or tags.get(TIFF_NEW_SUBFILE_TYPE, 0) & 1:
        raise MediaError("format_not_allowed", "a camera's raw picture: only its thumbnail could be read")


def _register_heif() -> None:
    """Have Pillow read HEIF. Imported here: no other file needs its library."""
    import pillow_heif

    # One thread: the workers use the cores. Thumbnails, depth maps and gain maps are not looked at.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


# --- animated WebP -----------------------------------------------------------------------------


class WebpAnimation:
    """An animated WebP: its times, and its frames put together by libwebp.

    One frame is decoded at a time; nothing stays open in between.

    Attributes:
        width, height: pixels of the canvas.
        seconds: [N] float64, when each frame begins.
        duration: seconds to the end of the last one.
        stamps: [N] int64, the same in units of `tick`.
        tick: seconds.

    Raises:
        MediaError: too_large, too_long, or decode_error for a damaged or cut-off file.
    """

    tick: Final = Fraction(1, 1000)

    def __init__(self, real_path: str) -> None:
        self._real = real_path
        with closing(_Bytes(real_path)) as file:
            self.width, self.height = _webp_size(file.head)
            _check_size(self.width, self.height)
            shown = [QUICK_AS_MS if ms <= QUICK_MS else ms for ms in _webp_durations(file)]
        if not shown:
            raise MediaError("decode_error", "no frame is there any more")
        if max(shown) > MAX_FRAME_SECONDS * 1000:
            raise MediaError("too_long", f"a frame of {max(shown) / 1000:.0f} s")
        ends = np.cumsum(shown)
        self.stamps: np.ndarray = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        self.seconds = self.stamps / 1000
        self.duration = float(ends[-1] / 1000)

    def frames(self, wanted: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, int]]:
        """[H, W, 3] uint8 RGB of the frames of some rising indices, or of all, with their index.

        What comes behind a damaged frame is left out: the canvas is not known any more.
        """
        indices = range(len(self.stamps)) if wanted is None else wanted.tolist()
        with _opened(self._real, Signature("WEBP", moving=True)) as image:
            for index in indices:
                try:
                    image.seek(index)
                    shown = np.asarray(image.convert("RGB"))
                except (EOFError, OSError, ValueError):
                    return
                yield shown, index
