"""LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision: one picture, or several in order of time.

Liu et al., "Improved Baselines with Visual Instruction Tuning", 2023, arXiv 2310.03744.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from captioning.models.folder import FolderModel, Loaded, chat, config_of, load_family
from captioning.models.language_model import Ask
from captioning.models.pictures import shrunk
from clipsheet.media import Frame
from clipsheet.scorer import Home

CLASSES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
}
PICTURE = "<image>"
ONE_PICTURE, MANY_TILES = 576, 5 * 576  # tokens of a picture: LLaVA 1.5; its successors look at parts, too


@dataclass(frozen=True)
class Llava(FolderModel):
    """A model of the LLaVA family.

    Attributes:
        shorter_size: pixels of the short side at most, before the model's own preparation.
    """

    families: ClassVar[tuple[str, ...]] = tuple(CLASSES)

    shorter_size: int = 672

    def picture(self, frame: Frame, count: int) -> np.ndarray:
        """[H, W, 3] uint8."""
        return shrunk(frame, self.shorter_size)

    def load(self, home: Home) -> Loaded:
        loaded = load_family(CLASSES, self.folder(home.models), self.dtype, home)
        processor = loaded.processor
        if hasattr(processor, "patch_size") and processor.patch_size is None:  # as older folders have it
            config = config_of(loaded.folder)
            processor.patch_size = config["vision_config"]["patch_size"]
            processor.vision_feature_select_strategy = config.get("vision_feature_select_strategy", "default")
            processor.num_additional_image_tokens = 1
        return loaded

    def tokens(self, loaded: Loaded, ask: Ask) -> int:
        one = ONE_PICTURE if loaded.model.config.model_type == "llava" else MANY_TILES
        return len(ask.view.pictures) * one

    def inputs(self, loaded: Loaded, asks: Sequence[Ask]) -> Any:
        texts = [question_of(loaded, ask.question, len(ask.view.pictures)) for ask in asks]
        begun = bool(loaded.words.bos_token) and texts[0].startswith(loaded.words.bos_token)
        return loaded.processor(
            text=texts,
            images=[list(ask.view.pictures) for ask in asks],
            add_special_tokens=not begun,
            padding=True, return_tensors="pt",
        )  # fmt: skip


def question_of(loaded: Loaded, question: str, pictures: int) -> str:
    """A question as the model expects it: by the folder's template, or else as Llama 3 or Vicuna have it."""
    if loaded.processor.chat_template:
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
        return chat(loaded.processor, content, loaded.folder)
    asked = f"{PICTURE * pictures}\n{question}"
    if "<|start_header_id|>" in loaded.words.get_vocab():
        begin, end = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
        return f"{begin.format('user')}{asked}{end}{begin.format('assistant')}"
    return f"USER: {asked} ASSISTANT:"
