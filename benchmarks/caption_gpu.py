"""Captions per second by Qwen2-VL on a GPU, against its bare generate(): python -m benchmarks.caption_gpu

Random weights of the published geometry (`--billions 2` or 7), clips of 720p, `--bs` at once, a fixed number of
tokens. Beside the whole run is measured the same number of batches through the model's generate() on tensors that lie
on the device already. Target: at least 0.9 of its rate, so that decoding and preparation hide behind it. With `--cpu 1`
a tiny model shows that it works.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _clips
from benchmarks._measure import flags, machine, race, verdict
from captioning.caption_qwen2vl import CaptionQwen2vl
from captioning.models.folder import Loaded
from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import prepare_together
from clipsheet.media import Media
from clipsheet.options import RunOptions
from clipsheet.scorer import Home
from tests import tiny_captioners

#: Of the config.json of Qwen/Qwen2-VL-2B-Instruct and 7B.
TEXT: dict[int, dict[str, Any]] = {
    0: {},
    2: {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    7: {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064},
}  # fmt: skip
VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}
SECTIONS = [16, 24, 24]  # of the rotary embedding


@dataclass(frozen=True)
class Ready(CaptionQwen2vl):
    """The captioner with a model that is loaded already, so that loading is not measured."""

    def load(self, home: Home) -> Loaded:
        return LOADED[0]

    def weights(self, models: Path) -> dict[str, Path]:
        return {}


LOADED: list[Loaded] = []


def build(folder: Path, billions: int, device: str) -> Loaded:
    """Tokenizer and processor of the tiny model, and random weights of a real one's size."""
    import torch
    import transformers

    tiny_captioners.save_qwen(folder)
    small = CaptionQwen2vl(pretrained_model_name_or_path=str(folder)).load(Home(folder))
    if not billions:
        return small
    config = transformers.Qwen2VLConfig.from_pretrained(folder)
    text: Any = config.text_config
    vision: Any = config.vision_config
    for name, value in TEXT[billions].items():
        setattr(text, name, value)
    text.rope_parameters["mrope_section"] = SECTIONS
    config.tie_word_embeddings = TEXT[billions].get("tie_word_embeddings", False)
    for name, value in (VISION | {"hidden_size": text.hidden_size}).items():
        setattr(vision, name, value)
    config.dtype = torch.bfloat16
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model: Any = transformers.Qwen2VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config = small.model.generation_config
    return Loaded(model.eval(), small.words, small.processor, folder, device)


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", clips=128, bs=8, billions=2, tokens=128, workers=0, cpu=0)
    device = "cpu" if given.cpu else "cuda:0"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _clips.make(folder, given.clips, *_clips.HD)
        model = build(folder / "model", 0 if given.cpu else given.billions, device)
        LOADED.append(model)
        model.model.generation_config.eos_token_id = None  # every caption is of the same length
        scorer = Ready(pretrained_model_name_or_path=str(folder / "model"), max_new_tokens=given.tokens)
        runs = iter(range(10**6))
        asks = [
            ask
            for path in paths[: given.bs]
            for ask in prepare_together(Media(str(path)), [(scorer, {"path": str(path)})])[0]
        ]
        prepared = scorer.language_model.inputs(model, asks).to(device)

        def whole() -> None:
            table = folder / f"run{next(runs)}" / "clips.csv"
            table.parent.mkdir()
            options = RunOptions(
                bs=given.bs, num_workers=given.workers, use_cpu=bool(given.cpu), max_failed=1.0
            )
            status = run_scorers([_clips.table(table, paths)], [scorer], options)
            assert status.exit_code == 0, status

        def bare() -> None:
            for _ in range(given.clips // given.bs):
                model.generate(prepared, [given.tokens] * len(asks))

        bare()
        ways: dict[str, Callable[[], object]] = {"the whole run": whole, "generate() alone": bare}
        size = "a tiny model" if given.cpu else f"{given.billions}B"
        print(
            f"caption_gpu: {size}, {given.clips} clips of 720p, {given.bs} at once, {given.tokens} tokens, {device}"
        )
        run, alone = race(given.repeat, ways).values()
        print(f"{given.clips / run:.2f} clips/s, {given.clips * given.tokens / run:.0f} tokens/s")
        verdict("of the rate of generate() alone", alone / run, least=0.9)
    machine()


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from benchmarks.caption_gpu import main as program

    program()
