"""How much the picture changes: the mean perceptual distance of frames that follow each other.

`lpips`: LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, version 0.1) of frames `seconds` apart; 0 for a frozen clip, higher for more change. Every
distance counts for as long as lies between its two frames. -1 where a readable file gives fewer than
two frames: a picture, or a clip no longer than `seconds`.

Frames are averaged over areas to the target size, and their values put between -1 and 1 as the
metric's authors define it. Of a long clip 64 pairs of frames are compared, evenly spread over it and
still `seconds` apart, so that its score means what that of a short one means.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from clipsheet.config import option
from clipsheet.media import MediaInfo
from clipsheet.scorer import Column, Frames, Home, Row, Scorer, at_least

#: The backbones and torchvision's files of their weights.
BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
MAX_PAIRS = 64  # 128 frames, 19 MB at 224 x 224
TOO_FEW = -1.0  # frames to compare
#: Of the frames in the network together; VGG-16 keeps 500 bytes of features per pixel.
PIXELS_AT_ONCE_CPU, PIXELS_AT_ONCE_GPU = 4 * 224 * 224, 16 * 224 * 224


class _Clip(NamedTuple):
    """What is compared of a clip.

    Attributes:
        images: [F, H, W, 3] uint8 RGB; none where there is nothing to compare.
        seconds: [F] from each image to the next one, 0 where the two are not compared.
    """

    images: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Lpips(Scorer):
    """Perceptual distance of consecutive frames, weighted by the time between them."""

    name: ClassVar[str] = "lpips"
    on_gpu: ClassVar[bool] = True

    seconds: float = option(1.0, "seconds between the frames that are compared", gt=0)
    net: str = option("vgg", "network whose features are compared", choices=tuple(BACKBONES))
    # The deepest features of the smallest network vanish below 32 pixels.
    target_height: int = option(224, "pixels that frames are resized to", ge=32, le=2048)
    target_width: int = option(224, "pixels that frames are resized to", ge=32, le=2048)

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column(
                "lpips",
                "float",
                "",
                "change between frames: 0 frozen, -1 fewer than two frames",
                bounds=at_least("lpipsmin"),
            ),
        )

    def times(self, info: MediaInfo) -> Sequence[float]:
        return sorted({seconds for pair in self._pairs(info) for seconds in pair}) or [0.0]

    def _pairs(self, info: MediaInfo) -> list[tuple[float, float]]:
        """Seconds of the frames that are compared."""
        pairs = list(pairwise(info.every(self.seconds)))
        if len(pairs) <= MAX_PAIRS:
            return pairs
        return [pairs[k] for k in np.linspace(0, len(pairs) - 1, MAX_PAIRS).round().astype(int)]

    def prepare(self, row: Row, frames: Frames) -> _Clip:
        at = frames.info.index_at
        compared = {(at(earlier), at(later)) for earlier, later in self._pairs(frames.info)}
        size = (self.target_height, self.target_width)
        taken = [(frame.index, frame.seconds, frame.rgb(*size)) for frame in frames]
        if not compared:
            return _Clip(np.zeros((0, *size, 3), np.uint8), np.zeros(0))
        gaps = [
            later - earlier if (index, next_index) in compared else 0.0
            for (index, earlier, _), (next_index, later, _) in pairwise(taken)
        ]
        return _Clip(np.stack([image for _, _, image in taken]), np.array([*gaps, 0.0]))

    def weights(self, models: Path) -> Mapping[str, Path]:
        return {f"lpips-{self.net}": models / BACKBONES[self.net]}

    def missing(self, models: Path) -> list[str]:
        installed = importlib.util.find_spec("lpips") is not None
        return [*([] if installed else ["pip install lpips"]), *super().missing(models)]

    def load(self, home: Home) -> _Metric:
        import lpips
        import torch

        from clipsheet.weights.load import load_state, misfit
        from clipsheet.weights.table import refused

        [path] = self.weights(home.models).values()
        backbone = load_state(path)
        with warnings.catch_warnings(), torch.device("meta"):
            # lpips builds its backbones by an argument that torchvision gave another name.
            warnings.filterwarnings("ignore", "The parameter 'pretrained'|Arguments other than a weight enum")
            net = lpips.LPIPS(net=self.net, pretrained=False, pnet_rand=True, verbose=False)
        # lpips cuts the layers into slices: slice3.7.weight was features.7.weight.
        places = {re.sub(r"^slice\d+", "features", key): key for key in net.net.state_dict()}
        features = {key: tensor for key, tensor in backbone.items() if key.startswith("features.")}
        needed = {name: net.net.state_dict()[key] for name, key in places.items()}
        if why := misfit(needed, features):
            raise refused(path, f"not the weights of {self.net}: {why}")
        net.net.load_state_dict({places[name]: tensor for name, tensor in features.items()}, assign=True)
        heads = load_state(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{self.net}.pth")
        net.lins.load_state_dict({key.removeprefix("lin"): w for key, w in heads.items()}, assign=True)
        return _Metric(net.float().to(home.device).eval(), home.device, home.device != "cpu")

    def score(self, model: _Metric, items: Sequence[_Clip]) -> list[tuple[Any, ...]]:
        groups = [items] if model.together else [[item] for item in items]
        return [(mean,) for group in groups for mean in _means(model, group)]


def _means(metric: _Metric, clips: Sequence[_Clip]) -> list[float]:
    """The score of each clip."""
    distances = metric.to_next(np.concatenate([clip.images for clip in clips]))
    ends = np.cumsum([len(clip.images) for clip in clips])
    return [
        round(float(np.average(own, weights=clip.seconds)), 6) if clip.seconds.any() else TOO_FEW
        for clip, own in zip(clips, np.split(distances, ends[:-1]), strict=True)
    ]


@dataclass(frozen=True)
class _Metric:
    """LPIPS of images in a row, each of which goes through the network once.

    Attributes:
        net: lpips.LPIPS.
        together: whether clips share the chunks that go through it, all of one size then: on a GPU.
            On a CPU the last digits of a convolution may depend on what else is in a chunk.
    """

    net: Any
    device: str
    together: bool

    def to_next(self, images: np.ndarray) -> np.ndarray:
        """[F] distance of each of [F, H, W, 3] uint8 RGB images to the next one, 0 for the last."""
        import torch

        pixels = PIXELS_AT_ONCE_GPU if self.together else PIXELS_AT_ONCE_CPU
        at_once = max(1, pixels // (images.shape[1] * images.shape[2]))
        distances = [torch.zeros(0, device=self.device)]
        last: list[Any] = []
        # A GPU would round to the 10 bits of TF32, and a score would depend on the device.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            for start in range(0, len(images), at_once):
                layers = self._features(images[start : start + at_once], at_once)
                if last:
                    layers = [torch.cat(parts) for parts in zip(last, layers, strict=True)]
                distances.append(self._between(layers))
                last = [layer[-1:] for layer in layers]
        found = torch.cat(distances).cpu().numpy()
        return np.concatenate([found, np.zeros(len(images) - len(found))])

    def _features(self, images: np.ndarray, at_once: int) -> list[Any]:
        """Per layer [F, C, h, w] float32, of unit length over C."""
        import lpips
        import torch

        count = len(images)
        if self.together:
            images = np.pad(images, [(0, at_once - count), (0, 0), (0, 0), (0, 0)])
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # [N, 3, H, W] uint8
        layers = self.net.net(self.net.scaling_layer(pixels / 127.5 - 1))
        return [lpips.normalize_tensor(layer[:count]) for layer in layers]

    def _between(self, layers: list[Any]) -> Any:
        """[F - 1] distances of consecutive images from their features."""
        import lpips

        heads = zip(self.net.lins, layers, strict=True)
        parts = [lpips.spatial_average(head((layer[1:] - layer[:-1]) ** 2)) for head, layer in heads]
        return sum(parts).flatten()
