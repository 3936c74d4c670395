"""Near-duplicates leave the table, the best of them stays, and nothing unrelated is touched."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clipsheet.engine import run
from clipsheet.engine.steps import run_step
from clipsheet.errors import CallError
from clipsheet.options import RunOptions
from pipeline.datasets.deduplication import (
    BLOCK_ROWS,
    Deduplication,
    Spans,
    Twin,
    find_twins,
)
from tests import footage
from tests.conftest import read_table, write_table

Picture = np.ndarray
Dedup = Callable[..., tuple[list[dict[str, str]], list[dict[str, str]]]]


def scene(seed: int, count: int = 30) -> list[Picture]:
    """Blobs and stripes of their own that move, unlike those of any other seed."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(0, 256, (6, 12, 3), np.uint8), (2 * footage.WIDTH, footage.HEIGHT))
    for _ in range(12):
        x, y, radius = rng.integers(0, (2 * footage.WIDTH, footage.HEIGHT, 60)).tolist()
        cv2.circle(ground, (x, y), 10 + radius, rng.integers(0, 256, 3).tolist(), -1)
    return [np.ascontiguousarray(ground[:, 3 * n : 3 * n + footage.WIDTH]) for n in range(count)]


def brighter(pictures: Iterable[Picture]) -> list[Picture]:
    return [np.clip(p.astype(int) * 1.15 + 15, 0, 255).astype(np.uint8) for p in pictures]


def letterboxed(pictures: Iterable[Picture]) -> list[Picture]:
    return [np.pad(p, ((40, 40), (0, 0), (0, 0))) for p in pictures]


