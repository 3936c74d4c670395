"""Videos with known transitions, joined from single shots: python -m benchmarks.join_shots OUT SHOT...

Each SHOT is a file below `--root`, or FILE@FIRST-LAST for some of its frames, that holds no transition of its
own; @LIST takes them from the lines of a file, as @benchmarks/shots.txt, which names those that the manual's
figures are made of: with `--seed 100` the eight videos, with `--seed 3 --videos 1 --length 42` that of 720p. OUT gets
`<name>.mp4` and `<name>.json` as benchmarks.shots reads them. Frames are counted from 0: a `cut` is at the
first frame of the new shot; a `dissolve` or `fade` has `start` and `end`, its first and last frame that is
neither shot alone.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from clipsheet.media import Media
from tools import ffmpeg

SIZES = ((360, 640), (270, 480), (640, 360), (720, 1280))
RATES = ("25", "30", "30000/1001", "24")
CODECS = (
    ("-c:v", "libx264", "-preset", "medium", "-crf", "25"),
    ("-c:v", "libx264", "-preset", "medium", "-crf", "23", "-sc_threshold", "0", "-g", "125"),
    ("-c:v", "libx264", "-preset", "veryfast", "-crf", "30"),
)


def pictures(shot: str, height: int, width: int, most: int) -> list[np.ndarray]:
    """Up to that many frames of a shot, [height, width, 3] uint8, filled by cropping."""
    path, _, span = shot.partition("@")
    first, last = (int(n) for n in span.split("-")) if span else (0, 1_000_000)
    made = []
    media = Media(path)
    for frame in media.frames(range(first, min(last + 1, first + most, len(media.info.frame_seconds)))):
        image = frame.rgb()
        ratio = max(height / image.shape[0], width / image.shape[1])
        high, wide = max(height, round(image.shape[0] * ratio)), max(width, round(image.shape[1] * ratio))
        image = cv2.resize(
            image, (wide, high), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
        )
        top, left = (high - height) // 2, (wide - width) // 2
        made.append(image[top : top + height, left : left + width])
    return made


def join(shots: list[str], rng: random.Random, height: int, width: int, gradual: float) -> Iterator[Any]:
    """Frames, with the transitions among them as dictionaries."""
    count = 0
    tail: list[np.ndarray] = []
    for shot in shots:
        new = pictures(shot, height, width, rng.randint(45, 130))
        if len(new) < 40:
            continue
        if not tail:
            pass
        elif rng.random() >= gradual:
            yield from tail
            count += len(tail)
            yield {"type": "cut", "frame": count}
        else:
            kind = rng.choice(("dissolve", "dissolve", "fade_black", "fade_white"))
            if kind == "dissolve":
                length = rng.randint(6, min(30, len(new) // 2, len(tail)))
                mixed = [
                    cv2.addWeighted(a, 1 - (k + 1) / (length + 1), b, (k + 1) / (length + 1), 0)
                    for k, (a, b) in enumerate(zip(tail[-length:], new[:length], strict=True))
                ]
                into = mixed
            else:
                length = rng.randint(6, 15)
                flat = np.full((height, width, 3), 255 if kind == "fade_white" else 0, np.uint8)
                down = [cv2.addWeighted(f, 1 - (k + 1) / (length + 1), flat, (k + 1) / (length + 1), 0)
                        for k, f in enumerate(tail[-length:])]  # fmt: skip
                up = [cv2.addWeighted(f, (k + 1) / (length + 1), flat, 1 - (k + 1) / (length + 1), 0)
                      for k, f in enumerate(new[:length])]  # fmt: skip
                into = [*down, *[flat] * rng.randint(0, 8), *up]
            yield from tail[:-length]
            count += len(tail) - length
            yield {"type": kind, "start": count, "end": count + len(into) - 1}
            yield from into
            count += len(into)
            new = new[length:]
        tail = new
    yield from tail


def make(folder: Path, name: str, shots: list[str], seed: int) -> None:
    """Write one video and its truth."""
    rng = random.Random(seed)
    height, width = SIZES[seed % len(SIZES)]
    rate, codec = RATES[seed % len(RATES)], CODECS[seed % len(CODECS)]
    target = folder / f"{name}.mp4"
    command = [ffmpeg.program(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
               "-r", rate, "-i", "-", *codec, "-pix_fmt", "yuv420p", "-y", str(target)]  # fmt: skip
    transitions, frames = [], 0
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for item in join(shots, rng, height, width, rng.choice((0.0, 0.3, 0.7))):
            if isinstance(item, dict):
                transitions.append(item)
            else:
                process.stdin.write(np.ascontiguousarray(item).tobytes())
                frames += 1
        process.stdin.close()
    truth = {"video": target.name, "fps": rate, "n_frames": frames, "transitions": transitions}
    (folder / f"{name}.json").write_text(json.dumps(truth, indent=1) + "\n")
    print(f"{target.name}: {frames} frames, {len(transitions)} transitions", flush=True)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("shots", nargs="+")
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="folder of the files")
    parser.add_argument("--videos", type=int, default=8, metavar="N", help="default 8")
    parser.add_argument("--length", type=int, default=15, metavar="N", help="shots of each; default 15")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for number in range(given.seed, given.seed + given.videos):
        chosen = random.Random(number).sample(given.shots, min(given.length, len(given.shots)))
        make(given.out, f"joined_{number:02}", [str(given.root / shot) for shot in chosen], number)


if __name__ == "__main__":
    main()
