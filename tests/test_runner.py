"""The pipeline from a user's side: a plan that is checked, tables in between, edits, kills, a funnel."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clipsheet import config, places
from clipsheet.engine import launch
from clipsheet.errors import CallError, ConfigError
from clipsheet.outcome import Status
from script.pipeline_runner import carry_out, funnel
from script.plan import part, plan
from tests import footage
from tests.chat_server import MODEL, ChatServer, what_it_saw
from tests.conftest import REPO, read_table, write_table
from tools.make_demo import Scene, frames

QUICKSTART = REPO / "config" / "quickstart.yaml"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of two shots, a smaller copy, a still one, a text and half a video."""
    folder = tmp_path_factory.mktemp("raw") / "videos"
    first = footage.encode(folder / "first.mp4", scenes(Scene(3, 3), Scene(5, 3)))
    footage.encode(folder / "sub folder" / "second.mkv", scenes(Scene(8, 2.4), Scene(9, 2.4)))
    footage.ffmpeg_run("-i", str(first), "-vf", "scale=240:180", str(folder / "smaller.mp4"))
    footage.encode(folder / "still.mp4", [footage.picture(3)] * 60)
    (folder / "half.mp4").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    (folder / "notes.txt").write_text("not a video")
    return folder


def scenes(*given: Scene) -> Iterator[np.ndarray]:
    for scene in given:
        yield from (cv2.resize(picture, (320, 180)) for picture in frames(scene))


def settings(videos: Path, root: Path, *changes: str) -> list[str]:
    return [
        f"paths.ROOT_VIDEO={videos}", f"paths.ROOT_CLIPS={root / 'clips'}", f"paths.ROOT_META={root / 'meta'}",
        "options.num_workers=2", *changes,
    ]  # fmt: skip


def program(videos: Path, root: Path) -> list[str]:
    """The quickstart as a user starts it."""
    return [sys.executable, "-m", "script.pipeline_runner", str(QUICKSTART), "--set", *settings(videos, root)]


def run(videos: Path, root: Path, *changes: str, first: str = "", last: str = "") -> Status:
    whole = plan(config.load(QUICKSTART, settings(videos, root, *changes)))
    chosen = part(whole, first, last)
    return carry_out(chosen, whole=chosen.outputs[-1] == whole.outputs[-1])


def tables(root: Path) -> dict[str, bytes]:
    """The tables of a run with the run's own folders taken out of them."""
    return {
        path.name: path.read_bytes().replace(os.fsencode(root), b"ROOT")
        for path in sorted((root / "meta").glob("*.csv"))
    }


@pytest.fixture(scope="module")
def finished(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("calm")
    assert run(videos, root).exit_code == 0
    return root


@pytest.fixture(scope="module")
def backup(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("backup") / "run"))


@pytest.fixture
def spoilt(finished: Path, backup: Path) -> Iterator[Path]:
    """The finished run, to be spoilt: put back afterwards where it was, as it was."""
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(backup, finished)


# --- a run -------------------------------------------------------------------------------------


def test_raw_videos_become_a_filtered_table_of_clips(finished, videos):
    meta = finished / "meta"
    assert {row["relpath"] for row in read_table(meta / "meta_videos.csv")} == {
        "first.mp4", "half.mp4", "smaller.mp4", "still.mp4", "sub folder/second.mkv",
    }  # fmt: skip
    clips = {row["relpath"]: row for row in read_table(meta / "meta_clips.csv")}
    assert set(clips) == {
        "first_scene-0.mp4", "first_scene-1.mp4", "smaller_scene-0.mp4", "smaller_scene-1.mp4",
        "still_scene-0.mp4", "sub folder/second_scene-0.mp4", "sub folder/second_scene-1.mp4",
    }  # fmt: skip
    second = clips["sub folder/second_scene-1.mp4"]
    assert (float(second["clip_start"]), float(second["clip_end"])) == pytest.approx((2.4, 4.8), abs=0.001)
    assert second["source_path"] == str(videos / "sub folder" / "second.mkv")
    kept = {row["relpath"] for row in read_table(meta / "meta.csv")}
    assert kept == {
        "first_scene-0.mp4", "first_scene-1.mp4",
        "sub folder/second_scene-0.mp4", "sub folder/second_scene-1.mp4",
    }  # fmt: skip
    reasons = [
        (row["relpath"], row["reason"]) for path in meta.glob("*_dropped.csv") for row in read_table(path)
    ]
    assert ("half.mp4", "num_frames: corrupt") in reasons
    assert any(path == "still_scene-0.mp4" and why.startswith("motion 0.0") for path, why in reasons)
    twins = read_table(meta / "meta_clips_info_fmin1_dedup_dropped.csv")
    assert {Path(row["path"]).name: Path(row["duplicate_of"]).name for row in twins} == {
        f"smaller_scene-{n}.mp4": f"first_scene-{n}.mp4" for n in (0, 1)
    }


