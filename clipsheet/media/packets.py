"""The packets of a stream: which frame each one holds, when that is shown, and from where it can be decoded."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from fractions import Fraction
from itertools import pairwise
from typing import Final

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags
from av.video.frame import PictureType
from av.video.stream import VideoStream

from clipsheet.errors import MediaError
from clipsheet.media import bitstream, clock, fields
from clipsheet.media.clock import NONE
from clipsheet.media.container import decoded, decoder_of, demuxed

#: No picture is shown that long; a jump of the time stamps would become hours of nothing.
MAX_FRAME_SECONDS: Final = 3600.0
#: Containers that say exactly when a track ends, the durations of its last frames and its edit list counted in.
TRACK_ENDS: Final = "mp4"
#: Seconds by which two such times may differ: most files count them in milliseconds.
ENDS_AGREE: Final = 0.002
DEFAULT_RATE: Final = 25.0  # frames per second where nothing says how many, as FFmpeg has it
#: Key frames whose packets are kept while the file is read: those that are then decoded by themselves.
KEYS_KEPT: Final = 2
#: Packets that are decoded to see whether frames come out in the order of their stamps.
CHECKED_PACKETS: Final = 32
#: More frames than that out of the order of the file are no wrong stamps but a codec that reorders.
REORDERED_SHARE: Final = 0.1
#: Decoders that give nothing before a true key frame. Others begin anywhere, on grey.
STRICT: Final = frozenset("h264 hevc vvc av1 vp8 vp9 mpeg1video mpeg2video".split())
NO_KEY: Final = (PictureType.P, PictureType.B, PictureType.S)


@dataclass(frozen=True, eq=False)
class _Table:
    """What the demuxer says of each packet, in the order of the file.

    Attributes:
        shown, decoding: [N] int64 time stamps in ticks, or NONE.
        durations: [N] int64 ticks, 0 where unknown.
        keys: [N] bool: flagged as key frames.
        hidden: [N] bool: no frame of theirs is shown.
        positions: [N] int64 bytes, or NONE.
    """

    shown: np.ndarray
    decoding: np.ndarray
    durations: np.ndarray
    keys: np.ndarray
    hidden: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


class _Order(Enum):
    """What says in which order frames are shown."""

    STAMPS = auto()  # their time stamps
    STORED = auto()  # the file, in which they stand one after another
    DECODED = auto()  # only the decoder


class Packets:
    """The packets of a stream, numbered in the order of the file.

    A group of pictures begins at a key frame; a frame needs its group, and one that is shown before
    the key frame of its group (an open group) needs the group before that too.

    A frame is known by the number of its packet, which is put in place of the packet's time stamp before
    it is decoded, so that no wrong stamp can make a frame another. Where stamps do not say in which
    order frames are shown, they are counted as they come out of the decoder, group by group.

    Attributes:
        count: shown frames; packets hidden by an edit list or ahead of the first key frame are not.
        seconds: [count] since the first one.
        duration: seconds to the end of the last one.
        start_seconds: presentation time of the first one; that of the file where the stream has none.
        group_at: from the number of a key packet to that of its group.
        first_group, group: [count] where decoding must begin for a frame, and where it lies.
        open_groups: those with a frame that needs the group before too.
        key_frames: indices of the shown frames that are key frames.
        tick: seconds of a unit of time stamps.
        stamps: [count] time stamps, rising; None where the stream has none, in which case frames are timed
            by the nominal rate.
        places: [count] numbers of their packets; None where only the decoder knows.
        stretches: the runs of the file with one clock each.
        regular: all stamps are as they stand in the file.
        can_seek: whether decoding can begin at all of key_frames; not where a stream is refreshed gradually,
            some lines of every picture at a time, and FFmpeg calls the first of those a key frame.
        doubtful: it takes decoding to know whether frames are shown in the order of their stamps.
        has_placeholders: some packets of MPEG-4 are too small for a picture.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, nominal_rate: float) -> None:
        self._codec = stream.codec_context.codec.canonical_name
        self._extradata = stream.codec_context.extradata
        self._intra_only = stream.codec_context.codec.intra_only
        self._kept: dict[int, av.Packet] = {}  # the first packet and the first key packets, by their number
        self._table = table = self._read(container, stream)
        self._nominal_rate = nominal_rate or DEFAULT_RATE
        self._reorders = stream.codec_context.reorder_depth
        self._jumps = bool(Flags(container.format.flags) & Flags.ts_discont)
        self._source_tick = stream.time_base or Fraction(0)
        self._file_start = (container.start_time or 0) / av.time_base
        self._ends = self._stated_ends(container, stream)
        self.can_seek = True
        keys = np.flatnonzero(table.keys)
        self._keys = keys if len(keys) else np.zeros(1, int)
        self._time(packed=False)

    # --- reading

    def _stated_ends(self, container: InputContainer, stream: VideoStream) -> tuple[float, float]:
        """Presentation times at which the track ends, and the file; 0 where that is not said, or not in earnest."""
        track = 0.0
        whole = stream.frames == len(self._table)  # only a finished file says how many there are
        if TRACK_ENDS in container.format.name and whole and stream.duration:
            track = float(((stream.start_time or 0) + stream.duration) * self._source_tick)
        return track, self._file_start + (container.duration or 0) / av.time_base

    def _read(self, container: InputContainer, stream: VideoStream) -> _Table:
        rows: list[tuple[int | None, int | None, int | None, bool, bool, int | None, int]] = []
        keys_kept = 1 if self._intra_only else KEYS_KEPT
        vp8 = self._codec == "vp8"
        cut_off = False
        for p in demuxed(container, stream):
            is_key = p.is_keyframe
            if not rows or (is_key and keys_kept):
                self._kept[len(rows)] = p
                keys_kept -= is_key
            hidden = p.is_discard or (vp8 and bitstream.hidden_vp8(p))
            rows.append((p.pts, p.dts, p.duration, is_key, hidden, p.pos, p.size))
            cut_off = p.is_corrupt
        if cut_off:  # the file ends in the middle of its last packet
            rows.pop()
            self._kept.pop(len(rows), None)
        if not rows:
            raise MediaError("no_frames")
        pts, dts, durations, keys, hidden_ones, positions, sizes = zip(*rows, strict=True)
        self.has_placeholders = self._codec == "mpeg4" and min(sizes) <= bitstream.MAX_NVOP_BYTES
        return _Table(
            _stamps(pts), _stamps(dts), np.array([d or 0 for d in durations], np.int64),
            np.array(keys, bool), np.array(hidden_ones, bool), _stamps(positions),
        )  # fmt: skip

    def _shown(self, first: int) -> np.ndarray:
        """Numbers of the packets from one on whose frames are shown."""
        return np.flatnonzero(~self._table.hidden[first:]) + first

    # --- times

    def _time(self, packed: bool) -> None:
        """Put all stamps on one clock, and see in which order they say that frames are shown.

        Args:
            packed: some packet holds two pictures, so that stamps say nothing of the order.
        """
        self._stamp_at, self._decoding_at = self._joined()
        mine = self._stamp_at[self._shown(int(self._keys[0]))]
        there = mine[mine != NONE] if self._source_tick else mine[:0]
        in_order = np.sort(there)
        self._timed = len(there) > 0
        whole = len(there) == len(mine) and bool((np.diff(in_order) > 0).all())
        self.regular = whole and not packed and len(self.stretches) == 1
        self.doubtful = False
        self._clocked = packed
        self._order = _Order.DECODED
        if whole and not packed:
            self._order = _Order.STAMPS
            rises = bool((there == in_order).all())
            self.doubtful = rises and self._reorders > 0
        elif self._timed and not packed and not self._reorders:
            falls = int((np.diff(there) < 0).sum())
            self._order = _Order.STORED if falls <= REORDERED_SHARE * len(there) else _Order.DECODED
        self._arrange(self._keys[:1] if self._order is _Order.DECODED else self._keys)

    def _joined(self) -> tuple[np.ndarray, np.ndarray]:
        """[N] int64 time stamps and decoding times of all packets, by one clock."""
        table = self._table
        stamps, decoding = table.shown, table.decoding
        without = decoding == NONE
        running = np.where(without, stamps, decoding)
        self.stretches, wrong = clock.stretches(
            running, table.durations, table.positions, self._source_tick,
            jumps=self._jumps, reorders=bool(without.any()),
        )  # fmt: skip
        if wrong.any() or len(self.stretches) > 1:
            stamps, decoding = stamps.copy(), decoding.copy()
        for before, stretch in pairwise(self.stretches):
            for column in (stamps, decoding):
                tail = column[stretch.first :]
                tail[tail != NONE] += stretch.offset - before.offset
        stamps[wrong] = NONE
        return stamps, decoding

    # --- groups

    def _arrange(self, keys: np.ndarray) -> None:
        """Number the frames, and say where decoding must begin for each."""
        self.group_at = {int(number): group for group, number in enumerate(keys)}
        self._begins = keys
        self.tick = self._source_tick
        self._key_packets: dict[int, tuple[int, int]] = {}
        self.key_places: dict[int, int] = {}
        numbers = self._shown(int(keys[0]))
        if not len(numbers):
            raise MediaError("decode_error", "no frame is shown")
        group = np.searchsorted(keys, numbers, side="right") - 1
        if self._order is _Order.DECODED:
            self._by_counting(numbers, group, keys)
        else:
            self._by_stamps(numbers, group, keys)
        self._measure()

    def _by_stamps(self, numbers: np.ndarray, group: np.ndarray, keys: np.ndarray) -> None:
        stamps, finer = self._stamp_at[numbers], 1
        key_stamps = self._stamp_at[keys]
        leading = np.zeros(len(numbers), bool)
        if self._order is _Order.STORED:
            stamps, finer = clock.in_order(stamps)
        else:
            order = np.argsort(stamps, kind="stable")
            numbers, stamps, group = numbers[order], stamps[order], group[order]
            leading = stamps < key_stamps[group]
        decodable = ~(leading & (group == 0))
        self.tick = self._source_tick / finer
        self.stamps: np.ndarray | None = stamps[decodable]
        self.places: np.ndarray | None = numbers[decodable]
        self.group = group[decodable]
        self.first_group = self.group - leading[decodable]
        self.open_groups = frozenset(self.group[leading[decodable]].tolist())
        self.count = len(self.places)
        self._index_at = np.full(len(self._table), -1)
        self._index_at[self.places] = np.arange(self.count)
        shown = self._index_at[keys]
        self.key_frames = np.sort(shown[shown >= 0])
        if self.regular:
            for index, number, stamp in zip(shown.tolist(), keys.tolist(), key_stamps.tolist(), strict=True):
                if index >= 0:
                    self.key_places[stamp] = number
                    self._key_packets[self.group_at[number]] = number, stamp

    def _by_counting(self, numbers: np.ndarray, group: np.ndarray, keys: np.ndarray) -> None:
        self.stamps = self.places = None
        if self._timed:
            stamps, decoding = self._stamp_at[numbers], self._decoding_at[numbers]
            if self._clocked and (decoding != NONE).all():
                self.stamps, finer = clock.delayed(decoding, self._reorders)
            else:
                self.stamps, finer = clock.filled(stamps, decoding)
            self.tick = self._source_tick / finer
        self.group = self.first_group = group
        self.open_groups = frozenset()
        self.count = len(numbers)
        self._base = np.searchsorted(numbers, keys)
        self.key_frames = np.unique(self._base[self._base < self.count])

    def _measure(self) -> None:
        """When each frame begins and how long the last one lasts."""
        if self.stamps is None:
            durations = self._table.durations[self._shown(int(self._begins[0]))]
            if self.tick and (durations > 0).all():
                ends = np.cumsum(durations) * float(self.tick)
            else:
                ends = np.arange(1, self.count + 1) / self._nominal_rate
            self.seconds, self.duration = np.append(0.0, ends[:-1]), float(ends[-1])
            self.start_seconds = self._file_start
            return
        tick = float(self.tick)
        self.seconds = (self.stamps - self.stamps[0]) * tick
        longest = float(np.diff(self.seconds).max(initial=0.0))
        if longest > MAX_FRAME_SECONDS:
            raise MediaError("too_long", f"time stamps jump by {longest:.0f} s between two frames")
        self.start_seconds = float(self.stamps[0] * tick)
        self.duration = float(self.seconds[-1]) + self._last_seconds()

    def _last_seconds(self) -> float:
        """How long the last frame is shown: as its packet or the track says, else as long as frames usually are."""
        gaps = np.diff(self.seconds)
        usual = float(np.median(gaps)) if len(gaps) else 0.0
        last = self.places[-1] if self.places is not None else -1
        stated = float(self._table.durations[last] * self._source_tick)
        end = self.start_seconds + float(self.seconds[-1])
        left, left_of_file = (over - end if len(self.stretches) == 1 else 0.0 for over in self._ends)
        if ENDS_AGREE < left <= MAX_FRAME_SECONDS and abs(left - stated) > ENDS_AGREE:
            return left  # what packets of reordered frames state are distances in the file
        return stated if 0 < stated <= max(1.0, 10 * usual, left_of_file + ENDS_AGREE) else usual

    # --- other readings of the same packets

    def whole(self) -> Packets:
        """The same, decoded from the beginning of the file for every frame."""
        return self._arranged(self._begins[:1])

    def grouped_at(self, numbers: Sequence[int]) -> Packets:
        """The same, with groups that begin at some packets and at no other but the first."""
        first = int(self._begins[0])
        return self._arranged(np.array([first, *(n for n in numbers if n > first)], np.int64))

    def counted(self) -> Packets:
        """The same, numbered as frames come out of the decoder, and decoded from the beginning of the file."""
        made = copy.copy(self)
        made._order, made.regular, made.doubtful = _Order.DECODED, False, False
        made._clocked = True
        return made.whole()

    def with_placeholders(self, hidden: Sequence[bool], packed: bool) -> Packets:
        """The same, where some packets only hold the place of a picture, as bitstream.Vops found."""
        made = copy.copy(self)
        if len(hidden) != len(self._table):
            raise MediaError("changed", "it holds another number of packets than it did")
        made._table = replace(self._table, hidden=self._table.hidden | np.array(hidden))
        made._time(packed)
        return made

    def from_the_first(self) -> Packets:
        """The same, decoded from the first packet of the file on, whatever its flag says."""
        return self._arranged(np.zeros(1, np.int64))

    def _arranged(self, keys: np.ndarray) -> Packets:
        made = copy.copy(self)
        made.can_seek = len(keys) > 1
        made._arrange(keys)
        return made

    # --- questions

    def index(self, number: int | None, came: Counter[int]) -> int:
        """Of the frame that the decoder gave for a packet; -1 where it is not shown.

        Args:
            number: of the packet.
            came: frames of each group that came out before; this one is added where frames are counted.
        """
        if number is None or number >= len(self._table):
            return -1
        if self.places is not None:
            return int(self._index_at[number])
        group = max(0, int(np.searchsorted(self._begins, number, side="right")) - 1)
        came[group] += 1
        return int(self._base[group]) + came[group] - 1

    def index_at(self, number: int) -> int:
        """Of the frame of a packet, before it is decoded; -1 where it is not shown or not known."""
        return -1 if self.places is None else int(self._index_at[number])

    @property
    def total(self) -> int:
        """How many packets there are."""
        return len(self._table)

    @property
    def first_number(self) -> int:
        """Of the packet at which decoding of the first frame begins."""
        return int(self._begins[0])

    @property
    def second_key(self) -> int | None:
        """The number of the second packet at which decoding can begin; None where no frame needs it."""
        shown = len(self._begins) > 1 and self.index_at(int(self._begins[1])) >= 0
        return int(self._begins[1]) if shown and not self._intra_only else None

    def stamped(self, packets: Iterable[av.Packet], first: int) -> Iterator[av.Packet]:
        """The packets from one on, with the stamps that their frames have here."""
        assert self.stamps is not None
        for number, packet in enumerate(packets):
            if number >= first and (index := self.index_at(number)) >= 0:
                packet.pts, packet.time_base = int(self.stamps[index]), self.tick
                yield packet

    def key_of(self, group: int) -> tuple[int, int] | None:
        """Number and time stamp of the key packet of a group, where it is shown and can be looked for."""
        return self._key_packets.get(group)

    def number_of_key(self, packet: av.Packet | None) -> int:
        """Of a packet that was found by its time; -1 where it is none of a shown key frame."""
        if packet is None or packet.pts is None or not packet.is_keyframe:
            return -1
        return self.key_places.get(packet.pts, -1)

    # --- what single packets say

    @property
    def clocks(self) -> list[tuple[int, float]]:
        """For each stretch the byte position of its first packet, and the seconds to add to the container's times to
        get those since the first shown frame."""
        tick, place, made = float(self._source_tick), 0, []
        for stretch in self.stretches:
            place = max(place, stretch.position or 0)
            made.append((place, stretch.offset * tick - self.start_seconds))
        return made

    @property
    def all_keys(self) -> bool:
        """Whether all packets are flagged as key frames."""
        return bool(self._table.keys.all())

    @property
    def begins_late(self) -> bool:
        """Whether packets stand ahead of the first that is flagged as a key frame."""
        return int(self._begins[0]) > 0

    def alone(self, stream: VideoStream) -> dict[int, av.VideoFrame | None]:
        """The first packet and the first two key packets, by their number, of those that alone are enough to
        decode a true key frame: its picture, or None where the packet's own bits say so and it is not needed.

        To be called once, with the file still open: spares opening it again and decoding the frames behind them.
        """
        context = decoder_of(stream)
        found: dict[int, av.VideoFrame | None] = {}
        enough = True
        for number, packet in self._kept.items():
            known = number > self._keys[0] and bitstream.holds_key(
                self._codec, bytes(packet), self._extradata
            )
            if known and enough:
                found[number] = None
                continue
            packet.pts = number
            for picture in (*decoded(context, packet), *decoded(context, None)):
                if picture.pts == number and not picture.is_corrupt and self.is_key(picture):
                    found[number] = picture
                    enough = not fields.says_nothing(picture)
            context.flush_buffers()
        self._kept.clear()
        return found

    def is_false_key(self, packet: av.Packet) -> bool:
        """Whether the bits of a packet that is flagged as a key frame say that it is none."""
        return bitstream.holds_no_key(self._codec, bytes(packet), self._extradata)

    def is_key(self, picture: av.VideoFrame) -> bool:
        """Whether a picture that came out for a packet flagged as a key frame is one."""
        return self._codec in STRICT or picture.pict_type not in NO_KEY


def _stamps(values: Iterable[int | None]) -> np.ndarray:
    return np.array([NONE if value is None else value for value in values], np.int64)
