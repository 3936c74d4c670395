"""How likely a picture is not safe for work: LAION's detector on CLIP embeddings.

`nsfw`, a probability from 0 to 1, lower is safer: the highest of some frames. The head is LAION's
(LAION-AI/CLIP-based-NSFW-Detector): unit vectors, less a mean, over the root of a variance, then
linear layers with ReLU between them and a sigmoid at the end. `datautil --safety_check` keeps 0.2 and less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipsheet.config import option
from clipsheet.scorer import Column, Feature, Featured, Home, Scorer, at_most
from scoring.clip.files import check_head, clip_option, dtype_option, frames_option, head_file, missing_head
from scoring.clip.images import ClipImages
from scoring.clip.texts import unit
from scoring.nsfw.head import read_head

#: By OpenAI's name of the model: the name of the download, and the file that it is converted to.
HEADS = {
    "ViT-L/14": ("nsfw", "clip_autokeras_binary_nsfw.safetensors"),
    "ViT-B/32": ("nsfw-b32", "clip_autokeras_nsfw_b32.safetensors"),
}
NSFW_LIMIT = 0.2  # of --safety_check
LEAST_DEVIATION = 1e-7  # as Keras has it


@dataclass(frozen=True)
class Nsfw(Scorer):
    """LAION's probability of unsafe content, the highest of some frames."""

    name: ClassVar[str] = "nsfw"

    num_frames: int = frames_option()
    clip: str = clip_option()
    dtype: str = dtype_option()
    head: str = option("", "file of the head; by default LAION's for the model")

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "nsfw",
                "float",
                "0-1",
                "probability of unsafe content, max over frames",
                "lower",
                bounds=at_most("safety_check", usual=NSFW_LIMIT, suffix="safe") + at_most("nsfwmax"),
            ),
        )

    @property
    def feature(self) -> Feature:
        return ClipImages(self.clip, self.dtype)

    def weights(self, models: Path) -> Mapping[str, Path]:
        return head_file(self.head, HEADS, self.clip, models)

    def missing(self, models: Path) -> list[str]:
        return missing_head(self.head, HEADS, self.clip, models) or super().missing(models)

    def load(self, home: Home) -> dict[str, np.ndarray]:
        [path] = self.weights(home.models).values()
        state = {name: tensor.double().numpy() for name, tensor in read_head(path).items()}
        check_head(path, len(state["mean"]), self.clip, home.models)
        return state

    def score(self, model: Any, items: Sequence[Featured]) -> list[tuple[float]]:
        return [(round(float(probabilities(model, item.vectors).max()), 4),) for item in items]


def probabilities(state: Mapping[str, np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """[P] probabilities of [P, D] embeddings."""
    values = (unit(vectors) - state["mean"]) / np.maximum(np.sqrt(state["variance"]), LEAST_DEVIATION)
    layers = sorted(int(name.split(".")[0]) for name in state if name.endswith(".weight"))
    for layer in layers:
        values = values @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        if layer != layers[-1]:
            values = np.maximum(values, 0)
    return np.asarray(1 / (1 + np.exp(-values[:, 0])))
