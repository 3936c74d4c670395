"""CLIP's encoders with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipsheet.weights.pretrained import load_pretrained
from scoring.clip.files import architecture_of_version


def load_encoder(path: Path, kind: Any) -> Any:
    """The image or text half of a model, in 32 bits; all its weights are there or it is refused."""
    import torch

    built = architecture_of_version(path)
    told = {"projection_dim": built.dimensions} if built.kind == "clip" else {}
    return load_pretrained(kind, path, told, dtype=torch.float32)