def test_run_json_says_what_each_stage_did(finished):
    run_json = json.loads((finished / "meta" / "run.json").read_text())
    stages = {entry["stage"]: entry for entry in run_json["stages"] if entry["stage"] != "shared_pass"}
    assert list(stages) == [
        "convert_dataset", "remove_broken_videos", "scene_detection", "cut_videos", "remove_broken_clips",
        "deduplication", "ocr_scoring", "ocr_filtering", "motion_scoring", "motion_filtering",
        "quality_scoring", "quality_filtering",
    ]  # fmt: skip
    for earlier, later in zip(list(stages.values()), list(stages.values())[1:], strict=False):
        assert earlier["output"] == later["input"]
        assert earlier["rows_out"] == later["rows_in"] == len(read_table(Path(earlier["output"])))
    assert stages["remove_broken_videos"]["failed"] == {"info: corrupt": 1}
    assert stages["motion_filtering"]["dropped"] == {"motion < 0.2": 1}
    assert stages["motion_filtering"]["parameters"]["motionmin"] == 0.2
    assert stages["cut_videos"]["hours_out"] == pytest.approx((2 * 6 + 4.8 + 2.4) / 3600, rel=0.01)
    assert run_json["versions"]["av"]
    assert any("motion v1" in text for text in stages["motion_scoring"]["made_by"])


def test_the_funnel_shows_rows_and_what_each_threshold_cost(finished):
    done = json.loads((finished / "meta" / "run.json").read_text())["stages"]
    lines = funnel(done).splitlines()
    assert lines[0].split()[:3] == ["stage", "rows", "in"]
    assert any("motion_filtering" in line and "1 motion < 0.2" in line for line in lines)
    assert any("remove_broken_videos" in line and "1 info: corrupt" in line for line in lines)


def test_a_second_run_does_no_work_and_changes_no_byte(spoilt, videos):
    before = tables(spoilt)
    clips = {path: path.stat().st_mtime_ns for path in (spoilt / "clips").rglob("*.mp4")}
    cells = {path: path.stat().st_size for path in spoilt.rglob("*.jsonl")}
    assert run(videos, spoilt).exit_code == 0
    assert tables(spoilt) == before
    assert {path: path.stat().st_mtime_ns for path in (spoilt / "clips").rglob("*.mp4")} == clips
    assert {path: path.stat().st_size for path in spoilt.rglob("*.jsonl")} == cells


def test_a_second_run_reads_no_table_and_replaces_none(spoilt, videos, monkeypatch):
    read: list[str] = []
    opened = places.reader
    monkeypatch.setattr(places, "reader", lambda path: (read.append(os.path.basename(path)), opened(path))[1])
    before = {path: path.stat().st_ino for path in spoilt.rglob("*.csv")}
    run(videos, spoilt)  # which may be the first over a copy of the tables
    read.clear()
    run(videos, spoilt)
    assert not [name for name in read if name.endswith(".csv")]
    assert {path: path.stat().st_ino for path in spoilt.rglob("*.csv")} == before


def test_a_clip_that_is_gone_or_a_video_that_changed_is_no_nothing_to_do(spoilt, videos):
    clip = next((spoilt / "clips").rglob("*.mp4"))
    clip.unlink()
    run(videos, spoilt)
    assert clip.is_file()


def test_without_sharing_the_pass_the_tables_are_the_same(finished, videos, tmp_path):
    assert run(videos, tmp_path, "options.share_pass=false").exit_code == 0
    assert tables(tmp_path) == tables(finished)


