"""Decodes the sound of a time span of a file into float samples, aligned with its frames; gaps become silence."""

from __future__ import annotations

import contextlib
import itertools
import math
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard

from clipsheet.media.container import decoded, demuxed, opened, sound_stream, video_stream

#: Tolerance between a time stamp and the position counted in samples: containers round stamps to milliseconds, and
#: recorders jitter. ITU-R BT.1359-1 gives 45 ms as the threshold at which viewers notice.
JUMP_SECONDS: Final = 0.015
#: Stamps that step back by more than this start a new clock; by less, they are an overlap.
STEP_BACK_SECONDS: Final = 1.0
PIECES_PER_SECOND: Final = 4  # decoded frames are joined, because every array costs Python time
GROUP_SECONDS: Final = 1.0  # most frames without time stamps that are buffered
SAME_SECONDS: Final = 1e-9  # rounding error of times
#: Input that decoders need before their output is correct. The bit reservoir of MP3 is up to 255 bytes at 8 kbit/s,
#: which last 0.26 s (ISO/IEC 13818-3, 2.4.2.7); Opus needs 80 ms (RFC 7845, 4.6); most others need one frame.
PREROLL_SECONDS: Final = 0.4
#: Codecs that never reset their predictor: they are decoded from the beginning of the file.
UNBROKEN: Final = frozenset({"adpcm_yamaha", "mace3", "mace6"})
#: How long before the span to seek; the next value is tried where a seek ends too late.
SEEK_AHEAD_SECONDS: Final = (2.0, 15.0, 120.0)
LOOKED_AT: Final = 16  # packets after a seek that are searched for a time stamp
SEARCH_STEPS: Final = 14  # of the binary search by byte position
#: A packet near the border of two clocks is assigned to the other one only if its time fits better by this much.
BORDER_SECONDS: Final = 0.1
#: FFmpeg's default layout for channels without names (av_channel_layout_default), by their number.
DEFAULT_LAYOUTS: Final = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}

Frames = Iterator[tuple[float, bool, av.AudioFrame]]
#: For each run of the file with its own clock, in file order: the byte position of its first video packet, and the
#: seconds to add to the container's presentation times to get seconds since the first shown frame.
Clocks = Sequence[tuple[int, float]]


class Sound:
    """The sound of a time span, always of the full length.

    Attributes:
        rate: samples per second.
        layout: FFmpeg's name of the channel layout, for example `stereo`.
        samples: samples per channel in the span.
        first, stop: range of the samples that were decoded, [first, stop); the samples outside are silence.
            Valid after pieces() is exhausted.
    """

    def __init__(self, frames: Frames, start: float, end: float, rate: int, layout: str) -> None:
        self.rate, self.layout = rate, layout
        self._frames, self._start, self._end = frames, start, end
        self._channels = av.AudioLayout(layout).nb_channels
        self.samples = round((end - start) * rate)
        self.first = self.stop = 0

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield consecutive blocks of samples, at most one second each. Can be called once.

        Yields:
            [channels, N] float32, full scale 1.0.

        Raises:
            MediaError: out_of_memory.
        """
        for at, piece in self._converted():
            begin = max(at, self.stop)
            piece = piece[:, begin - at : max(0, self.samples - at)]
            if not piece.size:
                continue
            yield from self._silence(begin - self.stop)
            self.first = self.first if self.stop else begin
            self.stop = begin + piece.shape[1]
            yield piece
        yield from self._silence(self.samples - self.stop)

    def _silence(self, samples: int) -> Iterator[np.ndarray]:
        for at in range(0, samples, self.rate):
            yield np.zeros((self._channels, min(self.rate, samples - at)), np.float32)

    def _converted(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield decoded blocks in the output format, each with the index of its first sample in the span."""
        converter: _Converter | None = None
        at = 0
        for seconds, joined, frame in self._frames:
            if seconds >= self._end:
                break
            if seconds + frame.samples / frame.sample_rate <= self._start:
                continue
            if converter is None or not (joined and converter.takes(frame)):
                yield from _counted(at, converter.push(None) if converter is not None else [])
                converter = _Converter(frame, self.rate, self.layout)
                at = round((seconds - self._start) * self.rate)
            for piece in converter.push(frame):
                yield at, piece
                at += piece.shape[1]
        yield from _counted(at, converter.push(None) if converter is not None else [])


