"""Cuts clips out of one source, in a worker process: which frames, which picture, written aside and checked.

Imports only what that takes, since every worker pays for it.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import av
import numpy as np

from clipsheet.config import option
from clipsheet.errors import ConfigError, MediaError
from clipsheet.media import DEINTERLACE, VERSION, Media, MediaInfo, fit
from clipsheet.media.borders import BorderFinder
from clipsheet.target import aside, give_name
from pipeline.splitting import copying, encoding
from pipeline.splitting.clip_files import EncodedClip
from pipeline.splitting.copying import NotCopyable
from pipeline.splitting.encoding import CODERS, EIGHT_BITS, TEN_BITS, Coding, Filter
from pipeline.splitting.sound_check import Levels, difference

BORDER_FRAMES = 8
RATIO_DIGITS = 4  # of the share of a picture that is left
SEAM_FRAMES = 8  # that are looked at behind the seams of a clip that was put together
SILENT = "no sound: no audio of the source decodes in this span"
MOVED = "begin or end elsewhere than asked, where a copy can; `clip_start` and `clip_end` say where"
PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow".split()


@dataclass(frozen=True)
class Cutting:
    """What the clips are to be like."""

    save_dir: str = option("", "folder of the clips")
    min_seconds: float | None = option(None, "seconds; shorter shots are dropped", ge=0)
    max_seconds: float | None = option(
        None, "seconds; longer shots become several clips of equal length", gt=0
    )
    target_fps: float | None = option(None, "frames per second; default: the source's", gt=0)
    shorter_size: int | None = option(None, "pixels of the short side at most; never enlarged", ge=16)
    encoder: str = option("libx264", "video encoder", choices=(*CODERS, "copy", "smart"))
    crf: int = option(18, "quality of libx264 and h264_nvenc, lower is better", ge=0, le=51)
    preset: str = option("veryfast", "speed of libx264", choices=PRESETS)
    crop_borders: bool = option(False, "cut black borders off")
    min_crop_ratio: float = option(
        0.6, "with --crop_borders: a clip that keeps less of its picture is dropped", ge=0, le=1
    )
    deinterlace: str = option(
        "auto",
        "make whole pictures of interlaced ones: where there are any, never, or of all",
        choices=DEINTERLACE,
    )
    hdr: str = option(
        "tonemap", "high dynamic range: map it to the standard range by BT.2390, or keep it, in 10 bits (libx264)",
        choices=("tonemap", "keep"),
    )  # fmt: skip
    keep_audio: bool = option(False, "keep the first sound stream, as AAC")

    def __post_init__(self) -> None:
        least, most = self.min_seconds, self.max_seconds
        if least is not None and most is not None and least > most:
            raise ConfigError(f"min_seconds {least:g} is more than max_seconds {most:g}")
        if self.hdr == "keep" and self.encoder not in ("libx264", "smart", "copy"):
            raise ConfigError(f"hdr keep: {self.encoder} writes 8 bits only; take encoder libx264")

    @property
    def meaning(self) -> str:
        """Everything that a clip of given frames depends on, in one line."""
        ratio = self.min_crop_ratio if self.crop_borders else 0.0
        settings = replace(self, min_seconds=None, max_seconds=None, min_crop_ratio=ratio)
        return f"cut v4 frames v{VERSION} {settings!r}"


@dataclass(frozen=True)
class Clip:
    """One clip to be cut.

    Attributes:
        target: path of the clip.
        start, end: seconds since the first frame of the source.
    """

    target: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


@dataclass(frozen=True)
class Made:
    """A clip that was written: its file's size and time, and what of the source is in it.

    Attributes:
        start, end: seconds since the first frame of the source.
        crop: x, y, width and height of what of the picture was kept, where borders were to be cut off.
        note: what was done in another way than was asked for.
    """

    size: int
    mtime_ns: int
    start: float
    end: float
    crop: tuple[int, int, int, int] | None = None
    note: str = ""


@dataclass(frozen=True)
class Dropped:
    """A clip that was not written: without its borders it would have too little of the picture.

    Attributes:
        crop_ratio: share of the picture that would be left, 0-1.
    """

    crop_ratio: float


Result = Made | Dropped | MediaError | OSError


@dataclass(frozen=True)
class Part:
    """The frames [first, stop) of a source, which become a clip.

    Attributes:
        target: path of the clip.
        partial: where it is written before it is whole; as long as that is not known, its target.
        crop: x, y, width and height of what of the picture is to be kept.
        note: what is done in another way than was asked for.
    """

    target: Path
    partial: Path
    first: int
    stop: int
    crop: tuple[int, int, int, int] | None = None
    note: str = ""


@dataclass(frozen=True)
class CutJob:
    """Cuts some clips out of one source; runs in a worker process."""

    cutting: Cutting
    root: str = ""

    def __call__(self, task: tuple[str, Sequence[Clip]], allow: Callable[[float], None]) -> list[Result]:
        encoding.keep_freed_memory()
        path, asked = task
        media = Media(
            path, root=self.root or None,
            deinterlace=self.cutting.deinterlace, tone_map=self.cutting.hdr == "tonemap",
        )  # fmt: skip
        if media.info.is_image:
            raise MediaError("no_frames", "a picture has no clips")
        lengths = sum(clip.seconds for clip in asked)
        allow(4 * media.info.duration + 20 * lengths)
        parts = [self._part(media, clip) for clip in asked]
        with ExitStack() as stack:
            wanted = [
                replace(part, partial=stack.enter_context(aside(part.target)))
                for part in parts
                if isinstance(part, Part)
            ]
            made = self._write(media, wanted)
        media.check_unchanged()
        return [made[part.target] if isinstance(part, Part) else part for part in parts]

    def _part(self, media: Media, clip: Clip) -> Part | Dropped | MediaError | OSError:
        """What a clip takes from its source, or why it gets nothing."""
        info = media.info
        first, stop = asked = frames_between(info, clip.start, clip.end)
        if self.cutting.encoder == "copy":  # from the first key frame on
            if not (info.has_times and info.can_copy):
                return MediaError("partial", "a stream without usable time stamps cannot be copied in parts")
            keys = info.key_frames[(info.key_frames >= first) & (info.key_frames < stop)]
            first = int(keys[0]) if len(keys) else stop
            stop = media.copyable(first, stop) if first < stop else stop
        if first >= stop:
            return MediaError("no_frames", f"no frame to begin with from {clip.start:g} to {clip.end:g} s")
        crop, target = None, Path(clip.target)
        if self.cutting.crop_borders and self.cutting.encoder != "copy":
            try:
                crop = self._crop(media, first, stop)
            except MediaError as error:
                return error
            except av.error.FFmpegError as error:
                return MediaError("decode_error", str(error))
            ratio = round(crop[2] * crop[3] / (info.width * info.height), RATIO_DIGITS)
            if ratio < self.cutting.min_crop_ratio:
                return Dropped(ratio)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return error
        note = "" if (first, stop) == asked else MOVED
        return Part(target, target, first, stop, crop, note)

    def _write(self, media: Media, parts: Sequence[Part]) -> dict[Path, Result]:
        """Write all parts: what can be copied is, all others are encoded in one pass over the source."""
        made: dict[Path, Result] = {}
        rest = []
        for part in parts:
            if self.cutting.encoder == "copy":
                made[part.target] = self._try(media, part, partial(self._copy, media, part))
            elif self.cutting.encoder == "smart" and (why := self._splice(media, part, made)):
                rest.append(replace(part, note=f"encoded: {why}"))
            elif self.cutting.encoder != "smart":
                rest.append(part)
        return made | self._encode(media, rest) if rest else made

    def _try(self, media: Media, part: Part, write: Callable[[], Levels | None]) -> Result:
        try:
            return self._finish(media.info, part, write())
        except (MediaError, OSError) as error:
            return error

    def _copy(self, media: Media, part: Part) -> Levels | None:
        return copying.copy(part.partial, media, part.first, part.stop, self.cutting.keep_audio)

    def _splice(self, media: Media, part: Part, made: dict[Path, Result]) -> str:
        """Copy what can be copied of a part; where that is nothing, or does not decode, say why."""
        try:
            if media.changes_pictures:
                raise NotCopyable("its picture is to be changed")
            coding = self._coding(media.info, part)
            if coding.field_order:
                raise NotCopyable("it is interlaced")
            keep = self.cutting.keep_audio
            seams, sound = copying.splice(part.partial, media, part.first, part.stop, coding, keep)
            if not _decodes(Media(str(part.partial)), media.info, part, seams):
                return "what was copied does not decode as it should"
            made[part.target] = self._finish(media.info, part, sound)
        except NotCopyable as error:
            return str(error)
        except MediaError as error:
            return f"a copy failed: {error.detail}"
        except OSError as error:
            made[part.target] = error
        return ""

    def _encode(self, media: Media, parts: Sequence[Part]) -> dict[Path, Result]:
        """Write parts in one pass over the source; each has an encoder of its own."""
        made: dict[Path, Result] = {}
        waiting = deque(sorted(parts, key=lambda part: part.first))
        open_ones: dict[Part, EncodedClip] = {}
        wanted = np.zeros(len(media.info.frame_seconds), bool)
        for part in parts:
            wanted[part.first : part.stop] = True

        def end(part: Part) -> None:
            made[part.target] = self._try(media, part, open_ones.pop(part).close)

        try:
            for frame in media.frames(np.flatnonzero(wanted)):
                while waiting and waiting[0].first <= frame.index:
                    part = waiting.popleft()
                    coding = self._coding(media.info, part)
                    open_ones[part] = EncodedClip(
                        part.partial, media, part.first, part.stop, coding, self.cutting.keep_audio
                    )
                for part in list(open_ones):
                    try:
                        if frame.index < part.stop:
                            open_ones[part].add(frame)
                        if frame.index >= part.stop - 1:
                            end(part)
                    except (MediaError, OSError) as error:
                        made[part.target] = error.with_traceback(None)  # which holds the encoder
                        del open_ones[part]
        except MediaError as error:
            for part in (*open_ones, *waiting):
                made[part.target] = error
            return made
        for part in list(open_ones):
            end(part)
        for part in waiting:
            made[part.target] = MediaError("partial", f"0 of {part.stop - part.first} frames were written")
        return made

    def _finish(self, info: MediaInfo, part: Part, sound: Levels | None) -> Made:
        """Give a clip its name.

        Args:
            sound: levels of the encoded sound; None without sound.

        Raises:
            MediaError: less was written than was asked for, or the sound differs from what was encoded.
            OSError: the disk is full or refuses.
        """
        self._check(info, part, sound)
        written = give_name(part.partial, part.target)
        begin = float(info.frame_seconds[part.first])
        end = begin + seconds_of(info, part.first, part.stop)
        silent = self.cutting.keep_audio and info.has_audio and sound is None
        note = "; ".join(filter(None, (part.note, SILENT if silent else "")))
        return Made(written.size, written.mtime_ns, begin, end, part.crop, note)

    def _coding(self, info: MediaInfo, part: Part) -> Coding:
        cutting = self.cutting
        encoder = "libx264" if cutting.encoder == "smart" else cutting.encoder
        filters = picture_filters(info, cutting, part.crop)
        coding = Coding.of(encoder, filters, crf=cutting.crf, preset=cutting.preset)
        pixels = TEN_BITS if info.hdr and cutting.hdr == "keep" else EIGHT_BITS
        return replace(coding, pixels=pixels, field_order=info.fields if cutting.deinterlace == "off" else "")

    def _crop(self, media: Media, first: int, stop: int) -> tuple[int, int, int, int]:
        """x, y, width and height of the picture without black borders: even numbers, never into content."""
        finder = BorderFinder()
        for frame in media.frames(np.linspace(first, stop - 1, BORDER_FRAMES).astype(int)):
            finder.add(frame.luma())
        borders, info = finder.borders(), media.info
        if not any(borders):
            return 0, 0, info.width, info.height
        left, top = borders.left // 2 * 2, borders.top // 2 * 2
        width, height = info.width - left - borders.right, info.height - top - borders.bottom
        return (
            left,
            top,
            min(info.width - left, width + width % 2),
            min(info.height - top, height + height % 2),
        )

    def _check(self, info: MediaInfo, part: Part, sound: Levels | None) -> None:
        made = Media(str(part.partial))
        asked, frames = part.stop - part.first, len(made.info.frame_seconds)
        allowed = 0
        if self.cutting.target_fps is not None:
            asked = max(1, round(seconds_of(info, part.first, part.stop) * self.cutting.target_fps))
            allowed = max(2, asked // 50)
        if frames < asked - allowed:
            raise MediaError("partial", f"{frames} of {asked} frames were written")
        wrong = "" if sound is None else difference(made, sound)
        if wrong:
            raise MediaError("partial", wrong)


def _decodes(clip: Media, info: MediaInfo, part: Part, seams: tuple[int, int]) -> bool:
    """Whether a clip that was put together has all its frames at their times, and they decode at its begin and
    at both seams; between them is what the source has."""
    seconds = info.frame_seconds[part.first : part.stop]
    found = clip.info.frame_seconds
    if len(found) != len(seconds) or not np.allclose(found, seconds - seconds[0], atol=1.5e-3):
        return False
    looked_at = np.zeros(len(found), bool)
    for seam in (0, *(seam - part.first for seam in seams)):
        if seam < len(found):
            looked_at[max(0, seam - 1) : seam + SEAM_FRAMES] = True
    return sum(1 for _ in clip.frames(np.flatnonzero(looked_at))) == looked_at.sum()


def name_hash(text: str) -> str:
    """A few letters that tell names apart."""
    return hashlib.blake2b(os.fsencode(text), digest_size=4).hexdigest()


def frames_between(info: MediaInfo, start: float, end: float) -> tuple[int, int]:
    """Indices [first, stop) of the frames that begin in [start, end) seconds, to the millisecond.

    Times in a table are cut to milliseconds, so a frame may begin up to one later than they say.
    """
    first, stop = np.searchsorted(info.frame_seconds, [start - 1e-6, end - 1e-6])
    return int(first), int(stop)


def seconds_of(info: MediaInfo, first: int, stop: int) -> float:
    """How long the frames [first, stop) are shown."""
    end = info.frame_seconds[stop] if stop < len(info.frame_seconds) else info.duration
    return float(end - info.frame_seconds[first])


def picture_filters(
    info: MediaInfo, cutting: Cutting, crop: tuple[int, int, int, int] | None
) -> list[Filter]:
    """FFmpeg's filters from frames as stored to turned ones with square pixels, even sides and the wanted size.

    Args:
        crop: x, y, width and height of what is to be kept of the turned picture; None for all.
    """
    height, width = info.height, info.width
    filters: list[Filter] = [*([("hflip", "")] if info.mirrored else []), *_TURNS[info.rotation]]
    if crop is not None and crop != (0, 0, width, height):
        left, top, width, height = crop
        filters.append(("crop", f"{width}:{height}:{left}:{top}:exact=1"))
    wide = round(width * info.pixel_aspect) if info.rotation % 180 == 0 else width
    high = height if info.rotation % 180 == 0 else round(height * info.pixel_aspect)
    if cutting.shorter_size is not None:
        high, wide = fit(high, wide, short=cutting.shorter_size)
    if (high, wide) != (height, width):
        high, wide = (max(2, round(side / 2) * 2) for side in (high, wide))
        woven = info.fields and cutting.deinterlace == "off"
        filters.append(("scale", f"{wide}:{high}" + (":interl=1" if woven else "")))
    if high % 2 or wide % 2:
        filters.append(("pad", "ceil(iw/2)*2:ceil(ih/2)*2"))
    if cutting.target_fps is not None:
        filters.append(("fps", f"{cutting.target_fps:g}"))
    return filters


#: By degrees counter-clockwise.
_TURNS: dict[int, tuple[Filter, ...]] = {
    0: (), 90: (("transpose", "cclock"),), 180: (("hflip", ""), ("vflip", "")), 270: (("transpose", "clock"),),
}  # fmt: skip