def test_two_processes_give_the_tables_of_one(finished, videos, tmp_path):
    assert run(videos, tmp_path, "options.processes=2", "options.num_workers=1").exit_code == 0
    assert tables(tmp_path) == tables(finished)


def test_kill_9_at_random_moments_ends_in_the_same_tables(finished, videos, tmp_path):
    command = program(videos, tmp_path)
    dice = random.Random(5)
    for _ in range(3):
        process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(2, 9))
        process.kill()
        process.wait()
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    assert tables(tmp_path) == tables(finished)
    assert not list(tmp_path.rglob("*.part"))


# --- hands on the tables -----------------------------------------------------------------------


def edited(path: Path, rows: list[dict[str, str]]) -> None:
    """Save a table as a spreadsheet does: BOM, CRLF."""
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)


def test_a_table_edited_between_two_stages_is_what_the_rest_works_on(spoilt, videos, finished):
    table = spoilt / "meta" / "meta_clips.csv"
    moved = spoilt / "clips" / "moved.mp4"
    shutil.move(spoilt / "clips" / "first_scene-1.mp4", moved)
    rows = sorted(read_table(table), key=lambda row: row["path"], reverse=True)
    rows = [{"rating": "007", **row} for row in rows if "second_scene-0" not in row["relpath"]]
    for row in rows:
        if row["relpath"] == "first_scene-1.mp4":
            row["path"] = str(moved)
    edited(table, rows)
    assert run(videos, spoilt).exit_code == 0
    final = {row["relpath"]: row for row in read_table(spoilt / "meta" / "meta.csv")}
    untouched = {row["relpath"]: row for row in read_table(finished / "meta" / "meta.csv")}
    assert list(final) == ["sub folder/second_scene-1.mp4", "first_scene-1.mp4", "first_scene-0.mp4"]
    assert {row["rating"] for row in final.values()} == {"007"}
    assert final["first_scene-1.mp4"]["path"] == str(moved)
    for name, row in final.items():
        for column in ("motion", "sharpness", "num_frames", "ocr"):
            assert row[column] == untouched[name][column]


def test_an_edited_table_whose_stage_changed_is_put_aside_and_made_again(spoilt, videos):
    table = spoilt / "meta" / "meta_clips.csv"
    rows = read_table(table)
    edited(table, rows[:2])
    run(videos, spoilt, "meta_steps.split_video.cut_videos.min_seconds=2.5")
    assert read_table(spoilt / "meta" / "meta_clips.edited-1.csv")[0]["id"] == rows[0]["id"]
    assert {row["relpath"] for row in read_table(table)} == {
        "first_scene-0.mp4", "first_scene-1.mp4", "smaller_scene-0.mp4", "smaller_scene-1.mp4",
    }  # fmt: skip


def test_an_edited_final_table_is_kept_until_what_it_was_made_from_changes(spoilt, videos):
    final = spoilt / "meta" / "meta.csv"
    edited(final, read_table(final)[:1])
    run(videos, spoilt)
    assert len(read_table(final)) == 1
    run(videos, spoilt, "pipeline_steps.scoring_filtering.motion_filtering.motionmin=1000")
    assert read_table(final) == []
    assert len(read_table(spoilt / "meta" / "meta.edited-1.csv")) == 1


def test_a_new_threshold_gives_a_table_of_its_own_without_new_scores(spoilt, videos):
    cells = {path: path.stat().st_size for path in spoilt.rglob("*.jsonl")}
    status = run(videos, spoilt, "pipeline_steps.scoring_filtering.motion_filtering.motionmin=1000")
    assert status.rows_out == 0
    assert {path: path.stat().st_size for path in spoilt.rglob("*.jsonl")} == cells
    assert (
        spoilt / "meta" / "meta_clips_info_fmin1_dedup_ocr_ocrtotalmax0.15_motion_motionmin1000.csv"
    ).exists()
    assert read_table(spoilt / "meta" / "meta.csv") == []