def _counted(at: int, pieces: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive blocks with the index of the first sample of each."""
    for piece in pieces:
        yield at, piece
        at += piece.shape[1]


def sound_of(
    path: str,
    start: float,
    end: float,
    clocks: Clocks,
    rates: Sequence[int] = (),
    layouts: Sequence[str] = (),
) -> Generator[Sound]:
    """Open a file and decode its first sound stream.

    Args:
        path: must have been checked by check_path().
        start, end: seconds since the first shown frame.
        clocks: one entry, or several for a file of concatenated parts.
        rates, layouts: allowed output formats, of which the nearest one is used; empty: keep the source's format.

    Yields:
        One Sound, or nothing if no sound of the span decodes. The file stays open until the generator is closed.

    Raises:
        MediaError: the file cannot be opened, or out_of_memory.
    """
    with contextlib.closing(_packets(path, start, clocks)) as packets:
        frames = _joined(_decoded(packets, clocks[0][1]))
        for seconds, joined, frame in frames:
            if seconds >= end:
                return
            if seconds + frame.samples / frame.sample_rate > start:
                rest = itertools.chain([(seconds, joined, frame)], frames)
                rate, layout = _nearest_rate(frame.sample_rate, rates), _nearest_layout(frame.layout, layouts)
                yield Sound(rest, start, end, rate, layout)
                return


def _nearest_rate(rate: int, rates: Sequence[int]) -> int:
    """The lowest allowed rate that is not below `rate`, else the highest one."""
    return min((r for r in rates if r >= rate), default=max(rates, default=rate))


def _nearest_layout(layout: av.AudioLayout, layouts: Sequence[str]) -> str:
    """The smallest allowed layout with all channels of `layout`, else with as many channels, else the largest.

    Side and back channels are treated as the same.
    """
    if not layouts or layout.name in layouts:
        return layout.name
    unnamed = layout.name == f"{layout.nb_channels} channels"
    channels = _names(DEFAULT_LAYOUTS.get(layout.nb_channels, layout.name) if unnamed else layout.name)
    rear = {name.replace("S", "B") for name in channels}
    rear = rear if len(rear) == len(channels) else channels
    sizes = sorted((len(_names(name)), name) for name in layouts)
    fitting = [name for _, name in sizes if channels <= _names(name) or rear <= _names(name)]
    fitting += [name for size, name in sizes if size >= layout.nb_channels]
    return fitting[0] if fitting else sizes[-1][1]


def _names(layout: str) -> set[str]:
    return {channel.name for channel in av.AudioLayout(layout).channels}


class _Converter:
    """Converts frames of one format to float samples of the output rate and layout.

    The filter graph outputs interleaved samples, because PyAV 18 reads past the planes of a frame with eight.
    """

    def __init__(self, frame: av.AudioFrame, rate: int, layout: str) -> None:
        self._form = _form(frame)
        self._channels = av.AudioLayout(layout).nb_channels
        graph = self._graph = av.filter.Graph()
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate, format=frame.format.name, layout=frame.layout.name,
            time_base=Fraction(1, frame.sample_rate),
        )  # fmt: skip
        wanted = f"sample_fmts=flt:sample_rates={rate}:channel_layouts={layout}"
        graph.link_nodes(source, graph.add("aformat", wanted), graph.add("abuffersink")).configure()
        graph.set_audio_frame_size(max(1, rate // PIECES_PER_SECOND))
        self._pushed = 0  # samples since the last pull

    def takes(self, frame: av.AudioFrame) -> bool:
        """Whether a frame has the format of the first one."""
        return _form(frame) == self._form

    def push(self, frame: av.AudioFrame | None) -> list[np.ndarray]:
        """Add a frame, or None at the end. Returns the blocks that are ready, [channels, N] float32."""
        if frame is not None:
            frame.pts = None  # positions are counted in samples
            self._pushed += frame.samples
        self._graph.push(frame)
        if frame is not None and self._pushed < frame.sample_rate // PIECES_PER_SECOND:
            return []
        self._pushed = 0
        pieces: list[np.ndarray] = []
        while True:
            try:
                made: Any = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return pieces
            pieces.append(made.to_ndarray().reshape(-1, self._channels).T)


def _form(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name


# --- sample positions ------------------------------------------------------------------------


def _joined(frames: Iterator[tuple[float | None, av.AudioFrame]]) -> Frames:
    """Assign a start time to each frame.

    Times are counted in samples. A time stamp is used only where it differs from the count: at a gap, an overlap or
    a new clock. A single stamp that the next one contradicts is ignored. Frames before the first stamp are dropped.

    Yields:
        Start in seconds, whether the frame directly follows the previous one, and the frame.
    """
    expected: float | None = None
    moved = 0.0
    for this, following in itertools.pairwise(itertools.chain(_grouped(frames), [None])):
        assert this is not None
        stamp, group, seconds = this
        begin = expected
        if stamp is not None and expected is None:
            begin = stamp
        elif stamp is not None and expected is not None:
            off = stamp + moved - expected
            to_next = None if following is None or following[0] is None else following[0] - stamp
            if _jumps(off, seconds, to_next, group[0].time_base):
                moved -= off if off < -STEP_BACK_SECONDS else 0.0
                begin = stamp + moved
        if begin is None:
            continue
        for frame in group:
            yield begin, expected is not None and abs(begin - expected) < SAME_SECONDS, frame
            begin = expected = begin + frame.samples / frame.sample_rate


def _grouped(
    frames: Iterator[tuple[float | None, av.AudioFrame]],
) -> Iterator[tuple[float | None, list[av.AudioFrame], float]]:
    """Group each frame with the frames without stamps that follow it.

    Yields:
        The stamp of the first frame, the frames, and their total length in seconds.
    """
    stamp, group, seconds = None, list[av.AudioFrame](), 0.0
    for at, frame in frames:
        if group and (at is not None or seconds >= GROUP_SECONDS):
            yield stamp, group, seconds
            group, seconds = [], 0.0
        stamp = stamp if group else at
        group.append(frame)
        seconds += frame.samples / frame.sample_rate
    if group:
        yield stamp, group, seconds


def _jumps(off: float, seconds: float, to_next: float | None, tick: Fraction | None) -> bool:
    """Whether the stamp of a group of frames must be used instead of the counted time.

    Args:
        off: stamp minus counted time, in seconds.
        seconds: length of the group.
        to_next: seconds from this stamp to the next one; None if there is none.
        tick: time base of the stamps.
    """
    if abs(off) <= JUMP_SECONDS:
        return False
    tolerance = max(JUMP_SECONDS, float(tick or 0))
    if abs(off) <= tolerance:
        return False
    if to_next is None:
        return True
    if off > 0:
        return abs(off + to_next - seconds) > tolerance  # False: the next stamp agrees with the count again
    return abs(to_next - seconds) <= tolerance


class _Placer:
    """Computes the times of packets, and moves all stamps to the first clock of the file.

    The byte position of a packet says which clock it has. Near a border, audio and video packets are interleaved in
    no fixed order, so the clock is chosen by which the packet best continues the previous one.
    """

    def __init__(self, clocks: Clocks, stream: av.AudioStream) -> None:
        self._positions = [position for position, _ in clocks]
        self._offsets = [offset for _, offset in clocks]
        self._tick = float(stream.time_base or 1)
        self._current: int | None = None
        self._expected = 0.0
        self._positioned = False

    def place(self, packet: av.Packet) -> float | None:
        """The start of a packet in seconds since the first shown frame; None if it has no time stamp.

        Where FFmpeg's parser splits a container packet into several, only the first has a byte position and a stamp
        from the file. The parser extrapolates the others by the sample rate in the header, which may be wrong, so
        their stamps are removed.
        """
        packet.pts = packet.dts if packet.pts is None else packet.pts
        if packet.pts is None:
            return None
        if len(self._offsets) > 1:
            self._current = self._clock_of(packet.pos, packet.pts * self._tick)
            packet.pts += round((self._offsets[self._current] - self._offsets[0]) / self._tick)
            packet.dts = packet.pts
        seconds = packet.pts * self._tick + self._offsets[0]
        self._expected = seconds + (packet.duration or 0) * self._tick
        if packet.pos is not None:
            self._positioned = True
        elif self._positioned:
            packet.pts = None
        return seconds

    def _clock_of(self, position: int | None, stamp: float) -> int:
        """The index of a packet's clock. Never decreases."""
        least = self._current or 0
        if position is None:
            return least
        here = max(least, bisect_right(self._positions, position) - 1)
        if self._current is None:
            return here

        def off(number: int) -> float:
            gap = abs(stamp + self._offsets[number] - self._expected)
            return gap - BORDER_SECONDS * (number == here)

        return min(range(max(least, here - 1), min(here + 2, len(self._offsets))), key=off)


# --- packets -----------------------------------------------------------------------------------


def _decoded(packets: Iterator[av.Packet], zero: float) -> Iterator[tuple[float | None, av.AudioFrame]]:
    """Decode packets. Yields the time by the stamp plus `zero` seconds, None without a stamp, and the frame."""
    context: Any = None
    tick = 0.0
    for packet in itertools.chain(packets, [None]):
        if packet is not None and context is None:
            context, tick = packet.stream.codec_context, float(packet.time_base)
        for frame in decoded(context, packet) if context is not None else ():
            if frame.samples:
                yield None if frame.pts is None else frame.pts * tick + zero, frame


def _packets(path: str, start: float, clocks: Clocks) -> Generator[av.Packet]:
    """Packets of the first sound stream, from PREROLL_SECONDS before `start` on."""
    first = start - PREROLL_SECONDS
    tries = [start - ahead for ahead in SEEK_AHEAD_SECONDS if ahead < start]
    with _opened(path) as (container, stream):
        if stream is None:
            return
        if stream.codec_context.name in UNBROKEN:
            first, tries = -math.inf, []
        for seconds in tries:
            coming = _sought(container, stream, seconds, clocks)
            placer = _Placer(clocks, stream)
            head = [(placer.place(packet), packet) for packet in itertools.islice(coming, LOOKED_AT)]
            if next((at <= first for at, _ in head if at is not None), False):
                yield from _from(first, head, coming, placer)
                return
        if not tries:
            yield from _from(first, [], demuxed(container, stream), _Placer(clocks, stream))
            return
    with _opened(path) as (container, stream):  # seeking does not work: read from the beginning
        assert stream is not None
        yield from _from(first, [], demuxed(container, stream), _Placer(clocks, stream))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, av.AudioStream | None]]:
    """Open a container with all streams but the first sound stream discarded."""
    with opened(path) as container:
        stream = sound_stream(container)
        for other in container.streams:
            if stream is None or other.index != stream.index:
                other.discard = Discard.all
        yield container, stream


