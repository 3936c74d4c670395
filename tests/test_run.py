"""The one pass: every row has its verdict, whatever dies, however it is shared, whatever was edited."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clipsheet.engine import launch
from clipsheet.engine.run import run_scorers
from clipsheet.errors import CallError, Incomplete, Stopped, StorageError, TooManyFailed
from clipsheet.options import RunOptions
from tests import footage
from tests.conftest import REPO, listing, read_table, write_table
from tests.probe import Brightness, Patient, Words, run_words

FEW = RunOptions(num_workers=2, bs=4, max_failed=1.0)


def texts(*given: str) -> list[dict[str, object]]:
    return [{"path": f"{n}.mp4", "text": text} for n, text in enumerate(given)]


def score(table: Path, *scorers: Any, **options: Any) -> list[dict[str, str]]:
    """The output's rows after a run."""
    status = run_scorers([str(table)], scorers or (Words(),), RunOptions(**{**FEW.__dict__, **options}))
    return read_table(status.output)


# --- rows --------------------------------------------------------------------------------------


def test_scored_failed_and_foreign_cells_are_told_apart(tmp_path, clips):
    rows = [*listing(clips), {"path": str(tmp_path / "nowhere.mp4")}, {"path": ""}]
    table = write_table(tmp_path / "m.csv", [{**row, "note": "NA", "id": "007"} for row in rows])
    out = score(table, Brightness())
    assert [row["path"] for row in out] == [row["path"] for row in rows]
    assert list(out[0]) == ["path", "note", "id", "grey", "seen", "error"]
    verdicts = {os.path.basename(r["path"]): (r["error"], r["seen"], bool(r["grey"])) for r in out}
    assert verdicts == {
        "a.mp4": ("", "3", True),
        "b.mkv": ("", "3", True),
        "c.mp4": ("", "3", True),
        "still.mp4": ("", "3", True),
        "one.mp4": ("", "1", True),
        "cut_off.mp4": ("probe: corrupt", "", False),
        "nowhere.mp4": ("probe: missing", "", False),
        "": ("probe: bad_path", "", False),
    }
    assert {(row["note"], row["id"]) for row in out} == {("NA", "007")}
    failed = read_table(tmp_path / "m_probe_failed.csv")
    assert {(r["scorer"], r["code"]) for r in failed} == {
        ("probe", c) for c in ("corrupt", "missing", "bad_path")
    }
    assert all(row["detail"] for row in failed)


def test_several_scorers_in_one_pass_write_what_each_writes_alone(tmp_path, clips):
    from scoring.motion.scorer import Motion
    from scoring.quality.scorer import Quality

    scorers = (Brightness(), Brightness(every=True), Motion(), Quality())
    table = write_table(tmp_path / "m.csv", listing(clips))
    together = score(table, *scorers[1:])
    for scorer in scorers[1:]:
        alone = score(write_table(tmp_path / scorer.name / "m.csv", listing(clips)), scorer)
        for row, own in zip(together, alone, strict=True):
            assert {c.name: row[c.name] for c in scorer.columns} == {
                c.name: own[c.name] for c in scorer.columns
            }


