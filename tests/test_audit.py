"""Clips that hold more than one shot are told from those that hold one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import prepare_together
from clipsheet.engine.steps import run_step
from clipsheet.media import Media
from clipsheet.options import RunOptions
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import UtilOptions, Verbs
from pipeline.splitting.cut import Cut, Recut
from pipeline.splitting.cutter import Cutting
from scoring.shots.audit import Audit
from scoring.shots.transnet import TransNet
from tests import footage
from tests.conftest import read_table, write_table


@cache
def network() -> TransNet:
    return TransNet()


def audited(path: Path, **parameters: float) -> tuple[int, int, str]:
    scorer = Audit(**parameters)
    (item,) = prepare_together(Media(str(path)), [(scorer, {"path": str(path)})])
    ((foreign, inner, shots),) = scorer.score(network(), [item])
    return foreign, inner, shots


def joined(path: Path, *lengths: int) -> Path:
    """Pieces of several shots, of so many frames each."""
    pieces = (list(footage.shots(seed, seconds=3))[:n] for seed, n in zip((3, 4, 5), lengths, strict=False))
    return footage.encode(path, [picture for piece in pieces for picture in piece])


@pytest.mark.parametrize(
    ("lengths", "foreign", "inner", "shots"),
    [
        ((60,), 0, 0, [["00:00:00.000", "00:00:02.400"]]),
        ((5, 60), 5, 0, [["00:00:00.200", "00:00:02.600"]]),
        ((60, 4), 4, 0, [["00:00:00.000", "00:00:02.400"]]),
        ((4, 60, 5), 9, 0, [["00:00:00.160", "00:00:02.560"]]),
        ((40, 50), 0, 1, [["00:00:00.000", "00:00:01.600"], ["00:00:01.600", "00:00:03.600"]]),
        ((40, 50, 6), 6, 1, [["00:00:00.000", "00:00:01.600"], ["00:00:01.600", "00:00:03.600"]]),
    ],
)
def test_frames_of_other_shots_are_counted(
    tmp_path: Path, lengths: tuple[int, ...], foreign: int, inner: int, shots: list[list[str]]
) -> None:
    path = joined(tmp_path / "clip.mp4", *lengths)
    assert audited(path) == (foreign, inner, json.dumps(shots))


def test_how_near_an_end_is_can_be_said(tmp_path: Path) -> None:
    path = joined(tmp_path / "clip.mp4", 15, 60)
    assert audited(path)[:2] == (0, 1)
    assert audited(path, edge=0.6)[:2] == (15, 0)


def test_a_picture_and_a_single_frame_are_clean(tmp_path: Path) -> None:
    picture = footage.encode(tmp_path / "c.png", [footage.picture(1)], codec=("-c:v", "png"))
    assert audited(picture) == (0, 0, "[]")
    assert audited(footage.one_frame(tmp_path / "b.mp4").path)[:2] == (0, 0)


CUTTING = {"save_dir": "clips", "preset": "ultrafast", "min_seconds": 1.0}


def shift(seconds: float) -> str:
    return f"00:00:{seconds:06.3f}"


@pytest.fixture(scope="module")
def audited_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of clips of a video whose shots end at 40, 90, 150 and 155 frames: one is whole, one has two
    shots in it, one has too little of any."""
    folder = tmp_path_factory.mktemp("audited")
    video = joined(folder / "video.mp4", 40, 50, 60)
    wrong = [[shift(0), shift(2.0)], [shift(2.0), shift(3.6)], [shift(3.6), shift(6.0)]]
    row = {"path": str(video), "id": "7", "timestamp": json.dumps(wrong), "mine": "kept"}
    table = write_table(folder / "videos.csv", [row])
    cutting = Cutting(**CUTTING | {"save_dir": str(folder / "clips")})
    run_step([str(table)], Cut(**vars(cutting)), RunOptions(num_workers=1))
    run_scorers([str(folder / "videos_clips.csv")], [Audit()], RunOptions(num_workers=1))
    return folder / "videos_clips_audit.csv"


