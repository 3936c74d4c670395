"""CLIP: the image feature that aesthetics, safety, matching and search start from, and its text half.

A model is a folder of `pretrained_models/` as Hugging Face has it (CLIP, SigLIP or SigLIP 2 of fixed
size), or one of OpenAI's own `ViT-*.pt` files. CLIP: Radford et al., "Learning Transferable Visual
Models From Natural Language Supervision", ICML 2021; SigLIP: Zhai et al., "Sigmoid Loss for Language
Image Pre-Training", ICCV 2023.
"""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from clipsheet.config import option
from clipsheet.scorer import Feature, Frame, Home
from clipsheet.weights.load import read_json
from clipsheet.weights.pretrained import load_pretrained, load_tokenizer
from clipsheet.weights.table import absent, place_of, refused
from clipsheet.weights.torchscript import openai_clip_state

DEFAULT = "clip-vit-large-patch14"
#: The same weights as OpenAI published them.
OPENAI = {
    "clip-vit-large-patch14": "ViT-L-14.pt",
    "clip-vit-base-patch32": "ViT-B-32.pt",
    "clip-vit-base-patch16": "ViT-B-16.pt",
}
NAMES = {
    "clip-vit-large-patch14": "ViT-L/14",
    "clip-vit-base-patch32": "ViT-B/32",
    "clip-vit-base-patch16": "ViT-B/16",
}
OPENAI_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
OPENAI_WORDS = 49152 - 256 - 2  # merges of that file that belong to the model's vocabulary
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
JOINT_DIMENSIONS = 512  # where a config does not say
DTYPES = ("float32", "bfloat16", "float16")
TEXTS_AT_ONCE = 64
#: How often a picture may be as long as it is wide before its ends are cut off ahead of scaling, which would make
#: gigabytes of them.
MOST_ELONGATED = 256


def clip_option() -> Any:
    """The field `clip` of a scorer."""
    return option(DEFAULT, "model: a folder or .pt file in pretrained_models, or a path to one")


def dtype_option() -> Any:
    """The field `dtype` of a scorer."""
    return option("float32", "numbers that the model computes with; 16 bits for GPUs", choices=DTYPES)


def frames_option() -> Any:
    """The field `num_frames` of a scorer."""
    return option(3, "frames looked at; 3: at 10, 50 and 90 %, 1: the middle", ge=1)


# --- files -------------------------------------------------------------------------------------


def place(clip: str, models: Path) -> Path:
    """The folder or file of a model; OpenAI's file where the folder of the same model is not there."""
    path = place_of(clip, models)
    if not path.exists() and clip in OPENAI and (models / OPENAI[clip]).exists():
        path = models / OPENAI[clip]
    return path


def image_files(clip: str, models: Path) -> dict[str, Path]:
    """The files that decide about an image's vector."""
    path = place(clip, models)
    if path.suffix == ".pt":
        return {path.stem: path}
    files = {"config": path / "config.json", **_model_files(path)}
    return files | {file.stem: file for file in _preprocessor_files(path)[:1]}


def _preprocessor_files(path: Path) -> list[Path]:
    """Where a folder says how pictures are prepared: in the older file, else in the newer one."""
    names = ("preprocessor_config.json", "processor_config.json")
    return [path / name for name in names if (path / name).exists()]


#: Of a tokenizer beside tokenizer.json; any of them may change the tokens.
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def text_files(clip: str, models: Path) -> dict[str, Path]:
    """The files that decide about a text's vector."""
    path = place(clip, models)
    if path.suffix == ".pt":
        return {path.stem: path, OPENAI_VOCABULARY: path.parent / OPENAI_VOCABULARY}
    more = {name: path / name for name in TOKENIZER_FILES if (path / name).exists()}
    return {
        "config": path / "config.json", "tokenizer": path / "tokenizer.json", **more, **_model_files(path)
    }  # fmt: skip


