"""Caption clips with Qwen2-VL, Qwen2.5-VL or Qwen3-VL: python -m captioning.caption_qwen2vl META

Which of them it is says the model's folder. `--fps` frames per second, evenly spaced, reach the model as a
video, each with at most `--height` x `--width` pixels in its own shape. Wang et al., "Qwen2-VL", 2024,
arXiv 2409.12191; Bai et al., "Qwen2.5-VL Technical Report", 2025, arXiv 2502.13923; frames and sizes are chosen by the
rules of the package qwen-vl-utils (vision_process.py: smart_nframes, smart_resize).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
from clipsheet.media import Frame, MediaInfo
from clipsheet.scorer import Home
from clipsheet.weights.pretrained import load_processor

CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
LEAST_FRAMES, MOST_FRAMES = 4, 768
TEMPORAL_FACTOR = 2  # frames that the model sees as one
#: Of all frames of a video together, so that they do not fill the model's context.
MOST_PIXELS = 24_576 * 28 * 28
LEAST_PIXELS = 128 * 28 * 28
MOST_ELONGATED = 200
TICKS = 1000  # per second: times are given to the model in milliseconds, so that every frame has its own


@dataclass(frozen=True)
class CaptionQwen2vl(LocalCaptioner):
    """Captions by a model of the Qwen-VL family."""

    name: ClassVar[str] = "caption_qwen2vl"
    families: ClassVar[tuple[str, ...]] = tuple(CLASSES)

    pretrained_model_name_or_path: str = model_option("Qwen2-VL-7B-Instruct")
    height: int = option(448, "pixels; with width the area of a frame at most", ge=28)
    width: int = option(672, "pixels", ge=28)
    fps: float = option(4.0, "frames per second that are looked at", gt=0)

    def indices(self, first: int, stop: int, info: MediaInfo) -> np.ndarray:
        count = stop - first
        wanted = count / info.fps * self.fps if info.fps else count
        number = min(max(wanted, LEAST_FRAMES), MOST_FRAMES, count)
        number = max(1, math.floor(number / TEMPORAL_FACTOR) * TEMPORAL_FACTOR)
        return np.linspace(first, stop - 1, number).round().astype(int)

    def picture(self, frame: Frame, count: int) -> np.ndarray:
        """[H, W, 3] uint8, of the size that the model wants."""
        share = max(MOST_PIXELS * TEMPORAL_FACTOR // count, math.ceil(1.05 * LEAST_PIXELS))
        side = _patch(Path(self.pretrained_model_name_or_path))
        return frame.scaled(*fitting(frame.height, frame.width, side, min(self.height * self.width, share)))

    def load(self, home: Home) -> Loaded:
        import transformers

        folder = self.folder(home.models)
        kind = getattr(transformers, CLASSES[config_of(folder)["model_type"]])
        processor = load_processor(folder)
        network = load_model(kind, folder, self.dtype, home, {})
        return Loaded(network, padded_left(processor.tokenizer), processor, folder, home.device)

    def tokens(self, model: Loaded, ask: Ask) -> int:
        height, width, _ = ask.pictures[0].shape
        side = _patch(model.folder)
        return math.ceil(len(ask.pictures) / TEMPORAL_FACTOR) * (height // side) * (width // side)

    def inputs(self, model: Loaded, asks: Sequence[Ask]) -> Any:
        """The tensors that the model gets."""
        import torch

        texts, images, videos, when = [], [], [], []
        for ask in asks:
            kind = "image" if ask.still else "video"
            content = [{"type": kind}, {"type": "text", "text": ask.question}]
            texts.append(chat(model.processor, content, model.folder))
            shown = torch.from_numpy(np.stack(ask.pictures)).permute(0, 3, 1, 2)
            if ask.still:
                images.append(shown[0])
                continue
            videos.append(shown)
            ticks = [round(seconds * TICKS) for seconds in ask.seconds]
            when.append(
                {
                    "total_num_frames": max(1, round(ask.length * TICKS)), "fps": float(TICKS), "frames_indices": ticks,
                    "duration": ask.length, "height": shown.shape[2], "width": shown.shape[3],
                }
            )  # fmt: skip
        prepared = {"do_resize": False, "device": model.device}
        return model.processor(
            text=texts, images=images or None, videos=videos or None, padding=True, return_tensors="pt",
            images_kwargs=prepared,
            videos_kwargs=prepared | {"do_sample_frames": False, "video_metadata": when},
        )  # fmt: skip


def _patch(folder: Path) -> int:
    """Pixels of the squares of which a picture's sides must be multiples."""
    vision = config_of(folder).get("vision_config", {})
    return int(vision.get("patch_size", 14)) * int(vision.get("spatial_merge_size", 2))


def fitting(height: int, width: int, side: int, most: int) -> tuple[int, int]:
    """(height, width), multiples of `side`, nearest to those of a picture, of at most so many pixels: smart_resize of
    qwen-vl-utils, but for pictures that are smaller than one square or longer than it takes."""
    height, width = (max(v, math.ceil(max(height, width) / MOST_ELONGATED)) for v in (height, width))
    least = min(most, 4 * side * side)
    high, wide = (max(side, round(v / side) * side) for v in (height, width))
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high, wide = (max(side, math.floor(v / shrink / side) * side) for v in (height, width))
    elif high * wide < least:
        enlarge = math.sqrt(least / (height * width))
        high, wide = (math.ceil(v * enlarge / side) * side for v in (height, width))
    return high, wide


def main() -> None:
    """The program."""
    main_captioner(CaptionQwen2vl)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from captioning.caption_qwen2vl import main as program

    program()
