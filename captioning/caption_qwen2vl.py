"""Caption clips with Qwen2-VL, Qwen2.5-VL or Qwen3-VL: python -m captioning.caption_qwen2vl META

Which of them it is says the model's folder. `--fps` frames per second, evenly spaced, reach the model as a
video, each with at most `--height` x `--width` pixels in its own shape. Wang et al., "Qwen2-VL", 2024,
arXiv 2409.12191; Bai et al., "Qwen2.5-VL Technical Report", 2025, arXiv 2502.13923; frames and sizes are chosen by the
rules of the package qwen-vl-utils (vision_process.py: smart_nframes, smart_resize).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from captioning.captioner import Captioner, main_captioner
from captioning.model_fields import FolderFields, folder_option
from captioning.models.qwen_vl import TEMPORAL_FACTOR, QwenVl
from captioning.viewing import PerSecond
from clipsheet.config import option

LEAST_FRAMES, MOST_FRAMES = 4, 768  # of qwen-vl-utils


@dataclass(frozen=True)
class CaptionQwen2vl(FolderFields, Captioner):
    """Captions by a model of the Qwen-VL family."""

    name: ClassVar[str] = "caption_qwen2vl"

    pretrained_model_name_or_path: str = folder_option("Qwen2-VL-7B-Instruct")
    height: int = option(448, "pixels; with width the area of a frame at most", ge=28)
    width: int = option(672, "pixels", ge=28)
    fps: float = option(4.0, "frames per second that are looked at", gt=0)

    @property
    def language_model(self) -> QwenVl:
        return QwenVl(self.pretrained_model_name_or_path, self.dtype, self.height * self.width)

    @property
    def look(self) -> PerSecond:
        return PerSecond(self.fps, LEAST_FRAMES, MOST_FRAMES, TEMPORAL_FACTOR)


def main() -> None:
    """The program."""
    main_captioner(CaptionQwen2vl)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_qwen2vl import main as program

    program()