def test_a_new_video_is_the_only_one_that_is_worked_on(spoilt, videos):
    clips = {path: path.stat().st_mtime_ns for path in (spoilt / "clips").rglob("*.mp4")}
    third = footage.encode(videos / "third.mp4", scenes(Scene(12, 3)))
    try:
        run(videos, spoilt)
    finally:
        third.unlink()
    assert {p: p.stat().st_mtime_ns for p in (spoilt / "clips").rglob("*.mp4") if p in clips} == clips
    assert "third_scene-0.mp4" in {row["relpath"] for row in read_table(spoilt / "meta" / "meta.csv")}


def test_parts_of_the_pipeline(spoilt, videos):
    assert run(videos, spoilt, first="motion_scoring", last="motion_filtering").rows_out == 4
    assert run(videos, spoilt, first="quality_scoring", last="quality_scoring").rows_out == 4
    with pytest.raises(ConfigError, match="did you mean `motion_scoring`"):
        run(videos, spoilt, first="motoin_scoring")


def test_a_part_without_its_input_says_so(videos, tmp_path):
    with pytest.raises(CallError, match=r"meta_clips.*not there"):
        run(videos, tmp_path, first="deduplication")


# --- plans -------------------------------------------------------------------------------------


def planned(videos: Path, root: Path, *changes: str) -> Any:
    return plan(config.load(QUICKSTART, settings(videos, root, *changes)))


