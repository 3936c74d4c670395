"""Clips per second through CLIP ViT-L/14 on a GPU, and what bounds them: python -m benchmarks.clip_gpu

`aes`, `nsfw` and `match` over clips of 720p, three frames each, random weights, 16-bit numbers. Beside the
whole run are measured: decoding and preparing the same frames with nothing behind it; the model alone on
prepared pictures; and the floor, the floating point operations of these frames over the rate at which
the device multiplies large matrices. Whatever of decoding and model takes longer should be the bound.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _clips
from benchmarks._measure import flags, machine, race
from benchmarks.clip_once import CLIP, make_models
from clipsheet.engine.pool import Pool
from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import SampleJob, Task
from clipsheet.options import RunOptions
from clipsheet.scorer import Home, frame_positions
from scoring.aesthetic.scorer import Aesthetic
from scoring.clip.images import ClipImages
from scoring.matching.scorer import Matching
from scoring.nsfw.scorer import Nsfw

POSITIONS = tuple(frame_positions(3))
SIDE = 4096  # of the matrices that tell the device's rate


def flops_per_second(device: str, dtype: str) -> float:
    """At which the device multiplies large matrices."""
    import torch

    one = torch.randn(SIDE, SIDE, device=device, dtype=getattr(torch, dtype))
    one @ one
    times = 10 if device != "cpu" else 1
    waited(device)
    started = time.perf_counter()
    for _ in range(times):
        one @ one
    waited(device)
    return times * 2 * SIDE**3 / (time.perf_counter() - started)


def flops_per_picture() -> int:
    """Of ViT-L/14, counted by PyTorch."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    tower: Any = {"num_attention_heads": 16, "num_hidden_layers": 24, "hidden_size": 1024, "patch_size": 14}
    config = transformers.CLIPVisionConfig(**tower, intermediate_size=4096, projection_dim=768)
    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(config)
        with FlopCounterMode(display=False) as counter:
            model(pixel_values=torch.empty(1, 3, 224, 224))
    return int(counter.get_total_flops())


def waited(device: str) -> None:
    """The device has done what it was given."""
    import torch

    if device != "cpu":
        torch.accelerator.synchronize()


def decode(job: SampleJob, paths: list[Path], workers: int) -> None:
    """Decode and prepare the frames in worker processes, and drop them."""
    pool = Pool(job, workers, seconds=60, memory_bytes=4 << 30, heartbeat=lambda: None)
    try:
        tasks = [(n, Task({"path": str(p)}, (), ((0, POSITIONS),))) for n, p in enumerate(paths)]
        for _ in pool.map(iter(tasks)):
            pass
    finally:
        pool.close()


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", clips=512, bs=32, workers=0, cpu=0)
    device, dtype = ("cpu", "float32") if given.cpu else ("cuda:0", "bfloat16")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _clips.make(folder, given.clips, *_clips.HD)
        make_models(folder / "models")
        feature = ClipImages(CLIP, dtype)
        preparation = feature.preparation(folder / "models")
        noise = np.random.default_rng(0).integers(0, 256, (given.bs * 3, 224, 224, 3), np.uint8)
        model = feature.load(Home(folder / "models", device))
        runs = iter(range(10**6))

        def whole() -> None:
            table = folder / f"run{next(runs)}" / "clips.csv"
            table.parent.mkdir()
            table.write_text("path,text\n" + "".join(f"{p},a dog on a beach\n" for p in paths))
            options = RunOptions(
                bs=given.bs, num_workers=given.workers, use_cpu=bool(given.cpu),
                pretrained_models=str(folder / "models"),
            )  # fmt: skip
            heads = [
                Aesthetic(head="aes.safetensors", clip=CLIP, dtype=dtype),
                Nsfw(head="nsfw.safetensors", clip=CLIP, dtype=dtype),
            ]
            status = run_scorers([str(table)], [*heads, Matching(clip=CLIP, dtype=dtype)], options)
            assert status.exit_code == 0, status

        def alone() -> None:
            for _ in range(-(-given.clips // given.bs)):
                feature.encode(model, list(noise))
            waited(device)

        job = SampleJob((), (preparation,))
        ways: dict[str, Callable[[], object]] = {
            "the whole run": whole,
            "decoding alone": partial(decode, job, paths, given.workers or os.cpu_count() or 1),
            "the model alone": alone,
        }
        whole()
        alone()
        print(f"clip_gpu: {given.clips} clips of 720p, 3 frames each, {device}, {dtype}")
        run, decoding, computing = race(given.repeat, ways).values()
        rate = flops_per_second(device, dtype)
        floor = given.clips * 3 * flops_per_picture() / rate
        print(f"{given.clips / run:.1f} clips/s; {computing / run:.2f} of the time is the model's")
        print(f"{run / max(decoding, computing):.2f} times the longer of decoding and model")
        print(f"{run / floor:.1f} times the floor, {floor:.2f} s at {rate / 1e12:.1f} TFLOP/s")
    machine()


if __name__ == "__main__":
    main()
