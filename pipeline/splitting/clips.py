"""Writing clips as MP4: frames that are encoded, packets that are copied, or both in one file.

An encoder gets the frames of its clip and no other, so that a clip does not depend on which others are cut
beside it. Nothing here decides what a clip holds; see pipeline.splitting.cut.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from pipeline.errors import MediaError
from pipeline.media import Frame, Media

#: One thread: the workers use the cores, and x264's output depends on its threads.
CODERS: Final = {
    "libx264": {"crf": "{crf}", "preset": "{preset}", "threads": "1"},
    "libopenh264": {"b": "4M", "threads": "1"},
    "h264_nvenc": {"cq": "{crf}"},
}
MAX_CLIP_BYTES: Final = 2_000_000_000
CHECK_SIZE_EVERY: Final = 250  # packets
AAC_RATES: Final = "96000|88200|64000|48000|44100|32000|24000|22050|16000|12000|11025|8000"
RATE_LIMIT: Final = 100_000

Filter = tuple[str, str]


@dataclass(frozen=True)
class Coding:
    """How frames become a stream.

    Attributes:
        encoder: one of CODERS.
        options: of the encoder.
        filters: from the decoded frames to those of the clip: FFmpeg's names and arguments.
    """

    encoder: str
    options: tuple[tuple[str, str], ...]
    filters: tuple[Filter, ...] = ()

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
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror) from error
        raise MediaError("partial", f"{type(error).__name__}: {error}") from error


# --- frames ------------------------------------------------------------------------------------


class FrameEncoder:
    """Filters and encodes the frames of a clip, which come in order of time.

    Args:
        media: where they are from.
        first: index of the first one, which gets the time 0.
        output: gives the stream or context that is to encode them, once the first one has come.
    """

    def __init__(self, media: Media, first: int, coding: Coding, output: Callable[[], Any]) -> None:
        self._info, self._first, self._coding, self._make = media.info, first, coding, output
        self._ends = np.append(media.info.frame_seconds[1:], media.info.duration)
        self._rate = Fraction(media.info.fps).limit_denominator(RATE_LIMIT)
        self._stamps = media.stamps(0, len(media.info.frame_seconds))
        self._zero = None if self._stamps is None else int(self._stamps[first])
        self._size = (0, 0)
        self._tick = 1 / self._rate if self._stamps is None else media.tick
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
        if self._size == (0, 0):
            self._begin(picture)
        if (picture.width, picture.height) != self._size:  # it changes in mid-stream
            picture = self._reformatter.reformat(picture, *self._size, threads=1)
        if self._stamps is None or self._zero is None:
            picture.pts, picture.duration = frame.index - self._first, 1
        else:
            picture.pts = int(self._stamps[frame.index]) - self._zero
            shown = float(self._ends[frame.index] - self._info.frame_seconds[frame.index])
            picture.duration = max(1, round(shown / self._tick))
        picture.time_base = self._tick
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
            yield from self._output.encode(None)

    def _begin(self, picture: av.VideoFrame) -> None:
        self._size = (picture.width, picture.height)
        if not self._coding.filters and picture.format.name == "yuv420p":
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
        nodes += [graph.add("format", "pix_fmts=yuv420p"), graph.add("buffersink")]
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
            context.width, context.height, context.pix_fmt = picture.width, picture.height, "yuv420p"
            context.time_base, context.framerate = picture.time_base, self._rate
            context.sample_aspect_ratio = Fraction(1)
            for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
                setattr(context, name, getattr(picture, name))
            context.thread_count = 1
            context.options = dict(self._coding.options)
            context.flags |= Flags.global_header
        picture.pict_type = PictureType.NONE
        yield from self._output.encode(picture)


def encode_alone(media: Media, first: int, stop: int, coding: Coding) -> tuple[list[av.Packet], bytes]:
    """The packets of the frames [first, stop), and the parameter sets that stand apart from them."""
    encoder = FrameEncoder(media, first, coding, lambda: av.CodecContext.create(coding.encoder, "w"))
    packets: list[av.Packet] = []
    for frame in media.frames(range(first, stop)):
        packets += encoder.encode(frame)
    packets += encoder.finish()
    return packets, bytes(encoder.context.extradata or b"") if encoder.context is not None else b""


# --- files -------------------------------------------------------------------------------------


class ClipFile:
    """An MP4 file that is being written, with the sound of the clip's time if it is wanted.

    Args:
        media: where the clip is from.
        first, stop: its frames.
        sound: take the sound of that time along, as AAC.
    """

    def __init__(self, path: Path, media: Media, first: int, stop: int, sound: bool) -> None:
        self._path, self._media, self._first, self._stop = path, media, first, stop
        options = {"movflags": "+faststart"}
        self._container: OutputContainer = av.open(
            f"file:{path.absolute()}", "w", format="mp4", container_options=options
        )
        self._sound: deque[av.Packet] = deque()
        self._wants_sound = sound and media.info.has_audio
        self._packets = 0

    def add_stream(self, name: str) -> Any:
        """A stream to be encoded."""
        stream = self._container.add_stream(name)
        self._add_sound()
        return stream

    def add_copy(self, template: Any, extradata: bytes = b"") -> Any:
        """A stream for packets that are encoded already."""
        try:
            stream = self._container.add_stream_from_template(template, opaque=True)
        except ValueError as error:  # MP4 does not hold this codec
            raise MediaError("partial", str(error)) from error
        if extradata:
            stream.codec_context.extradata = extradata
        self._add_sound()
        return stream

    def mux(self, packet: av.Packet) -> None:
        """Write a packet of the video stream, and the sound up to its time."""
        assert packet.dts is not None and packet.time_base is not None
        now = packet.dts * packet.time_base
        while self._sound and (self._sound[0].pts or 0) * self._sound[0].time_base <= now:
            self._container.mux_one(self._sound.popleft())
        self._container.mux_one(packet)
        self._packets += 1
        if self._packets % CHECK_SIZE_EVERY == 0 and self._path.stat().st_size > MAX_CLIP_BYTES:
            raise MediaError("too_large", f"more than {MAX_CLIP_BYTES:,} bytes in one clip")

    def close(self) -> None:
        """It is complete."""
        while self._sound:
            self._container.mux_one(self._sound.popleft())
        self._container.close()

    def _add_sound(self) -> None:
        if not self._wants_sound:
            return
        info = self._media.info
        seconds = np.append(info.frame_seconds, info.duration)
        start, end = float(seconds[self._first]), float(seconds[self._stop])
        with self._media.sound(start) as (pieces, zero):
            first = next((piece for piece in pieces if piece.pts is not None), None)
            if first is None:
                return
            graph = av.filter.Graph()
            source = graph.add_abuffer(
                sample_rate=first.sample_rate, format=first.format.name, layout=first.layout.name,
                time_base=first.time_base,
            )  # fmt: skip
            graph.link_nodes(
                source,
                graph.add("atrim", f"{zero + start:.6f}:{zero + end:.6f}"),
                graph.add("asetpts", f"PTS-{zero + start:.6f}/TB"),
                graph.add("aformat", f"sample_fmts=fltp:sample_rates={AAC_RATES}"),
                graph.add("abuffersink"),
            ).configure()
            stream: Any = None
            for piece in itertools.chain([first], pieces, [None]):
                over = piece is None or (piece.time is not None and piece.time > zero + end)
                graph.push(None if over else piece)
                for trimmed in _pulled(graph):
                    if stream is None:
                        stream = self._container.add_stream("aac", rate=trimmed.sample_rate)
                        stream.codec_context.layout = trimmed.layout
                    self._sound += stream.encode(trimmed)
                if over:
                    break
            if stream is not None:
                self._sound += stream.encode(None)


def _pulled(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


class EncodedClip:
    """A clip whose frames are all encoded."""

    def __init__(
        self, path: Path, media: Media, first: int, stop: int, coding: Coding, sound: bool = False
    ) -> None:
        self._file = ClipFile(path, media, first, stop, sound)
        self._encoder = FrameEncoder(media, first, coding, lambda: self._file.add_stream(coding.encoder))

    def add(self, frame: Frame) -> None:
        """The next frame.

        Raises:
            MediaError: it cannot be encoded.
            OSError: the disk is full or refuses.
        """
        with failing():
            for packet in self._encoder.encode(frame):
                self._file.mux(packet)

    def close(self) -> None:
        """There are no more. Raises as add()."""
        with failing():
            for packet in self._encoder.finish():
                self._file.mux(packet)
            self._file.close()


# --- copies ------------------------------------------------------------------------------------


def copy(path: Path, media: Media, first: int, stop: int, sound: bool = False) -> None:
    """Write the frames [first, stop), which copyable() found, as they are stored.

    Raises:
        MediaError: MP4 does not hold such a stream, or a packet is missing.
        OSError: the disk is full or refuses.
    """
    with failing(), media.packets(first) as (template, coming):
        file = ClipFile(path, media, first, stop, sound)
        stream = file.add_copy(template)
        packets = itertools.islice(coming, stop - first)
        for packet, dts in zip(packets, _decoding_times(media, first, stop), strict=False):
            _place(packet, stream, int(packet.pts or 0), dts, media, first)
            file.mux(packet)
        file.close()


def _place(packet: av.Packet, stream: Any, pts: int, dts: int, media: Media, first: int) -> None:
    """Put a packet into a clip that begins with the frame `first`, by its source's time stamps."""
    stamps = media.stamps(first, first + 1)
    assert stamps is not None
    packet.pts, packet.dts = pts - int(stamps[0]), dts - int(stamps[0])
    packet.stream = stream


def _decoding_times(
    media: Media, first: int, stop: int, order: Sequence[int] | np.ndarray | None = None
) -> list[int]:
    """Rising time stamps of decoding for the frames [first, stop), none after that of its showing.

    Args:
        order: of the packets, as indices from `first` on; that in the file by default.
    """
    stamps = media.stamps(first, stop)
    assert stamps is not None
    order = media.stored_order(first, stop) if order is None else np.asarray(order, np.int64)
    delay = int((stamps - stamps[order]).max(initial=0))
    return [int(stamp) - delay for stamp in stamps]
