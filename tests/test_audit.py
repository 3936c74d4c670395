"""Clips that hold more than one shot are told from those that hold one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from pipeline.datasets.datautil import UtilOptions, Verbs, datautil
from pipeline.media import Media
from pipeline.run import RunOptions, prepare_together, run_scorers
from pipeline.splitting.audit import Audit
from pipeline.splitting.cut import Cutting, cut
from pipeline.splitting.transnet import TransNet
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


def test_clips_are_dropped_or_cut_again(tmp_path: Path) -> None:
    good, bad = joined(tmp_path / "good.mp4", 60), joined(tmp_path / "bad.mp4", 40, 50)
    table = write_table(tmp_path / "clips.csv", [{"path": str(good)}, {"path": str(bad)}])
    run_scorers([str(table)], [Audit()], RunOptions(num_workers=1))
    rows = read_table(tmp_path / "clips_audit.csv")
    datautil([str(tmp_path / "clips_audit.csv")], Verbs(transitionsmax=0, foreignmax=0), UtilOptions())
    kept = read_table(next(tmp_path.glob("clips_audit_*max0*max0.csv")))
    assert [row["path"] for row in kept] == [str(good)]
    again = [{"path": row["path"], "timestamp": row["clean_shots"]} for row in rows]
    table = write_table(tmp_path / "again.csv", again)
    cut([str(table)], Cutting(save_dir=str(tmp_path / "cut")), RunOptions(num_workers=1))
    clips = read_table(tmp_path / "again_clips.csv")
    assert [(c["source_path"], c["clip_start"], c["clip_end"]) for c in clips] == [
        (str(good), "0.0", "2.4"), (str(bad), "0.0", "1.6"), (str(bad), "1.6", "3.6")
    ]  # fmt: skip
    for clip in clips:
        assert audited(Path(clip["path"]))[:2] == (0, 0)
