"""datautil: which rows each verb keeps, why the others were dropped, and what the output is called."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipsheet import tables
from clipsheet.config import build
from clipsheet.errors import CallError, ConfigError, MetaError
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from pipeline.datasets.bounds import FILESIZE, FILTERS
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import UtilOptions, Verbs, suffix_of
from tests import footage
from tests.conftest import Tool, listing, read_table, write_table

Row = dict[str, str]


def table(folder: Path, name: str = "meta.csv", **columns: list[object]) -> Path:
    """A table of these columns; `path` is 0, 1, ... unless it is given."""
    count = len(next(iter(columns.values())))
    columns = {"path": [str(n) for n in range(count)], **columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return write_table(folder / name, rows)


def run(path: Path, *more: Path, output: str = "", **verbs: Any) -> tuple[list[Row], list[Row]]:
    """Kept and dropped rows; together always all that went in."""
    status, kept, dropped = run_told(path, *more, output=output, **verbs)
    assert len(kept) + len(dropped) == status.rows_in
    return kept, dropped


def run_told(path: Path, *more: Path, output: str = "", **verbs: Any) -> tuple[Status, list[Row], list[Row]]:
    status = datautil([str(p) for p in (path, *more)], Verbs(**verbs), UtilOptions(output=output))
    sidecar = tables.sidecar(status.output, "dropped")
    dropped = read_table(sidecar) if sidecar.exists() else []
    assert all(row["reason"] for row in dropped)
    return status, read_table(status.output), dropped


def paths(rows: list[Row]) -> list[str]:
    return [row["path"] for row in rows]


def reasons(rows: list[Row]) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in rows}


# --- bounds ------------------------------------------------------------------------------------

#: Of every column that declares a bound, but for the size of files, which is measured.
BOUNDED = [verb for verb in FILTERS if FILTERS[verb].column != FILESIZE.name]


@pytest.mark.parametrize("verb", BOUNDED)
def test_a_bound_keeps_its_own_value_and_one_side(tmp_path: Path, verb: str) -> None:
    one = FILTERS[verb]
    limit = one.bound.usual or (10 if one.bound.whole else 0.5)
    step = 1 if one.bound.whole else 0.01
    below, equal, above = (tables.cell(value) for value in (limit - step, limit, limit + step))
    column = "duration" if one.column == "seconds" else one.column
    path = table(tmp_path, **{column: [below, equal, above]})
    kept, dropped = run(path, **{verb: True if one.bound.usual else limit})
    least = one.bound.keep == ">="
    assert paths(kept) == (["1", "2"] if least else ["0", "1"])
    assert [row[column] for row in kept] == ([equal, above] if least else [below, equal])
    beyond, sign = (below, "<") if least else (above, ">")
    assert [row["reason"] for row in dropped] == [f"{one.column} {beyond} {sign} {tables.number_text(limit)}"]


@pytest.mark.parametrize(
    ("verb", "column", "sign"),
    [
        ("aesmin", "aes", ">="),
        ("motionmax", "motion", "<="),
        ("hwmax", "resolution", "<="),
        ("flowmin", "flow", ">="),
    ],
)
def test_bounds_have_the_names_and_sides_that_users_know(verb: str, column: str, sign: str) -> None:
    assert (FILTERS[verb].column, FILTERS[verb].bound.keep) == (column, sign)


def test_file_sizes_are_measured_in_mebibytes_and_bounded(tmp_path: Path) -> None:
    names = {"half": 1 << 19, "one": 1 << 20, "more": (1 << 20) + (1 << 18)}
    for name, size in names.items():
        (tmp_path / name).write_bytes(bytes(size))
    path = table(tmp_path, path=[str(tmp_path / n) for n in [*names, "absent"]])
    kept, dropped = run(path, filesize=True)
    assert [row["filesize"] for row in kept] == ["0.5", "1.0", "1.25", ""]
    kept, dropped = run(path, fsmin=1.0)
    assert [os.path.basename(row["path"]) for row in kept] == ["one", "more"]
    assert [row["reason"] for row in dropped] == ["filesize 0.5 < 1", "filesize: not run"]
    kept, dropped = run(path, fsmax=1.0)
    assert [os.path.basename(row["path"]) for row in kept] == ["half", "one"]
    assert [row["reason"] for row in dropped] == ["filesize 1.25 > 1", "filesize: not run"]


@pytest.mark.parametrize("name", ["fs", "f", "motion", "brightness", "seconds"])
def test_a_least_above_the_most_is_refused(name: str) -> None:
    Verbs(**{f"{name}min": 1, f"{name}max": 1})
    with pytest.raises(ConfigError, match=f"{name}min 2 is more than {name}max 1: no row could be kept"):
        Verbs(**{f"{name}min": 2, f"{name}max": 1})


@pytest.mark.parametrize(
    ("verb", "value"),
    [
        ("ocr_total_max", 1.5),
        ("ocr_single_max", -0.1),
        ("brightnessmin", 20.0),
        ("frozenmax", 2),
        ("fmin", -1),
        ("fpsmax", -25.0),
        ("secondsmax", -0.5),
        ("hwmax", -1),
        ("aesmin", float("nan")),
        ("lpipsmin", float("inf")),
        ("head", -1),
        ("sample", -1),
        ("shard", 0),
        ("dyn_fps_max_fps", 0.0),
        ("missing", "skip"),
    ],
)
def test_a_bound_that_no_row_can_have_is_refused(verb: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{verb}: "):
        build(Verbs, {verb: value})


def test_several_bounds_give_each_row_its_first_reason(tmp_path: Path) -> None:
    path = table(
        tmp_path, aes=["5", "4", "5", "4"], num_frames=["9", "9", "20", "20"], text=["a", "b", "c", "d"]
    )
    status, kept, dropped = run_told(path, aesmin=4.5, fmin=10)
    assert kept == [{"path": "2", "aes": "5", "num_frames": "20", "text": "c"}]
    assert reasons(dropped) == {"0": "num_frames 9 < 10", "1": "num_frames 9 < 10", "3": "aes 4 < 4.5"}
    assert dropped[0] == {
        "path": "0",
        "aes": "5",
        "num_frames": "9",
        "text": "a",
        "reason": "num_frames 9 < 10",
    }
    assert status.output == tmp_path / "meta_fmin10_aesmin4.5.csv"
    assert "4 rows, 1 out, 3 dropped (2 num_frames < 10, 1 aes < 4.5)" in status.line()


def test_seconds_are_the_duration_or_frames_by_rate(tmp_path: Path) -> None:
    path = table(tmp_path, num_frames=["50", "49", "100"], fps=["25", "25", "0"])
    kept, dropped = run(path, secondsmin=2.0)
    assert paths(kept) == ["0"]
    assert reasons(dropped) == {"1": "seconds 1.96 < 2", "2": "seconds: not run"}
    path = table(tmp_path, "d.csv", num_frames=["50", "49"], fps=["25", "25"], duration=["1.5", "2.5"])
    assert paths(run(path, secondsmin=2.0)[0]) == ["1"]


def test_pictures_pass_what_they_cannot_have(tmp_path: Path) -> None:
    path = table(
        tmp_path, num_frames=["1", "1", "50", "50"], fps=["", "25", "25", ""], duration=["", "0.04", "2", ""]
    )
    for verbs in ({"secondsmin": 1.0}, {"secondsmax": 3.0, "secondsmin": 1.0}):
        kept, dropped = run(path, **verbs)
        assert paths(kept) == ["0", "2"]
        assert reasons(dropped)["3"] == "seconds: not run"
    assert paths(run(path, fpsmax=30.0)[0]) == ["0", "1", "2"]


def test_a_video_of_a_single_frame_is_told_apart_from_a_still_one(tmp_path: Path) -> None:
    kept, dropped = run(table(tmp_path, lpips=["-1", "0.1", "0.3"]), lpipsmin=0.2)
    assert paths(kept) == ["2"]
    assert reasons(dropped) == {"0": "lpips -1: fewer than two frames", "1": "lpips 0.1 < 0.2"}


# --- rows without a value ----------------------------------------------------------------------

CELLS = ["5", "4", "", "", "high", "5,3", "nan", "1e400", " 6 "]
ERRORS = ["", "", "aes: corrupt; ocr: timeout", "ocr: timeout", "", "", "", "", ""]
UNKNOWN = {
    "2": "aes: corrupt",
    "3": "aes: not run",
    "4": "aes: bad_value 'high'",
    "5": "aes: bad_value '5,3'",
    "6": "aes: bad_value 'nan'",
    "7": "aes: bad_value '1e400'",
}


def test_failed_missing_and_spoilt_cells_are_dropped_with_what_they_are(tmp_path: Path) -> None:
    kept, dropped = run(table(tmp_path, aes=CELLS, error=ERRORS), aesmin=4.5)
    assert [row["aes"] for row in kept] == ["5", " 6 "]
    assert reasons(dropped) == {"1": "aes 4 < 4.5", **UNKNOWN}
    assert [row["aes"] for row in dropped] == CELLS[1:-1]


def test_missing_keep_keeps_empty_cells_but_not_spoilt_ones(tmp_path: Path) -> None:
    kept, dropped = run(table(tmp_path, aes=CELLS, error=ERRORS), aesmin=4.5, missing="keep")
    assert paths(kept) == ["0", "2", "3", "8"]
    assert reasons(dropped) == {"1": "aes 4 < 4.5", **{row: UNKNOWN[row] for row in "4567"}}


def test_missing_stop_stops_at_the_first_and_writes_nothing(tmp_path: Path) -> None:
    path = table(tmp_path, aes=CELLS, error=ERRORS)
    with pytest.raises(MetaError, match=r"row 3: aes: corrupt; --missing stop stops there") as caught:
        run(path, aesmin=4.5, missing="stop")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "meta_aesmin4.5.csv").exists()
    assert not (tmp_path / "meta_aesmin4.5_dropped.csv").exists()


@pytest.mark.parametrize("missing", ["drop", "keep"])
def test_strict_stops_at_a_spoilt_cell_but_not_at_an_empty_one(tmp_path: Path, missing: str) -> None:
    with pytest.raises(MetaError, match=r"row 5: aes: bad_value 'high'; --strict stops there"):
        run(table(tmp_path, aes=CELLS, error=ERRORS), aesmin=4.5, missing=missing, strict=True)
    path = table(tmp_path, "good.csv", aes=CELLS[:4])
    assert len(run(path, aesmin=4.5, missing=missing, strict=True)[0]) == (1 if missing == "drop" else 3)


def test_spoilt_cells_of_a_computed_length_are_told_of(tmp_path: Path) -> None:
    path = table(tmp_path, num_frames=["50", "many", ""], fps=["25", "25", "25"])
    kept, dropped = run(path, secondsmin=1.0)
    assert paths(kept) == ["0"]
    assert reasons(dropped) == {"1": "seconds: bad_value", "2": "seconds: not run"}


def test_a_parquet_is_filtered_as_its_csv_is(tmp_path: Path) -> None:
    frame = tables.read(table(tmp_path, aes=["5", "4", "", ""], error=["", "", "aes: corrupt", ""]))
    tables.write(frame, tmp_path / "meta.parquet")
    status = datautil([str(tmp_path / "meta.parquet")], Verbs(aesmin=4.5))
    assert pq.read_table(status.output).to_pydict() == {"path": ["0"], "aes": [5], "error": [None]}
    dropped = pq.read_table(tables.sidecar(status.output, "dropped")).to_pydict()
    assert dropped["reason"] == ["aes 4 < 4.5", "aes: corrupt", "aes: not run"]


def test_a_column_that_is_not_there_stops_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(MetaError, match=r"no column `aes`; its columns are `path`, `AES`"):
        run(table(tmp_path, AES=["5"]), aesmin=4.5)


def test_a_table_of_a_header_alone_passes_every_verb(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("path,aes,fps,num_frames,height,width\n")
    bounds = {"aesmin": 4.5, "fpsmax": 30.0, "secondsmin": 1.0, "filter_dyn_fps": True, "h_le_w": True}
    names = ["remove_empty_path", "remove_path_duplication", "path_to_id", "vid_only", "filesize", "ext"]
    size = {"sort": "aes", "shuffle": True, "head": 3, "sample": 2, "keep_best": ("50", "aes")}
    verbs = {**bounds, **dict.fromkeys(names, True), **size, "filter": ("aes > 4",), "path_subset": "a"}
    kept, dropped = run(tmp_path / "meta.csv", output=str(tmp_path / "out.csv"), **verbs)
    assert (kept, dropped) == ([], [])
    assert (tmp_path / "out.csv").read_text() == "path,aes,fps,num_frames,height,width,filesize,id\n"


def test_a_run_that_drops_nothing_removes_what_an_earlier_one_dropped(tmp_path: Path) -> None:
    assert len(run(table(tmp_path, aes=["5", "4"]), aesmin=4.5)[1]) == 1
    assert len(run(table(tmp_path, aes=["5", "6"]), aesmin=4.5)[1]) == 0
    assert not (tmp_path / "meta_aesmin4.5_dropped.csv").exists()


# --- shapes and expressions --------------------------------------------------------------------


def test_dyn_fps_asks_for_more_frames_of_faster_videos(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        num_frames=["32", "31", "64", "63", "1", "50", "", "many"],
        fps=["16", "16", "16.1", "32", "", "", "25", "25"],
        error=["", "", "", "", "", "info: corrupt", "", ""],
    )
    kept, dropped = run(path, filter_dyn_fps=True)
    assert paths(kept) == ["0", "2", "4"]
    assert reasons(dropped) == {
        "1": "num_frames 31 < 32",
        "3": "num_frames 63 < 64",
        "5": "num_frames: corrupt",
        "6": "num_frames: not run",
        "7": "num_frames: bad_value 'many'",
    }
    kept, _ = run(path, filter_dyn_fps=True, dyn_fps_max_fps=32.0, dyn_fps_keep_frames=63)
    assert paths(kept) == ["2", "3", "4"]


def test_h_le_w_keeps_what_is_not_upright(tmp_path: Path) -> None:
    path = table(tmp_path, height=["720", "720", "721", "", "9"], width=["1280", "720", "720", "5", "wide"])
    kept, dropped = run(path, h_le_w=True)
    assert paths(kept) == ["0", "1"]
    assert reasons(dropped) == {"2": "height 721 > 720", "3": "height: not run", "4": "height: bad_value"}
    assert paths(run(path, h_le_w=True, missing="keep")[0]) == ["0", "1", "3"]
    with pytest.raises(MetaError, match=r"row 4: height: not run; --missing stop"):
        run(path, h_le_w=True, missing="stop")


def test_each_filter_expression_must_hold(tmp_path: Path) -> None:
    path = table(tmp_path, aes=["5", "4", "", "6"], fps=["25", "25", "25", "60"])
    kept, dropped = run(path, filter=("aes > 4.5", "fps < 50"))
    assert paths(kept) == ["0"]
    assert reasons(dropped) == {
        "1": "filter: not aes > 4.5",
        "2": "filter: not aes > 4.5",
        "3": "filter: not fps < 50",
    }


def test_a_wrong_filter_expression_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MetaError, match="call is not allowed"):
        run(table(tmp_path, aes=["5"]), filter=("open('x')",))
    assert not (tmp_path / "meta_filter.csv").exists()


# --- paths -------------------------------------------------------------------------------------

PATHS = ["a/dog.mp4", "a/cat.JPG", "", "a/dog.mp4", "b/dog.txt", "  "]


@pytest.mark.parametrize(
    ("verbs", "kept", "reason"),
    [
        ({"remove_empty_path": True}, ["a/dog.mp4", "a/cat.JPG", "a/dog.mp4", "b/dog.txt"], "path: empty"),
        (
            {"remove_path_duplication": True},
            ["a/dog.mp4", "a/cat.JPG", "", "b/dog.txt", "  "],
            "path: listed before",
        ),
        ({"path_subset": "^a/.*4$"}, ["a/dog.mp4", "a/dog.mp4"], "path: no match of ^a/.*4$"),
        ({"path_filter_substr": "dog."}, ["a/cat.JPG", "", "  "], "path: holds dog."),
        ({"img_only": True}, ["a/cat.JPG"], "path: no picture"),
        ({"vid_only": True}, ["a/dog.mp4", "a/dog.mp4"], "path: no video"),
    ],
)
def test_rows_by_their_path(tmp_path: Path, verbs: dict[str, Any], kept: list[str], reason: str) -> None:
    path = table(tmp_path, path=PATHS, n=list("012345"))
    found, dropped = run(path, **verbs)
    assert paths(found) == kept
    assert {row["reason"] for row in dropped} == {reason}
    assert sorted(row["n"] for row in [*found, *dropped]) == list("012345")


def test_an_animation_is_a_video_and_no_picture(tmp_path: Path) -> None:
    footage.webp(tmp_path / "moving.webp")
    Image.fromarray(footage.picture(1)).save(tmp_path / "still.webp")
    names = [str(tmp_path / name) for name in ("moving.webp", "still.webp", "absent.webp")]
    path = table(tmp_path, path=names, n=list("012"))
    assert paths(run(path, vid_only=True)[0]) == names[:1]
    assert paths(run(path, img_only=True)[0]) == names[1:]


def test_the_first_of_two_rows_of_one_path_stays_with_its_caption(tmp_path: Path) -> None:
    path = table(tmp_path, path=["a", "b", "a"], text=["first", "b", "second"])
    kept, dropped = run(path, remove_path_duplication=True)
    assert [row["text"] for row in kept] == ["first", "b"]
    assert [row["text"] for row in dropped] == ["second"]


@pytest.mark.parametrize("pattern", ["[", "(a", "*"])
def test_a_wrong_pattern_is_one_line(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(MetaError, match="--path_subset "):
        run(table(tmp_path, path=["a"]), path_subset=pattern)


def test_ext_keeps_rows_whose_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "here.mp4").touch()
    (tmp_path / "gone.mp4").symlink_to("absent")
    names = ["here.mp4", "gone.mp4", "absent.mp4"]
    kept, dropped = run(table(tmp_path, path=[*(str(tmp_path / n) for n in names), ""]), ext=True)
    assert paths(kept) == [str(tmp_path / "here.mp4")]
    assert [row["reason"] for row in dropped] == ["path: missing"] * 3


def test_paths_are_made_relative_absolute_and_an_id(tmp_path: Path) -> None:
    path = table(tmp_path, path=["/data/a/x.y.mp4", "/data/b.mp4"], text=["one", "two"])
    kept, _ = run(path, relpath="/data", path_to_id=True)
    assert kept == [
        {"path": "a/x.y.mp4", "text": "one", "id": "x.y"},
        {"path": "b.mp4", "text": "two", "id": "b"},
    ]
    back, _ = run(tmp_path / "meta_relpath.csv", abspath="/data")
    assert paths(back) == ["/data/a/x.y.mp4", "/data/b.mp4"]


# --- several tables ----------------------------------------------------------------------------


def test_tables_are_joined_with_all_their_columns(tmp_path: Path) -> None:
    first, second = table(tmp_path, text=["a"]), table(tmp_path, "second.csv", aes=["007"], path=["9"])
    kept, _ = run(first, second)
    assert kept == [{"path": "0", "text": "a", "aes": ""}, {"path": "9", "text": "", "aes": "007"}]
    assert (tmp_path / "meta_merged.csv").exists()


def test_difference_drops_the_paths_of_another_table(tmp_path: Path) -> None:
    path = table(tmp_path, text=list("abcd"))
    other = table(tmp_path, "other.csv", path=["1", "3", "7"], text=["x", "y", "z"])
    kept, dropped = run(path, difference=str(other))
    assert kept == [{"path": "0", "text": "a"}, {"path": "2", "text": "c"}]
    assert reasons(dropped) == {"1": f"path: in {other}", "3": f"path: in {other}"}


def test_intersection_keeps_common_paths_and_adds_new_columns_only(tmp_path: Path) -> None:
    path = table(tmp_path, path=["2", "0", "1", "0"], text=list("abcd"))
    other = table(tmp_path, "other.csv", path=["0", "2", "0"], text=["x", "y", "z"], aes=["5.0", "", "9"])
    kept, dropped = run(path, intersection=str(other))
    assert kept == [
        {"path": "2", "text": "a", "aes": ""},
        {"path": "0", "text": "b", "aes": "5.0"},
        {"path": "0", "text": "d", "aes": "5.0"},
    ]
    assert reasons(dropped) == {"1": f"path: not in {other}"}


def test_an_intersection_of_nothing_is_a_header_with_the_new_columns(tmp_path: Path) -> None:
    other = table(tmp_path, "other.csv", path=["x"], aes=["5"])
    kept, dropped = run(table(tmp_path, text=["a"]), intersection=str(other), output=str(tmp_path / "o.csv"))
    assert (kept, len(dropped)) == ([], 1)
    assert (tmp_path / "o.csv").read_text() == "path,text,aes\n"


def test_what_two_verbs_drop_stands_in_one_table(tmp_path: Path) -> None:
    path = table(tmp_path, text=list("abc"))
    other = table(tmp_path, "other.csv", path=["0", "1"], aes=["5", "4"])
    kept, dropped = run(path, intersection=str(other), aesmin=4.5)
    assert paths(kept) == ["0"]
    assert dropped == [
        {"path": "2", "text": "c", "reason": f"path: not in {other}", "aes": ""},
        {"path": "1", "text": "b", "reason": "aes 4 < 4.5", "aes": "4"},
    ]


@pytest.mark.parametrize("verb", ["difference", "intersection"])
def test_another_table_that_is_missing_stops(tmp_path: Path, verb: str) -> None:
    with pytest.raises(MetaError, match=r"absent\.csv: no such table"):
        run(table(tmp_path, text=["a"]), **{verb: str(tmp_path / "absent.csv")})


# --- order and size ----------------------------------------------------------------------------


def test_numbers_are_sorted_as_numbers_and_what_is_empty_comes_last(tmp_path: Path) -> None:
    path = table(tmp_path, aes=["9", "", "10", "1e1", "-1"])
    assert paths(run(path, sort="aes")[0]) == ["2", "3", "0", "4", "1"]
    assert paths(run(path, sort_ascending="aes")[0]) == ["4", "0", "2", "3", "1"]


def test_texts_are_sorted_as_texts_and_what_is_empty_comes_last(tmp_path: Path) -> None:
    path = table(tmp_path, text=["b", "", "a", "10", "9"])
    assert paths(run(path, sort="text")[0]) == ["0", "2", "4", "3", "1"]
    assert paths(run(path, sort_ascending="text")[0]) == ["3", "4", "2", "0", "1"]


def test_dates_of_a_parquet_are_sorted(tmp_path: Path) -> None:
    days = pa.array([19000, None, 20000], pa.date32())
    pq.write_table(pa.table({"path": ["a", "b", "c"], "day": days}), tmp_path / "meta.parquet")
    status = datautil([str(tmp_path / "meta.parquet")], Verbs(sort="day"))
    assert pq.read_table(status.output)["path"].to_pylist() == ["c", "a", "b"]


def test_two_orders_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(MetaError, match="exclude each other"):
        run(table(tmp_path, aes=["1"]), sort="aes", sort_ascending="aes")


def test_an_order_by_an_unknown_column_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(MetaError, match=r"--sort: no column `match`; its columns are `path`, `aes`"):
        run(table(tmp_path, aes=["1"]), sort="match")


def test_head_keeps_the_first_rows_after_filters_and_sorting(tmp_path: Path) -> None:
    path = table(tmp_path, aes=["5", "1", "9", "7"])
    kept, dropped = run(path, aesmin=4.5, sort="aes", head=2)
    assert paths(kept) == ["2", "3"]
    assert reasons(dropped) == {"1": "aes 1 < 4.5", "0": "head 2"}
    assert paths(run(path, head=0)[0]) == []
    assert len(run(path, head=99)[0]) == 4


def test_sample_and_shuffle_depend_on_the_seed_alone(tmp_path: Path) -> None:
    path = table(tmp_path, aes=list(range(200)))
    sample, dropped = run(path, sample=50)
    assert len(sample) == 50
    assert {row["reason"] for row in dropped} == {"sample 50"}
    assert paths(sample) == sorted(paths(sample), key=int), "in their order"
    assert sample == run(path, sample=50)[0]
    assert sample != run(path, sample=50, seed=1)[0]
    shuffled, dropped = run(path, shuffle=True)
    assert dropped == []
    assert paths(shuffled) != sorted(paths(shuffled), key=int)
    assert sorted(paths(shuffled), key=int) == [str(n) for n in range(200)]
    assert all(row["path"] == row["aes"] for row in shuffled), "rows stay whole"
    assert shuffled == run(path, shuffle=True)[0]
    assert shuffled != run(path, shuffle=True, seed=7)[0]
    assert len(run(path, sample=999)[0]) == 200


def test_keep_best_keeps_a_share_of_the_rows_that_have_a_value(tmp_path: Path) -> None:
    path = table(tmp_path, aes=["1", "4", "", "3", "2", "high"])
    kept, dropped = run(path, keep_best=("50", "aes"))
    assert paths(kept) == ["1", "3"]
    assert reasons(dropped) == {
        "0": "aes 1.0 not in the best 50 %",
        "2": "aes: no value",
        "4": "aes 2.0 not in the best 50 %",
        "5": "aes: bad_value",
    }
    assert paths(run(path, keep_best=("100", "aes"))[0]) == ["0", "1", "3", "4"]
    assert paths(run(path, keep_best=("0", "aes"))[0]) == []


def test_keep_best_keeps_the_earlier_of_equal_rows(tmp_path: Path) -> None:
    assert paths(run(table(tmp_path, aes=["3", "3", "3", "3"]), keep_best=("50", "aes"))[0]) == ["0", "1"]


@pytest.mark.parametrize(
    "given", [("50",), ("aes", "50"), ("101", "aes"), ("-1", "aes"), ("nan", "aes"), ("1", "a", "b")]
)
def test_keep_best_wants_a_percentage_and_a_column(tmp_path: Path, given: tuple[str, ...]) -> None:
    with pytest.raises(MetaError, match="give a percentage and a column"):
        run(table(tmp_path, aes=["1"]), keep_best=given)


def test_train_columns_are_kept_in_their_order_where_they_are_there(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "aes": ["5"],
        "note": ["x"],
        "text": ["t"],
        "fps": ["25"],
        "flow": ["1"],
    }
    path = table(tmp_path, **columns)
    assert [list(row) for row in run(path, train_column=True, sort="fps")[0]] == [["path", "text", "fps"]]
    found = run(path, pre_train_column=True, sort="fps")[0]
    assert found == [{"path": "0", "text": "t", "fps": "25", "aes": "5", "flow": "1"}]


# --- shards ------------------------------------------------------------------------------------


def test_shards_are_the_whole_table_in_order_and_of_equal_length(tmp_path: Path) -> None:
    datautil([str(table(tmp_path, text=list("abcdefg")))], Verbs(shard=3))
    shards = [read_table(tmp_path / f"meta_{n}.csv") for n in range(3)]
    assert [len(shard) for shard in shards] == [3, 2, 2]
    assert [row["text"] for shard in shards for row in shard] == list("abcdefg")
    assert not (tmp_path / "meta_3.csv").exists()
    assert not (tmp_path / "meta_shard.csv").exists()


def test_more_shards_than_rows_are_tables_of_a_header(tmp_path: Path) -> None:
    datautil([str(table(tmp_path, text=["a"]))], Verbs(shard=3))
    assert [(tmp_path / f"meta_{n}.csv").read_text() for n in range(3)] == ["path,text\n0,a\n"] + [
        "path,text\n"
    ] * 2


def test_shards_of_a_filtered_table_carry_its_name_and_one_table_of_dropped_rows(tmp_path: Path) -> None:
    datautil([str(table(tmp_path, aes=["5", "4", "6"]))], Verbs(aesmin=4.5, shard=2))
    assert paths(read_table(tmp_path / "meta_aesmin4.5_0.csv")) == ["0"]
    assert paths(read_table(tmp_path / "meta_aesmin4.5_1.csv")) == ["2"]
    assert paths(read_table(tmp_path / "meta_aesmin4.5_dropped.csv")) == ["1"]


def test_shards_of_a_given_name_carry_it_in_full(tmp_path: Path) -> None:
    output = UtilOptions(output=str(tmp_path / "my_shard.csv"))
    datautil([str(table(tmp_path, text=["a"]))], Verbs(shard=1), output)
    assert (tmp_path / "my_shard_0.csv").exists()


# --- what is written where ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verbs", "name"),
    [
        ({"aesmin": 4.5}, "aesmin4.5"),
        ({"aesmin": 4.0}, "aesmin4"),
        ({"aesmin": 4.75}, "aesmin4.75"),
        ({"ocr_total_max": 0.15}, "ocrtotalmax0.15"),
        ({"ocr_total_max": 0.1}, "ocrtotalmax0.1"),
        ({"fmin": 1}, "fmin1"),
        ({"fmin": 0, "lpipsmin": 0.0}, "fmin0_lpipsmin0"),
        ({"ocr_box_max": 3.0, "ocr_single_max": 0.05}, "ocrboxmax3_ocrsinglemax0.05"),
        ({"secondsmin": 2.0, "secondsmax": 16.5}, "secondsmax16.5_secondsmin2"),
        ({"matchmin": 20.0, "safety_check": True, "fpsmax": 60.0}, "fpsmax60_matchmin20_safe"),
        ({"info": True, "fmin": 1}, "info_fmin1"),
        ({"ext": True, "sort": "aes"}, "sort_ext"),
        ({"remove_empty_path": True, "remove_path_duplication": True}, "noemptypath_noduppath"),
        ({"img_only": True}, "img"),
        ({"vid_only": True, "hwmax": 2073600}, "vid_hwmax2073600"),
        ({"shuffle": True, "head": 5}, "shuffled_seed42_first_5_data"),
        ({"sample": 3}, "sample-3"),
        ({"keep_best": ("30", "aes")}, "best30aes"),
        ({"filter_dyn_fps": True, "h_le_w": True}, "dynfps_h-le-w"),
        ({"filesize": True, "fsmin": 0.5, "fsmax": 100.0}, "filesize_fsmin0.5_fsmax100"),
        ({"difference": "dir/other.csv"}, "-other"),
        ({"intersection": "dir/other.csv"}, "intersection"),
        ({"filter": ("a > 1",)}, "filter-484425"),
        ({"filter": ("a > 2",)}, "filter-27ec2d"),
    ],
)
def test_the_name_says_what_was_done(verbs: dict[str, Any], name: str) -> None:
    assert suffix_of(Verbs(**verbs)) == name


def test_no_two_expressions_share_a_table(tmp_path: Path) -> None:
    given = [
        ("aes > 4",),
        ("aes > 5",),
        ("aes > 4", "aes > 5"),
        ("aes > 5", "aes > 4"),
        ("aes > 4, aes > 5",),
    ]
    assert len({suffix_of(Verbs(filter=expressions)) for expressions in given}) == len(given)
    path = table(tmp_path, aes=["5", "6"])
    first, second = (run_told(path, filter=expressions)[0] for expressions in given[:2])
    assert (len(read_table(first.output)), len(read_table(second.output))) == (2, 1)


def test_no_two_thresholds_share_a_name() -> None:
    bounds = [4.5, 4.25, 4.75, 4.8, 0.05, 0.1, 0.15, 1e-7, 5.0, 50.0, 0.1 + 0.2, 0.3]
    assert len({suffix_of(Verbs(aesmin=bound)) for bound in bounds}) == len(bounds)


def test_other_columns_go_through_byte_for_byte(tmp_path: Path) -> None:
    cells = [
        "NA",
        "007",
        "1e5",
        "0.30000000000000004",
        "9007199254740993",
        'a,\r\n"b"',
        "",
        " x ",
        "=1+1",
        "null",
    ]
    text = "".join('"{}",5\n'.format(cell.replace('"', '""')) for cell in cells)
    path = tmp_path / "meta.csv"
    path.write_bytes(b"\xef\xbb\xbftext,aes,path\r\n" + text.replace(",5\n", ",5,p\r\n").encode())
    kept, _ = run(path, aesmin=4.5)
    assert [row["text"] for row in kept] == cells
    assert list(kept[0]) == ["text", "aes", "path"]


def test_the_format_of_the_automatic_name_can_be_chosen(tmp_path: Path) -> None:
    path = table(tmp_path, aes=["5", "4"])
    datautil([str(path)], Verbs(aesmin=4.5), UtilOptions(format="parquet"))
    assert pq.read_table(tmp_path / "meta_aesmin4.5.parquet").to_pydict() == {"path": ["0"], "aes": [5]}
    assert (tmp_path / "meta_aesmin4.5_dropped.parquet").exists()
    datautil([str(path)], Verbs(), UtilOptions(format="parquet"))
    assert pq.read_table(tmp_path / "meta_converted.parquet").to_pydict() == {
        "path": ["0", "1"],
        "aes": [5, 4],
    }


def test_without_a_verb_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(MetaError, match="no verb given"):
        run(table(tmp_path, aes=["5"]))


@pytest.mark.parametrize(
    ("names", "output", "verbs"),
    [
        (["meta.csv"], "meta.csv", {"aesmin": 4.5}),
        (["meta.csv", "second.csv"], "second.csv", {"aesmin": 4.5}),
        (["out_dropped.csv"], "out.csv", {"aesmin": 4.5}),
        (["out_dropped.csv"], "out.csv", {"aesmin": 0.0}),
        (["out_failed.csv"], "out.csv", {"aesmin": 0.0}),
        (["part_0.csv", "part_1.csv"], "part.csv", {"shard": 2}),
        (["meta.csv"], "second.csv", {"difference": "second.csv"}),
        (["meta.csv"], "out.csv", {"intersection": "out_dropped.csv"}),
    ],
)
def test_no_input_is_written_over_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], output: str, verbs: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in {"meta.csv", "second.csv", "out_dropped.csv", *names}:
        table(tmp_path, name, aes=["5", "4"])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    with pytest.raises(CallError, match="no tool writes over its input"):
        run(*map(Path, names), output=output, **verbs)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.csv")} == before


def test_a_pattern_that_takes_in_the_last_output_is_refused(tmp_path: Path) -> None:
    table(tmp_path, "m.csv", aes=["5"])
    pattern = str(tmp_path / "m*.csv")
    datautil([pattern], Verbs(aesmin=4.5))
    with pytest.raises(MetaError, match=r"m_aesmin4\.5\.csv: is an input, .*: name the tables one by one"):
        datautil([pattern], Verbs(aesmin=4.5))
    assert read_table(tmp_path / "m_aesmin4.5.csv") == [{"path": "0", "aes": "5"}]


def test_an_empty_path_cannot_be_made_relative(tmp_path: Path) -> None:
    path = table(tmp_path, path=["/a/b", ""], n=["1", "2"])
    with pytest.raises(MetaError, match="--relpath: row 1: path is empty; --remove_empty_path drops"):
        run(path, relpath="/a")
    assert paths(run(path, relpath="/a", remove_empty_path=True)[0]) == ["b"]


def test_shards_have_the_types_of_the_whole_table(tmp_path: Path) -> None:
    path = table(tmp_path, aes=["5", "5.5", "many"], n=["1", "2", "2.5"])
    datautil([str(path)], Verbs(shard=3), UtilOptions(format="parquet"))
    shards = [pq.read_table(tmp_path / f"meta_{n}.parquet") for n in range(3)]
    assert {shard.schema.field("aes").type for shard in shards} == {pa.large_string()}
    assert {shard.schema.field("n").type for shard in shards} == {pa.float64()}
    assert pa.concat_tables(shards).column("n").to_pylist() == [1.0, 2.0, 2.5]


# --- measuring ---------------------------------------------------------------------------------


def test_info_runs_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[RunOptions] = []

    def compute(rows: object, scorers: object, options: RunOptions, *_: object) -> np.ndarray:
        told.append(dataclasses.replace(options, output=""))
        return np.zeros(0, int)

    monkeypatch.setattr("clipsheet.engine.run.compute", compute)
    path = str(table(tmp_path, n=["1"]))
    how = RunOptions(num_workers=3, root="/data", timeout=5.0, retry_failed=True)
    datautil([path], Verbs(info=True), run=how)
    datautil([path], Verbs(info=True), UtilOptions(num_workers=2, root="/other"), run=how)
    datautil([path], Verbs(info=True), UtilOptions(disable_parallel=True), run=how)
    datautil([path], Verbs(info=True))
    assert told == [
        how,
        dataclasses.replace(how, num_workers=2, root="/other"),
        dataclasses.replace(how, num_workers=1),
        RunOptions(),
    ]


def test_rows_that_were_not_measured_make_the_run_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsheet.engine.run.compute", lambda *_: np.zeros(0, int))
    status = datautil([str(table(tmp_path, n=["1", "2"]))], Verbs(info=True))
    assert (status.pending, status.exit_code) == (2, 4)
    assert status.message == "2 rows have no verdict: run the same command again"
    assert json.loads(status.path.read_text())["state"] == "incomplete"


def test_info_measures_and_filters_in_one_call(tmp_path: Path, clips: Path) -> None:
    rows = [{**row, "text": "kept"} for row in listing(clips) if "still" not in str(row["path"])]
    path = write_table(tmp_path / "meta.csv", [*rows, {"path": str(tmp_path / "absent.mp4"), "text": "no"}])
    status, kept, dropped = run_told(path, info=True, fmin=2)
    assert status.output == tmp_path / "meta_info_fmin2.csv"
    found = {os.path.basename(row["path"]): row for row in kept}
    assert {name: (row["num_frames"], row["fps"]) for name, row in found.items()} == {
        "a.mp4": ("50", "25.0"),
        "b.mkv": ("75", "30.0"),
        "c.mp4": ("100", "25.0"),
    }
    a = found["a.mp4"]
    assert (a["height"], a["width"], a["resolution"], a["aspect_ratio"]) == ("240", "320", "76800", "0.75")
    assert (float(a["duration"]), a["codec"], a["has_audio"], a["text"]) == (2.0, "h264", "false", "kept")
    assert {os.path.basename(row["path"]): row["reason"] for row in dropped} == {
        "one.mp4": "num_frames 1 < 2",
        "cut_off.mp4": "num_frames: corrupt",
        "absent.mp4": "num_frames: missing",
    }
    failures = read_table(tmp_path / "meta_info_fmin2_failed.csv")
    assert {(os.path.basename(row["path"]), row["code"]) for row in failures} == {
        ("cut_off.mp4", "corrupt"),
        ("absent.mp4", "missing"),
    }
    assert status.failed == {"info: corrupt": 1, "info: missing": 1}
    status, again, _ = run_told(path, video_info=True)
    assert status.output == tmp_path / "meta_vinfo.csv"
    assert [row for row in again if int(row["num_frames"] or 0) >= 2] == kept
    assert [row["error"] for row in again if not row["num_frames"]] == ["info: corrupt", "info: missing"]


# --- as a user runs it -------------------------------------------------------------------------


def test_the_program_takes_both_spellings_patterns_and_the_names_of_v1_3(tmp_path: Path, tool: Tool) -> None:
    table(tmp_path, "part_1.csv", path=["a", "b", "", "a", "drop/x"], aes=["5", "4", "6", "7", "9"])
    table(tmp_path, "part_2.csv", path=["c", "gone"], aes=["8", "8"])
    other = table(tmp_path, "other.csv", path=["gone"], n=["1"])
    done = tool(
        "pipeline.datasets.datautil", tmp_path / "part_*.csv", "--aesmin", 4.5, "--path-dedup",
        "--path_filter_empty", "--path-subtract", other, "--path_keep_substr", "^[a-z]$",
        "--sort-ascending=aes", "--chunk", 1, "--output", tmp_path / "out.csv",
    )  # fmt: skip
    assert paths(read_table(tmp_path / "out_0.csv")) == ["a", "c"]
    assert reasons(read_table(tmp_path / "out_dropped.csv")) == {
        "gone": f"path: in {other}",
        "": "path: empty",
        "a": "path: listed before",
        "drop/x": "path: no match of ^[a-z]$",
        "b": "aes 4 < 4.5",
    }
    assert done.stdout.startswith("datautil: 7 rows, 2 out, 5 dropped (")
    assert done.stdout.endswith(f" s -> {tmp_path}/out.csv\n")
    status = json.loads((tmp_path / "out_status.json").read_text())
    assert (status["exit"], status["rows_in"], status["rows_out"]) == (0, 7, 2)


def test_a_missing_table_ends_the_program_with_2_and_one_line(tmp_path: Path, tool: Tool) -> None:
    done = tool("pipeline.datasets.datautil", "absent.csv", "--aesmin", 4.5, code=2, cwd=tmp_path)
    assert done.stderr == "error: absent.csv: no such table\n"
    assert os.listdir(tmp_path) == []


def test_a_wrong_verb_ends_the_program_with_2_and_one_line(tmp_path: Path, tool: Tool) -> None:
    path = table(tmp_path, aes=["5"])
    done = tool("pipeline.datasets.datautil", "--filter", "aes > 4", path, "--seed", -1, code=2)
    assert done.stderr == "error: seed: -1: input should be greater than or equal to 0\n"
    best = ("--keep-best", "50", "aes")
    done = tool("pipeline.datasets.datautil", path, *best, *best, code=2)
    assert done.stderr == "error: argument --keep_best: given twice; give it once; see --help\n"
    assert os.listdir(tmp_path) == ["meta.csv"]
