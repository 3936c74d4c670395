"""Caption clips with LLaVA: python -m captioning.caption_llava META

LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision, by the model's folder, see `--num_frames` pictures of a clip: one in the
middle, or several in order of time. Liu et al., "Improved Baselines with Visual Instruction Tuning", 2023,
arXiv 2310.03744.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from captioning.captioner import Ask, main_captioner
from captioning.local import (
    Loaded,
    LocalCaptioner,
    chat,
    config_of,
    load_model,
    model_option,
    padded_left,
)
from clipsheet.config import option
from clipsheet.media import Frame, MediaInfo, fit
from clipsheet.scorer import Home, frame_positions
from clipsheet.weights.pretrained import load_processor

CLASSES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
}
PICTURE = "<image>"
ONE_PICTURE, MANY_TILES = 576, 5 * 576  # tokens of a picture: LLaVA 1.5; its successors look at parts, too


@dataclass(frozen=True)
class CaptionLlava(LocalCaptioner):
    """Captions by a model of the LLaVA family."""

    name: ClassVar[str] = "caption_llava"
    families: ClassVar[tuple[str, ...]] = tuple(CLASSES)

    pretrained_model_name_or_path: str = model_option("llava-llama-3-8b-v1_1-transformers")
    num_frames: int = option(1, "pictures that are looked at; 1: the middle, 3: at 10, 50 and 90 %", ge=1)
    resize: int = option(672, "pixels of the short side at most, before the model's own preparation", ge=14)

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        return positioned(first, stop, self.num_frames)

    def picture(self, frame: Frame, count: int) -> np.ndarray:
        """[H, W, 3] uint8."""
        return frame.scaled(*fit(frame.height, frame.width, short=self.resize))

    def load(self, home: Home) -> Loaded:
        import transformers

        folder = self.folder(home.models)
        config = config_of(folder)
        processor = load_processor(folder)
        if hasattr(processor, "patch_size") and processor.patch_size is None:  # as older folders have it
            processor.patch_size = config["vision_config"]["patch_size"]
            processor.vision_feature_select_strategy = config.get("vision_feature_select_strategy", "default")
            processor.num_additional_image_tokens = 1
        kind = getattr(transformers, CLASSES[config["model_type"]])
        network = load_model(kind, folder, self.dtype, home, {})
        return Loaded(network, padded_left(processor.tokenizer), processor, folder, home.device)

    def tokens(self, model: Loaded, ask: Ask) -> int:
        return len(ask.pictures) * (ONE_PICTURE if model.model.config.model_type == "llava" else MANY_TILES)

    def inputs(self, model: Loaded, asks: Sequence[Ask]) -> Any:
        """The tensors that the model gets."""
        texts = [question_of(model, ask.question, len(ask.pictures)) for ask in asks]
        begun = bool(model.words.bos_token) and texts[0].startswith(model.words.bos_token)
        return model.processor(
            text=texts,
            images=[list(ask.pictures) for ask in asks],
            add_special_tokens=not begun,
            padding=True, return_tensors="pt",
        )  # fmt: skip


def positioned(first: int, stop: int, number: int) -> np.ndarray:
    """So many of the frames [first, stop): in the middle, at the quarters, at 10/50/90 %, or evenly."""
    at = first + np.floor(np.array(frame_positions(number)) * (stop - first))
    return np.unique(at.astype(int).clip(first, stop - 1))


def question_of(model: Loaded, question: str, pictures: int) -> str:
    """A question as the model expects it: by the folder's template, or else as Llama 3 or Vicuna have it."""
    if model.processor.chat_template:
        content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
        return chat(model.processor, content, model.folder)
    asked = f"{PICTURE * pictures}\n{question}"
    if "<|start_header_id|>" in model.words.get_vocab():
        begin, end = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
        return f"{begin.format('user')}{asked}{end}{begin.format('assistant')}"
    return f"USER: {asked} ASSISTANT:"


def main() -> None:
    """The program."""
    main_captioner(CaptionLlava)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_llava import main as program

    program()
