"""Videos and pictures: the only module that opens one.

A file is opened by its content, never by its name, and only as what it is: no playlist, script or
URL is followed. Times are seconds since the first shown frame, taken from the presentation time
stamps, so that variable frame rates, edit lists and streams that start late are exact.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import MediaError

#: Demuxers that read one file and nothing else. Playlists and scripts (HLS, DASH, SDP, concat)
#: are left out: FFmpeg would follow them to other files and to the network.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,"
    "h264,hevc,m4v,ivf,obu,mxf,nut,rm,dv,yuv4mpegpipe"
)
MAX_PIXELS: Final = 8192 * 8192  # room for 8K, not for a 144-megapixel bomb
MAX_STREAMS: Final = 64
#: No picture is shown that long; a jump of the time stamps would become hours of nothing.
MAX_FRAME_SECONDS: Final = 3600.0
PROBE_BYTES: Final = 10_000_000
PROBE_MICROSECONDS: Final = 10_000_000
OPEN_SECONDS: Final = 20.0
ATTACHED_PICTURE: Final = 0x400  # AV_DISPOSITION_ATTACHED_PIC
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

#: Decoders of the video that cameras, archives and web sites really hold.
CODECS: Final = frozenset(
    "h264 hevc av1 libdav1d libaom-av1 vvc vp7 vp8 vp9 libvpx libvpx-vp9 vp6 vp6f mpeg1video "
    "mpeg2video mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4 h261 h263 h263i flv wmv1 wmv2 wmv3 vc1 theora "
    "mjpeg mjpegb gif apng png webp prores dnxhd cfhd dvvideo ffv1 huffyuv ffvhuff utvideo rawvideo "
    "qtrle rpza svq1 svq3 cinepak rv10 rv20 rv30 rv40 jpeg2000 hap".split()
)

#: With the sound decoders that FFmpeg needs to make out what a container holds.
CODEC_WHITELIST: Final = ",".join(
    [*sorted(CODECS), *"aac mp3 mp3float mp2 mp2float ac3 eac3 opus libopus vorbis flac alac".split(),
     *"amrnb amrwb wmav1 wmav2 pcm_s16le pcm_s16be pcm_s24le pcm_s32le pcm_u8 pcm_mulaw pcm_alaw".split()]
)  # fmt: skip

CONTAINER_OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMATS,
    "codec_whitelist": CODEC_WHITELIST,
    "max_streams": str(MAX_STREAMS),
    "probesize": str(PROBE_BYTES),
    "analyzeduration": str(PROBE_MICROSECONDS),
}

#: What decodes. decord only on wish: it returns wrong frames where an edit list hides some, fails on
#: cut-off files, and its FFmpeg is of 2022. The file is opened and judged by PyAV all the same.
READERS: Final = ("pyav", "decord")

#: What Scorer.times returns to be given every frame that decodes, in order.
EVERY_FRAME: Final = object()

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow fails only at twice as many
av.logging.set_level(av.logging.PANIC)


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """What a file is, from one pass over its packets; nothing of it is the header's promise.

    Attributes:
        width, height: pixels as displayed, rotation applied.
        rotation: degrees counter-clockwise by which the stored picture is turned for display.
        frame_seconds: [N] float64, rising: when each shown frame begins; of a picture, [0.0].
        duration: seconds from the first frame to the end of the last one; 0 for a picture.
        fps: frames per second; 0 for a picture.
        pixel_aspect: width of a pixel over its height.
        size_bytes: of the file.
        start_seconds: of the first shown frame on FFmpeg's clock, whose zero is where the earliest
            stream of the container starts.
        has_times: whether the stream has time stamps; else frames are timed by the nominal rate.
        key_frames: [K] indices of the shown frames from which decoding can begin.
        can_seek: whether it can begin at them at all; not where a stream is refreshed gradually,
            some lines of every picture at a time, and FFmpeg calls the first of those a key frame.
    """

    path: str
    width: int
    height: int
    rotation: int
    codec: str
    frame_seconds: np.ndarray
    duration: float
    fps: float
    pixel_aspect: float
    has_audio: bool
    size_bytes: int
    start_seconds: float = 0.0
    is_image: bool = False
    has_times: bool = True
    key_frames: np.ndarray = field(default_factory=lambda: np.zeros(1, int))
    can_seek: bool = True

    def at(self, *positions: float) -> list[float]:
        """Seconds of the frames at relative positions from 0 to 1, for example 0.1, 0.5, 0.9."""
        return [p * self.duration for p in positions]

    def every(self, seconds: float, most: int | None = None) -> list[float]:
        """Seconds of the frames 0, `seconds`, 2 `seconds`, ... apart; evenly thinned to `most`.

        Never more than there are frames, however long a header claims the file to be.
        """
        slots = np.floor(self.frame_seconds / seconds + 1e-6)
        first = np.concatenate([[True], slots[1:] != slots[:-1]])
        times = self.frame_seconds[first]
        if most is not None and len(times) > most:
            times = times[np.linspace(0, len(times) - 1, most).round().astype(int)]
        return list(times.tolist())

    def index_at(self, seconds: float) -> int:
        """Index of the frame that a player shows at `seconds`."""
        half_tick = 5e-4
        after = np.searchsorted(self.frame_seconds, seconds + half_tick, side="right")
        return int(np.clip(after - 1, 0, len(self.frame_seconds) - 1))


class Frame:
    """One shown picture, turned as displayed; pixels are converted when they are asked for.

    Several threads may ask at once; FFmpeg's converter belongs to one picture and serves one.

    Attributes:
        index: among the shown frames, from 0.
        seconds: when it is shown, since the first frame.
        height, width: as displayed, of the file's first frame: later ones are scaled to it.
    """

    __slots__ = ("_lock", "_rgb", "_rotation", "_source", "height", "index", "seconds", "width")

    def __init__(self, source: av.VideoFrame | np.ndarray, index: int, info: MediaInfo) -> None:
        self._source = source
        self._rgb: np.ndarray | None = source if isinstance(source, np.ndarray) else None
        self._rotation = info.rotation
        self._lock = threading.Lock()
        self.index = index
        self.seconds = float(info.frame_seconds[min(index, len(info.frame_seconds) - 1)])
        self.height = info.height
        self.width = info.width

    def stored(self) -> av.VideoFrame:
        """As it was decoded: not turned, and of the size that it has in the file."""
        assert isinstance(self._source, av.VideoFrame)
        return self._source

    def rgb(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """[H, W, 3] uint8 RGB, at the displayed size or averaged over areas to another one."""
        with self._lock:
            if self._rgb is None:
                assert isinstance(self._source, av.VideoFrame)
                image = np.rot90(
                    _scaler().reformat(self._source, format="rgb24", threads=1).to_ndarray(),
                    self._rotation // 90,
                )
                self._rgb = _resized(np.ascontiguousarray(image), self.height, self.width)
        return _resized(self._rgb, height or self.height, width or self.width)

    def scaled(self, height: int, width: int) -> np.ndarray:
        """[H, W, 3] uint8 RGB, by FFmpeg's bicubic scaler straight from the picture as it was decoded.

        For pictures much smaller than the frame, and for networks that were trained on such.
        """
        if isinstance(self._source, np.ndarray):
            return np.ascontiguousarray(
                cv2.resize(self._source, (width, height), interpolation=cv2.INTER_AREA)
            )
        stored = (height, width) if self._rotation % 180 else (width, height)
        small = _scaler().reformat(self._source, *stored, "rgb24", interpolation="BICUBIC", threads=1)
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), self._rotation // 90))

    def luma(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """[H, W] uint8, 0 black to 255 white (full range), at the displayed or another size."""
        height, width = height or self.height, width or self.width
        plane = self._luma_plane()
        if plane is None:
            return cv2.cvtColor(self.rgb(height, width), cv2.COLOR_RGB2GRAY)
        stored = (width, height) if self._rotation % 180 else (height, width)
        image = np.rot90(_resized(plane, *stored), self._rotation // 90)
        source: Any = self._source
        full_range = source.color_range == av.video.reformatter.ColorRange.JPEG
        return np.ascontiguousarray(image) if full_range else cv2.LUT(image, _TO_FULL_RANGE)

    def _luma_plane(self) -> np.ndarray | None:
        """[H, W] uint8 as stored, where the pixel format keeps 8-bit luma in a plane of its own."""
        frame = self._source
        if isinstance(frame, np.ndarray) or not frame.format.name.startswith(_PLANAR_8_BIT):
            return None
        if frame.format.components[0].bits != 8:
            return None
        plane: Any = frame.planes[0]  # holds the buffer protocol, which its type does not say
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return rows[: frame.height, : frame.width]


_scaling: Final = threading.local()


def _scaler() -> Any:
    """FFmpeg's converter of this thread. To set one up takes long, and so does starting threads for it."""
    if not hasattr(_scaling, "by"):
        _scaling.by = av.video.reformatter.VideoReformatter()
    return _scaling.by


