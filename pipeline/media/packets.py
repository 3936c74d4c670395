"""The packets of a stream: when each one's frame is shown, and from where it can be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.errors import MediaError
from pipeline.media.container import decoded, decoder_of, demuxed

#: No picture is shown that long; a jump of the time stamps would become hours of nothing.
MAX_FRAME_SECONDS: Final = 3600.0


class Packets:
    """The packets of a stream: when each one's frame is shown, and from where it can be decoded.

    A group of pictures begins at a key frame; a frame needs its group, and one that is shown before
    the key frame of its group (an open group) needs the group before that too.

    Attributes:
        count: shown frames; packets hidden by an edit list or ahead of the first key frame are not.
        seconds: [count] since the first one.
        duration: seconds to the end of the last one.
        start_seconds: presentation time of the first one.
        group_at: from the position of a key packet in the file to the number of its group.
        first_group, group: [count] where decoding must begin for a frame, and where it lies.
        open_groups: those with a frame that needs the group before too.
        key_frames: indices of the shown frames that are key frames.
        tick: seconds of a unit of time stamps.
        places: [count] positions of their packets in the file, with stamps.
        key_places: from the time stamp of a shown key frame to the position of its packet in the file.
        stamps: [count] time stamps, rising; None where the stream has none that can be trusted,
            in which case frames are counted and timed by the nominal rate.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, nominal_rate: float, keys_kept: int
    ) -> None:
        packets: list[tuple[Any, ...]] = []
        cut_off = False
        self._first_keys: dict[int, av.Packet] = {}  # by their position
        for p in demuxed(container, stream):
            if p.is_keyframe and len(self._first_keys) < keys_kept:
                self._first_keys[len(packets)] = p
            packets.append((p.pts, p.is_keyframe, p.is_discard, p.duration or 0))
            cut_off = p.is_corrupt
        if cut_off:  # the file ends in the middle of its last packet
            packets.pop()
            self._first_keys.pop(len(packets), None)
        if not packets:
            raise MediaError("no_frames")
        self.tick = stream.time_base or Fraction(0)
        tick = float(self.tick)
        keys = np.flatnonzero([key for _, key, _, _ in packets])
        first_key = int(keys[0]) if len(keys) else 0
        shown = [i for i in range(first_key, len(packets)) if not packets[i][2]]
        stamps = [packets[i][0] for i in shown]
        self.stamps: np.ndarray | None = None
        self.start_seconds = 0.0
        self.key_frames = np.zeros(1, int)
        self.key_places: dict[int, int] = {}
        self._keys: dict[int, tuple[int, int]] = {}
        self.open_groups: frozenset[int] = frozenset()
        if tick and None not in stamps and len(set(stamps)) == len(stamps):
            self._by_stamps(shown, keys, packets, tick)
        else:
            self.count = len(packets)
            self.join_groups()
            rate = nominal_rate or 25.0
            self.seconds = np.arange(self.count) / rate
            self.duration = self.count / rate
        if not self.count:
            raise MediaError("decode_error", "no frame is shown")

    def decoded_alone(self, stream: VideoStream) -> dict[int, av.VideoFrame]:
        """Pictures of the first key frames by their index, of those whose packet alone is enough to decode them.

        To be called once, with the file still open: spares opening it again and decoding the frames behind them.
        """
        context = decoder_of(stream)
        found: dict[int, av.VideoFrame] = {}
        for index in self.key_frames[: len(self._first_keys)].tolist():
            packet = None if self.stamps is None else self._first_keys.get(int(self.places[index]))
            if packet is None:
                continue
            for picture in (*decoded(context, packet), *decoded(context, None)):
                if not picture.is_corrupt and self.index(picture.pts) == index:
                    found[index] = picture
            context.flush_buffers()
        self._first_keys.clear()
        return found

    def index(self, stamp: int | None) -> int:
        """Of the shown frame with that time stamp; -1 where there is none."""
        if self.stamps is None or stamp is None:
            return -1
        index = int(np.searchsorted(self.stamps, stamp))
        return index if index < len(self.stamps) and self.stamps[index] == stamp else -1

    def key_of(self, group: int) -> tuple[int, int] | None:
        """Position in the file and time stamp of the key frame of a group, where it is shown."""
        return self._keys.get(group)

    def position_of_key(self, packet: av.Packet | None) -> int:
        """Of a packet that was found by its time; -1 where it is none of a shown key frame."""
        if packet is None or packet.pts is None or not packet.is_keyframe:
            return -1
        return self.key_places.get(packet.pts, -1)

    def join_groups(self) -> None:
        """Have every frame decoded from the beginning of the file."""
        self.group_at = {0: 0}
        self.first_group = self.group = np.zeros(self.count, int)
        self.key_frames = np.zeros(1, int)
        self.key_places, self._keys = {}, {}
        self.open_groups = frozenset()

    def _by_stamps(
        self, shown: list[int], keys: np.ndarray, packets: list[tuple[Any, ...]], tick: float
    ) -> None:
        keys = keys if len(keys) else np.zeros(1, int)
        self.group_at = {int(position): group for group, position in enumerate(keys)}
        positions = np.array(shown, int)
        stamps = np.array([packets[i][0] for i in shown], np.int64)
        order = np.argsort(stamps, kind="stable")
        positions, stamps = positions[order], stamps[order]
        group = np.searchsorted(keys, positions, side="right") - 1
        key_stamps = np.array([packets[k][0] if packets[k][0] is not None else 0 for k in keys])
        leading = stamps < key_stamps[group]
        decodable = ~(leading & (group == 0))
        self.stamps, self.group = stamps[decodable], group[decodable]
        self.places = positions[decodable]
        self.first_group = self.group - leading[decodable]
        self.open_groups = frozenset(self.group[leading[decodable]].tolist())
        self.count = len(self.stamps)
        self.key_frames = np.flatnonzero(np.isin(positions[decodable], keys))
        for index in self.key_frames.tolist():
            place, stamp = int(self.places[index]), int(self.stamps[index])
            self.key_places[stamp] = place
            self._keys[self.group_at[place]] = place, stamp
        if self.count:
            self.seconds = (self.stamps - self.stamps[0]) * tick
            longest = float(np.diff(self.seconds).max(initial=0.0))
            if longest > MAX_FRAME_SECONDS:
                raise MediaError("too_long", f"time stamps jump by {longest:.0f} s between two frames")
            self.start_seconds = float(self.stamps[0] * tick)
            self.duration = float(self.seconds[-1]) + self._last_seconds(packets, shown, tick)

    def _last_seconds(self, packets: list[tuple[Any, ...]], shown: list[int], tick: float) -> float:
        """How long the last frame is shown: as its packet says, else as long as frames usually are."""
        assert self.stamps is not None
        gaps = np.diff(self.seconds)
        usual = float(np.median(gaps)) if len(gaps) else 0.0
        stated = next(packets[i][3] for i in shown if packets[i][0] == self.stamps[-1]) * tick
        return stated if 0 < stated <= max(10 * usual, 1.0) else usual


