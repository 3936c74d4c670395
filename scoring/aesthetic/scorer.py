"""How much people would like the picture: LAION's aesthetic predictor on CLIP embeddings.

`aes`, about 1 to 10, higher is better, 4.5 and more is fair: the mean over some frames. The head for
ViT-L/14 is `sac+logos+ava1-l14-linearMSE.pth` (christophschuhmann/improved-aesthetic-predictor), for
ViT-B/32 and ViT-B/16 those of LAION-AI/aesthetic-predictor; all are linear layers on unit vectors.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipsheet.config import option
from clipsheet.scorer import Column, Feature, Featured, Home, Scorer, at_least
from clipsheet.weights.load import load_state
from clipsheet.weights.table import refused
from scoring.clip.files import check_head, clip_option, dtype_option, frames_option, head_file, missing_head
from scoring.clip.images import ClipImages
from scoring.clip.texts import unit

#: By OpenAI's name of the model: the name of the download and its file.
HEADS = {
    "ViT-L/14": ("aesthetic", "sac+logos+ava1-l14-linearMSE.pth"),
    "ViT-B/32": ("aesthetic-b32", "sa_0_4_vit_b_32_linear.pth"),
    "ViT-B/16": ("aesthetic-b16", "sa_0_4_vit_b_16_linear.pth"),
}


@dataclass(frozen=True)
class Aesthetic(Scorer):
    """LAION's aesthetic score, the mean over some frames."""

    name: ClassVar[str] = "aes"

    num_frames: int = frames_option()
    clip: str = clip_option()
    dtype: str = dtype_option()
    head: str = option("", "file of the head; by default LAION's for the model")

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "aes",
                "float",
                "about 1-10",
                "LAION aesthetic score, mean over frames",
                "higher",
                bounds=at_least("aesmin"),
            ),
        )

    @property
    def feature(self) -> Feature:
        return ClipImages(self.clip, self.dtype)

    def weights(self, models: Path) -> Mapping[str, Path]:
        return head_file(self.head, HEADS, self.clip, models)

    def missing(self, models: Path) -> list[str]:
        return missing_head(self.head, HEADS, self.clip, models) or super().missing(models)

    def load(self, home: Home) -> list[tuple[np.ndarray, np.ndarray]]:
        [path] = self.weights(home.models).values()
        layers = linear_layers(path)
        check_head(path, layers[0][0].shape[1], self.clip, home.models)
        return layers

    def score(self, model: Any, items: Sequence[Featured]) -> list[tuple[float]]:
        return [(round(float(aesthetics(model, item.vectors).mean()), 4),) for item in items]


def aesthetics(layers: Sequence[tuple[np.ndarray, np.ndarray]], vectors: np.ndarray) -> np.ndarray:
    """[P] scores of [P, D] embeddings by linear layers ([out, in] weights, [out] biases)."""
    values = unit(vectors)
    for weight, bias in layers:
        values = values @ weight.T + bias
    return np.asarray(values[:, 0])


def linear_layers(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The linear layers of a file in their order: [out, in] weights and [out] biases, float64.

    Raises:
        CallError: the file is damaged or holds something else.
    """
    state = load_state(path)
    names = sorted(
        (n for n in state if n.endswith("weight")), key=lambda n: [*map(int, re.findall(r"\d+", n))]
    )
    layers = [
        (state[n].double().numpy(), state[n[: -len("weight")] + "bias"].double().numpy())
        for n in names
        if n[: -len("weight")] + "bias" in state
    ]
    right = [weight.ndim == 2 and bias.shape == weight.shape[:1] for weight, bias in layers]
    if not layers or not all(right) or 2 * len(layers) != len(state):
        raise refused(path, "not the linear layers of an aesthetic head")
    chained = all(one[0].shape[0] == two[0].shape[1] for one, two in itertools.pairwise(layers))
    if not chained or len(layers[-1][1]) != 1:
        raise refused(path, "linear layers that do not lead to one number")
    return layers