#: Studio luma, 16 black to 235 white, as 0 to 255 (ITU-R BT.601).
_TO_FULL_RANGE: Final = np.clip((np.arange(256) - 16) * 255 / 219, 0, 255).round().astype(np.uint8)
_PLANAR_8_BIT: Final = ("yuv4", "yuvj4", "yuva4", "nv12", "nv21")


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    smaller = height <= image.shape[0] and width <= image.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def fit(height: int, width: int, *, short: int | None = None, long: int | None = None) -> tuple[int, int]:
    """(height, width) shrunk, never enlarged, so that its short or long side is at most that many."""
    ratio = 1.0
    if short is not None:
        ratio = min(ratio, short / min(height, width))
    if long is not None:
        ratio = min(ratio, long / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


# --- paths -------------------------------------------------------------------------------------


def check_path(path: str, root: str | None = None) -> tuple[str, os.stat_result]:
    """The absolute path of a regular, readable file without links in it, and its stat.

    Args:
        root: refuse whatever lies outside this folder once all links are followed.

    Raises:
        MediaError: bad_path, missing, unreadable, not_a_file, outside_root or empty_file.
    """
    if not path.strip():
        raise MediaError("bad_path", "the cell is empty")
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeError as error:
        raise MediaError("bad_path", f"not UTF-8: {error}") from error
    if "\0" in path:
        raise MediaError("bad_path", "holds a NUL")
    try:
        real = os.path.realpath(path, strict=True)
        status = os.stat(real)
    except OSError as error:
        raise _path_error(path, error) from error
    if root is not None and os.path.commonpath([os.path.realpath(root), real]) != os.path.realpath(root):
        raise MediaError("outside_root", real)
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("not_a_file", stat.filemode(status.st_mode))
    if not os.access(real, os.R_OK):
        raise MediaError("unreadable", "permission denied")
    if not status.st_size:
        raise MediaError("empty_file")
    return real, status


_URL_SCHEMES: Final = (
    "http:",
    "https:",
    "ftp:",
    "rtsp:",
    "rtmp:",
    "tcp:",
    "udp:",
    "data:",
    "concat:",
    "subfile,",
    "s3:",
)


def _path_error(path: str, error: OSError) -> MediaError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if path.lower().startswith(_URL_SCHEMES):
            return MediaError("bad_path", "a URL; only local files are read")
        return MediaError("missing", error.strerror or "")
    if error.errno == errno.ENAMETOOLONG:
        return MediaError("bad_path", error.strerror or "")
    return MediaError("unreadable", error.strerror or "")


# --- opening -----------------------------------------------------------------------------------


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
        self._packets: _Packets | None = None
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
        with _container(self._real) as container:
            stream = _video_stream(container)
            codec = stream.codec_context.codec.canonical_name
            nominal = float(stream.average_rate or stream.guessed_rate or 0)
            aspect = float(stream.sample_aspect_ratio or 1) or 1.0
            has_audio = bool(container.streams.audio)
            container_start = (container.start_time or 0) / av.time_base
            # Only in H.264 does FFmpeg call the beginning of a gradual refresh a key frame.
            looked_at = 2 if codec == "h264" else 1
            packets = self._packets = _Packets(container, stream, nominal, looked_at)
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
        return MediaInfo(
            path, width, height, rotation=turn, codec=codec, frame_seconds=seconds,
            duration=duration, fps=_frame_rate(len(seconds), duration, nominal),
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
        with _container(self._real) as container:
            stream = _video_stream(container)
            for seek in (True, False):
                if seek:
                    with contextlib.suppress(av.error.FFmpegError):
                        container.seek(stamp, stream=stream)
                else:
                    container.seek(0)
                coming = _demux(container, stream)
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
    def sound(self, ahead_of: float) -> Iterator[tuple[Iterator[av.AudioFrame], float]]:
        """The first sound stream from some time ahead of `ahead_of` seconds on, and on its clock the seconds
        at which the first frame is shown."""
        with _container(self._real) as container:
            stream = container.streams.audio[0]
            zero = (container.start_time or 0) / av.time_base
            if self.info.has_times:
                zero += self.info.start_seconds
            if self.info.has_times and ahead_of > SOUND_SLACK_SECONDS:
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(round((zero + ahead_of - SOUND_SLACK_SECONDS) * av.time_base))
            yield _heard(container, stream), zero

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
        pick = _Picker(packets, np.arange(packets.count) if wanted is None else wanted)
        with _container(self._real) as container:
            stream = _video_stream(container)
            context = _decoder(stream)
            group, feeding = -1, False
            for position, packet in self._stored(container, stream, pick):
                if position in packets.group_at:
                    group = packets.group_at[position]
                    # A closed group is begun anew even when all is decoded: where one is damaged, what
                    # the decoder fills in must not depend on which other frames are wanted.
                    if feeding and not (pick.needs(group) and group in packets.open_groups):
                        yield from pick(_decoded(context, None))
                        context.flush_buffers()
                    feeding = pick.needs(group)
                if feeding:
                    if needed is not None:
                        index = packets.index(packet.pts)
                        context.skip_frame = "NONREF" if index >= 0 and not needed[index] else "DEFAULT"
                    yield from pick(_decoded(context, packet))
                    if pick.next_group() > group:  # the rest of this group is not wanted
                        context.flush_buffers()
                        feeding = False
                        if pick.finished:
                            return
            if feeding:
                yield from pick(_decoded(context, None))

    def _stored(
        self, container: InputContainer, stream: VideoStream, pick: _Picker
    ) -> Iterator[tuple[int, av.Packet]]:
        """Packets with their positions in the file; those far ahead of the next wanted frame may be left out."""
        packets = self._packets
        assert packets is not None
        leaps = container.format.name in INDEXED and packets.stamps is not None
        position, coming = 0, _demux(container, stream)
        while True:
            ahead = packets.key_of(pick.next_group()) if leaps else None
            if ahead is not None and ahead[0] - position > LEAP_PACKETS:
                found = None
                with contextlib.suppress(av.error.FFmpegError):
                    container.seek(ahead[1], stream=stream)
                    coming = _demux(container, stream)
                    found = next(coming, None)
                there = packets.position_of_key(found)
                if found is not None and position <= there <= ahead[0]:
                    position, coming = there, itertools.chain([found], coming)
                else:  # the index is wrong: all is read, from another opening of the file
                    with _container(self._real) as again:
                        for at, packet in enumerate(_demux(again, _video_stream(again))):
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


class _Packets:
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
        for p in _demux(container, stream):
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
        context = _decoder(stream)
        found: dict[int, av.VideoFrame] = {}
        for index in self.key_frames[: len(self._first_keys)].tolist():
            packet = None if self.stamps is None else self._first_keys.get(int(self.places[index]))
            if packet is None:
                continue
            for picture in (*_decoded(context, packet), *_decoded(context, None)):
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


class _Picker:
    """Numbers decoded pictures as shown frames and lets the wanted ones through."""

    def __init__(self, packets: _Packets, wanted: np.ndarray) -> None:
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


def _container(real_path: str) -> InputContainer:
    try:
        return av.open(f"file:{real_path}", container_options=CONTAINER_OPTIONS, timeout=OPEN_SECONDS)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise MediaError("corrupt", "no format that FFmpeg knows") from error
    except av.error.ArgumentError as error:
        raise MediaError("format_not_allowed", "a format that is not read here") from error
    except av.error.FileNotFoundError as error:
        raise MediaError("missing", error.strerror or "") from error
    except av.error.ExitError as error:
        raise MediaError("timeout", f"not open after {OPEN_SECONDS:g} s") from error
    except av.error.MemoryError as error:
        raise MediaError("out_of_memory", error.strerror or "") from error
    except (av.error.OSError, av.error.PermissionError) as error:
        raise MediaError("unreadable", error.strerror or "") from error
    except av.error.FFmpegError as error:
        raise MediaError("corrupt", str(error)) from error


def _video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if int(stream.disposition) & ATTACHED_PICTURE:
            continue
        context = stream.codec_context
        if context is None or context.name not in CODECS:
            raise MediaError("format_not_allowed", f"codec {context and context.name}")
        if context.width * context.height > MAX_PIXELS:
            raise MediaError("too_large", f"{context.width}x{context.height}")
        if not context.width * context.height:
            raise MediaError("no_frames", "no picture size")
        return stream
    raise MediaError("no_video")


def _decoder(stream: VideoStream) -> av.VideoCodecContext:
    """The decoder of a stream, with one thread: the workers use the cores."""
    context = stream.codec_context
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_count = 1
    return context


def _demux(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream in the order of the file, up to its end or to where it breaks."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.FFmpegError:
        return


def _heard(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    """The sound that decodes, up to the end of the file or to where it breaks."""
    try:
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):
                yield from packet.decode()
    except av.error.FFmpegError:
        return


def _decoded(context: av.VideoCodecContext, packet: av.Packet | None) -> Sequence[av.VideoFrame]:
    """The pictures that come out for a packet; none when the packet is damaged."""
    try:
        return context.decode(packet)
    except av.error.MemoryError as error:
        raise MediaError("out_of_memory", str(error)) from error
    except av.error.FFmpegError:
        return []


def _frame_rate(frames: int, duration: float, nominal: float) -> float:
    """The stream's nominal rate where the frames bear it out, else their true average."""
    if not duration:
        return nominal
    measured = frames / duration
    return nominal if nominal and abs(nominal - measured) <= 0.01 * measured else measured