class Picker:
    """Numbers decoded pictures as shown frames and lets the wanted ones through."""

    def __init__(self, packets: Packets, wanted: np.ndarray) -> None:
        self._packets = packets
        self._wanted = wanted
        self._next = 0
        self._counted = 0
        self._groups = {*packets.group[wanted].tolist(), *packets.first_group[wanted].tolist()}

    def needs(self, group: int) -> bool:
        """Whether a wanted frame that is still to come needs this group."""
        return group in self._groups and not self.finished

    @property
    def finished(self) -> bool:
        return self._next >= len(self._wanted)

    def next_group(self) -> int:
        """The group where decoding must begin for the next wanted frame."""
        if self.finished:
            return len(self._packets.group_at)
        return int(self._packets.first_group[self._wanted[self._next]])

    def __call__(self, pictures: Iterable[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int]]:
        for picture in pictures:
            index = self._index(picture)
            while not self.finished and self._wanted[self._next] < index:
                self._next += 1  # this one did not decode
            if not self.finished and self._wanted[self._next] == index and not picture.is_corrupt:
                self._next += 1
                yield picture, index

    def _index(self, picture: av.VideoFrame) -> int:
        if self._packets.stamps is None or picture.pts is None:
            self._counted += 1
            return self._counted - 1
        return self._packets.index(picture.pts)
