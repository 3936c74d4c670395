"""The tensors of LAION's safety head."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from clipsheet.weights.load import load_state
from clipsheet.weights.table import refused

if TYPE_CHECKING:
    import torch

#: Widths after the head's linear layers by that of the embedding: for CLIP ViT-L/14, and ViT-B/32.
WIDTHS = {768: (64, 512, 256, 1), 512: (32, 32, 1)}


def read_head(path: Path) -> dict[str, torch.Tensor]:
    """LAION's safety head on an image embedding of D numbers: 768 of ViT-L/14, or 512 of ViT-B/32.

    Args:
        path: what tools.convert made of the published file, or another file that load_state() reads.

    Returns:
        float32: `mean`, `variance` [D]; `0.weight` [64, D], `2.weight` [512, 64], `4.weight` [256, 512],
        `6.weight` [1, 256] and their `bias`, as torch.nn.Linear has them and with room for a ReLU
        between two. For ViT-B/32 `0.weight` [32, D], `2.weight` [32, 32], `4.weight` [1, 32].

    Raises:
        CallError: broken, or not such a head.
    """
    return checked_head(path, load_state(path))


def checked_head(path: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a file, as they are.

    Raises:
        CallError: they are not those of such a head; names the file.
    """
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    width = shapes.get("mean", [0])[0]
    if width not in WIDTHS:
        widths = " or ".join(map(str, WIDTHS))
        raise refused(
            path, f"not LAION's safety head: no `mean` of {widths} numbers; it holds {sorted(shapes)}"
        )
    wanted = {"mean": [width], "variance": [width]}
    for number, (before, after) in enumerate(pairwise((width, *WIDTHS[width]))):
        wanted |= {f"{2 * number}.weight": [after, before], f"{2 * number}.bias": [after]}
    for name in sorted(shapes.keys() | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            found, needed = shapes.get(name, "absent"), wanted.get(name, "none")
            raise refused(path, f"not LAION's safety head: {name} is {found}, needed is {needed}")
    return state
