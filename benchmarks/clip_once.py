"""One pass of CLIP for four scores against a pass for each: python -m benchmarks.clip_once

`aes`, `nsfw`, `match` and one option over clips of 720p, from CLIP ViT-L/14 with random weights. Peer:
the same scorers one after another, each decoding and encoding for itself, as the ancestors do: the
same reader, the same model, a folder of its own each. Target: at least 3.5 times as fast. Then the
captions change and `matching` runs again, against its first run; target: at least 20 times as fast.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import files
from pathlib import Path

import pandas as pd

from benchmarks import _clips
from benchmarks._measure import flags, machine, race, verdict
from clipsheet import tables
from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from clipsheet.scorer import Scorer
from scoring.aesthetic.scorer import Aesthetic
from scoring.matching.scorer import Matching, OptionMatching
from scoring.nsfw.scorer import Nsfw
from tools.convert.openai_clip import VOCABULARY, openai_tokenizer

CLIP = "random-vit-l14"  # a name under which nothing is published


def make_models(folder: Path) -> None:
    """ViT-L/14 as Hugging Face has it, and both heads; random weights take as long as others."""
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tower = {"num_attention_heads": 16, "num_hidden_layers": 24, "hidden_size": 1024, "patch_size": 14}
    text = {"num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
    config = transformers.CLIPConfig(
        vision_config={**tower, "intermediate_size": 4096, "projection_dim": 768},
        text_config={**text, "projection_dim": 768},
        projection_dim=768,
    )
    transformers.CLIPModel(config).save_pretrained(folder / CLIP)
    [vocabulary] = [f for f in files("clip-anytorch") or [] if f.name == VOCABULARY]
    openai_tokenizer(Path(str(vocabulary.locate()))).save_pretrained(folder / CLIP)
    sides = {"layers.0": (1024, 768), "layers.2": (128, 1024), "layers.4": (64, 128), "layers.6": (16, 64)}
    for name, shapes, more in (
        ("aes", sides | {"layers.7": (1, 16)}, {}),
        (
            "nsfw",
            {"0": (64, 768), "2": (512, 64), "4": (256, 512), "6": (1, 256)},
            {"mean": torch.zeros(768), "variance": torch.ones(768)},
        ),
    ):
        state = {f"{layer}.weight": torch.randn(shape) / 30 for layer, shape in shapes.items()}
        state |= {f"{layer}.bias": torch.zeros(shape[0]) for layer, shape in shapes.items()} | more
        save_file(state, folder / f"{name}.safetensors")


def scorers() -> list[Scorer]:
    """The four."""
    heads = [Aesthetic(head="aes.safetensors", clip=CLIP), Nsfw(head="nsfw.safetensors", clip=CLIP)]
    return [*heads, Matching(clip=CLIP), OptionMatching(("animal",), clip=CLIP)]


class Work:
    """Clips, models, and the runs over them."""

    def __init__(self, folder: Path, clips: int) -> None:
        self._folder = folder
        self._paths = _clips.make(folder, clips, *_clips.HD)
        self._models = folder / "models"
        self._runs = 0
        make_models(self._models)

    def table(self, words: str) -> Path:
        """A table in a folder of its own, that nobody has scored."""
        self._runs += 1
        path = self._folder / f"run{self._runs}" / "clips.csv"
        path.parent.mkdir()
        self.caption(path, words)
        return path

    def caption(self, path: Path, words: str) -> None:
        """Write a table with a caption for every clip."""
        texts = [f"{words}, number {number} of them" for number in range(len(self._paths))]
        columns = {"path": [str(p) for p in self._paths], "text": texts}
        tables.write(pd.DataFrame(columns, dtype=tables.TEXT), path)

    def score(self, table: Path, which: list[Scorer]) -> None:
        """Run some scorers over a table."""
        status = run_scorers(
            [str(table)], which, RunOptions(use_cpu=True, pretrained_models=str(self._models))
        )
        assert status.exit_code == 0, status

    def each(self) -> None:
        """One after another, none knowing of the others."""
        for scorer in scorers():
            self.score(self.table("a dog on a beach"), [scorer])


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Run all ways and print their ratios."""
    work = Work(folder, given.clips)
    scored = work.table("a dog on a beach")
    work.score(scored, [Matching(clip=CLIP)])
    numbers = iter(range(1_000_000))

    def again() -> None:
        work.caption(scored, f"other words {next(numbers)}")
        work.score(scored, [Matching(clip=CLIP)])

    seconds = race(
        given.repeat,
        {
            "four scores in one run": lambda: work.score(work.table("a dog on a beach"), scorers()),
            "one after another": work.each,
            "matching, the first run": lambda: work.score(work.table("a dog"), [Matching(clip=CLIP)]),
            "matching, other captions": again,
        },
    )
    together, each, first, later = seconds.values()
    verdict("times as fast in one run", each / together, least=3.5)
    verdict("times as fast with other captions", first / later, least=20)
    print(f"  {first / given.clips / 3:.2f} s per frame, start and captions included")


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", clips=12)
    print(f"clip_once: {given.clips} clips, ViT-L/14, 3 frames each, on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))
    machine()


if __name__ == "__main__":
    main()
