"""OpenAI's files of CLIP: their configuration, read from shapes, and their tensors by Hugging Face's names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clipsheet.weights.table import refused
from clipsheet.weights.torchscript import openai_clip_state


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a file of unexpected contents leads to into a CallError that names it."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise refused(path, f"not what a CLIP model has there: {type(error).__name__}: {error}") from error


def openai_state(path: Path) -> dict[str, Any]:

    state = openai_clip_state(path)
    if "visual.conv1.weight" not in state or "text_projection" not in state:
        raise refused(path, "not a CLIP with a vision transformer")
    return state


def openai_config(state: Mapping[str, Any], path: Path = Path()) -> dict[str, Any]:
    """transformers' config of OpenAI's weights, as their shapes tell it.

    Raises:
        CallError: they are not CLIP's; names the file that they are from.
    """
    with reading(path):
        return _config_of_shapes(state)


def _config_of_shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    words, text_width = state["token_embedding.weight"].shape

    def tower(prefix: str, width: int) -> dict[str, Any]:
        layers = {key.split(".resblocks.")[1].split(".")[0] for key in state if key.startswith(prefix)}
        return {
            "hidden_size": width,
            "intermediate_size": state[f"{prefix}0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": len(layers),
            "num_attention_heads": width // 64,
            "hidden_act": "quick_gelu",
        }

    vision = tower("visual.transformer.resblocks.", width)
    text = tower("transformer.resblocks.", text_width)
    vision |= {"patch_size": patch, "image_size": grid * patch}
    text |= {"vocab_size": words, "max_position_embeddings": state["positional_embedding"].shape[0]}
    text |= {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": 0}
    return {
        "vision_config": vision,
        "text_config": text,
        "projection_dim": state["text_projection"].shape[1],
    }


#: OpenAI's names of tensors and transformers'; first those that are to be turned.
_TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_RENAMED = (
    (r"^visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
    (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
    (r"^visual\.ln_post", "vision_model.post_layernorm"),
    (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
    (r"^positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding", "text_model.embeddings.token_embedding"),
    (r"^ln_final", "text_model.final_layer_norm"),
    (r"^transformer\.resblocks", "text_model.encoder.layers"),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)


def from_openai(state: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """OpenAI's tensors under transformers' names, in 32 bits."""
    for name, tensor in state.items():
        tensor = tensor.float()
        if name in _TURNED:
            yield _TURNED[name], tensor.T.contiguous()
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                yield name.replace("in_proj_", f"{part}_proj."), third.contiguous()
        else:
            yield name, tensor
