"""Cutting all shots of a video against one ffmpeg per shot: python -m benchmarks.cutting VIDEO

The shots are those between the cuts of `<name>.json` beside the video (see benchmarks.join_shots), or
`--shots` of equal length; `--gop N` encodes the video anew before, with key frames every N frames and not at
the cuts. Peers, with the same encoder: an ffmpeg for each shot, which seeks to its begin, one
after another with as many threads as FFmpeg takes; the same with one thread each, as many at a time as there are
cores; and one with one thread that encodes the same seconds in one go. Targets: at least 1.2 times as fast as the
first; with one worker, at most 1.15 times the CPU time of the last. With `--encoder smart`, which copies what it
can: at least 5 times as fast as the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks._measure import machine, race, verdict
from clipsheet.engine.steps import run_step
from clipsheet.media import Media
from clipsheet.options import RunOptions
from pipeline.splitting.cut import Cut
from scoring.shots.detection import format_scenes
from tools import ffmpeg

Spans = list[tuple[float, float]]
ENCODE = ("-c:v", "libx264", "-crf", "18", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-an")
ONE_THREAD = ("-threads", "1")


def scenes(video: Path, shots: int) -> Spans:
    """The shots of a video in seconds."""
    info = Media(str(video)).info
    truth = video.with_suffix(".json")
    if truth.exists():
        found = json.loads(truth.read_text())["transitions"]
        frames = [0, *(t["frame"] for t in found if t["type"] == "cut"), len(info.frame_seconds)]
    else:
        frames = np.linspace(0, len(info.frame_seconds), shots + 1).astype(int).tolist()
    seconds = [*info.frame_seconds.tolist(), info.duration]
    return [(seconds[a], seconds[b]) for a, b in itertools.pairwise(frames)]


def ours(video: Path, spans: Spans, folder: Path, encoder: str, workers: int = 0) -> None:
    """All clips by cut."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    cell = format_scenes(spans).replace('"', '""')
    (folder / "meta.csv").write_text(f'path,timestamp\n{video},"{cell}"\n')
    options = RunOptions(num_workers=workers)
    status = run_step([str(folder / "meta.csv")], Cut(str(folder / "clips"), encoder=encoder), options)
    assert status.rows_out == len(spans), status


def one_each(video: Path, spans: Spans, folder: Path, at_a_time: int) -> None:
    """An ffmpeg for each shot."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def make(number: int) -> None:
        start, end = spans[number]
        _ffmpeg(*one, "-ss", f"{start:.6f}", "-i", video, "-t", f"{end - start:.6f}", *ENCODE, *one,
                folder / f"{number}.mp4")  # fmt: skip

    one = ONE_THREAD if at_a_time > 1 else ()
    with ThreadPoolExecutor(at_a_time) as threads:
        list(threads.map(make, range(len(spans))))


def in_one_go(video: Path, target: Path) -> None:
    """The whole video encoded as one."""
    _ffmpeg(*ONE_THREAD, "-i", video, *ENCODE, *ONE_THREAD, target)


def _ffmpeg(*arguments: object) -> None:
    command = [ffmpeg.program(), "-nostdin", "-v", "error", *map(str, arguments)]
    subprocess.run([*command[:-1], "-y", command[-1]], check=True)


def cpu(way: Callable[[], object]) -> float:
    """CPU seconds of this process and those that it starts and waits for."""
    before = _used()
    way()
    return _used() - before


def _used() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--shots", type=int, default=24, metavar="N", help="default 24")
    parser.add_argument("--gop", type=int, metavar="N", help="key frames every N frames only")
    parser.add_argument("--encoder", default="libx264", choices=("libx264", "smart"))
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="default 5")
    given = parser.parse_args()
    video = given.video.resolve()
    spans = scenes(video, given.shots)
    info = Media(str(video)).info
    print(
        f"cutting: {len(spans)} shots, {info.duration:.0f} s of {info.width}x{info.height}, {given.encoder}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.gop:
            keys = ("-g", str(given.gop), "-sc_threshold", "0")
            _ffmpeg("-i", video, "-c:v", "libx264", *keys, "-an", folder / "gop.mp4")
            video = folder / "gop.mp4"
        ways: dict[str, Callable[[], object]] = {
            "cut": lambda: ours(video, spans, folder / "ours", given.encoder),
            "an ffmpeg for each, one by one": lambda: one_each(video, spans, folder / "each", 1),
            "as many at a time as cores": lambda: one_each(
                video, spans, folder / "each", os.cpu_count() or 1
            ),
        }
        seconds = race(given.repeat, ways)
        least = 5 if given.encoder == "smart" else 1.2
        _, by_one, at_once = seconds.values()
        verdict("times as fast as an ffmpeg for each, one by one", by_one / seconds["cut"], least=least)
        print(f"{at_once / seconds['cut']:.2f} times as fast as several at a time")
        used = cpu(lambda: ours(video, spans, folder / "ours", given.encoder, workers=1))
        go = cpu(lambda: in_one_go(video, folder / "all.mp4"))
        words = f"of the CPU time of encoding in one go ({used:.1f} s, {go:.1f} s)"
        if given.encoder == "smart":
            print(f"{used / go:.2f} {words}")
        else:
            verdict(words, used / go, most=1.15)
    machine()


if __name__ == "__main__":
    main()