def scaled(pictures: Iterable[Picture], height: int, width: int) -> list[Picture]:
    return [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in pictures]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with four copies, another with one, two alone, three of no evidence, and a broken file."""
    folder = tmp_path_factory.mktemp("copies")
    first, second = scene(1), scene(2)
    poor = ("-c:v", "libx264", "-crf", "36", "-preset", "veryfast", "-pix_fmt", "yuv420p")
    footage.encode(folder / "first.mp4", scaled(first, 288, 384))
    footage.encode(folder / "first_poor.mp4", first, codec=poor)
    footage.encode(folder / "first_small.mkv", scaled(first, 120, 160))
    footage.encode(folder / "first_bright.mp4", brighter(first))
    footage.encode(folder / "first_boxed.mp4", letterboxed(first))
    footage.encode(folder / "second.mp4", second)
    footage.encode(folder / "second_small.webm", scaled(second, 180, 240), codec=("-c:v", "libvpx"))
    footage.encode(folder / "third.mp4", scene(3))
    footage.encode(folder / "fourth.mp4", scene(4))
    black = np.zeros((240, 320, 3), np.uint8)
    footage.encode(folder / "black.mp4", [black] * 30)
    footage.encode(folder / "black_too.mp4", [black[:120, :160]] * 30)
    footage.encode(folder / "grey.mp4", [black + 90] * 30)
    (folder / "broken.mp4").write_bytes((folder / "third.mp4").read_bytes()[:2000])
    return folder


COPIES = {"first_poor.mp4", "first_small.mkv", "first_bright.mp4", "first_boxed.mp4", "second_small.webm"}


@pytest.fixture(scope="module")
def dedup(folder: Path) -> Dedup:
    """Deduplicates rows and returns the survivors and the dropped; hashes are computed once for all."""

    def run(
        rows: list[dict[str, Any]], name: str = "meta", **how: Any
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        table = write_table(folder / "tables" / f"{name}.csv", rows)
        run_step([str(table)], Deduplication(**how), RunOptions(num_workers=1))
        dropped = table.with_name(f"{name}_dedup_dropped.csv")
        return read_table(table.with_name(f"{name}_dedup.csv")), read_table(
            dropped
        ) if dropped.exists() else []

    return run


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    return [{"path": str(p), "text": p.stem} for p in sorted(folder.glob("*.*"))]


def names(rows: Iterable[dict[str, str]]) -> set[str]:
    return {Path(row["path"]).name for row in rows}


def test_copies_are_dropped_and_nothing_else(dedup: Dedup, rows: list[dict[str, Any]], folder: Path) -> None:
    kept, dropped = dedup(rows)
    assert names(dropped) == COPIES
    assert [row["path"] for row in kept] == [r["path"] for r in rows if Path(r["path"]).name not in COPIES]
    assert [row["text"] for row in kept] == [Path(row["path"]).stem for row in kept]


def test_the_dropped_table_names_the_twin_and_the_distance(dedup: Dedup, rows: list[dict[str, Any]]) -> None:
    _, dropped = dedup(rows)
    for row in dropped:
        stem = Path(row["path"]).stem.split("_")[0]
        assert Path(row["duplicate_of"]).name == f"{stem}.mp4"
        assert 0 <= float(row["distance"]) <= 15
        assert row["reason"] == f"duplicate of {row['duplicate_of']}, {row['distance']} bits"
        assert row["text"] == Path(row["path"]).stem


def test_black_and_flat_clips_are_no_evidence(dedup: Dedup, rows: list[dict[str, Any]]) -> None:
    kept, _ = dedup(rows, threshold=64.0)
    assert {"black.mp4", "black_too.mp4", "grey.mp4"} <= names(kept)


def test_pictures_that_are_too_narrow_to_compare_all_stay(dedup: Dedup, tmp_path: Path) -> None:
    sides = {"column": (64, 1), "row": (1, 64), "few": (7, 64), "enough": (8, 64)}
    for seed, (name, (height, width)) in itertools.product((1, 2), sides.items()):
        pictures = np.random.default_rng(seed).integers(0, 256, (10, height, width, 3), np.uint8)
        for copy in "ab":
            path = tmp_path / f"{name}_{seed}{copy}.mov"
            footage.encode(path, pictures[:1].repeat(10, axis=0), codec=("-c:v", "png"))
    kept, dropped = dedup([{"path": str(path)} for path in sorted(tmp_path.glob("*.mov"))])
    assert {Path(row["path"]).stem for row in dropped} == {"enough_1b", "enough_2b"}
    assert len(kept) == 14


def test_a_failed_file_stays_in_the_table_with_its_code(
    dedup: Dedup, rows: list[dict[str, Any]], folder: Path
) -> None:
    kept, _ = dedup(rows, "failing")
    broken = [row for row in kept if row["path"].endswith("broken.mp4")]
    assert [row["error"] for row in broken] == ["dedup: corrupt"]
    assert {row["error"] for row in kept if row not in broken} == {""}
    failed = read_table(folder / "tables" / "failing_dedup_failed.csv")
    assert [(Path(row["path"]).name, row["code"]) for row in failed] == [("broken.mp4", "corrupt")]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_rows_does_not_matter(dedup: Dedup, rows: list[dict[str, Any]], seed: int) -> None:
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    expected, expected_dropped = dedup(rows)
    kept, dropped = dedup(shuffled, "shuffled")
    assert names(kept) == names(expected)
    assert [row["path"] for row in kept] == [r["path"] for r in shuffled if r["path"] not in
                                             {row["path"] for row in dropped}]  # fmt: skip
    assert {row["path"]: row["duplicate_of"] for row in dropped} == {
        row["path"]: row["duplicate_of"] for row in expected_dropped
    }


def test_the_largest_stays_or_the_first_or_the_longest(dedup: Dedup, folder: Path) -> None:
    small, large = str(folder / "first_small.mkv"), str(folder / "first.mp4")
    table = [{"path": small}, {"path": large}]
    assert [row["path"] for row in dedup(table)[0]] == [large]
    assert [row["path"] for row in dedup(table, keep="first")[0]] == [small]
    longer = footage.encode(folder / "longer" / "a.mp4", scaled(scene(1, 31), 120, 160))
    table = [{"path": large}, {"path": str(longer)}]
    assert [row["path"] for row in dedup(table, keep="duration")[0]] == [str(longer)]
    assert [row["path"] for row in dedup(table)[0]] == [large]


def test_rows_of_one_file_share_its_fate(dedup: Dedup, folder: Path) -> None:
    large, small = str(folder / "first.mp4"), str(folder / "first_small.mkv")
    table = [
        {"path": large, "text": "one caption"},
        {"path": small, "text": "a"},
        {"path": large, "text": "another caption"},
        {"path": small, "text": "b"},
    ]
    kept, dropped = dedup(table)
    assert [row["text"] for row in kept] == ["one caption", "another caption"]
    assert [(row["text"], row["duplicate_of"]) for row in dropped] == [("a", large), ("b", large)]


@pytest.mark.parametrize("method", ["dhash", "whash"])
def test_other_hashes_find_the_plain_copies(dedup: Dedup, rows: list[dict[str, Any]], method: str) -> None:
    _, dropped = dedup(rows, method, hash=method, threshold=10.0)
    assert {"first_poor.mp4", "first_small.mkv", "second_small.webm"} <= names(dropped) <= COPIES


def test_the_threshold_is_how_far_copies_may_be_apart(dedup: Dedup, rows: list[dict[str, Any]]) -> None:
    _, dropped = dedup(rows)
    distances = {Path(row["path"]).name: float(row["distance"]) for row in dropped}
    furthest = max(distances, key=lambda name: distances[name])
    assert distances[furthest] > 0
    _, nearer = dedup(rows, threshold=distances[furthest] - 0.01)
    assert names(nearer) == {name for name, bits in distances.items() if bits < distances[furthest]}


def test_clips_of_one_frame_and_pictures_are_compared_too(dedup: Dedup, folder: Path) -> None:
    first = scene(1)[0]
    png = ("-c:v", "png")
    sources = [
        footage.encode(folder / "short" / "large.png", scaled([first], 480, 640), codec=png),
        footage.encode(folder / "short" / "small.png", scaled([first], 120, 160), codec=png),
        footage.encode(folder / "short" / "one_frame.mp4", [first]),
        footage.encode(folder / "short" / "other.png", [scene(2)[0]], codec=png),
    ]
    kept, dropped = dedup([{"path": str(path)} for path in sources])
    assert names(kept) == {"large.png", "other.png"}
    assert names(dropped) == {"small.png", "one_frame.mp4"}


def still_camera(seed: int, count: int = 30) -> list[Picture]:
    """A scene that does not move, but for a ball of its own that crosses it on its own way."""
    rng = np.random.default_rng(seed)
    ground, way = scene(1)[0], rng.integers(40, 200, (2, 2))
    pictures = []
    for n in range(count):
        x, y = (way[0] + (way[1] - way[0]) * n / count).astype(int).tolist()
        pictures.append(cv2.circle(ground.copy(), (x + 30, y), 22, rng.integers(0, 256, 3).tolist(), -1))
    return pictures


def pieces(paths: Iterable[Path], source: str = "long.mp4") -> list[dict[str, Any]]:
    return [
        {"path": str(path), "source_path": source, "clip_start": n, "clip_end": n + 1}
        for n, path in enumerate(paths)
    ]


def test_pieces_of_one_shot_are_no_copies_though_the_camera_stands_still(dedup: Dedup, folder: Path) -> None:
    clips = [footage.encode(folder / "still" / f"{n}.mp4", still_camera(n)) for n in range(3)]
    table = pieces(clips)
    dropped = dedup([{**row, "clip_start": 0} for row in table])[1]
    assert len(dropped) == 2 and max(float(row["distance"]) for row in dropped) > 4  # overlapping: copies
    assert len(dedup([{**row, "source_path": str(n)} for n, row in enumerate(table)])[1]) == 2
    assert len(dedup([{**row, "clip_end": ""} for row in table])[1]) == 2  # not known
    for order in (table, table[::-1]):
        assert dedup(order)[1] == []
    assert len(dedup(table, same_source_threshold=15.0)[1]) == 2
    assert dedup(table, threshold=1.0, same_source_threshold=15.0)[1] == []


def test_pieces_of_one_shot_that_repeat_are_copies(dedup: Dedup, folder: Path) -> None:
    first, again = (
        footage.encode(folder / "loop" / f"{n}.mp4", scaled(scene(1), 120 * n, 160 * n)) for n in (2, 1)
    )
    _, dropped = dedup(pieces([first, again]))
    assert names(dropped) == {again.name}


def test_a_copy_from_elsewhere_is_found_behind_nearer_pieces_of_the_same_source() -> None:
    """Twins of 30 and 40 bits: the nearer one is a piece of the same shot, the other one is not."""
    bits = np.zeros((BLOCK_ROWS + 2, 3 * 64), np.uint8)
    bits[:BLOCK_ROWS] = np.random.default_rng(0).integers(0, 2, (BLOCK_ROWS, 3 * 64))
    bits[5], bits[9], bits[-1] = 0, 0, 0
    bits[5, :30] = 1  # 30 from the last two
    bits[9, 150:190] = 1  # 40 from them, 70 from the other
    codes = np.packbits(bits, axis=1).reshape(-1, 3, 8)
    masks, order = np.full(len(codes), 7), np.arange(len(codes))
    source, start = order.copy(), np.zeros(len(codes))
    source[-1] = source[5]
    start[-1] = 1.0
    found = find_twins(codes, masks, order, Spans(source, start, start + 1), Deduplication())
    assert found == {len(codes) - 2: Twin(5, 10.0), len(codes) - 1: Twin(9, 40 / 3)}


@pytest.mark.parametrize("better", [0, 1])
def test_of_equally_near_twins_the_better_clip_is_named(better: int) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (BLOCK_ROWS + 2, 3 * 64)).astype(np.uint8)
    bits[:2], bits[-1] = 0, 0
    bits[0, :36] = bits[1, 60:96] = 1  # both 36 bits from the last one
    codes = np.packbits(bits, axis=1).reshape(-1, 3, 8)
    order = np.array([better, 1 - better, *range(2, len(codes))])
    unknown = np.full(len(codes), np.nan)
    spans = Spans(np.full(len(codes), -1), unknown, unknown)
    found = find_twins(codes, np.full(len(codes), 7), order, spans, Deduplication())
    assert found == {len(codes) - 1: Twin(better, 12.0)}


def test_many_unrelated_clips_all_stay(dedup: Dedup, folder: Path) -> None:
    sources = [
        footage.encode(folder / "many" / f"{seed}.mp4", scaled(scene(seed, 10), 120, 160))
        for seed in range(100, 124)
    ]
    kept, dropped = dedup([{"path": str(path)} for path in sources])
    assert (len(kept), dropped) == (24, [])


def test_the_last_line_counts_and_the_input_is_untouched(folder: Path, tmp_path: Path) -> None:
    rows = [{"path": str(folder / name)} for name in ("first.mp4", "first_poor.mp4")]
    table = write_table(tmp_path / "meta.csv", rows)
    before = table.read_bytes()
    status = run_step([str(table)], Deduplication(), RunOptions())
    assert "2 rows, 1 out, 1 dropped (1 duplicate)" in status.line()
    assert table.read_bytes() == before
    assert names(read_table(tmp_path / "meta_dedup.csv")) == {"first.mp4"}


def test_more_failures_than_allowed_end_with_3_and_the_whole_table(folder: Path, tmp_path: Path) -> None:
    rows = [{"path": str(folder / "first.mp4")}, {"path": str(tmp_path / "gone.mp4")}]
    table = write_table(tmp_path / "meta.csv", rows)
    assert run_step([str(table)], Deduplication(), RunOptions(max_failed=0.5)).exit_code == 0
    status = run_step([str(table)], Deduplication(), RunOptions(max_failed=0.4))
    assert status.exit_code == 3
    assert "1 of 2 failed" in status.message
    assert len(read_table(tmp_path / "meta_dedup.csv")) == 2


def test_a_file_that_changes_meanwhile_is_told_and_done_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [footage.encode(tmp_path / f"{n}.mp4", scaled(scene(1), 120 * n, 160 * n)) for n in (1, 2)]
    table = write_table(tmp_path / "meta.csv", [{"path": str(path)} for path in copies])
    compute = run.compute

    def disturbed(*arguments: Any) -> Any:
        done = compute(*arguments)
        os.utime(copies[0], (1, 1))
        return done

    with monkeypatch.context() as patch:
        patch.setattr(run, "compute", disturbed)
        status = run_step([str(table)], Deduplication(), RunOptions(num_workers=1))
    assert (status.exit_code, status.pending, status.scored) == (4, 1, 1)
    assert "1 rows have no verdict" in status.message
    assert json.loads((tmp_path / "meta_dedup_status.json").read_text())["state"] == "incomplete"
    status = run_step([str(table)], Deduplication(), RunOptions(num_workers=1))
    assert (status.exit_code, status.pending, status.rows_out) == (0, 0, 1)


def test_a_missing_table_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"nowhere\.csv"):
        run_step([str(tmp_path / "nowhere.csv")], Deduplication(), RunOptions())


# --- real files --------------------------------------------------------------------------------


def test_of_real_clips_copies_are_found_and_related_ones_are_not(media: Path, tmp_path: Path) -> None:
    truth = json.loads((media / "dups" / "truth.json").read_text())
    group = {m["file"]: g["group"] for g in truth["groups"] for m in g["members"]}
    rows = [{"path": str(path)} for path in sorted((media / "dups").glob("*.[mw]*"))]
    table = write_table(tmp_path / "meta.csv", rows)
    run_step([str(table)], Deduplication(), RunOptions())
    dropped = read_table(tmp_path / "meta_dedup_dropped.csv")
    merged = [(Path(row["path"]).name, Path(row["duplicate_of"]).name) for row in dropped]
    assert [
        pair for pair in merged if group.get(pair[0]) is None or group[pair[0]] != group.get(pair[1])
    ] == []
    expected = {m["file"] for g in truth["groups"] for m in g["members"] if m.get("difficulty") == "easy"}
    assert expected <= names(dropped) | {Path(row["duplicate_of"]).name for row in dropped}
    for name in set(group.values()):
        assert len({twin for _, twin in merged if group[twin] == name}) == 1
