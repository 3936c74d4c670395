"""Render a few minutes of footage to try the pipeline on: python -m tools.make_demo FOLDER

Nothing is downloaded: scenes are drawn with numpy and Pillow and encoded with ffmpeg. What is in the
files is known, and CUTS says where the shots change:

    harbour.mp4         four shots of moving pictures, with hard cuts
    harbour_small.mkv   the first two of them again, smaller, darker and in another codec's settings
    slides.mp4          still pictures, some seconds each
    bulletin.mp4        moving pictures under large captions
    cinema.mp4          a wide picture between black bars
    defocused.mp4       a moving picture out of focus
    night.mp4           nearly black
    broken.mp4          harbour.mp4 cut off in the middle of its data
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools import ffmpeg

HEIGHT, WIDTH, FPS = 360, 640, 25
OCTAVES = 6
BALLS = 6

#: Seconds at which the shots of a file change.
CUTS = {
    "harbour.mp4": (7.0, 13.0, 20.0),
    "harbour_small.mkv": (7.0,),
    "slides.mp4": (6.0, 12.0),
    "bulletin.mp4": (9.0,),
    "cinema.mp4": (10.0,),
    "defocused.mp4": (),
    "night.mp4": (),
}

CAPTIONS = (
    "MARKETS CLOSE HIGHER AFTER A LONG WEEK",
    "HEAVY RAIN EXPECTED ALONG THE COAST",
    "CITY COUNCIL APPROVES THE NEW BRIDGE",
    "FERRIES RETURN TO THEIR SUMMER TIMETABLE",
)


@dataclass(frozen=True)
class Scene:
    """One shot.

    Attributes:
        seed: picks the texture, its colours and the paths of what moves in it.
        seconds: how long it is.
        speed: pixels per frame that the camera pans; 0 is a still picture.
        light: the brightest it gets, 0-1.
    """

    seed: int
    seconds: float
    speed: float = 4.0
    light: float = 1.0


def frames(scene: Scene) -> Iterator[np.ndarray]:
    """The [360, 640, 3] uint8 RGB pictures of a scene."""
    rng = np.random.default_rng(scene.seed)
    count = round(scene.seconds * FPS)
    land = _landscape(rng, HEIGHT, WIDTH + round(scene.speed * count) + 1)
    colours = rng.integers(40, 256, (BALLS, 3))
    places = rng.uniform(0, 1, (BALLS, 2)) * (WIDTH, HEIGHT)
    steps = rng.normal(0, scene.speed, (BALLS, 2))
    radii = rng.integers(14, 40, BALLS)
    for number in range(count):
        left = round(scene.speed * number)
        picture = land[:, left : left + WIDTH].copy()
        for colour, place, step, radius in zip(colours, places, steps, radii, strict=True):
            x, y = np.mod(place + step * number, (WIDTH, HEIGHT)).astype(int).tolist()
            cv2.circle(picture, (x, y), int(radius), colour.tolist(), -1, cv2.LINE_AA)
            cv2.circle(picture, (x, y), int(radius), (255, 255, 255), 2, cv2.LINE_AA)
        yield (picture * scene.light).astype(np.uint8)


def _landscape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """[height, width, 3] uint8: fractal noise between a few colours, with lines of height on it."""
    field = np.zeros((height, width), np.float32)
    for octave in range(OCTAVES):
        cells = 2 << octave
        grid = rng.random((cells, max(2, cells * width // height)), np.float32)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    field = (field - field.min()) / np.ptp(field)
    stops = rng.integers(0, 256, (4, 3))
    at = np.linspace(0, 1, len(stops))
    picture = np.stack([np.interp(field, at, stops[:, c]) for c in range(3)], axis=-1)
    contours = np.abs(np.mod(field * 12, 1.0) - 0.5) < 0.04
    picture[contours] *= 0.5
    return picture.astype(np.uint8)


def captioned(pictures: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures under captions that cover much of them."""
    font = ImageFont.load_default(30)
    sheet = Image.new("RGBA", (WIDTH, HEIGHT))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(CAPTIONS):
        top = 20 + number * 85
        pen.rectangle((0, top, WIDTH, top + 60), fill=(10, 20, 60, 255))
        pen.text((12, top + 12), line, font=font, fill=(255, 255, 255, 255))
    overlay = np.asarray(sheet)
    written = overlay[..., 3] > 0
    for picture in pictures:
        picture[written] = overlay[written, :3]
        yield picture


def letterboxed(pictures: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures with black bars of a fifth of the height above and below."""
    bar = HEIGHT // 5
    for picture in pictures:
        picture[:bar] = picture[-bar:] = 0
        yield picture


def defocused(pictures: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures out of focus."""
    for picture in pictures:
        yield cv2.GaussianBlur(picture, (0, 0), 9)


def encode(path: Path, pictures: Iterator[np.ndarray], *options: str) -> None:
    """Write [360, 640, 3] uint8 RGB pictures as a video.

    Raises:
        subprocess.CalledProcessError: ffmpeg failed; it said why on standard error.
    """
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-"]
    coding = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1", *options]
    command = [ffmpeg.program(), "-v", "error", "-y", *source, *coding, f"file:{path}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for picture in pictures:
            process.stdin.write(np.ascontiguousarray(picture).data)
        process.stdin.close()
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command)


def _shots(*scenes: Scene) -> Iterator[np.ndarray]:
    for scene in scenes:
        yield from frames(scene)


def make(folder: Path) -> None:
    """Render all files into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    harbour = (Scene(1, 7), Scene(2, 6, 7), Scene(3, 7, 3), Scene(5, 10, 5))
    slides = (Scene(11, 6, 0), Scene(12, 6, 0), Scene(13, 8, 0))
    encode(folder / "harbour.mp4", _shots(*harbour))
    encode(
        folder / "harbour_small.mkv",
        _shots(*harbour[:2]),
        "-vf",
        "scale=426:240,eq=brightness=-0.03",
        "-crf",
        "28",
    )
    encode(folder / "slides.mp4", _shots(*slides))
    encode(folder / "bulletin.mp4", captioned(_shots(Scene(21, 9), Scene(22, 11))))
    encode(folder / "cinema.mp4", letterboxed(_shots(Scene(31, 10), Scene(32, 35, 6))))
    encode(folder / "defocused.mp4", defocused(_shots(Scene(41, 12))))
    encode(folder / "night.mp4", _shots(Scene(51, 12, light=0.04)))
    whole = (folder / "harbour.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 2])


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the videos are written")
    folder = parser.parse_args().folder
    if not (folder / "broken.mp4").exists():  # the last one made
        make(folder)


if __name__ == "__main__":
    main()