def _model_files(folder: Path) -> dict[str, Path]:
    """The weights of a folder: one file, or the parts that its index names."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return {"model": folder / "model.safetensors"}
    with _reading(index):
        parts = sorted(set(read_json(index)["weight_map"].values()))
        return {f"model{number}": folder / part for number, part in enumerate(parts)}


def missing_files(files: Mapping[str, Path], clip: str) -> list[str]:
    """What of some files is not there, and the command that brings it."""
    lacking = [path for path in files.values() if not path.is_file()]
    return [f"{absent(lacking[0], clip)}; or --clip another"] if lacking else []


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a file of unexpected contents leads to into a CallError that names it."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise refused(path, f"not what a CLIP model has there: {type(error).__name__}: {error}") from error


class Architecture(NamedTuple):
    """What a model is, by its config or its weights.

    Attributes:
        kind: "clip" or "siglip".
        image_size, patch_size: pixels of a side.
        width: of the image half inside.
        dimensions: of a vector.
    """

    kind: str
    image_size: int
    patch_size: int
    width: int
    dimensions: int

    @property
    def name(self) -> str:
        """As OpenAI calls it; empty for others."""
        names = {(1024, 14): "ViT-L/14", (768, 32): "ViT-B/32", (768, 16): "ViT-B/16"}
        return names.get((self.width, self.patch_size), "") if self.kind == "clip" else ""


def architecture(clip: str, models: Path) -> Architecture:
    """What a model is.

    Raises:
        CallError: a model of another family.
    """
    return _architecture_of_version(place(clip, models))


def _architecture_of_version(path: Path) -> Architecture:
    file = path if path.suffix == ".pt" else path / "config.json"
    if not file.is_file():
        raise refused(file, "is not there")
    status = file.stat()
    return _architecture_of(path, status.st_size, status.st_mtime_ns)


@cache
def _architecture_of(path: Path, size: int, mtime_ns: int) -> Architecture:
    """What the model at a path is, looked up once per version of it."""
    if path.suffix == ".pt":
        config = openai_config(_openai_state(path), path)
        return _architecture("clip", config["vision_config"], config["projection_dim"])

    config = read_json(path / "config.json")
    kind = str(config.get("model_type", ""))
    if kind not in ("clip", "siglip"):
        raise refused(path / "config.json", f"a model of type {kind!r}; CLIP and SigLIP are known")
    defaults = {"image_size": 224, "patch_size": 32 if kind == "clip" else 16, "hidden_size": 768}
    with _reading(path / "config.json"):
        vision = defaults | config.get("vision_config", {})
        joint = config.get("projection_dim", JOINT_DIMENSIONS) if kind == "clip" else vision["hidden_size"]
        return _architecture(kind, vision, joint)


def _architecture(kind: str, vision: Mapping[str, int], dimensions: int) -> Architecture:
    sides = (vision["image_size"], vision["patch_size"], vision["hidden_size"], dimensions)
    return Architecture(kind, *map(int, sides))


def model_name(clip: str, models: Path) -> str:
    """OpenAI's name of a model's architecture; empty for others, and where the model is not there."""
    if clip in NAMES:
        return NAMES[clip]
    return "" if missing_files(image_files(clip, models), clip) else architecture(clip, models).name


def head_file(head: str, heads: Mapping[str, tuple[str, str]], clip: str, models: Path) -> dict[str, Path]:
    """The file of a head for a model, by the name of its download.

    Args:
        head: a file, in place of the one that `heads` has for the model.
    """
    if head:
        given = Path(head)
        return {"head": given if given.is_absolute() or given.exists() else models / head}
    download, file = heads.get(model_name(clip, models), ("", ""))
    return {download: models / file} if file else {}


def check_head(path: Path, takes: int, clip: str, models: Path) -> None:
    """Raise a CallError unless a head takes vectors of so many numbers as a model makes."""
    made = architecture(clip, models).dimensions
    if takes != made:
        raise refused(path, f"takes vectors of {takes} numbers, and {place(clip, models)} makes {made}")


def missing_head(head: str, heads: Mapping[str, object], clip: str, models: Path) -> list[str]:
    """What to do where no head is known for a model that is there."""
    if head or model_name(clip, models) in heads or missing_files(image_files(clip, models), clip):
        return []
    return [f"no head is known for {place(clip, models)}, only for {', '.join(heads)}: give one by --head"]


# --- images ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """From a frame to the small picture that a model takes.

    As OpenAI's own: the short side shrunk to the model's size by PIL's bicubic filter (which
    averages what it leaves out), then the middle. SigLIP: both sides at once, nothing cut off.
    """

    size: int
    crop: bool
    resample: int

    def __call__(self, frame: Frame) -> np.ndarray:  # [size, size, 3] uint8 RGB
        return self.picture(frame.rgb())

    def picture(self, rgb: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 to [size, size, 3] uint8."""
        height, width = rgb.shape[:2]
        if self.crop:
            short = min(height, width)
            if max(height, width) > MOST_ELONGATED * short:
                rows, columns = (_middle(side, MOST_ELONGATED * short) for side in (height, width))
                return self.picture(rgb[rows, columns])
            new = (int(self.size * width / short), int(self.size * height / short))
        else:
            new = (self.size, self.size)
        small = np.asarray(Image.fromarray(rgb).resize(new, Image.Resampling(self.resample)))
        top = round((small.shape[0] - self.size) / 2)
        left = round((small.shape[1] - self.size) / 2)
        return np.ascontiguousarray(small[top : top + self.size, left : left + self.size])


