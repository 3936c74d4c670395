"""Frames into packets: encoders, their settings, and one encoder per clip."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Final

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from clipsheet.errors import STORAGE_ERRNOS, MediaError
from clipsheet.media import Frame, Media
from clipsheet.media.fields import FieldOrder

#: One thread: the workers use the cores, and x264's output depends on its threads.
CODERS: Final = {
    "libx264": {"crf": "{crf}", "preset": "{preset}", "threads": "1"},
    "libopenh264": {"b": "4M", "threads": "1"},
    "h264_nvenc": {"cq": "{crf}"},
}
RATE_LIMIT: Final = 100_000
MACROBLOCK, MACROBLOCKS_AT_ONCE = 16, 8  # pixels; see _clear_new_memory()
#: What NVIDIA's driver says; its limits differ between GPUs.
NVENC_TOO_SMALL: Final = "Dimension less than the minimum"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_PERTURB = -1, -3, -6  # of glibc's malloc.h

EIGHT_BITS, TEN_BITS = "yuv420p", "yuv420p10le"

Filter = tuple[str, str]


@dataclass(frozen=True)
class Coding:
    """How frames become a stream.

    Attributes:
        encoder: one of CODERS.
        options: of the encoder.
        filters: from the decoded frames to those of the clip: FFmpeg's names and arguments.
        pixels: the pixel format, EIGHT_BITS or TEN_BITS.
        field_order: of pictures that stay woven of two fields; "" for progressive ones.
    """

    encoder: str
    options: tuple[tuple[str, str], ...]
    filters: tuple[Filter, ...] = ()
    pixels: str = EIGHT_BITS
    field_order: FieldOrder = ""

    @classmethod
    def of(cls, encoder: str, filters: Sequence[Filter], **settings: object) -> Coding:
        """With an encoder's options as CODERS has them."""
        options = {key: value.format(**settings) for key, value in CODERS[encoder].items()}
        return cls(encoder, tuple(options.items()), tuple(filters))


def encoders() -> list[str]:
    """Those of CODERS that the FFmpeg inside PyAV has."""
    return [name for name in CODERS if _has(name)]


def _has(encoder: str) -> bool:
    try:
        av.codec.Codec(encoder, "w")
    except UnknownCodecError:
        return False
    return True


