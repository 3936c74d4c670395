"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: frames as a video with its times, each of the size that the model takes.

Wang et al., "Qwen2-VL", 2024, arXiv 2409.12191; Bai et al., "Qwen2.5-VL Technical Report", 2025, arXiv 2502.13923;
sizes are chosen by the rules of the package qwen-vl-utils (vision_process.py: smart_resize).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from captioning.models.folder import FolderModel, Loaded, chat, config_of, load_family
from captioning.models.language_model import Ask
from clipsheet.media import Frame
from clipsheet.scorer import Home

CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
TEMPORAL_FACTOR = 2  # frames that the model sees as one
#: Of all frames of a video together, so that they do not fill the model's context.
MOST_PIXELS = 24_576 * 28 * 28
LEAST_PIXELS = 128 * 28 * 28
MOST_ELONGATED = 200
TICKS = 1000  # per second: times are given to the model in milliseconds, so that every frame has its own


@dataclass(frozen=True)
class QwenVl(FolderModel):
    """A model of the Qwen-VL family.

    Attributes:
        most_pixels: of a frame.
    """

    families: ClassVar[tuple[str, ...]] = tuple(CLASSES)

    most_pixels: int = 448 * 672

    def picture(self, frame: Frame, count: int) -> np.ndarray:
        """[H, W, 3] uint8, of the size that the model wants. `name` must be a path: config.json is read."""
        share = max(MOST_PIXELS * TEMPORAL_FACTOR // count, math.ceil(1.05 * LEAST_PIXELS))
        side = _patch(Path(self.name))
        return frame.scaled(*fitting(frame.height, frame.width, side, min(self.most_pixels, share)))

    def load(self, home: Home) -> Loaded:
        return load_family(CLASSES, self.folder(home.models), self.dtype, home)

    def tokens(self, loaded: Loaded, ask: Ask) -> int:
        pictures = ask.view.pictures
        height, width, _ = pictures[0].shape
        side = _patch(loaded.folder)
        return math.ceil(len(pictures) / TEMPORAL_FACTOR) * (height // side) * (width // side)

    def inputs(self, loaded: Loaded, asks: Sequence[Ask]) -> Any:
        import torch

        texts, images, videos, when = [], [], [], []
        for ask in asks:
            view = ask.view
            kind = "image" if view.still else "video"
            content = [{"type": kind}, {"type": "text", "text": ask.question}]
            texts.append(chat(loaded.processor, content, loaded.folder))
            shown = torch.from_numpy(np.stack(view.pictures)).permute(0, 3, 1, 2)  # [T, 3, H, W] uint8 RGB
            if view.still:
                images.append(shown[0])
                continue
            videos.append(shown)
            ticks = [round(seconds * TICKS) for seconds in view.seconds]
            when.append(
                {
                    "total_num_frames": max(1, round(view.length * TICKS)), "fps": float(TICKS),
                    "frames_indices": ticks, "duration": view.length,
                    "height": shown.shape[2], "width": shown.shape[3],
                }
            )  # fmt: skip
        prepared = {"do_resize": False, "device": loaded.device}
        return loaded.processor(
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
