"""CLIP's image encoder as a feature: one vector per picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from clipsheet.scorer import Feature, Frame, Home
from clipsheet.weights.load import read_json
from scoring.clip.files import (
    architecture,
    clip_option,
    dtype_option,
    image_files,
    missing_files,
    place,
    preprocessor_files,
    reading,
)
from scoring.clip.weights import load_encoder

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
#: How often a picture may be as long as it is wide before its ends are cut off ahead of scaling, which would make
#: gigabytes of them.
MOST_ELONGATED = 256


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
    files = preprocessor_files(path)
    if not files:
        return {}
    with reading(files[0]):
        found = read_json(files[0])
        return found if files[0].stem == "preprocessor_config" else dict(found["image_processor"])


def _normalisation(path: Path, kind: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the three colours."""
    usual = {"clip": (OPENAI_MEAN, OPENAI_STD), "siglip": ((0.5,) * 3, (0.5,) * 3)}[kind]
    found = _preprocessor(path)
    with reading(path):
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
        with reading(path):
            resample = int(found.get("resample", BICUBIC))
            crop = bool(found.get("do_center_crop", built.kind == "clip"))
            return Preparation(built.image_size, crop, Image.Resampling(resample).value)

    def load(self, home: Home) -> Any:
        return _Images(self, home)

    def encode(self, model: Any, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(model(pictures))


class _Images:
    """CLIP's image encoder on a device."""

    def __init__(self, feature: ClipImages, home: Home) -> None:
        import torch
        import transformers

        path = place(feature.clip, home.models)
        kinds = {"clip": transformers.CLIPVisionModelWithProjection, "siglip": transformers.SiglipVisionModel}
        self._kind = architecture(feature.clip, home.models).kind
        self._dtype = getattr(torch, feature.dtype)
        self._device = home.device
        model = load_encoder(path, kinds[self._kind]).to(home.device, self._dtype).eval()
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