SCORING = "pipeline_steps.scoring_filtering"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("meta_step.x=1", "did you mean `meta_steps`"),
        (f"{SCORING}.motion_filtring.motionmin=1", "did you mean `motion_filtering`"),
        (f"{SCORING}.motion_filtering.motionmn=1", "did you mean `motionmin`"),
        (f"{SCORING}.motion_filtering.motionmin=high", "motionmin"),
        (f"{SCORING}.motion_filtering.motionmin=1e-3", "1.0e-3"),
        (f"{SCORING}.motion_filtering.motionmin=.nan", "motionmin"),
        (f"{SCORING}.ocr_filtering.ocr_total_max=1.5", "ocr_total_max"),
        (f"{SCORING}.motion_scoring.run=no thanks", "run"),
        ("options.bs=0", "options.bs"),
        (f"{SCORING}.ocr_scoring.batch_size=0", "ocr_scoring.batch_size"),
        (f"{SCORING}.ocr_scoring.batch_size=a few", "ocr_scoring.batch_size"),
        (f"{SCORING}.ocr_scoring.worker_num=1.5", "ocr_scoring.worker_num"),
        ("meta_steps.split_video.scene_detection.detector=magic", "detector.*adaptive"),
        ("meta_steps.split_video.cut_videos.min_seconds=30", "min_seconds"),
        ("pipeline_steps.deduplication.threshold=-1", "threshold"),
    ],
)
def test_a_wrong_config_is_one_sentence_that_names_the_key(videos, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as raised:
        planned(videos, tmp_path, change)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_clips_or_tables_inside_the_scanned_folder_are_refused(videos, tmp_path):
    with pytest.raises(ConfigError, match="ROOT_CLIPS"):
        planned(videos, tmp_path, f"paths.ROOT_CLIPS={videos / 'clips'}")


def test_the_ancestors_keys_are_accepted(videos, tmp_path):
    off = {"run": False}
    scoring = {
        "run": True,
        "option_matching": {"run": False, "num_frames": 1, "batch_size": 64, "option": "animal"},
        "option_filtering": {"run": True, "matchmin": 20.0},
        "ocr_scoring": {
            "run": True, "num_boxes": True, "max_single_percentage": True, "total_text_percentage": True,
            "worker_num": 2,
        },
        "ocr_filtering": {"run": True, "ocr_box_max": None, "ocr_single_max": None, "ocr_total_max": 0.2},
        "lpips_scoring": off, "aesthetic_scoring": off, "nsfw_scoring": off,
    }  # fmt: skip
    given = {
        "paths": {
            "ROOT_VIDEO": str(videos), "ROOT_CLIPS": str(tmp_path / "clips"),
            "ROOT_META": str(tmp_path / "meta"), "PYTHONPATH": "$(pwd)",
        },
        "meta_steps": {
            "run": True,
            "convert_dataset": {"run": True, "output_meta_csv": "${paths.ROOT_META}/meta.csv"},
            "remove_broken_videos": {"run": True, "input_meta_csv": "${paths.ROOT_META}/meta.csv", "fmin": 1},
            "split_video": {
                "run": True,
                "scene_detection": {"run": True, "detector": "adaptive", "max_cutscene_len": None},
                "cut_videos": {
                    "run": True, "min_seconds": 2, "max_seconds": 30, "target_fps": None,
                    "shorter_size": None, "drop_invalid_timestamps": True,
                },
                "create_clips_meta": {"run": True, "output_meta_csv": "${paths.ROOT_META}/meta_clips.csv"},
                "remove_broken_clips": {"run": True, "fmin": 1},
            },
        },
        "pipeline_steps": {
            "run": True, "input_meta_csv": "${paths.ROOT_META}/meta_clips_info_fmin1.csv",
            "deduplication": {"run": True, "hash": "phash", "threshold": 15},
            "scoring_filtering": scoring,
        },
        "captioning": {"run": False, "qwen2vl_caption": {"run": True, "question": "?", "worker_num": 2}},
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(given))
    wanted = plan(config.load(path))
    assert [stage.name for stage in wanted.stages] == [
        "convert_dataset", "remove_broken_videos", "scene_detection", "cut_videos", "remove_broken_clips",
        "deduplication", "ocr_scoring", "ocr_filtering",
    ]  # fmt: skip
    assert wanted.outputs[-1].name == "meta_clips_info_fmin1_dedup_ocr_ocrtotalmax0.2.csv"


def test_a_filter_does_not_run_without_its_scores_and_says_so(videos, tmp_path):
    wanted = planned(videos, tmp_path, f"{SCORING}.motion_scoring.run=false")
    assert "motion_filtering" not in [stage.name for stage in wanted.stages]
    assert wanted.skipped == ["motion_filtering: motion_scoring does not run"]


def test_stages_may_be_given_in_another_order(videos, tmp_path):
    text = f"""
paths: {{ROOT_VIDEO: {videos}, ROOT_CLIPS: {tmp_path}/clips, ROOT_META: {tmp_path}/meta}}
stages:
  - convert_dataset
  - motion_scoring: {{flow_pairs: 2}}
  - remove_broken_videos
  - filtering: {{filter: "motion > 0.1 and num_frames > 10", missing: keep}}
"""
    (tmp_path / "c.yaml").write_text(text)
    wanted = plan(config.load(tmp_path / "c.yaml"))
    assert [stage.name for stage in wanted.stages] == [
        "convert_dataset", "motion_scoring", "remove_broken_videos", "filtering",
    ]  # fmt: skip
    status = carry_out(wanted, whole=True)
    assert status.exit_code == 0
    assert {row["relpath"] for row in read_table(tmp_path / "meta" / "meta.csv")} == {
        "first.mp4", "smaller.mp4", "sub folder/second.mkv",
    }  # fmt: skip


def captioning_plan(videos: Path, root: Path, captioning: str) -> Any:
    (root / "c.yaml").write_text(
        f"""
paths: {{ROOT_VIDEO: {videos}, ROOT_CLIPS: {root}/clips, ROOT_META: {root}/meta}}
meta_steps:
  convert_dataset: {{}}
  remove_broken_videos: {{}}
pipeline_steps:
  scoring_filtering:
    motion_scoring: {{}}
    motion_filtering: {{motionmin: 0.1}}
  captioning: {captioning}
"""
    )
    return plan(config.load(root / "c.yaml"))


def test_captions_are_made_of_what_the_filters_left_cleaned_and_kept(videos, tmp_path):
    said = {
        "first": "The video shows A <b>Dog</b>.",
        "smaller": "https://example.com/a",
        "second": "A cat, and a DOG.",
    }
    with ChatServer(answer=lambda body: said[what_it_saw(body).split()[-1]]) as server:
        captioner = f"{{api_base: {server.base}, model: {MODEL}, question: 'Which is {{id}}'}}"
        wanted = captioning_plan(videos, tmp_path, f"{{api_caption: {captioner}, clean_caption: {{}}}}")
        assert carry_out(wanted, whole=True).exit_code == 0
        assert sum(server.came.values()) == 3, "neither the still one nor the broken one is captioned"
        assert carry_out(wanted, whole=True).exit_code == 0
        assert sum(server.came.values()) == 3
    assert wanted.outputs[-2].name == "meta_videos_info_fmin1_motion_motionmin0.1_caption_api.csv"
    assert wanted.outputs[-1].name == f"{wanted.outputs[-2].stem}_cleaned.csv"
    made = {Path(row["path"]).stem: row["text"] for row in read_table(tmp_path / "meta" / "meta.csv")}
    assert made == {"first": "a dog.", "second": "a cat, and a dog."}


@pytest.mark.parametrize(
    ("captioning", "message"),
    [
        ("{qwen2vl_caption: {}, llava_caption: {}}", "qwen2vl_caption and llava_caption would both write"),
        ("{qwen2vl_caption: {prompt: defualt}}", "did you mean `default`"),
        ("{qwen2vl_caption: {question: 'at {fsp}'}}", "reads the column `fsp`"),
        ("{qwen2vl_caption: {fps: 0}}", "qwen2vl_caption.fps"),
        ("{api_caption: {lengths: [short, tiny]}}", "tiny"),
        ("{api_caption: {lengths: short}, matching_with_captions: {}}", "reads the column `text`"),
        ("{pllava_caption: {}, clean_caption: {aesmin: 4}}", "clean_caption.aesmin"),
    ],
)
def test_captioning_is_checked_before_anything_runs(videos, tmp_path, captioning, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        captioning_plan(videos, tmp_path, captioning)


def test_captions_are_cleaned_only_where_there_are_some_and_models_are_missed_by_name(videos, tmp_path):
    wanted = captioning_plan(videos, tmp_path, "{clean_caption: {}, enhance_caption: {}}")
    assert [note.split(":")[0] for note in wanted.skipped] == ["enhance_caption", "clean_caption"]
    wanted = captioning_plan(
        videos, tmp_path, "{qwen2vl_caption: {question: 'Who?', batch_size: 1, worker_num: 2}}"
    )
    [missing] = wanted.missing()
    assert "hf download Qwen/Qwen2-VL-7B-Instruct" in missing


def test_clips_with_a_cut_in_them_are_cut_again(videos, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"""
paths: {{ROOT_VIDEO: {videos}/sub folder, ROOT_CLIPS: {tmp_path}/clips, ROOT_META: {tmp_path}/meta}}
meta_steps:
  convert_dataset: {{}}
  split_video:
    scene_detection: {{detector: fixed, stride: 2.0}}
    cut_videos: {{min_seconds: 1.0, preset: ultrafast}}
    boundary_audit: {{edge: 0.2}}
    recut_clips: {{min_seconds: 0.3}}
    remove_broken_clips: {{}}
"""
    )
    wanted = plan(config.load(tmp_path / "c.yaml"))
    for _ in range(2):  # the second time nothing is done
        assert carry_out(wanted, whole=True).exit_code == 0
    clips = [
        (r["relpath"], r["clip_start"], r["clip_end"]) for r in read_table(tmp_path / "meta" / "meta.csv")
    ]
    assert clips == [
        ("second_scene-0.mp4", "0.0", "2.0"),
        ("second_scene-1_shot-0.mp4", "2.0", "2.4"),
        ("second_scene-1_shot-1.mp4", "2.4", "4.0"),
    ]
    assert read_table(tmp_path / "meta" / "meta.csv")[1]["num_frames"] == "10"
    listed = plan(
        {
            "paths": {"ROOT_VIDEO": str(videos), "ROOT_CLIPS": f"{tmp_path}/c", "ROOT_META": f"{tmp_path}/m"},
            "stages": ["convert_dataset", "scene_detection", {"cut_videos": {"shorter_size": 90}},
                       "boundary_audit", "recut_clips"],
        }
    )  # fmt: skip
    assert listed.stages[-1].parameters["shorter_size"] == 90
    recut = next(s for s in wanted.stages if s.name == "recut_clips")
    assert (recut.parameters["preset"], recut.parameters["min_seconds"]) == ("ultrafast", 0.3)


def test_a_filter_on_a_column_that_comes_later_is_refused(videos, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"""
paths: {{ROOT_VIDEO: {videos}, ROOT_CLIPS: {tmp_path}/clips, ROOT_META: {tmp_path}/meta}}
stages:
  - convert_dataset
  - motion_filtering: {{motionmin: 1}}
  - motion_scoring
"""
    )
    with pytest.raises(ConfigError, match=r"motion_filtering.*motion"):
        plan(config.load(tmp_path / "c.yaml"))


def test_dry_run_shows_the_plan_and_writes_nothing(videos, tmp_path, tool):
    done = tool("script.pipeline_runner", QUICKSTART, "--dry-run", "--set", *settings(videos, tmp_path))
    assert "deduplication: " in done.stdout
    assert "nothing is missing" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named_before_anything_runs(tmp_path, tool):
    done = tool("script.pipeline_runner", QUICKSTART, "--set", *settings(tmp_path / "none", tmp_path), code=2)
    assert "ROOT_VIDEO" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_ends_the_run_and_the_next_run_begins_there(videos, tmp_path):
    status = run(videos, tmp_path, "options.max_failed=0.1", "meta_steps.remove_broken_videos.run=false")
    assert status.exit_code == 3
    assert "scene_detection" in status.message
    assert not (tmp_path / "meta" / "meta_clips.csv").exists()
    assert run(videos, tmp_path, "meta_steps.remove_broken_videos.run=false").exit_code == 0


def test_a_broken_table_between_stages_is_named(spoilt, videos):
    table = spoilt / "meta" / "meta_clips.csv"
    table.write_text(table.read_text() + "one,cell,too,few\n")
    with pytest.raises(CallError, match=r"meta_clips.csv.*line"):
        run(videos, spoilt)


def test_two_runs_at_once_are_told_apart(videos, tmp_path, tool):
    command = program(videos, tmp_path)
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = tmp_path / "meta" / ".clipsheet" / "locks" / "meta.csv.lock"
    while not (lock.exists() and lock.read_text()):
        time.sleep(0.05)
    done = tool("script.pipeline_runner", QUICKSTART, "--set", *settings(videos, tmp_path), code=4)
    assert f"pid {process.pid}" in done.stderr
    process.kill()
    process.wait()


def test_an_empty_folder_gives_an_empty_table(tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path).exit_code == 0
    assert read_table(tmp_path / "meta" / "meta.csv") == []


def test_a_lone_scorer_runs_in_several_processes_too(videos, tmp_path, monkeypatch):
    asked, launched = [], launch.launch

    def counted(*args, processes):
        asked.append(processes)
        return launched(*args, processes=processes)

    monkeypatch.setattr(launch, "launch", counted)
    (tmp_path / "c.yaml").write_text(
        f"""
paths: {{ROOT_VIDEO: {videos}, ROOT_CLIPS: {tmp_path}/clips, ROOT_META: {tmp_path}/meta}}
options: {{processes: 2, num_workers: 1}}
stages:
  - convert_dataset: {{output_meta_csv: {tmp_path}/meta/videos.parquet}}
  - quality_scoring
"""
    )
    assert carry_out(plan(config.load(tmp_path / "c.yaml")), whole=True).exit_code == 0
    assert asked == [2]  # one of them may take all rows before the other is there
    assert [bool(row["sharpness"]) for row in read_table(tmp_path / "meta" / "meta.csv")].count(True) == 4
    assert json.loads((tmp_path / "meta" / "meta_status.json").read_text())["state"] == "done"


def test_filters_of_stages_that_are_not_there_are_named(videos, tmp_path):
    wanted = planned(videos, tmp_path, f"{SCORING}.nsfw_filtering.run=true")
    assert wanted.skipped == ["nsfw_filtering: nsfw_scoring does not run"]


def test_tables_of_ones_own_can_be_the_input(videos, tmp_path):
    table = write_table(tmp_path / "mine.csv", [{"path": str(videos / "first.mp4"), "text": "NA"}])
    (tmp_path / "c.yaml").write_text(
        f"""
paths: {{ROOT_VIDEO: {videos}, ROOT_CLIPS: {tmp_path}/clips, ROOT_META: {tmp_path}/meta}}
stages:
  - motion_scoring: {{input_meta_csv: {table}}}
"""
    )
    assert carry_out(plan(config.load(tmp_path / "c.yaml")), whole=True).exit_code == 0
    [row] = read_table(tmp_path / "meta" / "meta.csv")
    assert row["text"] == "NA"
    assert float(row["motion"]) > 0


# --- the configs that come with the project ----------------------------------------------------

CONFIGS = sorted((REPO / "config").iterdir())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_that_comes_with_the_project_is_a_plan(path, videos, tmp_path):
    roots = {"ROOT_VIDEO": videos, "ROOT_CLIPS": tmp_path / "clips", "ROOT_META": tmp_path / "meta"}
    changes = [*(f"paths.{key}={value}" for key, value in roots.items())]
    wanted = plan(config.load(path, [*changes, f"options.pretrained_models={tmp_path}"]))
    lacking = wanted.missing()
    assert all("tools.download_models" in what for what in lacking)
    assert bool(lacking) == (path.name != "quickstart.yaml")


def test_json_and_yaml_say_the_same():
    assert config.load(REPO / "config" / "config.json") == config.load(REPO / "config" / "config.yaml")


def test_models_score_filter_and_match_in_one_pass(videos, tmp_path, models):
    scoring = "pipeline_steps.scoring_filtering"
    tiny = {"clip": "tiny", "num_frames": 1}
    given = {
        "option_matching": {"run": True, "option": ["dog", "red car"], **tiny},
        "option_filtering": {"run": True, "matchmin": -100.0},
        "aesthetic_scoring": {**tiny, "head": "head.pth", "batch_size": 4},
        "aesthetic_filtering": {"aesmin": -1000.0},
        "nsfw_scoring": {**tiny, "head": "nsfw.safetensors", "threshold": 1.0},
        "nsfw_filtering": {"run": True},
        "lpips_scoring": {"net": "squeeze", "target_height": 64, "target_width": 64},
        "lpips_filtering": {"lpipsmin": 0.0},
    }
    quick = [f"{scoring}.{name}.run=false" for name in ("ocr_scoring", "motion_scoring", "quality_scoring")]
    loaded = config.load(
        QUICKSTART, settings(videos, tmp_path, *quick, f"options.pretrained_models={models}")
    )
    loaded["pipeline_steps"]["scoring_filtering"] |= given
    status = carry_out(plan(loaded), whole=True)
    assert status.exit_code == 0
    rows = read_table(tmp_path / "meta" / "meta.csv")
    assert rows
    for row in rows:
        assert all(row[column] for column in ("aes", "nsfw", "lpips", "match_dog", "match_red_car"))
    made = sorted(path.name for path in (tmp_path / "meta").glob("*_nsfwmax1.csv"))
    assert len(made) == 1
    assert "_match-dog-red_car_" in made[0]
    [folder] = (tmp_path / "meta" / ".clipsheet" / "features").glob("clip-*")
    assert list(folder.glob("*.vectors"))


def scoring_plan(videos, root, **given):
    loaded = config.load(QUICKSTART, settings(videos, root))
    loaded["pipeline_steps"]["scoring_filtering"] |= given
    return plan(loaded)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"option_matching": {"option": 5}}, "option_matching.option"),
        (
            {"option_matching": {"option": "dog"}, "option_filtering": {"option": True}},
            "option_filtering.option",
        ),
        ({"nsfw_scoring": {"threshold": "high"}}, "nsfw_scoring.threshold"),
        ({"nsfw_scoring": {"threshold": 2.0}, "nsfw_filtering": {"run": True}}, "nsfw_scoring.threshold"),
    ],
)
def test_a_wrong_key_of_a_model_is_named_where_it_stands(videos, tmp_path, given, told):
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        scoring_plan(videos, tmp_path, **given)


def test_filters_of_models_have_the_ancestors_defaults(videos, tmp_path):
    wanted = scoring_plan(
        videos, tmp_path, option_matching={"option": "dog"}, option_filtering={"run": True},
        nsfw_scoring={"threshold": 0.2}, nsfw_filtering={"safety_check": True},
    )  # fmt: skip
    stages = {stage.name: stage.parameters for stage in wanted.stages}
    assert stages["option_filtering"]["filter"] == ("match_dog >= 20",)
    assert stages["nsfw_filtering"]["safety_check"] is True
