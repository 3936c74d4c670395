"""Footage for the tests, made on the spot: each picture carries its own number."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tools import ffmpeg

BITS = 10
CELL = 24  # pixels: survives any encoder's quantiser
HEIGHT, WIDTH = 240, 320


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """[H, W, 3] uint8 RGB: a textured ground that moves with `number`, which stands in it as ten squares."""
    rng = np.random.default_rng(1)
    ground = cv2.resize(rng.integers(60, 200, (24, 64, 3), np.uint8), (4 * width, height))
    image = np.ascontiguousarray(ground[:, 2 * number % (3 * width) :][:, :width])
    for bit in range(BITS):
        row, column = divmod(bit, 5)
        top, left = 24 + row * 2 * CELL, 24 + column * 2 * CELL
        image[top : top + CELL, left : left + CELL] = 255 if number >> bit & 1 else 0
    return image


def number_in(image: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> int:
    """The number that stands in a picture of any size made by picture()."""
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 5)
        top, left = 24 + row * 2 * CELL, 24 + column * 2 * CELL
        number |= int(image[top + 6 : top + CELL - 6, left + 6 : left + CELL - 6].mean() > 127) << bit
    return number


def encode(
    path: Path,
    pictures: Iterable[np.ndarray],
    *options: str,
    fps: float = 25,
    codec: Sequence[str] = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
) -> Path:
    """Write [H, W, 3] uint8 RGB pictures of one size as a video; `options` stand before the file."""
    coming = iter(pictures)
    first = next(coming)
    size = f"{first.shape[1]}x{first.shape[0]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    command = [ffmpeg.program(), "-v", "error", "-y", *source, *codec, *options, f"file:{path}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(np.ascontiguousarray(p).tobytes() for p in (first, *coming))
    subprocess.run(command, input=data, check=True)
    return path


def numbered(path: Path, count: int = 50, *options: str, fps: float = 25, **more: object) -> Path:
    """A video whose frames carry the numbers 0, 1, ..."""
    return encode(path, (picture(n) for n in range(count)), *options, fps=fps, **more)  # type: ignore[arg-type]


def shots(*seeds: int, seconds: float = 3, fps: int = 25) -> Iterator[np.ndarray]:
    """Moving pictures of several shots, one per seed, each `seconds` long."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        low, high = sorted(rng.integers(0, 256, (2, 3)).tolist())
        cells = rng.random((12, 48, 1), np.float32)
        ground = cv2.resize(cells, (3 * WIDTH, HEIGHT))[..., None]
        land = (np.array(low) + ground * (np.array(high) - np.array(low))).astype(np.uint8)
        for n in range(round(seconds * fps)):
            yield np.ascontiguousarray(land[:, 3 * n : 3 * n + WIDTH])


def ffmpeg_run(*arguments: str) -> None:
    """Run ffmpeg quietly; its failure fails the test."""
    subprocess.run([ffmpeg.program(), "-v", "error", "-y", *arguments], check=True, stdin=subprocess.DEVNULL)


def with_sound(video: Path, path: Path, begins: float = 0.0) -> Path:
    """A copy of a video with a tone in it from `begins` seconds to the end."""
    tone = rf"aevalsrc=exprs='if(gte(t\,{begins})\,0.5*sin(2764*t)\,0)':s=48000"
    sound = ("-f", "lavfi", "-i", tone, "-c:v", "copy", "-c:a", "aac", "-shortest")
    ffmpeg_run("-i", f"file:{video}", *sound, f"file:{path}")
    return path


# --- one file of each kind that is decoded or cut differently -----------------------------------

B_FRAMES = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "12", "-pix_fmt", "yuv420p")


@dataclass(frozen=True)
class Made:
    """A file and what a player shows of it.

    Attributes:
        numbers: burned into the shown pictures, in order.
        seconds: when each begins, since the first one.
        height, width: as displayed.
    """

    path: Path
    numbers: list[int]
    seconds: np.ndarray
    height: int = HEIGHT
    width: int = WIDTH


def evenly(path: Path, numbers: Iterable[int], fps: float = 25, **size: int) -> Made:
    """A file whose frames follow each other at one rate."""
    numbers = list(numbers)
    return Made(path, numbers, np.arange(len(numbers)) / fps, **size)


def cfr(path: Path) -> Made:
    return evenly(numbered(path), range(50))


def vfr(path: Path) -> Made:
    """60, 60, 60 and 20 ms apart, over and over."""
    timing = ("-vf", r"settb=1/1000,setpts=N*50+10*mod(N\,4)", "-fps_mode", "passthrough")
    numbered(path, 40, *timing, "-enc_time_base", "1:1000", "-video_track_timescale", "1000")
    n = np.arange(40)
    return Made(path, n.tolist(), (n * 50 + 10 * (n % 4)) / 1000)