def test_two_scorers_with_one_column_are_refused(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a"))
    with pytest.raises(CallError, match="words"):
        run_scorers([str(table)], (Words(), Words(seconds=1.0)), FEW)


def test_an_exception_in_a_batch_fails_its_row_only(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a b", "raise", "c", "nan", "bad", "d e f"))
    out = score(table)
    assert [row["words"] for row in out] == ["2", "", "1", "", "", "3"]
    errors = ["", "words: model_error", "", "words: nonfinite", "words: bad_value", ""]
    assert [row["error"] for row in out] == errors


def test_rows_with_equal_cells_are_scored_once_and_all_kept(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("same", "same", "other", "same"))
    out = score(table, Words(log=str(tmp_path / "log")))
    assert [row["shout"] for row in out] == ["SAME", "SAME", "OTHER", "SAME"]
    assert sorted((tmp_path / "log").read_text().split()) == ["other", "same"]


def test_a_table_without_rows_gives_one_without_rows(tmp_path):
    (tmp_path / "m.csv").write_text("path,text\n")
    assert score(tmp_path / "m.csv") == []
    assert (tmp_path / "m_words.csv").read_text() == "path,text,words,shout,error\n"


def test_a_missing_column_is_named_before_any_work(tmp_path):
    table = write_table(tmp_path / "m.csv", [{"path": "a", "txet": "b"}])
    with pytest.raises(CallError, match=r"`?text`?.*txet"):
        score(table)


def test_a_change_of_batch_or_workers_changes_no_byte(tmp_path, clips):
    outputs = set()
    for number, (bs, workers) in enumerate([(1, 1), (3, 2), (64, 4)]):
        table = write_table(tmp_path / str(number) / "m.csv", listing(clips))
        score(table, Brightness(every=True), bs=bs, num_workers=workers)
        outputs.add((table.parent / "m_probe.csv").read_bytes())
    assert len(outputs) == 1


def test_more_failures_than_allowed_end_with_3_and_the_whole_table(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a", "bad", "bad 2", "b"))
    status = run_scorers([str(table)], [Words()], RunOptions(num_workers=1))
    assert status.exit_code == 3
    assert "2 of 4" in status.message
    assert [row["words"] for row in read_table(status.output)] == ["1", "", "", "1"]
    kept = json.loads((tmp_path / "m_words_status.json").read_text())
    assert (kept["exit"], kept["state"], kept["failed"]) == (3, "failed", {"words: bad_value": 2})


def test_a_disk_that_is_not_mounted_stops_early_and_marks_nothing(tmp_path):
    rows = [{"path": str(tmp_path / "gone" / f"{n}.mp4")} for n in range(300)]
    table = write_table(tmp_path / "m.csv", rows)
    with pytest.raises(TooManyFailed, match="mounted"):
        score(table, Brightness())
    assert not (tmp_path / "m_probe.csv").exists()
    for number in range(300):
        footage_file = tmp_path / "gone" / f"{number}.mp4"
        footage_file.parent.mkdir(exist_ok=True)
        footage_file.symlink_to(_one_clip(tmp_path))
    assert {row["error"] for row in score(table, Brightness())} == {""}


def _one_clip(folder: Path) -> Path:
    path = folder / "clip.mp4"
    return path if path.exists() else footage.numbered(path, 5)


def test_a_file_that_changes_while_it_is_read_is_a_failure(tmp_path):
    from clipsheet.errors import MediaError
    from clipsheet.media import Media

    media = Media(str(_one_clip(tmp_path)))
    footage.numbered(tmp_path / "clip.mp4", 6)
    with pytest.raises(MediaError) as raised:
        media.check_unchanged()
    assert raised.value.code == "changed"


# --- what is done again ------------------------------------------------------------------------


def logged(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


def test_a_second_run_does_no_work_and_writes_the_same_bytes(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a", "bad", "c d"))
    words = Words(log=str(tmp_path / "log"))
    score(table, words)
    first = (tmp_path / "m_words.csv").read_bytes()
    score(table, words)
    assert (tmp_path / "m_words.csv").read_bytes() == first
    assert logged(tmp_path / "log") == ["a", "c d"]


def test_only_changed_rows_are_done_again_after_edits(tmp_path):
    words = Words(log=str(tmp_path / "log"))
    table = write_table(tmp_path / "m.csv", texts(*"abcdef"))
    score(table, words)
    rows = [{"note": "x", **row} for row in reversed(texts(*"abcdef")) if row["text"] != "c"]
    rows[1]["text"] = "new one"
    body = "note,path,text\r\n" + "".join(f"{r['note']},{r['path']},{r['text']}\r\n" for r in rows)
    table.write_bytes(b"\xef\xbb\xbf" + body.encode())
    out = score(table, words)
    assert [row["shout"] for row in out] == ["F", "NEW ONE", "D", "B", "A"]
    assert logged(tmp_path / "log") == ["a", "b", "c", "d", "e", "f", "new one"]


def test_changed_parameters_and_changed_files_are_done_again(tmp_path):
    clip = _one_clip(tmp_path)
    table = write_table(tmp_path / "m.csv", [{"path": str(clip)}])
    first = score(table, Brightness())[0]["grey"]
    assert float(score(table, Brightness(scale=2.0))[0]["grey"]) == pytest.approx(2 * float(first))
    footage.encode(clip, [footage.picture(1) // 2] * 5)
    assert float(score(table, Brightness())[0]["grey"]) < float(first) * 0.7


def test_a_column_of_an_earlier_run_is_replaced_and_others_are_left(tmp_path):
    table = write_table(tmp_path / "m.csv", [{"path": "p", "words": "999", "text": "a b", "other": "1e5"}])
    assert score(table)[0] == {
        "path": "p", "words": "2", "text": "a b", "other": "1e5", "shout": "A B", "error": "",
    }  # fmt: skip


def test_skip_if_existing_leaves_filled_cells_alone(tmp_path):
    rows = [
        {"path": "p", "text": "a b", "words": "999", "shout": "mine"},
        {"path": "q", "text": "c d", "words": "", "shout": ""},
    ]
    out = score(write_table(tmp_path / "m.csv", rows), skip_if_existing=True)
    assert [(row["words"], row["shout"]) for row in out] == [("999", "mine"), ("2", "C D")]


def test_transient_failures_are_tried_three_times_and_others_once(tmp_path):
    clip = tmp_path / "late.mp4"
    table = write_table(tmp_path / "m.csv", [{"path": str(clip)}])
    for _ in range(3):
        assert score(table, Brightness())[0]["error"] == "probe: missing"
    footage.numbered(clip, 5)  # its key changes with it, so the three tries do not count
    assert score(table, Brightness())[0]["error"] == ""


def test_retry_failed_tries_again_what_failed_for_good(tmp_path):
    words = Words(log=str(tmp_path / "log"))
    table = write_table(tmp_path / "m.csv", texts("raise", "a"))
    score(table, words)
    before = logged(tmp_path / "log")
    score(table, words)
    assert logged(tmp_path / "log") == before
    write_table(table, texts("raise", "a", "b"))
    assert score(table, words, retry_failed=True)[0]["error"] == "words: model_error"
    assert set(logged(tmp_path / "log")) == {"a", "b"}


def test_errors_of_other_scorers_stay(tmp_path):
    rows = [{"path": "p", "text": "bad", "error": "aes: corrupt; words: nonfinite"}]
    assert score(write_table(tmp_path / "m.csv", rows))[0]["error"] == "aes: corrupt; words: bad_value"
    rows[0]["text"] = "good"
    assert score(write_table(tmp_path / "m.csv", rows))[0]["error"] == "aes: corrupt"


def test_a_table_edited_during_the_run_is_joined_as_it_is_then(tmp_path):
    table = write_table(tmp_path / "m.csv", texts(*"abcdef"))
    process = _start(table, tmp_path / "log", seconds=0.5)
    _wait_for(lambda: len(logged(tmp_path / "log")) >= 1)
    write_table(table, texts("f", "new", "a"))
    process.communicate(timeout=60)
    assert process.returncode == 4
    out = read_table(tmp_path / "m_words.csv")
    assert [row["shout"] for row in out] == ["F", "", "A"]
    assert {row["error"] for row in out} == {""}
    assert [row["shout"] for row in score(table, Words(str(tmp_path / "log"), 0.5))] == ["F", "NEW", "A"]


# --- processes that end ------------------------------------------------------------------------


def _start(table: Path, log: Path, seconds: float = 0.0, **more: Any) -> subprocess.Popen[bytes]:
    given = json.dumps([[str(table)], str(log), seconds, {"num_workers": 1, "bs": 2, **more}])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.probe", "words", given],
        cwd=REPO,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def _wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_9_again_and_again_ends_in_the_table_of_an_undisturbed_run(tmp_path):
    rows = texts(*(f"row {n}" for n in range(40)))
    write_table(tmp_path / "calm" / "m.csv", rows)
    score(tmp_path / "calm" / "m.csv", Words(str(tmp_path / "calm log")))
    table = write_table(tmp_path / "m.csv", rows)
    for goal in (3, 11, 24):
        process = _start(table, tmp_path / "log", seconds=0.02)
        _wait_for(lambda goal=goal: len(logged(tmp_path / "log")) >= goal)
        process.kill()
        process.communicate()
        assert not (tmp_path / "m_words.csv").exists()
    process = _start(table, tmp_path / "log", seconds=0.02)
    process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "m_words.csv").read_bytes() == (tmp_path / "calm" / "m_words.csv").read_bytes()
    assert len(logged(tmp_path / "log")) <= 40 + 3 * 2  # at most a batch is done twice per kill


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_order(tmp_path, number):
    table = write_table(tmp_path / "m.csv", texts(*(f"row {n}" for n in range(50))))
    process = _start(table, tmp_path / "log", seconds=0.1)
    _wait_for(lambda: len(logged(tmp_path / "log")) >= 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 4
    assert b"Traceback" not in said
    assert json.loads((tmp_path / "m_words_status.json").read_text())["state"] == "incomplete"
    assert len(score(table, Words(str(tmp_path / "log"), 0.1))) == 50


def test_a_row_that_kills_the_process_each_time_is_isolated_and_given_up(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a", "b", "kill me", "c", "d", "e"))
    codes = []
    for _ in range(5):
        process = _start(table, tmp_path / "log")
        process.communicate(timeout=60)
        codes.append(process.returncode)
        if process.returncode == 0:
            break
    assert codes[-1] == 0, codes
    assert len(codes) <= 4
    out = read_table(tmp_path / "m_words.csv")
    assert [row["error"] for row in out] == ["", "", "words: crashed", "", "", ""]


def test_a_process_without_progress_says_where_it_hangs_and_ends_with_4(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a", "hang"))
    process = _start(table, tmp_path / "log", stall=2.0)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4
    assert b"no progress for 2 s" in said
    assert b"tests/probe.py" in said


def test_a_second_process_on_one_table_is_told_who_has_it(tmp_path):
    table = write_table(tmp_path / "m.csv", texts(*(f"row {n}" for n in range(30))))
    process = _start(table, tmp_path / "log", seconds=0.2)
    _wait_for(lambda: len(logged(tmp_path / "log")) >= 1)
    with pytest.raises(Incomplete, match=f"pid {process.pid}"):
        score(table)
    process.kill()
    process.communicate()
    assert len(score(table)) == 30


# --- many processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "world"), [(17, 2), (17, 3), (3, 5), (0, 2)])
def test_any_number_of_processes_gives_the_table_of_one(tmp_path, rows, world):
    given = texts(*(f"row {n}" if n % 5 else f"bad {n}" for n in range(rows)))
    given = given or texts("x")
    for folder in ("one", "many"):
        table = write_table(tmp_path / folder / "m.csv", given)
        if not rows:
            table.write_text("path,text\n")
    options = {"num_workers": 1, "bs": 3, "max_failed": 1.0}
    score(tmp_path / "one" / "m.csv", **options)
    log = tmp_path / "log"
    table = tmp_path / "many" / "m.csv"
    codes = launch.launch(run_words, [str(table)], str(log), 0.0, options, processes=world)
    assert codes == [0] * world
    assert (table.parent / "m_words.csv").read_bytes() == (tmp_path / "one" / "m_words.csv").read_bytes()
    assert len(logged(log)) == len([row for row in given if rows and not str(row["text"]).startswith("bad")])
    assert [path.name for path in (table.parent / ".clipsheet" / "ranks").iterdir()] == ["m_words"]


def test_torchrun_gives_the_table_of_one_process(tmp_path, clips, tool):
    for folder in ("one", "many"):
        write_table(tmp_path / folder / "m.csv", listing(clips))
    tool("scoring.info.inference", tmp_path / "one" / "m.csv", "--max-failed", 1)
    tool(
        "torch.distributed.run", "--nproc_per_node", 2, "--master_port", _free_port(), "-m",
        "scoring.info.inference", tmp_path / "many" / "m.csv", "--num_workers", 1, "--max_failed", 1,
    )  # fmt: skip
    one, many = ((tmp_path / folder / "m_info.csv").read_bytes() for folder in ("one", "many"))
    assert one == many


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_accelerate_launch_on_a_cpu_gives_the_table_of_one_process(tmp_path, clips):
    table = write_table(tmp_path / "m.csv", listing(clips, "[ab].*"))
    command = [
        Path(sys.executable).with_name("accelerate"),
        "launch",
        "--cpu",
        "-m",
        "scoring.info.inference",
    ]
    subprocess.run([*command, table], cwd=REPO, check=True, capture_output=True)
    assert [row["num_frames"] for row in read_table(tmp_path / "m_info.csv")] == ["50", "75"]


def test_a_killed_process_of_several_is_made_up_for_by_the_next_run(tmp_path):
    rows = texts(*(f"row {n}" for n in range(12)), "kill me")
    table = write_table(tmp_path / "m.csv", rows)
    options = {"num_workers": 1, "bs": 4}
    for _ in range(4):
        codes = launch.launch(run_words, [str(table)], str(tmp_path / "log"), 0.0, options, processes=2)
        if codes == [0, 0]:
            break
    assert codes == [0, 0]
    out = read_table(tmp_path / "m_words.csv")
    assert [row["error"] for row in out] == [""] * 12 + ["words: crashed"]


# --- disks -------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_one_clear_error_before_any_work(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a"))
    (tmp_path / ".clipsheet").write_text("a file where a folder must be")
    with pytest.raises(StorageError, match="clipsheet"):
        score(table, Words(log=str(tmp_path / "log")))
    assert logged(tmp_path / "log") == []


def test_a_disk_that_fills_up_ends_with_5_leaves_the_old_table_and_the_rest_is_done_later(tmp_path):
    table = write_table(tmp_path / "m.csv", texts(*(f"row {n} " + "x" * 500 for n in range(60))))
    (tmp_path / "m_words.csv").write_text("what stood here before\n")
    given = json.dumps([[str(table)], str(tmp_path / "log"), 0.0, {"num_workers": 1, "bs": 2}])
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 14}, {1 << 14}))"
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    program = (
        f"{limit}; {ignore}; import sys; from tests.probe import run_words; sys.exit(run_words(*{given}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "m_words.csv").read_text() == "what stood here before\n"
    before = len(logged(tmp_path / "log"))
    assert 2 <= before < 60
    assert len(score(table, Words(log=str(tmp_path / "log")))) == 60
    assert len(logged(tmp_path / "log")) <= 60 + 2


# --- long runs, old crashes, other file systems ------------------------------------------------


def test_a_long_run_that_makes_progress_is_not_ended():
    program = (
        "import time\n"
        "from clipsheet.engine.watchdog import Watchdog\n"
        "with Watchdog(1.0) as watchdog:\n"
        "    for _ in range(60):\n"
        "        time.sleep(0.05); watchdog.alive()\n"
        "print('ended in order')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ended in order\n"), done.stderr


def test_a_row_that_was_given_up_does_not_kill_later_runs(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a", "kill me"))
    codes = []
    for _ in range(8):
        process = _start(table, tmp_path / "log", max_failed=1.0)
        process.communicate(timeout=60)
        codes.append(process.returncode)
    assert codes[:3].count(0) == 0
    assert set(codes[3:]) == {0}
    assert read_table(tmp_path / "m_words.csv")[1]["error"] == "words: crashed"


def test_a_run_that_is_killed_leaves_no_old_success_behind(tmp_path):
    table = write_table(tmp_path / "m.csv", texts("a"))
    score(table, Words(str(tmp_path / "log"), 0.2))
    write_table(table, texts(*(f"row {n}" for n in range(30))))
    process = _start(table, tmp_path / "log", seconds=0.2)
    _wait_for(lambda: len(logged(tmp_path / "log")) >= 2)
    process.kill()
    process.communicate()
    left = json.loads((tmp_path / "m_words_status.json").read_text())
    assert (left["state"], left["pid"]) == ("running", process.pid)


def test_an_early_stop_keeps_no_failure_that_a_missing_library_caused(tmp_path):
    table = write_table(tmp_path / "m.csv", texts(*(f"raise {n}" for n in range(250))))
    with pytest.raises(TooManyFailed, match="model_error"):
        score(table)
    for _ in range(4):
        with pytest.raises(TooManyFailed):
            score(table)
    write_table(table, texts("raise 0"))
    assert score(table)[0]["error"] == "words: model_error"


def test_where_a_file_system_has_no_locks_a_journal_in_use_stays(tmp_path, monkeypatch):
    import errno
    import fcntl

    from clipsheet.store.cells import COMPACT_FILES
    from clipsheet.store.folder import Store

    def no_locks(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    cells = Store(tmp_path).cells(Words())
    journals = [cells.journal() for _ in range(COMPACT_FILES)]
    for number, journal in enumerate(journals):
        journal.scored(f"{number:024x}", ["1", "A"])
    cells.compact()
    for number, journal in enumerate(journals):
        journal.scored(f"{number + 1000:024x}", ["1", "B"])
        journal.__exit__(None, None, None)
    assert len(cells.load()) == 2 * COMPACT_FILES


def test_many_small_journals_are_put_together(tmp_path):
    from clipsheet.store.cells import COMPACT_FILES
    from clipsheet.store.folder import Store

    cells = Store(tmp_path).cells(Words())
    for number in range(COMPACT_FILES + 5):
        with cells.journal() as journal:
            journal.scored(f"{number:024x}", ["1", "A"])
    cells.compact()
    assert len(list(cells.folder.glob("*.jsonl"))) == 5
    assert len(cells.load()) == COMPACT_FILES + 5


def test_what_is_scored_in_the_background_does_not_hold_up_the_workers(tmp_path, clips, monkeypatch):
    """Each batch ends only when a file of the next one has come."""
    table = write_table(tmp_path / "m.csv", [{"path": clips / "a.mp4", "n": n} for n in range(6)])
    monkeypatch.setattr(Patient, "came", 0)
    rows = score(table, Patient(), bs=2, num_workers=1)
    assert all(int(row["after"]) >= least for row, least in zip(rows, (3, 3, 5, 5, 6, 6), strict=True))


def test_a_signal_waits_for_the_batch_in_the_background_and_keeps_it(tmp_path, clips, monkeypatch):
    table = write_table(tmp_path / "m.csv", [{"path": clips / "a.mp4", "n": n} for n in range(4)])

    def stop(*_: object) -> None:
        raise Stopped("enough")

    monkeypatch.setattr(Patient, "stops", True)
    monkeypatch.setattr(Patient, "calls", 0)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Stopped):
            score(table, Patient(), bs=2, num_workers=1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert Patient.calls == 1
    monkeypatch.setattr(Patient, "stops", False)
    monkeypatch.setattr(Patient, "came", 6)  # so that nothing is waited for
    assert len(score(table, Patient(), bs=2, num_workers=1)) == 4
    assert Patient.calls == 2, "the first batch was kept"
