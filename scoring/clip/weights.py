"""CLIP's encoders with their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipsheet.weights.pretrained import load_pretrained
from clipsheet.weights.table import refused
from scoring.clip.files import architecture_of_version
from scoring.clip.openai import from_openai, openai_config, openai_state


def load_encoder(path: Path, kind: Any, name: str) -> Any:
    """The image or text half of a model, in 32 bits; all its weights are there or it is refused."""
    import torch

    if path.suffix == ".pt":
        state = openai_state(path)
        config = openai_config(state, path)
        model = kind(kind.config_class(**config[f"{name}_config"], projection_dim=config["projection_dim"]))
        own = {to: tensor for to, tensor in from_openai(state) if to in model.state_dict()}
        try:
            model.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise refused(path, str(error)) from error
        return model
    built = architecture_of_version(path)
    told = {"projection_dim": built.dimensions} if built.kind == "clip" else {}
    return load_pretrained(kind, path, told, dtype=torch.float32)