def test_clips_of_more_than_one_shot_are_dropped(audited_clips: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "kept.csv")
    datautil([str(audited_clips)], Verbs(transitionsmax=0, foreignmax=0), UtilOptions(output))
    assert [row["id"] for row in read_table(tmp_path / "kept.csv")] == ["video_scene-1", "video_scene-2"]


def test_clips_of_more_than_one_shot_are_cut_again(audited_clips: Path, tmp_path: Path) -> None:
    before = read_table(audited_clips)
    assert [(row["foreign_frames"], row["inner_transitions"]) for row in before] == [
        ("10", "0"), ("0", "0"), ("0", "0")
    ]  # fmt: skip
    cutting = Cutting(**CUTTING | {"save_dir": str(audited_clips.parent / "clips")})
    status = run_step([str(audited_clips)], Recut(**vars(cutting)), RunOptions(num_workers=1))
    after = read_table(audited_clips.with_name("videos_clips_audit_recut.csv"))
    assert after[1:] == before[1:]
    assert (status.rows_in, status.rows_out) == (3, 3)
    clip = after[0]
    assert clip["path"] == str(audited_clips.parent / "clips" / "video_scene-0_shot-0.mp4")
    assert (clip["source_path"], clip["mine"]) == (before[0]["source_path"], "kept")
    assert (clip["clip_start"], clip["clip_end"]) == ("0.0", "1.6")
    assert clip["foreign_frames"] == clip["clean_shots"] == ""  # not looked at yet
    assert audited(Path(clip["path"]))[:2] == (0, 0)
    assert len(Media(clip["path"]).info.frame_seconds) == 40
    written = Path(clip["path"]).stat().st_mtime_ns
    run_step([str(audited_clips)], Recut(**vars(cutting)), RunOptions(num_workers=1))
    assert Path(clip["path"]).stat().st_mtime_ns == written


def test_equal_names_share_no_clip_and_parquet_keeps_its_rows(tmp_path: Path) -> None:
    video = joined(tmp_path / "video.mp4", 40, 50, 60)
    row = {
        "path": str(video), "source_path": str(video), "clip_start": 1.0, "foreign_frames": 0,
        "inner_transitions": 1, "aes": 4.5,
    }  # fmt: skip
    shots = [[[shift(0), shift(0.6)], [shift(0.6), shift(1.6)]], [[shift(0), shift(1.0)]]]
    table = [row | {"clean_shots": json.dumps(some)} for some in (*shots, shots[0])]
    table.append(row | {"path": "clean.mp4", "inner_transitions": 0, "clip_start": 2.0})
    pd.DataFrame(table).to_parquet(tmp_path / "t.parquet")
    run_step([str(tmp_path / "t.parquet")], Recut(save_dir=str(tmp_path / "clips"), preset="ultrafast"),
          RunOptions(num_workers=1))  # fmt: skip
    found = pd.read_parquet(tmp_path / "t_recut.parquet")
    names = [Path(path).name for path in found["path"]]
    assert names == [f"video_shot-{n}.mp4" for n in (0, 1, 2, 0, 1)] + ["clean.mp4"]
    assert [float(s) for s in found["clip_start"]] == [1.0, 1.6, 1.0, 1.0, 1.6, 2.0]
    assert found["aes"].iloc[-1] in (4.5, "4.5")
    for clip in found["path"].iloc[:2]:
        assert audited(Path(clip))[:2] == (0, 0)


def test_a_shot_with_too_little_picture_is_dropped_when_it_is_cut_again(tmp_path: Path) -> None:
    def boxed(number: int) -> np.ndarray:
        bar = 0 if number < 20 else 70
        return np.pad(footage.picture(number, 240 - 2 * bar), ((bar, bar), (0, 0), (0, 0)))

    video = footage.encode(tmp_path / "video.mp4", (boxed(n) for n in range(40)))
    shots = json.dumps([[shift(0), shift(0.8)], [shift(0.8), shift(1.6)]])
    row = {
        "path": "c.mp4", "source_path": str(video), "clip_start": "0.0", "foreign_frames": "0",
        "inner_transitions": "1", "clean_shots": shots,
    }  # fmt: skip
    table = write_table(tmp_path / "t.csv", [row])
    cutting = Cutting(save_dir=str(tmp_path / "clips"), preset="ultrafast", crop_borders=True)
    tables = [tmp_path / f"t_recut{ending}.csv" for ending in ("", "_dropped")]
    seen = set()
    for _ in range(2):
        run_step([str(table)], Recut(**vars(cutting)), RunOptions(num_workers=1))
        assert [Path(r["path"]).name for r in read_table(tables[0])] == ["c_shot-0.mp4"]
        [drop] = read_table(tables[1])
        assert (drop["path"], drop["clip_start"], drop["clip_end"]) == ("c.mp4", "0.8", "1.6")
        assert drop["reason"] == "crop_ratio 0.4167 < 0.6"
        seen.add(tuple(path.read_bytes() for path in tables))
    assert len(seen) == 1


