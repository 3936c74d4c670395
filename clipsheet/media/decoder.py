"""Decoding the frames of a video: those that are wanted, and no more packets than they need."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from clipsheet.media.container import decoded, decoder_of, demuxed, opened, video_stream
from clipsheet.media.packets import Packets

#: Containers with an index that leads to a key frame's packet; in others that are read in between.
INDEXED: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
LEAP_PACKETS: Final = 500  # more than that ahead of a wanted frame are not read


class Decoder:
    """Decodes a file; nothing stays open in between.

    Args:
        real_path: of the file.
        demuxer: FFmpeg's name of its format, where that is known; else FFmpeg finds it.
    """

    def __init__(self, real_path: str, demuxer: str | None = None) -> None:
        self._real, self._demuxer = real_path, demuxer
        self._false: Packets | None = None  # those that begin groups at false key frames

    def opened(self) -> InputContainer:
        """The container, to be closed."""
        return opened(self._real, self._demuxer)

    def frames(
        self, packets: Packets, wanted: np.ndarray | None, needed: np.ndarray | None = None
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        """Pictures with their index among the shown frames, in order of time."""
        wanted = np.arange(packets.count) if wanted is None else wanted
        packets = packets.whole() if packets is self._false else packets
        given = -1
        try:
            for picture, given in self._frames(packets, Picker(packets, wanted), needed):
                yield picture, given
        except FalseKey:
            self._false, whole = packets, packets.whole()
            yield from self._frames(whole, Picker(whole, wanted[wanted > given]), needed)

    def can_begin_at(self, packets: Packets, index: int) -> bool:
        """Whether decoding from the group of a key frame on gives that frame."""
        try:
            found = self._frames(packets, Picker(packets, np.array([index])), None)
            return any(packets.is_key(picture) for picture, _ in found)
        except FalseKey:
            return False

    def _frames(
        self, packets: Packets, pick: Picker, needed: np.ndarray | None
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        with self.opened() as container:
            stream = video_stream(container)
            context = decoder_of(stream)
            group, feeding = -1, False
            for number, packet in self._stored(packets, container, stream, pick):
                if number in packets.group_at:
                    group = packets.group_at[number]
                    # A closed group is begun anew even when all is decoded: where one is damaged, what
                    # the decoder fills in must not depend on which other frames are wanted.
                    if feeding and not (pick.needs(group) and group in packets.open_groups):
                        yield from pick(decoded(context, None))
                        context.flush_buffers()
                    feeding = pick.needs(group)
                    if feeding and group and packets.is_false_key(packet):
                        raise FalseKey
                if feeding:
                    if needed is not None:
                        index = packets.index_at(number)
                        context.skip_frame = "NONREF" if index >= 0 and not needed[index] else "DEFAULT"
                    packet.pts = number
                    yield from pick(decoded(context, packet))
                    if pick.next_group() > group:  # the rest of this group is not wanted
                        context.flush_buffers()
                        feeding = False
                        if pick.finished:
                            return
            if feeding:
                yield from pick(decoded(context, None))

    def run(self, first: int, count: int) -> Iterator[av.VideoFrame]:
        """The pictures of some packets and no others as they come out of the decoder, numbered by their packets."""
        with self.opened() as container:
            stream = video_stream(container)
            context = decoder_of(stream)
            coming = itertools.islice(enumerate(demuxed(container, stream)), first, first + count)
            for number, packet in coming:
                packet.pts = number
                yield from decoded(context, packet)
            yield from decoded(context, None)

    def _stored(
        self, packets: Packets, container: InputContainer, stream: VideoStream, pick: Picker
    ) -> Iterator[tuple[int, av.Packet]]:
        """Packets with their numbers in the file; those far ahead of the next wanted frame may be left out."""
        leaps = container.format.name in INDEXED and packets.regular
        position, coming = 0, demuxed(container, stream)
        while True:
            ahead = packets.key_of(pick.next_group()) if leaps else None
            if ahead is not None and ahead[0] - position > LEAP_PACKETS:
                found = None
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(ahead[1], stream=stream)
                    coming = demuxed(container, stream)
                    found = next(coming, None)
                there = packets.number_of_key(found)
                if found is not None and position <= there <= ahead[0]:
                    position, coming = there, itertools.chain([found], coming)
                else:  # the index is wrong: all is read, from another opening of the file
                    with self.opened() as again:
                        for at, packet in enumerate(demuxed(again, video_stream(again))):
                            if at >= position:
                                yield at, packet
                    return
            for packet in coming:
                yield position, packet
                position += 1
                break
            else:
                return


class FalseKey(Exception):
    """A packet that is flagged as a key frame holds none."""


class Picker:
    """Numbers decoded pictures as shown frames and lets the wanted ones through."""

    def __init__(self, packets: Packets, wanted: np.ndarray) -> None:
        self._packets = packets
        self._wanted = wanted
        self._next = 0
        self._came: Counter[int] = Counter()
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
        """The wanted ones of some pictures, with their index.

        Raises:
            FalseKey: decoding cannot begin where the packets say.
        """
        packets = self._packets
        for picture in pictures:
            if picture.pts in packets.group_at and len(packets.group_at) > 1 and not packets.is_key(picture):
                raise FalseKey
            index = packets.index(picture.pts, self._came)
            while not self.finished and self._wanted[self._next] < index:
                self._next += 1  # this one did not decode
            if not self.finished and self._wanted[self._next] == index and not picture.is_corrupt:
                self._next += 1
                yield picture, index
