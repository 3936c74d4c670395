"""Writing clips as MP4: frames that are encoded, packets that are copied, or both in one file.

An encoder gets the frames of its clip and no other, so that a clip does not depend on which others are cut
beside it. Nothing here decides what a clip holds; see pipeline.splitting.cutter.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from clipsheet.errors import STORAGE_ERRNOS, MediaError
from clipsheet.media import Frame, Media, bitstream
from clipsheet.media.fields import FieldOrder
from clipsheet.media.sound import Sound
from pipeline.splitting.sound_check import Levels

#: One thread: the workers use the cores, and x264's output depends on its threads.
CODERS: Final = {
    "libx264": {"crf": "{crf}", "preset": "{preset}", "threads": "1"},
    "libopenh264": {"b": "4M", "threads": "1"},
    "h264_nvenc": {"cq": "{crf}"},
}
MAX_CLIP_BYTES: Final = 2_000_000_000
CHECK_SIZE_EVERY: Final = 250  # packets
#: Rates and layouts with an index in the AAC header (ISO/IEC 14496-3, tables 1.18 and 1.19), which players support.
AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_LAYOUTS: Final = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")
LEAST_TIMESCALE: Final = 10_000  # FFmpeg doubles the time scale of a video track until it is at least this
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


# --- frames ------------------------------------------------------------------------------------


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
        self._open = ExitStack()
        self._sound: SoundTrack | None = None
        self._wants_sound = sound and media.info.has_audio
        self._packets = 0
        self._held: av.Packet | None = None  # may be the last packet; close() sets the duration of that one
        self._begin = self._end = 0  # first decoding time, last presentation time

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
        assert packet.pts is not None and packet.dts is not None
        if not self._packets:
            self._begin = packet.dts
            self._count_time_in(packet.time_base)
        self._end = max(self._end, packet.pts + (packet.duration or 0))
        self._write_held()
        self._held = packet
        self._packets += 1
        if self._packets % CHECK_SIZE_EVERY == 0 and self._path.stat().st_size > MAX_CLIP_BYTES:
            raise MediaError("too_large", f"more than {MAX_CLIP_BYTES:,} bytes in one clip")

    def close(self) -> Levels | None:
        """Finish the file. Returns the levels of the encoded sound, or None without sound."""
        if self._held is not None and self._held.dts is not None:
            # FFmpeg's demuxer limits the duration to the sum of all sample durations (stts), so they must add up.
            decoded = self._held.dts - self._begin
            self._held.duration = max(self._held.duration or 0, self._end - decoded)
        self._write_held()
        if self._sound is not None:
            for packet in self._sound.until(math.inf):
                self._container.mux_one(packet)
        self._container.close()
        self._open.close()
        return None if self._sound is None else self._sound.levels

    def _write_held(self) -> None:
        packet, self._held = self._held, None
        if packet is None or packet.dts is None:
            return
        if self._sound is not None:
            self._container.mux(list(self._sound.until(float(packet.dts * packet.time_base))))
        self._container.mux_one(packet)

    def _count_time_in(self, tick: Fraction) -> None:
        """Use the time scale of the video track for the movie too. With the default of 1000, FFmpeg rounds the
        durations of tracks and edit lists up to milliseconds."""
        scale = tick.denominator
        while scale < LEAST_TIMESCALE:
            scale *= 2
        self._container.container_options["movie_timescale"] = str(scale)

    def _add_sound(self) -> None:
        if not self._wants_sound:
            return
        info = self._media.info
        seconds = np.append(info.frame_seconds, info.duration)
        start, end = float(seconds[self._first]), float(seconds[self._stop])
        sound = self._open.enter_context(self._media.sound(start, end, AAC_RATES, AAC_LAYOUTS))
        if sound is not None:
            stream = self._container.add_stream("aac", rate=sound.rate)
            stream.codec_context.layout = sound.layout
            self._sound = SoundTrack(sound, stream)


class SoundTrack:
    """Encodes the sound of a clip on demand.

    Attributes:
        levels: levels of the encoded sound.
    """

    def __init__(self, sound: Sound, stream: av.AudioStream) -> None:
        self._pieces, self._rate, self._layout = sound.pieces(), sound.rate, sound.layout
        self._stream = stream
        self._ready: deque[av.Packet] = deque()
        self._over = False
        self.levels = Levels(sound.rate)

    def until(self, seconds: float) -> Iterator[av.Packet]:
        """Yield the next packets that begin at or before `seconds`."""
        while True:
            while self._ready:
                if float((self._ready[0].pts or 0) * self._ready[0].time_base) > seconds:
                    return
                yield self._ready.popleft()
            if self._over:
                return
            piece = next(self._pieces, None)
            self._over = piece is None
            self._ready += self._stream.encode(None if piece is None else self._frame(piece))

    def _frame(self, piece: np.ndarray) -> av.AudioFrame:
        piece = np.clip(piece, -1, 1)  # FFmpeg's AAC encoder distorts what decoders overshoot
        packed = np.ascontiguousarray(piece.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
        frame.pts = self.levels.samples
        self.levels.add(piece)
        return frame


class EncodedClip:
    """A clip whose frames are all encoded."""

    def __init__(
        self, path: Path, media: Media, first: int, stop: int, coding: Coding, sound: bool = False
    ) -> None:
        # Nothing here refers to itself: an encoder has 100 MB, which must be free as soon as it is done.
        file = self._file = ClipFile(path, media, first, stop, sound)
        self._encoder = FrameEncoder(media, first, coding, lambda: file.add_stream(coding.encoder))

    def add(self, frame: Frame) -> None:
        """The next frame.

        Raises:
            MediaError: it cannot be encoded.
            OSError: the disk is full or refuses.
        """
        with failing():
            for packet in self._encoder.encode(frame):
                self._file.mux(packet)

    def close(self) -> Levels | None:
        """Finish the clip. Returns the levels of the encoded sound, or None without sound. Raises as add()."""
        with failing():
            for packet in self._encoder.finish():
                self._file.mux(packet)
            return self._file.close()


# --- copies ------------------------------------------------------------------------------------


def copy(path: Path, media: Media, first: int, stop: int, sound: bool = False) -> Levels | None:
    """Write the frames [first, stop), which copyable() found, as they are stored.

    Returns:
        The levels of the encoded sound, or None without sound.

    Raises:
        MediaError: MP4 does not hold such a stream, or a packet is missing.
        OSError: the disk is full or refuses.
    """
    with failing(), media.packets(first) as (template, coming):
        file = ClipFile(path, media, first, stop, sound)
        stream = file.add_copy(template)
        packets = itertools.islice(coming, stop - first)
        place = _Placing(media, first, stop, stream)
        for packet, dts in zip(packets, _decoding_times(media, first, stop), strict=False):
            place(packet, int(packet.pts or 0), dts)
            file.mux(packet)
        return file.close()


class _Placing:
    """Sets the times, the duration and the stream of packets copied into a clip of the frames [first, stop)."""

    def __init__(self, media: Media, first: int, stop: int, stream: Any) -> None:
        stamps = media.stamps(first, stop)
        assert stamps is not None
        self._zero, self._stream = int(stamps[0]), stream
        self._shown = dict(zip(stamps.tolist(), shown(media)[first:stop].tolist(), strict=True))

    def __call__(self, packet: av.Packet, pts: int, dts: int) -> None:
        packet.pts, packet.dts = pts - self._zero, dts - self._zero
        packet.duration = self._shown.get(pts, packet.duration)
        packet.stream = self._stream


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


# --- copies with encoded edges -----------------------------------------------------------------

#: Of H.264, by profile_idc: those of 8 bits and 4:2:0 that x264 writes, too.
PROFILES: Final = {66: "baseline", 77: "main", 100: "high"}
MAX_SET_NUMBER: Final = 31  # of a sequence parameter set
SPS, PPS = 7, 8  # kinds of NAL units


class NotCopyable(Exception):
    """Why a clip has to be encoded."""


class NoBeginning(Exception):
    """Decoding cannot start at this key frame."""


def splice(
    path: Path, media: Media, first: int, stop: int, coding: Coding, sound: bool = False
) -> tuple[tuple[int, int], Levels | None]:
    """Write the frames [first, stop): whole groups of pictures are copied, the frames around them encoded.

    Copied and encoded pictures refer to parameter sets of different numbers, both of which stand in the
    file's header (ITU-T H.264 7.4.1.2.1), so that each is decoded by its own wherever a player begins.

    Args:
        coding: by libx264, without filters.

    Returns:
        The range of the copied frames; the levels of the encoded sound, or None without sound.

    Raises:
        NotCopyable: says why.
        MediaError, OSError: as copy().
    """
    info = media.info
    if info.codec != "h264":
        raise NotCopyable(f"its codec is {info.codec}, not h264")
    if coding.filters:
        raise NotCopyable("its picture is to be changed")
    if not (info.has_times and info.can_seek and info.can_copy):
        raise NotCopyable("it cannot be decoded from its middle")
    for key in info.key_frames[(info.key_frames >= first) & (info.key_frames < stop)].tolist():
        end = media.copyable(key, stop)
        if end > key:
            with suppress(NoBeginning):
                return (key, end), _splice_at(path, media, (first, key, end, stop), coding, sound)
    raise NotCopyable("no whole group of pictures is in it")


def _splice_at(
    path: Path, media: Media, edges: tuple[int, int, int, int], coding: Coding, sound: bool
) -> Levels | None:
    """Copy the frames from the second edge to the third, encode those around them.

    Raises:
        NoBeginning: decoding cannot start at the second edge.
    """
    first, key, end, stop = edges
    with failing(), media.packets(key) as (template, coming):
        context = template.codec_context
        header = Header.parsed(bytes(context.extradata or b""))
        beginning = next(coming)
        if not bitstream.begins_closed("h264", bytes(beginning), context.extradata):
            raise NoBeginning
        if context.pix_fmt != "yuv420p" or header.profile not in PROFILES:
            raise NotCopyable(f"its pictures are {context.pix_fmt} of profile {header.profile}")
        own = ("profile", PROFILES[header.profile]), ("x264-params", f"sps-id={header.free_number()}")
        coding = Coding(coding.encoder, coding.options + own)
        before, sets_before = encode_alone(media, first, key, coding)
        behind, sets_behind = encode_alone(media, end, stop, coding)
        if (len(before), len(behind)) != (key - first, stop - end):
            raise NotCopyable("a frame beside those that can be copied does not decode")
        order = np.concatenate(
            [_order(before), media.stored_order(key, end) + key - first, _order(behind) + end - first]
        )
        times = iter(_decoding_times(media, first, stop, order))
        file = ClipFile(path, media, first, stop, sound)
        stream = file.add_copy(template, header.with_sets(sets_before + sets_behind).packed())
        copied = itertools.islice(itertools.chain([beginning], coming), end - key)
        place = _Placing(media, first, stop, stream)
        for start, packets in ((first, before), (key, copied), (end, behind)):
            stamps = media.stamps(start, start + 1)
            assert stamps is not None
            for packet in packets:
                pts = int(packet.pts or 0)
                if start != key:
                    packet, pts = _with_lengths(packet, media.tick), pts + int(stamps[0])
                place(packet, pts, next(times))
                file.mux(packet)
        return file.close()


def _order(packets: Sequence[av.Packet]) -> np.ndarray:
    """[N] int64: which place in time each packet has among all."""
    stamps = np.array([packet.pts for packet in packets], np.int64)
    return np.argsort(np.argsort(stamps))


def _with_lengths(packet: av.Packet, tick: Fraction) -> av.Packet:
    """A packet as MP4 has it: the length of each NAL unit ahead of it, not a start code."""
    data = b"".join(len(unit).to_bytes(4, "big") + unit for unit in _units(bytes(packet)))
    made = av.Packet(data)
    made.time_base, made.duration, made.is_keyframe = tick, packet.duration, packet.is_keyframe
    return made


def _units(stream: bytes) -> list[bytes]:
    """The NAL units between start codes (ITU-T H.264 annex B)."""
    return [unit for unit in re.split(rb"\x00*\x00\x00\x01", stream) if unit]


@dataclass(frozen=True)
class Header:
    """The parameter sets of an H.264 stream in MP4 (ISO/IEC 14496-15, 5.3.3.1), by kind."""

    begin: bytes  # profile, compatibility, level
    sequence: tuple[bytes, ...]
    picture: tuple[bytes, ...]

    @classmethod
    def parsed(cls, data: bytes) -> Header:
        """From the bytes in the file.

        Raises:
            NotCopyable: it is another form, or cut off.
        """
        if len(data) < 7 or data[0] != 1 or data[4] & 3 != 3:
            raise NotCopyable("its container keeps H.264 in another form than MP4 and Matroska do")
        found: list[tuple[bytes, ...]] = []
        at = 5
        for mask in (31, 255):
            sets = []
            for _ in range(data[at] & mask if at < len(data) else 0):
                length = int.from_bytes(data[at + 1 : at + 3], "big")
                sets.append(data[at + 3 : at + 3 + length])
                at += 2 + length
            found.append(tuple(sets))
            at += 1
        if not all(found) or not all(part for sets in found for part in sets):
            raise NotCopyable("its header is damaged")
        return cls(data[1:4], *found)

    @property
    def profile(self) -> int:
        """profile_idc."""
        return self.begin[0]

    def free_number(self) -> int:
        """One that no parameter set has.

        Raises:
            NotCopyable: there is none.
        """
        used = {_number(unit, 4) for unit in self.sequence} | {_number(unit, 1) for unit in self.picture}
        free = next((n for n in range(1, MAX_SET_NUMBER + 1) if n not in used), None)
        if free is None:
            raise NotCopyable("its header has all parameter sets that there can be")
        return free

    def with_sets(self, stream: bytes) -> Header:
        """With those of a stream with start codes, each once."""
        units = dict.fromkeys(_units(stream))
        kinds = [[unit for unit in units if unit[0] & 31 == kind] for kind in (SPS, PPS)]
        return Header(self.begin, (*self.sequence, *kinds[0]), (*self.picture, *kinds[1]))

    def packed(self) -> bytes:
        """As the bytes in a file."""
        parts = [b"\x01", self.begin, b"\xff", bytes([0xE0 | len(self.sequence)])]
        parts += [len(unit).to_bytes(2, "big") + unit for unit in self.sequence]
        parts += [bytes([len(self.picture)])]
        parts += [len(unit).to_bytes(2, "big") + unit for unit in self.picture]
        if self.profile not in (66, 77, 88):
            parts += [b"\xfd\xf8\xf8\x00"]  # 4:2:0, 8 bits of luma and chroma, no extension
        return b"".join(parts)


def _number(unit: bytes, skip: int) -> int:
    """The number of a parameter set, after so many bytes; -1 where it is damaged."""
    return next(bitstream.numbers(unit[skip : skip + 8]), -1)