def _from(
    first: float, head: list[tuple[float | None, av.Packet]], coming: Iterator[av.Packet], placer: _Placer
) -> Iterator[av.Packet]:
    """Skip packets up to the last one with a stamp of at most `first` seconds."""
    packets = itertools.chain(head, ((placer.place(packet), packet) for packet in coming))
    held: list[av.Packet] = []
    for at, packet in packets:
        if at is not None and packet.pts is not None and at <= first:
            held.clear()
        held.append(packet)
        if at is None or at > first:
            break
    yield from held
    yield from (packet for _, packet in packets)


def _sought(
    container: InputContainer, stream: av.AudioStream, seconds: float, clocks: Clocks
) -> Iterator[av.Packet]:
    """Seek to `seconds` as well as the container can, and return the packets from there on."""
    with contextlib.suppress(av.error.FFmpegError):
        if len(clocks) == 1:
            video = video_stream(container)
            assert video.time_base is not None
            container.seek(round((seconds - clocks[0][1]) / video.time_base), stream=video)
        else:
            _seek_by_bytes(container, stream, seconds, clocks)
    return demuxed(container, stream)


def _seek_by_bytes(container: InputContainer, stream: av.AudioStream, seconds: float, clocks: Clocks) -> None:
    """Seek to a byte position before `seconds`. FFmpeg's own search by time needs rising stamps."""
    low, high = 0, int(container.size)
    for _ in range(SEARCH_STEPS):
        middle = (low + high) // 2
        container.seek(middle, unsupported_byte_offset=True)
        packet = next(demuxed(container, stream), None)
        at = None if packet is None else _Placer(clocks, stream).place(packet)
        if at is not None and at <= seconds:
            low = middle
        else:
            high = middle
    container.seek(low, unsupported_byte_offset=True)