def _middle(side: int, most: int) -> slice:
    """So many of a side's pixels at most, from its middle."""
    first = max(0, side - most) // 2
    return slice(first, first + min(side, most))


def _preprocessor(path: Path) -> dict[str, Any]:
    """How a model wants its pictures, in a folder that says so."""
    files = _preprocessor_files(path) if path.suffix != ".pt" else []
    if not files:
        return {}
    with _reading(files[0]):
        found = read_json(files[0])
        return found if files[0].stem == "preprocessor_config" else dict(found["image_processor"])


def _normalisation(path: Path, kind: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the three colours."""
    usual = {"clip": (OPENAI_MEAN, OPENAI_STD), "siglip": ((0.5,) * 3, (0.5,) * 3)}[kind]
    found = _preprocessor(path)
    with _reading(path):
        mean, std = (
            [float(value) for value in found.get(name, default)]
            for name, default in zip(("image_mean", "image_std"), usual, strict=True)
        )
        if len(mean) != 3 or len(std) != 3 or 0 in std:
            raise ValueError(f"mean {mean} and deviation {std} of three colours")
        return mean, std


@dataclass(frozen=True)
class ClipImages(Feature):
    """The projected image embedding of CLIP, not normalised, or SigLIP's pooled one."""

    name: ClassVar[str] = "clip"

    clip: str = clip_option()
    dtype: str = dtype_option()

    def weights(self, models: Path) -> Mapping[str, Path]:
        return image_files(self.clip, models)

    def missing(self, models: Path) -> list[str]:
        return missing_files(self.weights(models), self.clip)

    def preparation(self, models: Path) -> Callable[[Frame], np.ndarray]:
        built = architecture(self.clip, models)
        path = place(self.clip, models)
        found = _preprocessor(path)
        with _reading(path):
            resample = int(found.get("resample", BICUBIC))
            crop = bool(found.get("do_center_crop", built.kind == "clip"))
            return Preparation(built.image_size, crop, Image.Resampling(resample).value)

    def load(self, home: Home) -> Any:
        return _Images(self, home)

    def encode(self, model: Any, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(model(pictures))


class _Images:
    """The image half of a model on a device."""

    def __init__(self, feature: ClipImages, home: Home) -> None:
        import torch
        import transformers

        path = place(feature.clip, home.models)
        kinds = {"clip": transformers.CLIPVisionModelWithProjection, "siglip": transformers.SiglipVisionModel}
        self._kind = architecture(feature.clip, home.models).kind
        self._dtype = getattr(torch, feature.dtype)
        self._device = home.device
        model = _half(path, kinds[self._kind], "vision").to(home.device, self._dtype).eval()
        self._model = torch.compile(model) if home.compile else model
        mean, std = _normalisation(path, self._kind)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(mean, device=home.device).reshape(shape)
        self._std = torch.tensor(std, device=home.device).reshape(shape)

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:  # [N, D] float32
        # On a CPU one after another: then nothing depends, not even by rounding, on the rest of a batch.
        at_once = 1 if self._device == "cpu" else len(pictures)
        parts = [self._encode(pictures[i : i + at_once]) for i in range(0, len(pictures), at_once)]
        return np.concatenate(parts)

    def _encode(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        # The 10 bits of TF32 would make a score depend on the device.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            batch = torch.from_numpy(np.stack(pictures)).to(self._device, non_blocking=True)
            batch = batch.permute(0, 3, 1, 2).float() / 255  # [N, 3, S, S]
            batch = ((batch - self._mean) / self._std).to(self._dtype)
            output = self._model(pixel_values=batch)
            vectors = output.image_embeds if self._kind == "clip" else output.pooler_output
            return vectors.float().cpu().numpy()


# --- texts -------------------------------------------------------------------------------------


class ClipTexts:
    """The text half of a model: from texts to unit vectors.

    Raises:
        CallError: the weights or the vocabulary are not what they must be.
    """

    def __init__(self, clip: str, dtype: str, home: Home) -> None:
        import torch
        import transformers

        path = place(clip, home.models)
        kinds = {"clip": transformers.CLIPTextModelWithProjection, "siglip": transformers.SiglipTextModel}
        self._kind = architecture(clip, home.models).kind
        self._device, self._dtype = home.device, getattr(torch, dtype)
        self._model = _half(path, kinds[self._kind], "text").to(home.device, self._dtype).eval()
        self._most = int(self._model.config.max_position_embeddings)
        self._tokenizer = _tokenizer(path)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
        """[N, D] float64 unit vectors, and which texts were longer than the model reads."""
        tokens = [self._tokenizer(text) for text in texts]
        at_once = 1 if self._device == "cpu" else TEXTS_AT_ONCE
        parts = [self._encode(tokens[i : i + at_once]) for i in range(0, len(tokens), at_once)]
        return unit(np.concatenate(parts)), [len(t) > self._most for t in tokens]

    def _encode(self, tokens: Sequence[list[int]]) -> np.ndarray:
        import torch

        cut = [t if len(t) <= self._most else [*t[: self._most - 1], t[-1]] for t in tokens]
        # CLIP looks at what is before the end of a text only; SigLIP was trained on full lines.
        length = max(map(len, cut)) if self._kind == "clip" else self._most
        filled = [t + [self._tokenizer.filler] * (length - len(t)) for t in cut]
        with torch.inference_mode():
            output = self._model(input_ids=torch.tensor(filled, device=self._device))
            vectors = output.text_embeds if self._kind == "clip" else output.pooler_output
            return np.asarray(vectors.float().cpu().numpy())


def unit(vectors: np.ndarray) -> np.ndarray:
    """[..., D] float64 of length 1."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=-1, keepdims=True))


class _Tokenizer:
    """From a text to all its tokens, the first and the last ones included.

    As transformers makes them; OpenAI's own code first mends broken Unicode (ftfy) and HTML entities.
    """

    def __init__(self, tokenizer: Any, filler: int) -> None:
        self._tokenizer = tokenizer
        self.filler = filler

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])


def _tokenizer(path: Path) -> _Tokenizer:
    if path.suffix == ".pt":
        return _Tokenizer(openai_tokenizer(path.parent / OPENAI_VOCABULARY), 0)
    tokenizer = load_tokenizer(path)
    return _Tokenizer(tokenizer, tokenizer.pad_token_id or 0)


def openai_tokenizer(path: Path) -> Any:
    """The byte pair encoding of OpenAI's vocabulary file: one merge per line, after a first line."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise refused(path, f"not a vocabulary: {error}") from error
    merges: Any = [tuple(line.split()) for line in lines[1 : 1 + OPENAI_WORDS]]
    letters = sorted(ByteLevel.alphabet(), key=lambda c: (ord(c) > 255, ord(c)))
    words = [*letters, *(f"{c}</w>" for c in letters), *map("".join, merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)


# --- weights -----------------------------------------------------------------------------------


def _half(path: Path, kind: Any, name: str) -> Any:
    """The image or text half of a model, in 32 bits; all its weights are there or it is refused."""
    import torch

    if path.suffix == ".pt":
        state = _openai_state(path)
        config = openai_config(state, path)
        model = kind(kind.config_class(**config[f"{name}_config"], projection_dim=config["projection_dim"]))
        own = {to: tensor for to, tensor in from_openai(state) if to in model.state_dict()}
        try:
            model.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise refused(path, str(error)) from error
        return model
    built = _architecture_of_version(path)
    told = {"projection_dim": built.dimensions} if built.kind == "clip" else {}
    return load_pretrained(kind, path, told, dtype=torch.float32)


def _openai_state(path: Path) -> dict[str, Any]:

    state = openai_clip_state(path)
    if "visual.conv1.weight" not in state or "text_projection" not in state:
        raise refused(path, "not a CLIP with a vision transformer")
    return state


def openai_config(state: Mapping[str, Any], path: Path = Path()) -> dict[str, Any]:
    """transformers' config of OpenAI's weights, as their shapes tell it.

    Raises:
        CallError: they are not CLIP's; names the file that they are from.
    """
    with _reading(path):
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
