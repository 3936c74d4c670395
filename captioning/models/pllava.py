"""PLLaVA: LLaVA for several frames, whose features are averaged over areas of the picture and of time.

Xu et al., 2024, arXiv 2404.16994. Its published folders hold LLaVA's weights and what LoRA has learned for them.
Questions are put as in its reference implementation (tasks/eval of magic-research/PLLaVA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from captioning.models.folder import FolderModel, Loaded, dtype_of, padded_left
from captioning.models.language_model import Ask
from captioning.models.llava import PICTURE
from captioning.models.pictures import shrunk
from clipsheet.media import Frame
from clipsheet.scorer import Home
from clipsheet.weights.load import load_state
from clipsheet.weights.pretrained import load_image_processor, load_pretrained, load_tokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pllava(FolderModel):
    """PLLaVA with its LoRA.

    Attributes:
        num_frames: that each question is shown, neither more nor fewer.
        pooling_shape: frames, rows and columns that are left of the features.
        lora_alpha: weight of what LoRA has learned, times its rank; 0: none of it.
        shorter_size: pixels of the short side at most, before the model's own preparation.
    """

    families: ClassVar[tuple[str, ...]] = ("llava", "pllava")

    num_frames: int = 4
    pooling_shape: tuple[int, int, int] = (4, 12, 12)
    lora_alpha: float = 4.0
    shorter_size: int = 672

    def picture(self, frame: Frame, count: int) -> np.ndarray:
        """[H, W, 3] uint8."""
        return shrunk(frame, self.shorter_size)

    def load(self, home: Home) -> Loaded:
        folder = self.folder(home.models)
        words = load_tokenizer(folder)
        dtype = dtype_of(self.dtype, home)
        network = pllava(folder, self.lora_alpha, self.num_frames, self.pooling_shape, dtype)
        network = network.to(home.device).eval()
        return Loaded(network, padded_left(words), load_image_processor(folder), folder, home.device)

    def tokens(self, loaded: Loaded, ask: Ask) -> int:
        return int(np.prod(self.pooling_shape))

    def inputs(self, loaded: Loaded, asks: Sequence[Ask]) -> Any:
        pictures = PICTURE * int(np.prod(self.pooling_shape))
        texts = [f"USER: {pictures} USER: {ask.question} ASSISTANT:" for ask in asks]
        inputs = loaded.words(texts, padding=True, return_tensors="pt")
        shown = [picture for ask in asks for picture in ask.view.pictures]
        pixels = loaded.processor(shown, return_tensors="pt")["pixel_values"]
        inputs["pixel_values"] = pixels.to(loaded.model.dtype)
        return inputs


def pllava(
    folder: Path, lora_alpha: float, num_frames: int, pooling_shape: Sequence[int], dtype: torch.dtype
) -> Any:
    """transformers' LLaVA with the weights of a PLLaVA folder, and pooling after its projector.

    Raises:
        CallError: a file is missing or damaged, or holds weights of another architecture.
    """
    import transformers

    from captioning.models.pooling import Pooling

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
