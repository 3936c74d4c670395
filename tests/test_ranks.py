"""One run as several processes that never wait for each other, and tables of parts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsheet.cli import Parser
from clipsheet.engine.launch import Rank
from clipsheet.engine.ranks import Share
from clipsheet.engine.run import run_scorers
from clipsheet.engine.steps import run_step
from clipsheet.errors import ConfigError, Incomplete, MetaError
from clipsheet.options import RankOptions, RunOptions
from clipsheet.outcome import Status
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import Verbs
from pipeline.splitting.cut import Cut
from scoring.info.scorer import Info
from tests import footage
from tests.conftest import REPO, listing, read_table, write_table
from tests.probe import Words

JOIN = Share.of(RankOptions(join=True))
ROWS = 64


def rank(index: int, world: int) -> Share:
    return Share.of(RankOptions(rank=index, world=world))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    texts = [f"row {n}" if n % 7 else f"bad {n}" for n in range(ROWS)]
    return write_table(
        tmp_path / "m.csv", [{"path": f"{n}.mp4", "text": text} for n, text in enumerate(texts)]
    )


def score(table: Path, share: Share | None = None, log: Path | None = None) -> Status:
    scorer = Words(log=str(log or ""))
    return run_scorers([str(table)], [scorer], RunOptions(num_workers=1, max_failed=1.0), share=share)


def written(table: Path) -> list[bytes]:
    return [table.with_name(f"m_words{kind}.csv").read_bytes() for kind in ("", "_failed")]


@pytest.fixture
def alone(table: Path, tmp_path: Path) -> list[bytes]:
    """What one process writes."""
    copy = tmp_path / "alone" / "m.csv"
    copy.parent.mkdir()
    shutil.copyfile(table, copy)
    score(copy)
    return written(copy)


def test_four_ranks_in_any_order_joined_at_any_time_make_the_table_of_one_process(
    table: Path, alone: list[bytes], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for done, index in enumerate((2, 0, 3)):
        status = score(table, rank(index, 4), log)
        assert (status.exit_code, status.share) == (0, (index, 4))
        early = score(table, JOIN, log)
        assert (early.exit_code, early.pending) == (4, ROWS - ROWS // 4 * (done + 1))
        assert "have no verdict yet: join again when all ranks are over" in early.message
    score(table, rank(1, 4), log)
    assert score(table, JOIN, log).exit_code == 0
    assert written(table) == alone
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == sum(bool(n % 7) for n in range(ROWS))


PROGRAM = """
import sys
from tests.test_ranks import *
run_scorers([sys.argv[1]], [Words(log=sys.argv[2], seconds=0.2)], RunOptions(num_workers=1, bs=1), share=rank(1, 4))
"""


def test_a_rank_that_is_killed_and_started_again_does_only_what_lacks(table: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROGRAM, str(table), str(log)]
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(Incomplete, match=f"pid {process.pid}"):  # two of the same number
        run_scorers([str(table)], [Words(str(log), 0.2)], RunOptions(), share=rank(1, 4))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(log.read_text().splitlines())
    run_scorers([str(table)], [Words(str(log), 0.2)], RunOptions(num_workers=1), share=rank(1, 4))
    lines = log.read_text().splitlines()
    assert len(lines) <= sum(bool(n % 7) for n in range(ROWS)) // 4 + 2
    assert len(lines) > done


def test_another_number_of_ranks_goes_on_with_what_is_there(
    table: Path, alone: list[bytes], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    score(table, rank(0, 4), log)
    for index in range(3):
        score(table, rank(index, 3), log)
    assert score(table, JOIN, log).exit_code == 0
    assert written(table) == alone
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines))


def test_of_a_launch_nobody_waits_and_the_last_one_joins(table: Path, alone: list[bytes]) -> None:
    shares = [Share(Rank(n, 3, launch="some-launch"), joins="last") for n in range(3)]
    for share in shares[1:]:
        began = time.monotonic()
        assert score(table, share).share == (share.rank.index, 3)
        assert time.monotonic() - began < 60  # --stall is 900
        assert not table.with_name("m_words.csv").exists()
    assert score(table, shares[0]).share is None
    assert written(table) == alone
    assert not list(table.parent.glob(".clipsheet/ranks/some-launch*"))


def test_a_rank_says_how_it_ended_in_a_file_of_its_own(table: Path) -> None:
    score(table, rank(1, 4))
    status = json.loads((table.parent / ".clipsheet" / "ranks" / "m_words" / "1-of-4.json").read_text())
    assert (status["state"], status["exit"]) == ("done", 0)
    assert not table.with_name("m_words_status.json").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 4, "world": 4}, "ranks are counted from 0 to 3"),
        ({"rank": 1}, "go together"),
        ({"world": 2}, "go together"),
        ({"rank": 0, "world": 2, "join": True}, "cannot be combined"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankOptions(**given)  # type: ignore[arg-type]


def test_flags_go_before_what_a_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    parser = Parser("")
    parser.add_fields(RankOptions, "many processes")
    assert parser.share(parser.parse_args(["--rank", "3", "--world=5"])).rank.index == 3


SRUN = {
    "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip


def test_a_task_of_srun_is_a_rank_and_a_batch_script_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    found = Rank.from_environment()
    assert (found.index, found.world, found.local, found.local_world) == (2, 4, 0, 2)
    monkeypatch.delenv("SLURM_STEP_ID")
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert Rank.from_environment() == Rank()


def test_every_row_is_owned_by_one_rank() -> None:
    for count in (0, 1, 3, 17, 1000):
        for world in (1, 2, 3, 8):
            owned = sum(Rank(index, world).owned(count).astype(int) for index in range(world))
            assert (owned == 1).all()
    assert abs(Rank(0, 2).owned(1000).sum() - 500) <= 1000 / 16


# --- steps -------------------------------------------------------------------------------------


def test_ranks_share_the_files_that_a_step_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for number in range(3):
        video = footage.numbered(tmp_path / f"{number}.mp4", 20)
        rows.append({"path": str(video), "timestamp": json.dumps([["00:00:00.000", "00:00:00.400"]])})
    table = write_table(tmp_path / "v.csv", rows)
    tables: dict[str, bytes] = {}
    for name, shares in (("one", [None]), ("many", [rank(1, 2), JOIN, rank(0, 2), JOIN])):
        step = Cut(save_dir="clips", preset="ultrafast")
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        output = tmp_path / name / "v_clips.csv"
        codes = [
            run_step([str(table)], step, RunOptions(num_workers=1, output=str(output)), s) for s in shares
        ]
        tables[name] = output.read_bytes()
    assert [status.exit_code for status in codes] == [0, 4, 0, 0]
    assert tables["many"] == tables["one"]
    assert len(read_table(output)) == 3


def test_a_source_that_is_missing_fails_its_row_in_ranks_too(tmp_path: Path) -> None:
    row = {"path": str(tmp_path / "gone.mp4"), "timestamp": json.dumps([["00:00:00.000", "00:00:00.400"]])}
    table = write_table(tmp_path / "v.csv", [row])
    for share in (rank(0, 2), rank(1, 2), JOIN):
        status = run_step(
            [str(table)], Cut(save_dir=str(tmp_path / "clips")), RunOptions(max_failed=1.0), share
        )
    assert (status.exit_code, status.failed) == (0, {"cut: missing": 1})


def test_files_of_others_that_look_half_written_are_left_alone(tmp_path: Path) -> None:
    video = footage.numbered(tmp_path / "a.mp4", 20)
    row = {"path": str(video), "timestamp": json.dumps([["00:00:00.000", "00:00:00.400"]])}
    table = write_table(tmp_path / "v.csv", [row])
    clips = tmp_path / "clips"
    clips.mkdir()
    users, dead = clips / ".download.mov.part", clips / f".0123abcd.{socket.gethostname()}.4999999.part"
    for path in (users, dead):
        path.touch()
        os.utime(path, (1, 1))
    run_step([str(table)], Cut(save_dir=str(clips), preset="ultrafast"), RunOptions(num_workers=1))
    assert users.exists()
    assert not dead.exists()


def test_two_tables_of_one_launch_are_both_written(table: Path, tmp_path: Path) -> None:
    other = tmp_path / "n.csv"
    shutil.copyfile(table, other)
    for index in range(2):
        for one in (table, other):
            score(one, Share(Rank(index, 2, launch="some-launch"), joins="last"))
    assert table.with_name("m_words.csv").read_bytes() == table.with_name("n_words.csv").read_bytes()


def test_a_step_that_shares_nothing_is_made_by_the_join(table: Path) -> None:
    assert datautil([str(table)], Verbs(head=5), share=rank(0, 2)).share == (0, 2)
    assert not table.with_name("m_first_5_data.csv").exists()
    assert datautil([str(table)], Verbs(head=5), share=JOIN).rows_out == 5


# --- tables of parts ---------------------------------------------------------------------------


def parts_of(table: Path, count: int) -> Path:
    frame = pd.read_csv(table)
    folder = table.with_suffix(".parquet")
    folder.mkdir()
    for number in range(count):
        frame.iloc[number::count].to_parquet(folder / f"part-{number:05}.parquet")
    return folder


def read_parts(folder: Path) -> list[dict[str, object]]:
    frames = [pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))]
    return [row for frame in frames for row in frame.to_dict("records")]


def test_a_table_of_parts_is_scored_and_filtered_part_by_part(tmp_path: Path, clips: Path) -> None:
    rows = [row for row in listing(clips) if "cut_off" not in str(row["path"])]
    table = write_table(tmp_path / "m.csv", rows)
    single = run_scorers([str(table)], [Info()], RunOptions(num_workers=1))
    folder = parts_of(table, 3)
    status = run_scorers([str(folder)], [Info()], RunOptions(num_workers=1))
    assert (status.rows_out, status.hours_out) == (len(rows), single.hours_out)
    known = {row["path"]: row["num_frames"] for row in read_table(single.output)}
    assert {row["path"]: str(row["num_frames"]) for row in read_parts(status.output)} == known
    before = [path.stat().st_mtime_ns for path in sorted(status.output.glob("*.parquet"))]
    assert run_scorers([str(folder)], [Info()], RunOptions()).scored == len(rows)
    assert [path.stat().st_mtime_ns for path in sorted(status.output.glob("*.parquet"))] == before
    kept = datautil([str(status.output)], Verbs(fmin=60))
    assert kept.dropped == {"num_frames < 60": sum(int(n) < 60 for n in known.values())}
    assert {row["path"] for row in read_parts(kept.output)} == {p for p, n in known.items() if int(n) >= 60}
    dropped = kept.output.with_name(f"{kept.output.stem}_dropped.parquet")
    assert len(read_parts(dropped)) == sum(kept.dropped.values())


def test_all_parts_have_the_same_types(table: Path) -> None:
    folder = parts_of(table, 4)
    for number in (0, 2):  # all rows fail in one part, and are joined before they are done in another
        frame = pd.read_parquet(folder / f"part-{number:05}.parquet").assign(text="bad")
        frame.to_parquet(folder / f"part-{number:05}.parquet")
    score(folder, rank(0, 2))
    score(folder, JOIN)
    output = table.with_name("m_words.parquet")
    types = {pq.read_schema(path).field("words").type for path in output.glob("*.parquet")}
    assert types == {pa.int64()}


def test_a_file_where_a_folder_is_needed_is_named_before_any_work(table: Path) -> None:
    folder = parts_of(table, 2)
    table.with_name("m_words_dropped.parquet").write_bytes(b"")
    with pytest.raises(MetaError, match=r"m_words_dropped\.parquet: a file, where a folder"):
        score(folder)


def test_ranks_make_a_file_of_two_rows_once(tmp_path: Path) -> None:
    video = footage.numbered(tmp_path / "a.mp4", 20)
    row = {"path": str(video), "timestamp": json.dumps([["00:00:00.000", "00:00:00.400"]])}
    table = write_table(tmp_path / "v.csv", [row] * 16)
    for share in (rank(0, 2), rank(1, 2), JOIN):
        status = run_step(
            [str(table)], Cut(save_dir=str(tmp_path / "clips"), preset="ultrafast"), share=share
        )
    assert (status.exit_code, status.rows_out) == (0, 16)
    assert sum(len(p.read_bytes().splitlines()) for p in tmp_path.glob(".clipsheet/cells/cut-*/*.jsonl")) == 1


def test_ranks_take_turns_at_parts(table: Path) -> None:
    folder = parts_of(table, 4)
    score(folder, rank(1, 2))
    output = table.with_name("m_words.parquet")
    assert [path.name for path in sorted(output.glob("*.parquet"))] == [
        "part-00001.parquet",
        "part-00003.parquet",
    ]
    assert score(folder, JOIN).pending == ROWS // 2
    score(folder, rank(0, 2))
    assert score(folder, JOIN).exit_code == 0
    assert len(read_parts(output)) == ROWS


def test_a_step_that_needs_all_rows_reads_all_parts(table: Path) -> None:
    status = datautil([str(parts_of(table, 4))], Verbs(sort="path"))
    assert status.output.is_file()
    assert status.rows_out == ROWS


def test_a_part_that_is_missing_or_torn_is_named(table: Path) -> None:
    folder = parts_of(table, 4)
    (folder / "part-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(MetaError, match=r"part-00002\.parquet: not a Parquet table"):
        score(folder)
    (folder / "part-00002.parquet").unlink()
    with pytest.raises(MetaError, match=r"part-00002\.parquet is missing"):
        score(folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(MetaError, match="no parts"):
        score(folder)


def test_parts_of_an_earlier_longer_table_are_removed(table: Path) -> None:
    folder = parts_of(table, 4)
    score(folder)
    (folder / "part-00003.parquet").unlink()
    assert score(folder).rows_out == ROWS * 3 // 4
    assert len(list(table.with_name("m_words.parquet").glob("*.parquet"))) == 3
