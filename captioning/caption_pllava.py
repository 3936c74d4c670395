"""Caption clips with PLLaVA: python -m captioning.caption_pllava META

PLLaVA (Xu et al., 2024, arXiv 2404.16994) is LLaVA for several frames, whose features are averaged over areas of
the picture: `--pooling_shape 4 12 12` leaves 4 x 12 x 12 of 4 x 24 x 24. Its published folders hold LLaVA's
weights and what LoRA has learned for them, which counts `--lora_alpha` / rank. Frames are chosen and questions put as
in its reference implementation (tasks/eval of magic-research/PLLaVA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from captioning.captioner import Ask, main_captioner
from captioning.local import Loaded, LocalCaptioner, dtype_of, model_option, padded_left
from clipsheet.config import option
from clipsheet.errors import ConfigError
from clipsheet.media import Frame, MediaInfo, fit
from clipsheet.scorer import Home
from clipsheet.weights.load import load_state
from clipsheet.weights.pretrained import load_image_processor, load_pretrained, load_tokenizer

if TYPE_CHECKING:
    import torch

PICTURE = "<image>"


@dataclass(frozen=True)
class CaptionPllava(LocalCaptioner):
    """Captions by PLLaVA."""

    name: ClassVar[str] = "caption_pllava"
    families: ClassVar[tuple[str, ...]] = ("llava", "pllava")

    pretrained_model_name_or_path: str = model_option("pllava-7b")
    num_frames: int = option(4, "frames that are looked at", ge=1)
    pooling_shape: tuple[int, int, int] = option(
        (4, 12, 12), "what is left of the features", names=("FRAMES", "HIGH", "WIDE")
    )
    lora_alpha: float = option(4.0, "weight of what LoRA has learned, times its rank; 0: none of it", ge=0)
    resize: int = option(672, "pixels of the short side at most, before the model's own preparation", ge=14)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.pooling_shape) < 1:
            raise ConfigError(f"--pooling_shape {self.pooling_shape}: each at least 1")

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        step = (stop - first - 1) / self.num_frames
        return np.array([first + int(step / 2) + round(step * k) for k in range(self.num_frames)])

    def picture(self, frame: Frame, count: int) -> np.ndarray:
        """[H, W, 3] uint8."""
        return frame.scaled(*fit(frame.height, frame.width, short=self.resize))

    def load(self, home: Home) -> Loaded:
        folder = self.folder(home.models)
        words = load_tokenizer(folder)
        dtype = dtype_of(self.dtype, home)
        network = pllava(folder, self.lora_alpha, self.num_frames, self.pooling_shape, dtype)
        network = network.to(home.device).eval()
        return Loaded(network, padded_left(words), load_image_processor(folder), folder, home.device)

    def tokens(self, model: Loaded, ask: Ask) -> int:
        return int(np.prod(self.pooling_shape))

    def inputs(self, model: Loaded, asks: Sequence[Ask]) -> Any:
        """The tensors that the model gets."""
        pictures = PICTURE * int(np.prod(self.pooling_shape))
        texts = [f"USER: {pictures} USER: {ask.question} ASSISTANT:" for ask in asks]
        inputs = model.words(texts, padding=True, return_tensors="pt")
        shown = [picture for ask in asks for picture in ask.pictures]
        inputs["pixel_values"] = model.processor(shown, return_tensors="pt")["pixel_values"].to(
            model.model.dtype
        )
        return inputs


def pllava(
    folder: Path, lora_alpha: float, num_frames: int, pooling_shape: Sequence[int], dtype: torch.dtype
) -> Any:
    """transformers' LLaVA with the weights of a PLLaVA folder, and pooling after its projector.

    Raises:
        CallError: a file is missing or damaged, or holds weights of another architecture.
    """
    import transformers

    from captioning.pooling import Pooling

    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_state(path)
    kind = transformers.LlavaForConditionalGeneration
    model = load_pretrained(kind, folder, {}, as_llava(state, lora_alpha), dtype=dtype)
    projector = model.model.multi_modal_projector
    model.model.multi_modal_projector = Pooling(projector, num_frames, pooling_shape)
    return model


def as_llava(state: Mapping[str, torch.Tensor], lora_alpha: float) -> dict[str, torch.Tensor]:
    """PLLaVA's weights by the names of LLaVA's, with what LoRA has learned added (Hu et al., 2021, arXiv 2106.09685:
    W + B A alpha / rank)."""
    found: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if ".lora_" in key:
            continue
        base = key.removesuffix(".base_layer.weight")
        down, up = (state.get(f"{base}.lora_{half}.default.weight") for half in "AB")
        if base != key and down is not None and up is not None and lora_alpha:
            learned = up.float() @ down.float() * (lora_alpha / len(down))
            tensor = (tensor.float() + learned).to(tensor.dtype)
        name = key.replace(".base_layer.", ".").replace("language_model.base_model.model.", "language_model.")
        found[name] = tensor
    return found


def main() -> None:
    """The program."""
    main_captioner(CaptionPllava)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_pllava import main as program

    program()
