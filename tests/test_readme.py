"""The manual names every tool, flag and column; the demo does what it says."""

from __future__ import annotations

import re
from functools import cache

import pytest

from captioning.catalog import CAPTIONERS
from clipsheet.errors import CODES
from clipsheet.scorer import every_column
from scoring.catalog import SCORERS
from tests.conftest import REPO, read_table
from tests.test_scene_detect import same_cuts
from tools.make_demo import CUTS

README = (REPO / "README.md").read_text()
PROGRAMS = [
    "pipeline.datasets.convert", "pipeline.datasets.datautil", "pipeline.datasets.deduplication",
    "pipeline.splitting.scene_detect", "pipeline.splitting.cut",
    "pipeline.splitting.audit", "script.pipeline_runner", "tools.make_demo",
    "tools.download_models", "tools.convert", "tools.pth_to_safetensors", "captioning.caption_qwen2vl",
    "captioning.caption_llava",
    "captioning.caption_pllava", "captioning.caption_api", "captioning.enhance",
    *(f"scoring.{name}.inference" for name in SCORERS if (REPO / "scoring" / name).is_dir()),
]  # fmt: skip


def test_every_program_is_in_the_manual_and_every_one_in_it_exists():
    named = set(re.findall(r"python -m ([a-z_.]+)", README)) - {"scoring.", "captioning."}
    in_tables = {name for name in PROGRAMS if name.startswith(("scoring.", "captioning."))}
    assert set(PROGRAMS) - in_tables <= named
    for module in named:
        place = REPO / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for path in [*REPO.glob("pipeline/*/*.py"), *REPO.glob("script/*.py"), *REPO.glob("tools/**/*.py")]:
        if '__name__ == "__main__"' in path.read_text():
            assert ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__main__") in named


@pytest.fixture(scope="module")
def help_of(tool):
    """What a program says to --help, asked once."""
    return cache(lambda module: tool(module, "--help").stdout)


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_flag_is_in_the_manual(module, help_of):
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9_]+)", help_of(module))) - {"help"}
    assert flags or module in ("tools.make_demo", "tools.pth_to_safetensors")
    absent = {flag for flag in flags if not re.search(rf"--{flag}\b", README)}
    assert not absent


@pytest.mark.parametrize("scorer", [*SCORERS.values(), *CAPTIONERS.values()])
def test_every_column_is_in_the_manual(scorer):
    for column in every_column(scorer):
        assert f"`{column.name}`" in README, column.name


def test_the_flags_the_manual_names_exist(help_of):
    known = {"cpu", "num_processes", "nproc_per_node", "local"}  # of launchers and of hf (--local-dir)
    for module in [*PROGRAMS, "scoring.inference"]:
        known |= set(re.findall(r"--([a-z][a-z0-9_.]+)", help_of(module)))
    assert set(re.findall(r"--([a-z][a-z0-9_.]+[a-z0-9_])", README)) <= known


def test_codes_in_errors_are_all_used():
    rooms = ("clipsheet", "pipeline", "scoring", "captioning", "script")
    source = "".join(p.read_text() for room in rooms for p in (REPO / room).rglob("*.py"))
    for code in CODES:
        assert source.count(f'"{code}"') >= 2, code


@pytest.fixture(scope="module")
def demo(tmp_path_factory, tool):
    root = tmp_path_factory.mktemp("demo")
    tool("tools.make_demo", root / "videos")
    done = tool(
        "script.pipeline_runner", REPO / "config" / "quickstart.yaml", "--set", f"paths.ROOT_VIDEO={root}/videos",
        f"paths.ROOT_CLIPS={root}/clips", f"paths.ROOT_META={root}/meta", timeout=600,
    )  # fmt: skip
    return root, done.stdout


def test_the_demo_finds_the_cuts_that_were_made(demo):
    root, _ = demo
    clips = read_table(root / "meta" / "meta_videos_info_fmin1_timestamp.csv")
    found = {row["relpath"]: re.findall(r'\["00:00:([\d.]+)"', row["timestamp"])[1:] for row in clips}
    assert {name: tuple(map(float, starts)) for name, starts in found.items()} == CUTS


def test_fewer_frames_give_the_cuts_of_pyscenedetect_on_the_demo(demo):
    assert same_cuts(sorted((demo[0] / "videos").iterdir())) > 5


def test_the_demo_keeps_and_drops_what_it_was_made_for(demo):
    root, said = demo
    meta = root / "meta"
    kept = {row["relpath"] for row in read_table(meta / "meta.csv")}
    assert {name.split("_scene")[0] for name in kept} == {"harbour", "cinema"}
    reasons = {}
    for path in meta.glob("*_dropped.csv"):
        for row in read_table(path):
            reasons[row["relpath"].split("_scene")[0].split(".")[0]] = row["reason"].split()[0]
    assert reasons == {
        "harbour_small": "duplicate", "bulletin": "total_text_percentage", "slides": "motion",
        "night": "motion", "defocused": "sharpness", "broken": "num_frames:",
    }  # fmt: skip
    assert "quality_filtering" in said