def coarse_clock(path: Path) -> Made:
    """Time stamps in whole frames, of a length that has no finite decimal."""
    return evenly(numbered(path, 50, "-video_track_timescale", "30", fps=30), range(50), 30)


def b_frames(path: Path) -> Made:
    return evenly(numbered(path, codec=B_FRAMES), range(50))


def open_gop(path: Path) -> Made:
    """Frames ahead of a key frame that need the group before it."""
    numbered(path, 50, "-x264-params", "open-gop=1:b-adapt=0:scenecut=0", codec=B_FRAMES)
    return evenly(path, range(50))


def edit_list(path: Path) -> Made:
    """A copy from 0.6 s: frames 12 to 14 are there to decode from and are not shown."""
    whole = numbered(path.with_name(f"whole_{path.name}"), codec=B_FRAMES)
    ffmpeg_run("-ss", "0.6", "-i", f"file:{whole}", "-c", "copy", f"file:{path}")
    return evenly(path, range(15, 50))


def late_start(path: Path) -> Made:
    return evenly(numbered(path, 50, "-output_ts_offset", "10", codec=B_FRAMES), range(50))


def turned(path: Path, degrees: int) -> Made:
    """Stored lying down, with the note to turn it counter-clockwise by `degrees`."""
    stored = path.with_name(f"stored_{path.name}")
    encode(stored, (np.rot90(picture(n), -degrees // 90) for n in range(30)))
    ffmpeg_run("-display_rotation", str(degrees), "-i", f"file:{stored}", "-c", "copy", f"file:{path}")
    return evenly(path, range(30))


def ten_bit(path: Path) -> Made:
    codec = (*B_FRAMES[:-1], "yuv420p10le")
    return evenly(numbered(path, 30, codec=codec), range(30))


def odd_size(path: Path) -> Made:
    codec = (*B_FRAMES[:-1], "yuv444p")
    encode(path, (picture(n, 241, 333) for n in range(30)), codec=codec)
    return evenly(path, range(30), height=241, width=333)


def one_frame(path: Path) -> Made:
    return evenly(encode(path, [picture(9)]), [9])


def mpeg_ts(path: Path) -> Made:
    return evenly(numbered(path, codec=B_FRAMES), range(50))


def no_times(path: Path) -> Made:
    return evenly(numbered(path, codec=B_FRAMES), range(50))


def gif(path: Path) -> Made:
    return evenly(numbered(path, 30, codec=("-c:v", "gif")), range(30))


def apng(path: Path) -> Made:
    return evenly(numbered(path, 30, "-f", "apng", codec=("-c:v", "apng")), range(30))


def webp(path: Path) -> Made:
    """10 pictures for 100 ms, 20 for 40 ms each; most of them hold only what changes."""
    first, *others = (Image.fromarray(picture(n)) for n in range(30))
    shown = [100] * 10 + [40] * 20
    first.save(path, save_all=True, append_images=others, duration=shown, quality=90, minimize_size=True)
    return Made(path, list(range(30)), np.cumsum([0, *shown[:-1]]) / 1000)


def motion_jpeg(path: Path) -> Made:
    """Pictures one after another without a container, and so without times."""
    return evenly(numbered(path, 30, codec=("-c:v", "mjpeg", "-q:v", "3")), range(30))


def vp8(path: Path) -> Made:
    coder = ("-c:v", "libvpx", "-b:v", "1M", "-deadline", "realtime", "-cpu-used", "8", "-g", "15")
    return evenly(numbered(path, 40, codec=coder), range(40))


def hevc(path: Path) -> Made:
    """Open groups again, the usual thing in HEVC."""
    groups = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:log-level=none"
    coder = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-tag:v", "hvc1")
    return evenly(numbered(path, 50, "-x265-params", groups, codec=coder), range(50))


def refreshed(path: Path) -> Made:
    """No key frame but the first: columns of every picture are renewed in turn."""
    return evenly(numbered(path, 50, "-x264-params", "intra-refresh=1:keyint=12", codec=B_FRAMES), range(50))


def joined_late(path: Path) -> Made:
    """A broadcast joined after its first fifth: what needs earlier frames is not shown."""
    whole = open_gop(path.with_name(f"whole_{path.name}")).path.read_bytes()
    path.write_bytes(whole[len(whole) // 5 // 188 * 188 :])
    return evenly(path, range(12, 50))


def mpeg4_avi(path: Path) -> Made:
    return evenly(numbered(path, 40, codec=("-c:v", "mpeg4", "-q:v", "3", "-bf", "2")), range(40))


def two_videos(path: Path) -> Made:
    """The second stream is larger, numbered from 500 and marked as the default: players show that one."""
    first = numbered(path.with_name(f"first_{path.name}"), 30)
    second = path.with_name(f"second_{path.name}")
    encode(second, (cv2.resize(picture(500 + n), (640, 480)) for n in range(20)))
    streams = ("-map", "0:v", "-map", "1:v", "-disposition:0", "0", "-disposition:1", "default")
    ffmpeg_run("-i", f"file:{first}", "-i", f"file:{second}", *streams, "-c", "copy", f"file:{path}")
    return evenly(path, range(500, 520), height=480, width=640)


def cover_art(path: Path) -> Made:
    """A cover picture ahead of the video."""
    video = numbered(path.with_name(f"video_{path.name}"), 30)
    cover = path.with_name("cover.png")
    encode(cover, [picture(600, 480, 640)], codec=("-c:v", "png"))
    streams = ("-map", "1", "-map", "0", "-disposition:v:0", "attached_pic")
    ffmpeg_run("-i", f"file:{video}", "-i", f"file:{cover}", *streams, "-c", "copy", f"file:{path}")
    return evenly(path, range(30))


def changing_size(path: Path) -> Made:
    """25 frames of 320x240, then 25 of 480x360."""
    parts = []
    for part, (height, width) in enumerate([(HEIGHT, WIDTH), (360, 480)]):
        piece = path.with_name(f"{path.stem}_{part}.ts")
        pictures = (cv2.resize(picture(25 * part + n), (width, height)) for n in range(25))
        parts.append(encode(piece, pictures, "-output_ts_offset", str(part)))
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    return evenly(path, range(50))


#: Every kind of video by the name of its file.
KINDS: dict[str, Callable[[Path], Made]] = {
    "cfr.mp4": cfr,
    "vfr.mp4": vfr,
    "coarse_clock.mp4": coarse_clock,
    "b_frames.mp4": b_frames,
    "open_gop.mkv": open_gop,
    "edit_list.mp4": edit_list,
    "late_start.mkv": late_start,
    "turned_90.mp4": lambda path: turned(path, 90),
    "turned_180.mp4": lambda path: turned(path, 180),
    "turned_270.mp4": lambda path: turned(path, 270),
    "ten_bit.mp4": ten_bit,
    "odd_size.mkv": odd_size,
    "one_frame.mp4": one_frame,
    "mpeg_ts.ts": mpeg_ts,
    "no_times.h264": no_times,
    "animation.gif": gif,
    "animation.png": apng,
    "animation.webp": webp,
    "motion.mjpeg": motion_jpeg,
    "vp8.webm": vp8,
    "hevc.mp4": hevc,
    "refreshed.mp4": refreshed,
    "joined_late.ts": joined_late,
    "mpeg4.avi": mpeg4_avi,
    "two_videos.mkv": two_videos,
    "cover_art.mp4": cover_art,
    "changing_size.ts": changing_size,
}


def every_kind(folder: Path, names: Iterable[str] = KINDS) -> dict[str, Made]:
    """The named files, made in `folder`."""
    return {name: KINDS[name](folder / name) for name in names}


# --- pictures that are not what they seem ---------------------------------------------------------


def woven(path: Path, order: str, *options: str, flagged: bool = True, codec: Sequence[str] = ()) -> Path:
    """50 fields a second, each of another moment, in 25 pictures a second of 720x576.

    Args:
        order: "tff" or "bff", the field that is shown first.
        flagged: the stream says so.
    """
    top = order == "tff"
    filters = f"scroll=h=0.02,tinterlace=interleave_{'top' if top else 'bottom'},fieldorder={order}"
    x264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p")
    flags = ("-flags", "+ilme+ildct") if flagged else ()
    filters += "" if flagged else ",setfield=prog"
    source = ("-f", "lavfi", "-i", "testsrc2=size=720x576:rate=50:duration=2", "-vf", filters, "-r", "25")
    ffmpeg_run(*source, *(codec or x264), *flags, *options, f"file:{path}")
    return path


def progressive(path: Path, *options: str, filters: str = "null") -> Path:
    """The same in whole pictures."""
    source = (
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=720x576:rate=25:duration=2",
        "-vf",
        f"scroll=h=0.04,{filters}",
    )
    coder = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p")
    ffmpeg_run(*source, *coder, *options, f"file:{path}")
    return path


#: a, b, c, d of the matrix by which a picture is displayed (ISO/IEC 14496-12, 6.2.2), and what numpy makes of that.
DISPLAYED: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside_down": ((1, 0, 0, -1), np.flipud),
    "turned_180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "turned_right": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "turned_left": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "transposed": ((0, 1, 1, 0), lambda image: np.swapaxes(image, 0, 1)),
    "transposed_crosswise": ((0, -1, -1, 0), lambda image: np.rot90(np.swapaxes(image, 0, 1), 2)),
}


def displayed(plain: Path, path: Path, how: str) -> Path:
    """A copy of an MP4 whose display matrix turns or mirrors the picture."""
    a, b, c, d = DISPLAYED[how][0]
    data = plain.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # the matrix of a track header of version 0
    matrix = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :])
    return path
