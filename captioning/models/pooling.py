"""PLLaVA's pooling: the features of several frames, averaged over areas of the picture and of time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Pooling(nn.Module):
    """LLaVA's projector, then adaptive average pooling (Xu et al., 2024, arXiv 2404.16994, section 3.2).

    Args:
        projector: from the features of the picture to the language model's.
        frames: of each video.
        shape: frames, rows and columns that are left.
    """

    def __init__(self, projector: nn.Module, frames: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.projector = projector
        self.frames = frames
        self.pooling = nn.AdaptiveAvgPool3d(tuple(shape))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[V x T, H x W, C] of V videos of T frames to [V, T' x H' x W', C'], by the rows of each picture."""
        made = self.projector(features)
        count, places, channels = made.shape
        side = round(places**0.5)
        made = made.view(count // self.frames, self.frames, side, places // side, channels)
        return self.pooling(made.permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2)
