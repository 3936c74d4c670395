"""A video or picture that can be read: its facts, its frames, its packets, its sound."""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from av.video.stream import VideoStream

from clipsheet import places
from clipsheet.errors import MediaError
from clipsheet.media import fields, images
from clipsheet.media.container import demuxed, video_stream
from clipsheet.media.decoder import Decoder
from clipsheet.media.fields import FieldOrder
from clipsheet.media.frame import Frame
from clipsheet.media.hdr import ToneMap
from clipsheet.media.info import MediaInfo, frame_rate
from clipsheet.media.opening import open_video
from clipsheet.media.packets import Packets
from clipsheet.media.paths import check_path
from clipsheet.media.sound import Sound, sound_of

#: What decodes. decord only on wish: it returns wrong frames where an edit list hides some, fails on
#: cut-off files, and its FFmpeg is of 2022. The file is opened and judged by PyAV all the same.
READERS: Final = ("pyav", "decord")
#: Whether frames are made whole where they are woven of two fields; bwdif: of every video.
DEINTERLACE: Final = ("auto", "off", "bwdif")
#: Pictures that are looked at to find the brightest of a video.
MEASURED_KEYS: Final = 8
#: Of a file that is read whole, this share of its frames may be undecodable.
MAX_BAD_RATIO: Final = 0.2
#: Codecs whose decoders skip single packets when they are told to; that of AV1 is told but once.
SKIPPING: Final = ("h264", "hevc", "mpeg4", "mpeg2video")
SHARED_FRAMES: Final = 64  # at least, in the groups of pictures that one thread decodes at a time
SHRUNK_AHEAD: Final = 1024  # frames made small that wait for their turn, in all threads together


