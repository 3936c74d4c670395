"""Caption clips with LLaVA: python -m captioning.caption_llava META

LLaVA 1.5, LLaVA-NeXT and LLaVA-OneVision, by the model's folder, see `--num_frames` pictures of a clip: one in the
middle, or several in order of time. Liu et al., "Improved Baselines with Visual Instruction Tuning", 2023,
arXiv 2310.03744.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captioning.captioner import Captioner, main_captioner
from captioning.model_fields import FolderFields, folder_option, resize_option
from captioning.models.llava import Llava
from captioning.viewing import AtPositions
from clipsheet.config import option


@dataclass(frozen=True)
class CaptionLlava(FolderFields, Captioner):
    """Captions by a model of the LLaVA family."""

    name: ClassVar[str] = "caption_llava"

    pretrained_model_name_or_path: str = folder_option("llava-llama-3-8b-v1_1-transformers")
    num_frames: int = option(1, "pictures that are looked at; 1: the middle, 3: at 10, 50 and 90 %", ge=1)
    resize: int = resize_option()

    @property
    def language_model(self) -> Llava:
        return Llava(self.pretrained_model_name_or_path, self.dtype, self.resize)

    @property
    def look(self) -> AtPositions:
        return AtPositions(self.num_frames)


def main() -> None:
    """The program."""
    main_captioner(CaptionLlava)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_llava import main as program

    program()
