"""A video or picture that can be read: its facts, its frames, its packets, its sound."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import MediaError
from pipeline.media.container import MAX_PIXELS, decoded, decoder_of, demuxed, opened, video_stream
from pipeline.media.frame import Frame
from pipeline.media.info import MediaInfo, frame_rate
from pipeline.media.packets import Packets, Picker
from pipeline.media.paths import check_path
from pipeline.media.sound import Clocks, Sound, sound_of

#: What decodes. decord only on wish: it returns wrong frames where an edit list hides some, fails on
#: cut-off files, and its FFmpeg is of 2022. The file is opened and judged by PyAV all the same.
READERS: Final = ("pyav", "decord")
#: Of a file that is read whole, this share of its frames may be undecodable.
MAX_BAD_RATIO: Final = 0.2
#: Codecs whose decoders skip single packets when they are told to; that of AV1 is told but once.
SKIPPING: Final = ("h264", "hevc", "mpeg4", "mpeg2video")
SHARED_FRAMES: Final = 64  # at least, in the groups of pictures that one thread decodes at a time
SHRUNK_AHEAD: Final = 1024  # frames made small that wait for their turn, in all threads together
#: Containers with an index that leads to a key frame's packet; in others that are read in between.
INDEXED: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
LEAP_PACKETS: Final = 500  # more than that ahead of a wanted frame are not read
IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow fails only at twice as many


class Media:
    """A video or picture that can be read: its `info`, and its frames.

    Opening reads every packet once, to know when each frame is shown; frames() reads them again
    and decodes only the groups of pictures that hold a wanted frame. Nothing stays open in between.

    Args:
        path: as in the table.
        root: refuse a path that leaves this folder.
        reader: one of READERS.

    Raises:
        MediaError: the file cannot be read as one video stream or picture.
    """

    def __init__(self, path: str, *, root: str | None = None, reader: str = READERS[0]) -> None:
        self._real, self._status = check_path(path, root)
        self._reader = reader
        self._image: np.ndarray | None = None
        self._packets: Packets | None = None
        self._first_seconds = 0.0  # presentation time of the first frame
        self.info = self._open_image(path) or self._open_video(path)

    def check_unchanged(self) -> None:
        """Raise MediaError `changed` if the file is no longer the one that was opened."""
        try:
            now = os.stat(self._real)
        except OSError as error:
            raise MediaError("changed", "gone") from error
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise MediaError("changed", "its size or time changed while it was read")

    def _open_image(self, path: str) -> MediaInfo | None:
        try:
            with Image.open(self._real, formats=IMAGE_FORMATS) as picture:
                if getattr(picture, "n_frames", 1) > 1 and picture.format != "TIFF":
                    return None  # an animation: FFmpeg knows its times
                if picture.width * picture.height > MAX_PIXELS:
                    raise MediaError("too_large", f"{picture.width}x{picture.height}")
                codec = str(picture.format).lower()
                self._image = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        except UnidentifiedImageError:
            return None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise MediaError("too_large", str(error)) from error
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise MediaError("decode_error", str(error)) from error
        height, width = self._image.shape[:2]
        return MediaInfo(
            path, width, height, rotation=0, codec=codec, frame_seconds=np.zeros(1), duration=0.0,
            fps=0.0, pixel_aspect=1.0, has_audio=False, size_bytes=self._status.st_size,
            is_image=True,
        )  # fmt: skip

    def _open_video(self, path: str) -> MediaInfo:
        with opened(self._real) as container:
            stream = video_stream(container)
            codec = stream.codec_context.codec.canonical_name
            nominal = float(stream.average_rate or stream.guessed_rate or 0)
            aspect = float(stream.sample_aspect_ratio or 1) or 1.0
            has_audio = bool(container.streams.audio)
            container_start = (container.start_time or 0) / av.time_base
            # Only in H.264 does FFmpeg call the beginning of a gradual refresh a key frame.
            looked_at = 2 if codec == "h264" else 1
            packets = self._packets = Packets(container, stream, nominal, looked_at)
            alone = packets.decoded_alone(stream)
        second_key = packets.key_frames[1:looked_at]
        picture = alone.get(0) or next((picture for picture, _ in self._decode(None)), None)
        if picture is None:
            raise MediaError("decode_error", "no frame decodes")
        can_seek = all(k in alone for k in second_key) or any(True for _ in self._decode(second_key))
        if not can_seek:
            packets.join_groups()
        turn = round(picture.rotation / 90) * 90 % 360
        height, width = picture.height, picture.width
        if turn % 180:
            height, width = width, height
        seconds, duration = packets.seconds, packets.duration
        self._first_seconds = container_start if packets.stamps is None else packets.start_seconds
        return MediaInfo(
            path, width, height, rotation=turn, codec=codec, frame_seconds=seconds,
            duration=duration, fps=frame_rate(len(seconds), duration, nominal),
            pixel_aspect=aspect, has_audio=has_audio, size_bytes=self._status.st_size,
            start_seconds=packets.start_seconds - container_start,
            has_times=packets.stamps is not None, key_frames=packets.key_frames,
            can_seek=can_seek,
        )  # fmt: skip

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
        pictures = self._decode_by_decord(asked) if self._reader == "decord" else self._decode(asked, needed)
        for picture, index in pictures:
            yield Frame(picture, index, self.info)

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
        assert self._packets is not None
        return self._packets.tick

    def stamps(self, first: int, stop: int) -> np.ndarray | None:
        """[N] int64: presentation time stamps of the frames [first, stop); None where there are none."""
        packets = self._packets
        return None if packets is None or packets.stamps is None else packets.stamps[first:stop]

    def stored_order(self, first: int, stop: int) -> np.ndarray:
        """[N] int64: the frames [first, stop), counted from `first`, as their packets stand in the file."""
        packets = self._packets
        assert packets is not None and packets.stamps is not None
        return np.argsort(packets.places[first:stop])

    @contextlib.contextmanager
    def packets(self, first: int) -> Iterator[tuple[VideoStream, Iterator[av.Packet]]]:
        """The stream, and its packets as they are stored from that of the key frame `first` on.

        Raises:
            MediaError: the packet is not there.
        """
        packets = self._packets
        assert packets is not None and packets.stamps is not None
        stamp = int(packets.stamps[first])
        with opened(self._real) as container:
            stream = video_stream(container)
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
        if packets is None or packets.stamps is None:
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
        with contextlib.closing(sound_of(self._real, start, end, self._clocks(), rates, layouts)) as found:
            yield next(found, None)

    def _clocks(self) -> Clocks:
        """The clocks of the file, for the sound."""
        return [(0, -self._first_seconds)]

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

    def _decode(
        self, wanted: np.ndarray | None, needed: np.ndarray | None = None
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        """Pictures with their index among the shown frames, in order of time."""
        packets = self._packets
        assert packets is not None
        pick = Picker(packets, np.arange(packets.count) if wanted is None else wanted)
        with opened(self._real) as container:
            stream = video_stream(container)
            context = decoder_of(stream)
            group, feeding = -1, False
            for position, packet in self._stored(container, stream, pick):
                if position in packets.group_at:
                    group = packets.group_at[position]
                    # A closed group is begun anew even when all is decoded: where one is damaged, what
                    # the decoder fills in must not depend on which other frames are wanted.
                    if feeding and not (pick.needs(group) and group in packets.open_groups):
                        yield from pick(decoded(context, None))
                        context.flush_buffers()
                    feeding = pick.needs(group)
                if feeding:
                    if needed is not None:
                        index = packets.index(packet.pts)
                        context.skip_frame = "NONREF" if index >= 0 and not needed[index] else "DEFAULT"
                    yield from pick(decoded(context, packet))
                    if pick.next_group() > group:  # the rest of this group is not wanted
                        context.flush_buffers()
                        feeding = False
                        if pick.finished:
                            return
            if feeding:
                yield from pick(decoded(context, None))

    def _stored(
        self, container: InputContainer, stream: VideoStream, pick: Picker
    ) -> Iterator[tuple[int, av.Packet]]:
        """Packets with their positions in the file; those far ahead of the next wanted frame may be left out."""
        packets = self._packets
        assert packets is not None
        leaps = container.format.name in INDEXED and packets.stamps is not None
        position, coming = 0, demuxed(container, stream)
        while True:
            ahead = packets.key_of(pick.next_group()) if leaps else None
            if ahead is not None and ahead[0] - position > LEAP_PACKETS:
                found = None
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(ahead[1], stream=stream)
                    coming = demuxed(container, stream)
                    found = next(coming, None)
                there = packets.position_of_key(found)
                if found is not None and position <= there <= ahead[0]:
                    position, coming = there, itertools.chain([found], coming)
                else:  # the index is wrong: all is read, from another opening of the file
                    with opened(self._real) as again:
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
