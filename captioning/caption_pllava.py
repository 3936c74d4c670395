"""Caption clips with PLLaVA: python -m captioning.caption_pllava META

PLLaVA (Xu et al., 2024, arXiv 2404.16994) is LLaVA for several frames, whose features are averaged over areas of
the picture: `--pooling_shape 4 12 12` leaves 4 x 12 x 12 of 4 x 24 x 24. Its published folders hold LLaVA's
weights and what LoRA has learned for them, which counts `--lora_alpha` / rank. Frames are chosen and questions put as
in its reference implementation (tasks/eval of magic-research/PLLaVA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captioning.captioner import Captioner, main_captioner
from captioning.model_fields import FolderFields, folder_option, resize_option
from captioning.models.pllava import Pllava
from captioning.viewing import Segments
from clipsheet.config import option
from clipsheet.errors import ConfigError


@dataclass(frozen=True)
class CaptionPllava(FolderFields, Captioner):
    """Captions by PLLaVA."""

    name: ClassVar[str] = "caption_pllava"

    pretrained_model_name_or_path: str = folder_option("pllava-7b")
    num_frames: int = option(4, "frames that are looked at", ge=1)
    pooling_shape: tuple[int, int, int] = option(
        (4, 12, 12), "what is left of the features", names=("FRAMES", "HIGH", "WIDE")
    )
    lora_alpha: float = option(4.0, "weight of what LoRA has learned, times its rank; 0: none of it", ge=0)
    resize: int = resize_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.pooling_shape) < 1:
            raise ConfigError(f"--pooling_shape {self.pooling_shape}: each at least 1")

    @property
    def language_model(self) -> Pllava:
        return Pllava(
            self.pretrained_model_name_or_path, self.dtype, self.num_frames, self.pooling_shape, self.lora_alpha,
            self.resize,
        )  # fmt: skip

    @property
    def look(self) -> Segments:
        return Segments(self.num_frames)


def main() -> None:
    """The program."""
    main_captioner(CaptionPllava)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_pllava import main as program

    program()