@contextmanager
def failing() -> Iterator[None]:
    """What FFmpeg has against a clip, as a MediaError; what the disk has, as the OSError that it is."""
    try:
        yield
    except av.error.MemoryError as error:
        raise MediaError("out_of_memory", str(error)) from error
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
            raise OSError(error.errno, error.strerror) from error
        code = "too_small" if NVENC_TOO_SMALL in str(error) else "partial"
        raise MediaError(code, f"{type(error).__name__}: {error}") from error


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: each encoder wants some 100 MB, and new pages cost a tenth of the time of
    encoding a short clip."""
    _set_malloc(M_TRIM_THRESHOLD, 1 << 30)
    _set_malloc(M_MMAP_THRESHOLD, 1 << 25)


def _clear_new_memory() -> None:
    """Have glibc fill what it gives out from now on with zeros, as the system does with new pages.

    x264's mbtree_propagate_list_internal_avx512 takes 8 macroblocks at once, and so reads past the end of a row
    with another number of them: what it makes would depend on what the memory held before.
    """
    _set_malloc(M_PERTURB, 255)


@cache
def _set_malloc(parameter: int, value: int) -> None:
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(parameter, value)


class FrameEncoder:
    """Filters and encodes the frames of a clip, which come in order of time.

    Args:
        media: where they are from.
        first: index of the first one, which gets the time 0.
        output: gives the stream or context that is to encode them, once the first one has come.
    """

    def __init__(self, media: Media, first: int, coding: Coding, output: Callable[[], Any]) -> None:
        self._first, self._coding, self._make = first, coding, output
        self._shown = shown(media)
        self._durations: dict[int, int] = {}  # of pictures in the encoder, by their time stamps
        self._rate = Fraction(media.info.fps).limit_denominator(RATE_LIMIT)
        self._stamps = media.stamps(0, len(media.info.frame_seconds))
        self._zero = None if self._stamps is None else int(self._stamps[first])
        sides = (media.info.width, media.info.height)
        self._size = sides[::-1] if media.info.rotation % 180 else sides
        self._begun = False
        self._tick = 1 / self._rate if self._stamps is None else media.tick
        even = next((Fraction(rate) for name, rate in coding.filters if name == "fps"), None)
        self._even = even is not None
        # With less than one output frame, the fps filter would output no frame at all.
        self._least = math.ceil(1 / (even * self._tick)) if even is not None else 0
        self._graph: Any = None
        self._reformatter = VideoReformatter()
        self._output: Any = None

    @property
    def context(self) -> Any:
        """The encoder; None where no frame has come out of the filters yet."""
        return getattr(self._output, "codec_context", self._output)

    def encode(self, frame: Frame) -> Iterator[av.Packet]:
        """The packets that come out when a frame goes in."""
        picture = frame.stored()
        if (picture.width, picture.height) != self._size:  # it changes in mid-stream
            picture = self._reformatter.reformat(picture, *self._size, threads=1)
        if not self._begun:
            self._begin(picture)
        if self._stamps is None or self._zero is None:
            picture.pts, picture.duration = frame.index - self._first, 1
        else:
            picture.pts = int(self._stamps[frame.index]) - self._zero
            picture.duration = int(self._shown[frame.index])
        picture.time_base = self._tick
        picture.duration = max(picture.duration, self._least - picture.pts)
        self._durations[picture.pts] = picture.duration
        if self._graph is None:
            yield from self._encoded(picture)
        else:
            self._graph.vpush(picture)
            yield from self._filtered()

    def finish(self) -> Iterator[av.Packet]:
        """The packets that were held back."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._filtered()
        if self._output is not None:
            yield from self._timed(self._output.encode(None))

    def _timed(self, packets: list[av.Packet]) -> Iterator[av.Packet]:
        """Set the display duration of packets, which not all encoders pass on."""
        for packet in packets:
            packet.duration = 1 if self._even else self._durations.pop(packet.pts or 0, 1)
            yield packet

    def _begin(self, picture: av.VideoFrame) -> None:
        self._begun = True
        if not self._coding.filters and picture.format.name == self._coding.pixels:
            return
        source = (
            f"video_size={picture.width}x{picture.height}:pix_fmt={picture.format.name}"
            f":time_base={self._tick}:frame_rate={self._rate}"
            f":colorspace={int(picture.colorspace)}:range={int(picture.color_range)}"
        )
        graph = self._graph = av.filter.Graph()
        graph.threads = 1
        nodes = [graph.add("buffer", source)]
        nodes += [graph.add(name, arguments) for name, arguments in self._coding.filters]
        if (
            picture.format.is_rgb
        ):  # else FFmpeg takes another matrix than players do of a clip that does not say
            nodes.append(graph.add("scale", "out_color_matrix=bt709:out_range=tv"))
        nodes += [graph.add("format", f"pix_fmts={self._coding.pixels}"), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()

    def _filtered(self) -> Iterator[av.Packet]:
        while True:
            try:
                picture = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield from self._encoded(picture)

    def _encoded(self, picture: av.VideoFrame) -> Iterator[av.Packet]:
        if self._output is None:
            self._output = self._make()
            context = self.context
            context.width, context.height, context.pix_fmt = (
                picture.width,
                picture.height,
                self._coding.pixels,
            )
            context.time_base = picture.time_base
            assert picture.time_base is not None
            context.framerate = 1 / picture.time_base if self._even else self._rate
            context.sample_aspect_ratio = Fraction(1)
            for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
                setattr(context, name, getattr(picture, name))
            context.thread_count = 1
            x264 = self._coding.encoder == "libx264"
            if x264 and math.ceil(picture.width / MACROBLOCK) % MACROBLOCKS_AT_ONCE:
                _clear_new_memory()
            context.options = dict(self._coding.options)
            context.flags |= Flags.global_header
            if self._coding.field_order and x264:
                context.flags |= Flags.interlaced_dct
                bottom = self._coding.field_order == "bff"
                context.options |= {"x264-params": "bff=1" if bottom else "tff=1"}
        if self._even:
            picture.duration = 1
        picture.pict_type = PictureType.NONE
        yield from self._timed(self._output.encode(picture))


def shown(media: Media) -> np.ndarray:
    """[N] int64: display duration of each frame in units of the time stamps; 1 if there are no stamps."""
    info = media.info
    if not info.has_times:
        return np.ones(len(info.frame_seconds), np.int64)
    seconds = np.diff(info.frame_seconds, append=info.duration)
    return np.maximum(1, np.rint(seconds / float(media.tick))).astype(np.int64)


def encode_alone(media: Media, first: int, stop: int, coding: Coding) -> tuple[list[av.Packet], bytes]:
    """The packets of the frames [first, stop), and the parameter sets that stand apart from them."""
    if first == stop:
        return [], b""
    encoder = FrameEncoder(media, first, coding, lambda: av.CodecContext.create(coding.encoder, "w"))
    packets: list[av.Packet] = []
    for frame in media.frames(range(first, stop)):
        packets += encoder.encode(frame)
    packets += encoder.finish()
    return packets, bytes(encoder.context.extradata or b"") if encoder.context is not None else b""
