"""A run with nothing to do says so, and one with something to do never does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from clipsheet import tables
from clipsheet.engine.ranks import Share
from clipsheet.engine.run import run_scorers
from clipsheet.engine.steps import run_step
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.step import Desk, Outcome, Step
from clipsheet.store.rows import Rows
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import Verbs
from scoring.info.scorer import Info
from tests.conftest import listing, read_table, write_table
from tests.probe import Words

QUIET = RunOptions(num_workers=1, max_failed=1.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every reading of tables."""
    found: list[Any] = []
    read = tables.read

    def told(*arguments: Any) -> pd.DataFrame:
        found.append(arguments[0])
        return read(*arguments)

    monkeypatch.setattr(tables, "read", told)
    return found


@pytest.fixture
def table(tmp_path: Path, clips: Path) -> Path:
    """Videos of their own, which may be changed."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for row in listing(clips, "[ab].*"):
        shutil.copy(str(row["path"]), folder)
    return write_table(
        tmp_path / "m.csv", [{"path": str(p), "text": p.stem, "aes": 5} for p in sorted(folder.iterdir())]
    )


def info(table: Path) -> Status:
    return run_scorers([str(table)], [Info()], QUIET)


def bound(table: Path) -> Status:
    return datautil([str(table)], Verbs(aesmin=4.0))


def sizes(table: Path) -> Status:
    return datautil([str(table)], Verbs(filesize=True))


@pytest.mark.parametrize("work", [info, bound, sizes])
def test_a_run_with_nothing_to_do_reads_no_table_and_says_the_same(
    table: Path, reads: list[Any], work: Callable[[Path], Status]
) -> None:
    first = work(table)
    reads.clear()
    again = work(table)
    assert reads == []
    assert (again.facts, again.exit_code) == (first.facts, first.exit_code)


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "a video": lambda table, output: touch(next((table.parent / "videos").iterdir())),
    "the input": lambda table, output: table.write_text(table.read_text().replace(",5", ",6")),
    "the output": lambda table, output: output.write_text("path\nedited\n"),
    "no output": lambda table, output: output.unlink(),
    "the verdicts": lambda table, output: shutil.rmtree(table.parent / ".clipsheet" / "cells"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_seen(table: Path, reads: list[Any], change: str) -> None:
    output = info(table).output
    CHANGES[change](table, output)
    reads.clear()
    assert info(table).exit_code == 0
    assert reads
    assert len(read_table(output)) == 2
    assert all(row["num_frames"] for row in read_table(output))


def test_an_option_that_changes_the_table_is_seen(table: Path) -> None:
    [measured] = [datautil([str(table)], Verbs(info=True)).output]
    again = str(measured)
    datautil([again], Verbs(info=True))
    datautil([again], Verbs(info=True), run=RunOptions(keep_as="old"))
    assert "num_frames_old" in tables.header(measured.with_name("m_info_info.csv"))


def test_info_that_is_there_already_is_complete(table: Path) -> None:
    measured = str(datautil([str(table)], Verbs(info=True)).output)
    shutil.rmtree(table.parent / ".clipsheet")
    status = datautil([measured], Verbs(info=True), run=RunOptions(skip_if_existing=True))
    assert (status.pending, status.exit_code) == (0, 0)


def test_a_file_that_changed_while_it_was_measured_is_measured_again(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = next((table.parent / "videos").iterdir())
    measure = os.path.getsize

    def disturbed(path: str) -> int:
        size = measure(path)
        if path == str(video) and size != 7:
            video.write_bytes(b"shorter")
        return size

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "getsize", disturbed)
        sizes(table)
    rows = read_table(sizes(table).output)
    assert {row["path"]: float(row["filesize"]) for row in rows}[str(video)] == 7 / (1 << 20)


def test_a_part_that_was_written_anew_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "m.parquet"
    folder.mkdir()
    for number in range(2):
        pd.DataFrame({"path": ["a", "b"], "n": [number, number + 10]}).to_parquet(
            folder / f"part-{number:05}.parquet"
        )
    datautil([str(folder)], Verbs(sort="n"))
    pd.DataFrame({"path": ["a", "b"], "n": [70, 80]}).to_parquet(folder / "part-00001.parquet")
    status = datautil([str(folder)], Verbs(sort="n"))
    assert pd.read_parquet(status.output)["n"].tolist() == [80, 70, 10, 0]


def test_a_compared_table_may_be_a_pattern_and_is_looked_at(table: Path) -> None:
    first, second = read_table(table)
    other = write_table(table.with_name("old_1.csv"), [{"path": first["path"]}])
    assert datautil([str(table)], Verbs(difference=str(table.with_name("old_*.csv")))).rows_out == 1
    write_table(other, [{"path": first["path"]}, {"path": second["path"]}])
    assert datautil([str(table)], Verbs(difference=str(table.with_name("old_*.csv")))).rows_out == 0


@dataclass(frozen=True)
class Longest(Step):
    """Reads no path."""

    name: ClassVar[str] = "longest"
    reads: ClassVar[tuple[str, ...]] = ("text",)

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        return Outcome(rows.frame.iloc[:1])


def test_a_step_that_reads_no_path_needs_none(tmp_path: Path) -> None:
    table = write_table(tmp_path / "m.csv", [{"text": "a"}, {"text": "b"}])
    for _ in range(2):
        assert run_step([str(table)], Longest()).rows_out == 1


def test_what_is_pending_leaves_no_receipt(tmp_path: Path) -> None:
    table = write_table(tmp_path / "m.csv", [{"path": "a", "text": "one"}])
    join = Share(computes=False)
    assert run_scorers([str(table)], [Words()], QUIET, share=join).pending == 1
    assert run_scorers([str(table)], [Words()], QUIET).scored == 1
