"""A video or picture that can be read: its facts, its frames, its packets, its sound."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import MediaError
from pipeline.media import bitstream, fields, hdr
from pipeline.media.container import (
    MAX_PIXELS,
    decoded,
    decoder_of,
    demuxed,
    heard,
    opened,
    video_stream,
    video_streams,
)
from pipeline.media.fields import WOVEN_FLAGS, FieldOrder
from pipeline.media.frame import Frame, orientation
from pipeline.media.hdr import ToneMap
from pipeline.media.info import MediaInfo, frame_rate
from pipeline.media.packets import CHECKED_PACKETS, FalseKey, Packets, Picker
from pipeline.media.paths import check_path

#: What decodes. decord only on wish: it returns wrong frames where an edit list hides some, fails on
#: cut-off files, and its FFmpeg is of 2022. The file is opened and judged by PyAV all the same.
READERS: Final = ("pyav", "decord")
#: Whether frames are made whole where they are woven of two fields; bwdif: of every video.
DEINTERLACE: Final = ("auto", "off", "bwdif")
#: Pictures that are looked at to find the brightest of a video.
MEASURED_KEYS: Final = 8
#: Frames that are decoded at most to come from a key frame to one of a pair that is looked at.
PAIR_REACH: Final = 32
#: Of a file that is read whole, this share of its frames may be undecodable.
MAX_BAD_RATIO: Final = 0.2
#: Codecs whose decoders skip single packets when they are told to; that of AV1 is told but once.
SKIPPING: Final = ("h264", "hevc", "mpeg4", "mpeg2video")
SHARED_FRAMES: Final = 64  # at least, in the groups of pictures that one thread decodes at a time
SHRUNK_AHEAD: Final = 1024  # frames made small that wait for their turn, in all threads together
#: Containers with an index that leads to a key frame's packet; in others that are read in between.
INDEXED: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
LEAP_PACKETS: Final = 500  # more than that ahead of a wanted frame are not read
SOUND_SLACK_SECONDS: Final = 5.0  # between where sound is looked for and where it is wanted
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
        self._packets: Packets | None = None  # of a video
        self.info = self._open_image(path) or self._open_video(path)

    @property
    def _index(self) -> Packets:
        """The packets of a video."""
        assert self._packets is not None
        return self._packets

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
            context = stream.codec_context
            codec = context.codec.canonical_name
            nominal = float(stream.average_rate or stream.guessed_rate or 0)
            aspect = float(stream.sample_aspect_ratio or 1) or 1.0
            has_audio = bool(container.streams.audio)
            flagged = context.field_order in WOVEN_FLAGS
            container_start = (container.start_time or 0) / av.time_base
            packets = Packets(container, stream, nominal)
            alone = packets.alone(stream)
            streams = len(video_streams(container))
        packets, picture = self._checked(packets, alone)
        if picture is None:
            raise MediaError("decode_error", "no frame decodes")
        self._packets = packets
        looked_at = [picture, *(other for other in alone.values() if other is not None)]
        order = self._field_order(packets, looked_at, flagged or picture.interlaced_frame)
        turn, mirrored = orientation(picture)
        height, width = picture.height, picture.width
        if turn % 180:
            height, width = width, height
        return MediaInfo(
            path, width, height, rotation=turn, mirrored=mirrored, codec=codec, frame_seconds=packets.seconds,
            duration=packets.duration, fps=frame_rate(packets.count, packets.duration, nominal),
            pixel_aspect=aspect, has_audio=has_audio, size_bytes=self._status.st_size,
            start_seconds=packets.start_seconds - container_start,
            has_times=packets.stamps is not None, key_frames=packets.key_frames,
            can_seek=packets.can_seek, can_copy=packets.places is not None, video_streams=streams, fields=order,
            color_transfer=hdr.TRANSFERS.get(picture.color_trc, hdr.UNKNOWN),
            color_primaries=hdr.PRIMARIES.get(picture.color_primaries, hdr.UNKNOWN),
            bit_depth=picture.format.components[0].bits,
        )  # fmt: skip

    def _checked(
        self, packets: Packets, alone: dict[int, av.VideoFrame | None]
    ) -> tuple[Packets, av.VideoFrame | None]:
        """The packets, read another way where decoding shows that the container's word does not hold, and the
        first picture."""
        if packets.has_placeholders:
            packets = self._without_placeholders(packets)
        second = packets.second_key
        if packets.begins_late and 0 in alone:
            packets = self._regrouped(packets.from_the_first())
        elif second is not None and not self._is_true_key(packets, second, alone):
            packets = self._regrouped(packets)
        if packets.doubtful and not self._in_order(packets):
            packets = self._regrouped(packets.counted())
        first = alone.get(packets.first_number)
        return packets, first or next((picture for picture, _ in self._decode(packets, None)), None)

    def _is_true_key(self, packets: Packets, number: int, alone: dict[int, av.VideoFrame | None]) -> bool:
        """Whether decoding can begin at a packet that is flagged as a key frame.

        Args:
            alone: as Packets.alone() gives it.
        """
        if number not in alone:
            index = packets.index_at(number)
            return any(packets.is_key(picture) for picture, _ in self._decode(packets, np.array([index])))
        picture = alone[number]
        if picture is None or picture.pict_type or number >= CHECKED_PACKETS:
            return True
        # The decoder does not tell kinds of pictures: compare what comes out for it alone and in company.
        straight = (other for other in self._decoded_run(0, number + CHECKED_PACKETS) if other.pts == number)
        expected = next(straight, None)
        return all(expected is not None and _equal(found, expected) for found in self._decoded_run(number, 1))

    def _in_order(self, packets: Packets) -> bool:
        """Whether the first frames come out of the decoder in the order of their time stamps."""
        came = -1
        for picture in self._decoded_run(0, CHECKED_PACKETS):
            index = packets.index_at(picture.pts) if picture.pts is not None else -1
            if 0 <= index < came:
                return False
            came = max(came, index)
        return True

    def _decoded_run(self, first: int, count: int) -> Iterator[av.VideoFrame]:
        """The pictures of some packets and no others as they come out of the decoder, numbered by their packets."""
        with opened(self._real) as container:
            stream = video_stream(container)
            context = decoder_of(stream)
            coming = itertools.islice(enumerate(demuxed(container, stream)), first, first + count)
            for number, packet in coming:
                packet.pts = number
                yield from decoded(context, packet)
            yield from decoded(context, None)

    def _without_placeholders(self, packets: Packets) -> Packets:
        """Packets of MPEG-4 without those that only hold the place of a picture."""
        with opened(self._real) as container:
            vops = bitstream.Vops()
            hidden = [vops.hides(packet) for packet in demuxed(container, video_stream(container))]
        return packets.with_placeholders(hidden[: packets.total], vops.packed)

    def _regrouped(self, packets: Packets) -> Packets:
        """Packets whose flags of key frames do not hold, in groups that begin where their own bits say so."""
        with opened(self._real) as container:
            stream = video_stream(container)
            codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata
            begins = bitstream.holds_key if packets.places is not None else bitstream.begins_closed
            coming = enumerate(demuxed(container, stream))
            keys = [number for number, packet in coming if begins(codec, bytes(packet), extradata)]
        return packets.grouped_at(keys)

    def _field_order(self, packets: Packets, looked_at: list[av.VideoFrame], flagged: bool) -> FieldOrder:
        """Whether the pictures are woven of two fields, and which of those comes first.

        Args:
            looked_at: the pictures that have been decoded.
            flagged: the stream says that it is interlaced.
        """
        if not flagged:
            if not any(fields.is_suspicious(picture) for picture in looked_at):
                return ""
            first = np.unique(np.append(0, packets.key_frames[:2]))
            if fields.field_order(self._pairs(packets, first), flagged) == "":
                return ""
        last = packets.count - 2
        keys = np.unique(np.append(0, packets.key_frames[packets.key_frames <= last]))
        spread = np.unique(np.linspace(0, max(last, 0), fields.PAIRS).astype(int))
        before = keys[np.searchsorted(keys, spread, side="right") - 1]
        starts = np.unique(np.where(spread - before > PAIR_REACH, before, spread))
        return fields.field_order(self._pairs(packets, starts), flagged)

    def _pairs(self, packets: Packets, starts: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The luma of some pictures, each with that of the next one."""
        asked = np.unique(np.concatenate([starts, starts + 1]).clip(max=packets.count - 1))
        found = self._decode(packets, asked)
        luma = {index: fields.sampled_luma(picture) for picture, index in found}
        return [(luma[i], luma[i + 1]) for i in starts.tolist() if i in luma and i + 1 in luma]

    @functools.cached_property
    def _tone(self) -> ToneMap | None:
        """What maps the pictures to the standard dynamic range."""
        if not (self._tone_map and self.info.hdr) or self._packets is None:
            return None
        keys = np.append(0, self._packets.key_frames)
        some = np.unique(keys[np.linspace(0, len(keys) - 1, MEASURED_KEYS).astype(int)])
        pictures = (picture for picture, _ in self._decode(self._packets, some))
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
        if self._reader == "decord":
            pictures: Iterator[tuple[Any, int]] = self._decode_by_decord(asked)
        elif order := self._order_to_mend:
            pictures = fields.deinterlaced(
                self._decode(self._index, self._with_neighbours(asked)), asked, order
            )
        else:
            pictures = self._decode(self._index, asked, needed)
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
        return self._index.tick

    def stamps(self, first: int, stop: int) -> np.ndarray | None:
        """[N] int64: presentation time stamps of the frames [first, stop); None where there are none."""
        packets = self._packets
        return None if packets is None or packets.stamps is None else packets.stamps[first:stop]

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
        with opened(self._real) as container:
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
    def sound(self, ahead_of: float) -> Iterator[tuple[Iterator[av.AudioFrame], float]]:
        """The first sound stream from some time ahead of `ahead_of` seconds on, and on its clock the seconds
        at which the first frame is shown."""
        with opened(self._real) as container:
            stream = container.streams.audio[0]
            zero = (container.start_time or 0) / av.time_base
            if self.info.has_times:
                zero += self.info.start_seconds
            if self.info.has_times and ahead_of > SOUND_SLACK_SECONDS:
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(round((zero + ahead_of - SOUND_SLACK_SECONDS) * av.time_base))
            yield heard(container, stream), zero

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
        self, packets: Packets, wanted: np.ndarray | None, needed: np.ndarray | None = None
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        """Pictures with their index among the shown frames, in order of time."""
        wanted = np.arange(packets.count) if wanted is None else wanted
        given = -1
        try:
            for picture, given in self._decode_groups(packets, Picker(packets, wanted), needed):
                yield picture, given
        except FalseKey:
            rest = wanted[wanted > given]
            yield from self._decode_groups(packets.whole(), Picker(packets.whole(), rest), needed)

    def _decode_groups(
        self, packets: Packets, pick: Picker, needed: np.ndarray | None
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        with opened(self._real) as container:
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


def _equal(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    """Whether two pictures are the same, bit by bit."""
    return all(bytes(a) == bytes(b) for a, b in zip(one.planes, other.planes, strict=True))


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
