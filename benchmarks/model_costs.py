"""What a picture costs each model: python -m benchmarks.model_costs

CLIP ViT-L/14 and ViT-B/32 per frame, LPIPS by VGG and by AlexNet per pair of frames of 224 x 224; random
weights, which take as long as others. On the CPU, or with `--gpu 1` on the first GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks._measure import flags, machine, race
from clipsheet.scorer import Home
from scoring.clip.images import ClipImages
from scoring.lpips.scorer import BACKBONES, Lpips

TOWERS = {
    "ViT-L/14": {"num_attention_heads": 16, "num_hidden_layers": 24, "hidden_size": 1024,
                 "intermediate_size": 4096, "patch_size": 14, "projection_dim": 768},
    "ViT-B/32": {"num_attention_heads": 12, "num_hidden_layers": 12, "hidden_size": 768,
                 "intermediate_size": 3072, "patch_size": 32, "projection_dim": 512},
}  # fmt: skip


def make_clip(folder: Path, name: str) -> str:
    """A CLIP of that size with random weights and a small text half; returns its place."""
    import transformers

    tower = TOWERS[name]
    text = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1}
    joint = tower["projection_dim"]
    config = transformers.CLIPConfig(
        vision_config=tower, text_config={**text, "projection_dim": joint}, projection_dim=joint
    )
    path = folder / name.replace("/", "-")
    transformers.CLIPModel(config).save_pretrained(path)
    return str(path)


def make_backbone(folder: Path, net: str) -> None:
    """A backbone of LPIPS with random weights."""
    import torch
    import torchvision.models

    builder = {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}[net]
    torch.save(builder(weights=None).state_dict(), folder / BACKBONES[net])


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", pictures=8, gpu=0)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(given.pictures + 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = Home(folder, "cuda:0" if given.gpu else "cpu")
        ways: dict[str, Callable[[], object]] = {}
        for tower in TOWERS:
            feature = ClipImages(make_clip(folder, tower))
            ways[f"CLIP {tower}, a frame"] = partial(feature.encode, feature.load(home), pictures[1:])
        for net in ("vgg", "alex"):
            make_backbone(folder, net)
            ways[f"LPIPS {net}, a pair"] = partial(Lpips(net=net).load(home).to_next, np.stack(pictures))
        for way in ways.values():
            way()
        print(f"model_costs: {given.pictures} at once, on {home.device}")
        for what, seconds in race(given.repeat, ways).items():
            print(f"{seconds / given.pictures:.3f} s: {what}")
    machine()


if __name__ == "__main__":
    main()
