"""The configs with models, end to end over real videos, with tiny random models in the real ones' places.

Over every tenth video; ALL_VIDEOS=1 takes all. The heads of ViT-L/14 are the published ones.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny
from tests.conftest import REPO, read_table
from tools.convert.formats import convert

SCORING = "pipeline_steps.scoring_filtering"
CAPTIONING = "pipeline_steps.captioning"
#: Thresholds for scores that mean something; those of random models do not.
OPEN = (
    f"{SCORING}.option_filtering.run=true", f"{SCORING}.option_filtering.matchmin=-100.0",
    f"{SCORING}.lpips_filtering.lpipsmin=0.0", f"{SCORING}.aesthetic_filtering.aesmin=-100.0",
    f"{SCORING}.nsfw_scoring.threshold=1.0", f"{CAPTIONING}.caption_filtering.matchmin=-100.0",
)  # fmt: skip
CAPTIONS = (
    f"{CAPTIONING}.qwen2vl_caption.run=true", f"{CAPTIONING}.qwen2vl_caption.max_new_tokens=12",
    f"{CAPTIONING}.clean_caption.run=true", f"{CAPTIONING}.matching_with_captions.run=true",
    f"{CAPTIONING}.caption_filtering.run=true",
)  # fmt: skip
COLUMNS = (
    "path", "id", "relpath", "source_path", "clip_start", "clip_end", "num_frames", "fps", "match_animal",
    "num_boxes", "max_single_percentage", "total_text_percentage", "motion", "sharpness", "frozen", "lpips",
    "aes", "nsfw", "text", "match",
)  # fmt: skip
VIT_L, VIT_B, NSFW_OF_B = "clip-vit-large-patch14", "clip-vit-base-patch32", "nsfw.safetensors"
CONFIGS = {
    "config.yaml": (VIT_L, "vgg", ()),
    "config.json": (VIT_L, "vgg", ()),
    "cpu.yaml": (VIT_B, "alex", (f"{SCORING}.nsfw_scoring.head={NSFW_OF_B}",)),
}


@pytest.fixture(scope="module")
def videos(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real videos."""
    folder = tmp_path_factory.mktemp("real") / "videos"
    folder.mkdir()
    step = 1 if os.environ.get("ALL_VIDEOS") else 10
    for path in sorted((media / "videos").iterdir())[::step]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of weights without sums: random models have the published ones' names."""
    models = yaml.safe_load((REPO / "tools" / "weights.yaml").read_text("utf-8"))
    for model in models:
        model["files"] = [{**file, "bytes": None, "sha256": None} for file in model["files"]]
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(models), "utf-8")
    monkeypatch.setenv("CLIPSHEET_WEIGHTS", str(tmp_path / "weights.yaml"))


def weights(folder: Path, media: Path, clip: str, net: str) -> Path:
    """What the config names: random models of tiny widths, and the heads."""
    folder.mkdir()
    tiny.save_backbone(folder, net)
    tiny.tiny_captioners.save_qwen(folder / "Qwen2-VL-7B-Instruct")
    if clip == VIT_L:
        tiny.save_hugging_face(tiny.reference(joint=768), folder / clip)
        for path in (media / "weights").iterdir():
            shutil.copy(path, folder)
        convert(folder / "clip_autokeras_binary_nsfw.zip")
    else:
        tiny.save_hugging_face(tiny.reference(joint=512), folder / clip)
        tiny.torch.save(tiny.torch.nn.Linear(512, 1).state_dict(), folder / "sa_0_4_vit_b_32_linear.pth")
        tiny.nsfw_state_saved(folder / NSFW_OF_B)
    return folder


def state(root: Path) -> dict[str, Any]:
    """The bytes of a run's tables, and when its clips, verdicts and vectors were written."""
    tables = {str(path): path.read_bytes() for path in root.rglob("*.csv")}
    made = [path for ending in ("mp4", "jsonl", "vectors", "keys") for path in root.rglob(f"*.{ending}")]
    assert len(made) > 10
    return tables | {str(path): path.stat().st_mtime_ns for path in made}


@pytest.mark.parametrize("name", CONFIGS if os.environ.get("ALL_VIDEOS") else ["config.yaml"])
def test_a_config_with_models_over_real_videos(
    name: str, videos: Path, media: Path, tmp_path: Path, tool: Any, own_table: None
) -> None:
    clip, net, changes = CONFIGS[name]
    models = weights(tmp_path / "weights", media, clip, net)
    root = tmp_path / "run"
    command = (
        "script.pipeline_runner", REPO / "config" / name, "--set", f"paths.ROOT_VIDEO={videos}",
        f"paths.ROOT_CLIPS={root / 'clips'}", f"paths.ROOT_META={root / 'meta'}",
        f"options.pretrained_models={models}", "options.num_workers=2", "options.max_failed=1.0",
        f"{SCORING}.option_matching.run=true", *OPEN, *CAPTIONS, *changes,
    )  # fmt: skip
    first = tool(*command, timeout=3600)
    print(first.stdout)
    rows = read_table(root / "meta" / "meta.csv")
    assert rows
    for row in rows:
        assert [c for c in COLUMNS if not row[c]] == []
        assert not row["error"]
    before = state(root)
    tool(*command)
    assert state(root) == before