def test_no_frame_of_the_next_shot_is_cut_again_at_another_rate(tmp_path: Path) -> None:
    pictures = [np.full((120, 160, 3), 40, np.uint8)] * 31 + [np.full((120, 160, 3), 220, np.uint8)] * 40
    video = footage.encode(tmp_path / "v.mp4", pictures, fps=30)
    shots = [[shift(0), shift(1.041)], [shift(1.041), shift(2.366)]]
    row = {
        "path": str(video), "source_path": str(video), "clip_start": "0.0", "foreign_frames": "0",
        "inner_transitions": "1", "clean_shots": json.dumps(shots),
    }  # fmt: skip
    table = write_table(tmp_path / "t.csv", [row])
    run_step(
        [str(table)], Recut(save_dir=str(tmp_path / "clips"), target_fps=24.0), RunOptions(num_workers=1)
    )
    for clip, level in zip(read_table(tmp_path / "t_recut.csv"), (40, 220), strict=True):
        assert all(abs(int(f.rgb().mean()) - level) < 6 for f in Media(clip["path"]).frames())


def test_what_cannot_be_cut_again_is_told(tmp_path: Path) -> None:
    video = joined(tmp_path / "video.mp4", 40, 50)
    shots = json.dumps([[shift(0), shift(0.5)], [shift(0.5), shift(1.6)]])
    row = {
        "path": "c.mp4", "source_path": str(video), "clip_start": "1.0", "foreign_frames": "0",
        "inner_transitions": "1", "clean_shots": shots,
    }  # fmt: skip
    rows = [
        row,
        row | {"path": "d.mp4", "clean_shots": "[]"},
        row | {"path": "e.mp4", "source_path": ""},
        row | {"path": "f.mp4", "clip_start": ""},
        row | {"path": "g.mp4", "clean_shots": ""},
        row | {"path": "j.mp4", "clip_start": "1e18"},
        row | {"path": "h.mp4", "source_path": str(tmp_path / "gone.mp4")},
        row | {"path": "i.mp4", "inner_transitions": "", "foreign_frames": ""},
    ]
    table = write_table(tmp_path / "t.csv", rows)
    cutting = Cutting(**CUTTING | {"save_dir": str(tmp_path / "clips")})
    run_step([str(table)], Recut(**vars(cutting)), RunOptions(num_workers=1))
    again = read_table(tmp_path / "t_recut.csv")
    assert [Path(r["path"]).name for r in again] == ["c_shot-1.mp4", "i.mp4"]
    assert (again[0]["clip_start"], again[0]["clip_end"]) == ("1.52", "2.6")  # frames are 40 ms apart
    dropped = read_table(tmp_path / "t_recut_dropped.csv")
    assert [(r["path"], r["reason"]) for r in dropped] == [
        ("c.mp4", "seconds 0.5 < 1"), ("d.mp4", "clean_shots: none"), ("h.mp4", "seconds 0.5 < 1"),
    ]  # fmt: skip
    assert dropped[1]["clip_start"] == "1.0"
    failed = read_table(tmp_path / "t_recut_failed.csv")
    assert [(r["path"], r["code"]) for r in failed] == [
        ("e.mp4", "bad_value"), ("f.mp4", "bad_value"), ("g.mp4", "bad_value"), ("j.mp4", "bad_value"),
        ("h.mp4", "missing"),
    ]  # fmt: skip
