"""Footage for the tests, made on the spot: each picture carries its own number."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline import ffmpeg

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