class Media:
    """A video or picture that can be read: its `info`, and its frames.

    Opening reads every packet once, to know when each frame is shown; frames() reads them again
    and decodes only the groups of pictures that hold a wanted frame. Nothing stays open in between.

    Args:
        path: as in the table.
        root: refuse a path that leaves this folder.
        reader: one of READERS.
        deinterlace: one of DEINTERLACE.
        tone_map: give pictures of high dynamic range as ones of the standard range.

    Raises:
        MediaError: the file cannot be read as one video stream or picture.
    """

    def __init__(
        self,
        path: str,
        *,
        root: str | None = None,
        reader: str = READERS[0],
        deinterlace: str = DEINTERLACE[0],
        tone_map: bool = True,
    ) -> None:
        self._real, self._status = check_path(path, root)
        self._reader, self._deinterlace, self._tone_map = reader, deinterlace, tone_map
        self._image: np.ndarray | None = None
        self._animation: images.WebpAnimation | None = None
        self._packets: Packets | None = None  # of any other video
        found = images.signature(self._real)
        self._decoder = Decoder(self._real, images.DEMUXERS.get(found.format) if found.moving else None)
        info = self._open_image(path, found)
        if info is None:
            info, self._packets = open_video(self._decoder, path, self._status.st_size)
        self.info = info

    @property
    def _index(self) -> Packets:
        """The packets of a video."""
        assert self._packets is not None
        return self._packets

    def check_unchanged(self) -> None:
        """Raise MediaError `changed` if the file is no longer the one that was opened."""
        try:
            now = places.status(self._real)
        except OSError as error:
            raise MediaError("changed", "gone") from error
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise MediaError("changed", "its size or time changed while it was read")

    def _open_image(self, path: str, found: images.Signature) -> MediaInfo | None:
        """Open a picture or an animated WebP; None where FFmpeg is to read the file."""
        if found.still:
            self._image = images.picture(self._real, found)
            seconds, duration = np.zeros(1), 0.0
        elif found.format == "WEBP":
            self._animation = images.WebpAnimation(self._real)
            if next(self._animation.frames(np.zeros(1, int)), None) is None:
                raise MediaError("decode_error", "no frame decodes")
            seconds, duration = self._animation.seconds, self._animation.duration
        if self._image is not None:
            height, width = self._image.shape[:2]
        elif self._animation is not None:
            height, width = self._animation.height, self._animation.width
        else:
            return None
        return MediaInfo(
            path, width, height, rotation=0, codec=found.format.lower(), frame_seconds=seconds,
            duration=duration, fps=frame_rate(len(seconds), duration, 0.0), pixel_aspect=1.0,
            has_audio=False, size_bytes=self._status.st_size, is_image=self._image is not None,
            can_copy=False, video_streams=int(self._animation is not None),
        )  # fmt: skip

    @functools.cached_property
    def _tone(self) -> ToneMap | None:
        """What maps the pictures to the standard dynamic range."""
        if not (self._tone_map and self.info.hdr) or self._packets is None:
            return None
        keys = np.append(0, self._packets.key_frames)
        some = np.unique(keys[np.linspace(0, len(keys) - 1, MEASURED_KEYS).astype(int)])
        pictures = (picture for picture, _ in self._decoder.frames(self._packets, some))
        return ToneMap.measured(self.info.color_transfer, pictures)

    def frames(
        self, wanted: Iterable[int] | None = None, needed: np.ndarray | None = None
    ) -> Iterator[Frame]:
        """The frames of the given indices, or all, in order of time.

        A frame that does not decode is left out: the caller, who knows what it asked for, counts.

        Args:
            wanted: indices.
            needed: [N] bool, by index; the others come only if they must be decoded for some other
                frame, which spares about half of the work where a codec has such frames.
        """
        if self._image is not None:
            yield Frame(self._image, 0, self.info)
            return
        asked = None if wanted is None else np.unique(np.fromiter(wanted, np.int64))
        if self.info.codec not in SKIPPING:
            needed = None
        if asked is not None and not len(asked):
            return
        pictures: Iterator[tuple[av.VideoFrame | np.ndarray, int]]
        if self._animation is not None:
            pictures = self._animation.frames(asked)
        elif self._reader == "decord":
            pictures = self._decode_by_decord(asked)
        elif order := self._order_to_mend:
            pictures = fields.deinterlaced(
                self._decoder.frames(self._index, self._with_neighbours(asked)), asked, order
            )
        else:
            pictures = self._decoder.frames(self._index, asked, needed)
        for picture, index in pictures:
            yield Frame(picture, index, self.info, self._tone)

    @property
    def changes_pictures(self) -> bool:
        """Whether frames() gives others than are stored: of whole pictures, or of another dynamic range."""
        return bool(self._order_to_mend) or (self._tone_map and self.info.hdr)

    @property
    def _order_to_mend(self) -> FieldOrder:
        """The order of the fields of which whole pictures are to be made; "" where none are."""
        if self._deinterlace == "bwdif":
            return self.info.fields or "auto"
        return self.info.fields if self._deinterlace == "auto" else ""

    def _with_neighbours(self, asked: np.ndarray | None) -> np.ndarray | None:
        """Some frames, those before and those after them."""
        if asked is None:
            return None
        near = np.unique(np.concatenate([asked - 1, asked, asked + 1]))
        return near[(near >= 0) & (near < self._index.count)]

    def shrunk(
        self,
        shrink: Callable[[Frame], np.ndarray],
        threads: int = 1,
        needed: np.ndarray | None = None,
        wanted: Iterable[int] | None = None,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The index of every frame that decodes and what `shrink` makes of it, in order of time.

        Args:
            shrink: makes a frame small; called in several threads.
            threads: each decodes groups of pictures of its own. How many there are changes no result.
            needed, wanted: as of frames().
        """
        shares = self._shares(threads, wanted)
        if len(shares) < 2:
            yield from ((frame.index, shrink(frame)) for frame in self.frames(wanted, needed))
            return
        queues = [queue.Queue[Any](SHRUNK_AHEAD // len(shares)) for _ in shares]
        stopped = threading.Event()

        def decode(share: list[np.ndarray], into: queue.Queue[Any]) -> None:
            end: BaseException | None = None
            try:
                for frame in self.frames(np.concatenate(share), needed):
                    if stopped.is_set():
                        return
                    into.put((frame.index, shrink(frame)))
            except BaseException as error:  # raised anew where the frames are awaited
                end = error
            into.put((len(self.info.frame_seconds), end))

        work = zip(shares, queues, strict=True)
        running = [threading.Thread(target=decode, args=pair, daemon=True) for pair in work]
        try:
            for thread in running:
                thread.start()
            yield from _in_turn(shares, queues)
        finally:
            stopped.set()
            for thread, waiting in zip(running, queues, strict=True):
                while thread.is_alive():  # it may wait for room
                    with contextlib.suppress(queue.Empty):
                        waiting.get(timeout=0.05)

    @property
    def tick(self) -> Fraction:
        """Seconds of a unit of time stamps."""
        return self._index.tick if self._animation is None else self._animation.tick

    def stamps(self, first: int, stop: int) -> np.ndarray | None:
        """[N] int64: presentation time stamps of the frames [first, stop); None where there are none."""
        timed = self._animation or self._packets
        return None if timed is None or timed.stamps is None else timed.stamps[first:stop]

    def stored_order(self, first: int, stop: int) -> np.ndarray:
        """[N] int64: the frames [first, stop), counted from `first`, as their packets stand in the file."""
        places = self._index.places
        assert places is not None
        return np.argsort(places[first:stop])

    @contextlib.contextmanager
    def packets(self, first: int) -> Iterator[tuple[VideoStream, Iterator[av.Packet]]]:
        """The stream, and its packets as they are stored from that of the key frame `first` on.

        Raises:
            MediaError: the packet is not there.
        """
        packets = self._index
        assert packets.places is not None and packets.stamps is not None
        number, stamp = int(packets.places[first]), int(packets.stamps[first])
        with self._decoder.opened() as container:
            stream = video_stream(container)
            if not packets.regular:  # a stamp does not lead to its packet
                yield stream, packets.stamped(demuxed(container, stream), number)
                return
            for seek in (True, False):
                if seek:
                    with contextlib.suppress(av.error.FFmpegError):
                        container.seek(stamp, stream=stream)
                else:
                    container.seek(0)
                coming = demuxed(container, stream)
                begin = next((packet for packet in coming if packet.pts == stamp), None)
                if begin is not None:
                    yield stream, itertools.chain([begin], coming)
                    return
        raise MediaError("partial", f"no packet of frame {first}")

    def copyable(self, first: int, stop: int) -> int:
        """The end of the frames from the key frame `first` on that a copy of packets can hold.

        A copy takes packets in their order in the file, which is not that of time: it can end only where
        those taken so far are shown one after another, without a gap.

        Returns:
            An index of at most `stop`; `first` where nothing can be copied.
        """
        packets = self._packets
        if packets is None or packets.stamps is None or packets.places is None:
            return first
        order = self.stored_order(first, stop)
        places = packets.places[first:stop][order]
        counted = np.arange(len(order))
        no_gap = np.logical_and.accumulate(places == packets.places[first] + counted)
        ends = np.flatnonzero(no_gap & (np.maximum.accumulate(order) == counted))
        return first + int(ends[-1]) + 1 if len(ends) else first

    @contextlib.contextmanager
    def sound(
        self, start: float, end: float, rates: Sequence[int] = (), layouts: Sequence[str] = ()
    ) -> Iterator[Sound | None]:
        """The first sound stream in the span [start, end); None if no sound of it decodes.

        Args:
            start, end: seconds since the first shown frame.
            rates, layouts: allowed sample rates and channel layouts (FFmpeg's names), of which the nearest one is
                used; empty: keep the source's.

        Raises:
            MediaError: the file cannot be opened, or out_of_memory.
        """
        with contextlib.closing(
            sound_of(self._real, start, end, self._index.clocks, rates, layouts)
        ) as found:
            yield next(found, None)

    def _shares(self, threads: int, wanted: Iterable[int] | None) -> list[list[np.ndarray]]:
        """Indices for each of several threads to decode: whole groups of pictures in turn."""
        packets, count = self._packets, len(self.info.frame_seconds)
        asked = np.arange(count) if wanted is None else np.unique(np.fromiter(wanted, np.int64))
        if packets is None or threads < 2 or self._reader == "decord":
            return [[asked]]
        begins = np.flatnonzero(np.diff(packets.group, prepend=-1))
        edges = [0]
        for begin in begins.tolist():
            if begin - edges[-1] >= SHARED_FRAMES:
                edges.append(begin)
        parts = np.split(asked, np.searchsorted(asked, edges[1:]))
        parts = [part for part in parts if len(part)]
        return [parts[k::threads] for k in range(min(threads, len(parts)))]

    def _decode_by_decord(self, wanted: np.ndarray | None) -> Iterator[tuple[np.ndarray, int]]:
        """[H, W, 3] uint8 RGB pictures, turned as displayed, with their index as decord counts."""
        from decord import DECORDError, VideoReader, cpu

        try:
            reader = VideoReader(self._real, ctx=cpu(0), num_threads=1)
        except DECORDError as error:
            raise MediaError("decode_error", str(error).strip().splitlines()[-1]) from error
        for index in range(len(self.info.frame_seconds)) if wanted is None else wanted.tolist():
            try:
                yield reader[index].asnumpy(), index
            except (DECORDError, IndexError):
                continue


def _in_turn(
    shares: list[list[np.ndarray]], queues: list[queue.Queue[Any]]
) -> Iterator[tuple[int, np.ndarray]]:
    """What several threads made, in order of time; the first error of one ends it."""
    held: list[Any] = [None] * len(shares)
    turns = sorted((part[0], part[-1] + 1, turn) for turn, share in enumerate(shares) for part in share)
    for _, stop, turn in turns:
        while True:
            index, made = held[turn] if held[turn] is not None else queues[turn].get()
            held[turn] = (index, made)
            if isinstance(made, BaseException):
                raise made
            if made is None or index >= stop:
                break
            held[turn] = None
            yield index, made
