"""The blocks of TransNetV2, computed over [B x T] pictures whose channels lie side by side.

The same numbers to rounding as the package's three-dimensional convolutions (see scoring.shots.transnet).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d


class Cell(nn.Module):
    """Four branches of a convolution over the picture and one over time, with different strides in time, then
    batch normalisation, which is folded into the second."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        scale = cell.bn.weight / torch.sqrt(cell.bn.running_var + cell.bn.eps)
        shift = cell.bn.bias - cell.bn.running_mean * scale
        self.strides = (1, 2, 4, 8)
        branches = [getattr(cell, f"Conv3D_{stride}").layers for stride in self.strides]
        scales = scale.chunk(len(branches))
        self.over_picture = torch.nn.ParameterList([_beside(a.weight[:, :, 0]) for a, _ in branches])
        self.over_time = torch.nn.ParameterList(
            [
                _beside(b.weight[..., 0] * s.view(-1, 1, 1, 1))
                for (_, b), s in zip(branches, scales, strict=True)
            ]
        )
        self.shifts = torch.nn.ParameterList(
            [torch.nn.Parameter(s.detach().clone(), requires_grad=False) for s in shift.chunk(len(branches))]
        )

    def forward(self, x: torch.Tensor, samples: int) -> torch.Tensor:
        """[B x T, C, H, W] to the same with other channels; `samples` is B."""
        count, _, height, width = x.shape
        frames = count // samples
        channels = sum(len(shift) for shift in self.shifts)
        made = x.new_empty(samples, frames, height * width, channels)
        end = 0
        for n, stride in enumerate(self.strides):
            y = conv2d(x, self.over_picture[n], padding=1)
            y = y.permute(0, 2, 3, 1).reshape(samples, frames, height * width, -1)
            y = y.permute(0, 3, 1, 2)  # [B, C, T, H x W]
            y = conv2d(y, self.over_time[n], self.shifts[n], padding=(stride, 0), dilation=(stride, 1))
            begin, end = end, end + y.shape[1]
            made[..., begin:end] = y.permute(0, 2, 3, 1)
        return made.view(count, height, width, channels).permute(0, 3, 1, 2)


class Stack(nn.Module):
    """Two cells with a shortcut, then pictures of half the size.

    Args:
        block: a StackedDDCNNV2 of the package, whose weights are taken.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.first, self.second = (Cell(cell) for cell in block.DDCNN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, T, H, W] to [B, C', T, H / 2, W / 2]."""
        samples, channels, count, height, width = x.shape
        x = x.permute(0, 2, 3, 4, 1).reshape(samples * count, height, width, channels)
        kept = self.first(x.permute(0, 3, 1, 2), samples).relu_()
        x = avg_pool2d(self.second(kept, samples).relu_().add_(kept), 2)
        return x.view(samples, count, *x.shape[1:]).permute(0, 2, 1, 3, 4)


def _beside(weight: torch.Tensor) -> nn.Parameter:
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    return nn.Parameter(weight, requires_grad=False)
