"""Clips to measure on: each another scene, as the cutter would leave it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.make_demo import Scene, encode, frames

LENGTHS = (3.0, 3.25, 3.5, 3.75, 4.0)  # seconds


HD = ("-vf", "scale=1280:720")


def make(folder: Path, count: int, *options: str) -> list[Path]:
    """Encode clips of 640x360 at 25 frames a second, each a single group of pictures (libx264).

    Args:
        options: for ffmpeg, for example HD.
    """
    paths = [folder / f"clip_{number:04}.mp4" for number in range(count)]

    def render(number: int) -> None:
        scene = Scene(1000 + number, LENGTHS[number % len(LENGTHS)], speed=2 + number % 6)
        encode(paths[number], frames(scene), *options)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(render, range(count)))
    return paths


def table(path: Path, clips: Sequence[Path]) -> str:
    """A table of clips; returns its name."""
    path.write_text("path\n" + "".join(f"{clip}\n" for clip in clips))
    return str(path)
