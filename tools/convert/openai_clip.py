"""OpenAI's CLIP as a Hugging Face folder: its config, read from shapes, its tensors by other names, its tokenizer."""

from __future__ import annotations

import gzip
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clipsheet.errors import storing
from clipsheet.weights.load import misfit
from clipsheet.weights.table import refused
from scoring.clip.files import reading

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
WORDS = 49152 - 256 - 2  # merges of that file that belong to the model's vocabulary
#: What stands beside the weights in the folder.
SETTINGS = ("config.json", "tokenizer.json", "tokenizer_config.json")


def is_openai_clip(state: Mapping[str, Any]) -> bool:
    """Whether some tensors are those of a CLIP with a vision transformer, by OpenAI's names."""
    return "visual.conv1.weight" in state and "text_projection" in state


def hugging_face_state(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The tensors of transformers' CLIPModel, in the types that OpenAI's are stored in.

    Args:
        path: where they are from.

    Raises:
        CallError: they are not all of CLIP's, or of other shapes; names the file.
    """
    import torch
    import transformers

    with reading(path), torch.device("meta"):
        model = transformers.CLIPModel(_transformers_config(state, path))
    needed = model.state_dict()
    found = {name: tensor for name, tensor in from_openai(state) if name in needed}
    if why := misfit(needed, found):
        raise refused(path, f"not the weights of a CLIP: {why}")
    return found


def hugging_face_settings(state: Mapping[str, Any], path: Path, vocabulary: Path) -> dict[str, bytes]:
    """The files of SETTINGS.

    Raises:
        CallError: the tensors are not CLIP's, or the vocabulary is none; names the file.
    """
    config = _transformers_config(state, path)
    tokenizer = openai_tokenizer(vocabulary)
    with storing(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {name: Path(folder, name).read_bytes() for name in SETTINGS}


def _transformers_config(state: Mapping[str, Any], path: Path) -> Any:
    import transformers

    config = openai_config(state, path)
    with reading(path):
        return transformers.CLIPConfig(architectures=["CLIPModel"], **config)


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
    """OpenAI's tensors under transformers' names, in their own types."""
    for name, tensor in state.items():
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


def openai_tokenizer(path: Path) -> Any:
    """The byte pair encoding of OpenAI's vocabulary file: one merge per line, after a first line.

    Raises:
        CallError: the file is damaged.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise refused(path, f"not a vocabulary: {error}") from error
    merges: Any = [tuple(line.split()) for line in lines[1 : 1 + WORDS]]
    letters = sorted(ByteLevel.alphabet(), key=lambda c: (ord(c) > 255, ord(c)))
    words = [*letters, *(f"{c}</w>" for c in letters), *map("".join, merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)
