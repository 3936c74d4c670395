"""A worker that hangs, crashes or swallows memory costs its task only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipsheet.engine.forkserver import ForkServer
from clipsheet.engine.pool import Pool
from clipsheet.errors import MediaError

Allow = Callable[[float], None]


def act(task: tuple[str, Any], allow: Allow) -> Any:
    """A job that misbehaves on demand."""
    kind, value = task
    if kind == "hang":
        time.sleep(1000)
    elif kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "memory":
        return len(bytearray(value))
    elif kind == "bug":
        raise KeyError(value)
    elif kind == "bad":
        raise MediaError("corrupt", value)
    elif kind == "slow":
        allow(value + 60)
        time.sleep(value)
    elif kind == "variable":
        return os.environ.get(value), os.getcwd()
    elif kind == "die once" and not os.path.exists(value):
        open(value, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def results(tasks: list[tuple[str, Any]], size: int = 2, seconds: float = 30, **more: Any) -> dict[int, Any]:
    pool = Pool(act, size, seconds=seconds, **more)
    return dict(pool.map(list(enumerate(tasks))))


def code(result: Any) -> str:
    assert isinstance(result, MediaError), result
    return result.code


def test_every_task_has_one_result_whatever_the_others_do():
    tasks: list[tuple[str, Any]] = [("ok", n) for n in range(60)]
    tasks[5] = tasks[40] = ("segfault", None)
    tasks[17] = ("bug", "no such key")
    tasks[31] = ("hang", None)
    tasks[50] = ("bad", "half of it")
    ended = results(tasks, seconds=2)
    assert sorted(ended) == list(range(60))
    for number, (kind, value) in enumerate(tasks):
        if kind == "ok":
            assert ended[number] == value
    assert [code(ended[n]) for n in (5, 40, 17, 31, 50)] == [
        "crashed", "crashed", "model_error", "timeout", "corrupt",
    ]  # fmt: skip
    assert ended[5].detail == "SIGSEGV"
    assert "no such key" in ended[17].trace


def test_memory_beyond_the_limit_fails_the_task_alone():
    ended = results([("memory", 3 << 30), ("memory", 1 << 20)], size=1, memory_bytes=1 << 30)
    assert code(ended[0]) == "out_of_memory"
    assert ended[1] == 1 << 20


def test_a_task_whose_worker_was_killed_gets_a_second_try(tmp_path):
    assert results([("die once", str(tmp_path / "died")), ("ok", 1)]) == {0: str(tmp_path / "died"), 1: 1}


def test_a_job_can_allow_itself_more_time():
    assert results([("slow", 1.5)], seconds=0.5) == {0: 1.5}


def test_large_tasks_and_results_do_not_block_the_pipe():
    big = b"x" * (4 << 20)
    assert results([("ok", big)] * 6, size=2) == dict.fromkeys(range(6), big)


def test_a_job_that_cannot_be_pickled_is_refused_at_once():
    def local(task: Any, allow: Allow) -> Any:
        return task

    with pytest.raises(AttributeError, match="local"):
        Pool(local, 1, seconds=5)


def test_a_job_that_a_worker_cannot_import_is_an_error_and_no_endless_restart():
    program = (
        "from clipsheet.engine.pool import Pool\n"
        "def job(task, allow): return task\n"
        "list(Pool(job, 1, seconds=5).map([(0, 0)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a worker process could not start" in done.stderr


def test_no_worker_outlives_its_parent():
    program = (
        "import os, sys; from tests.test_workers import act; from clipsheet.engine.pool import Pool\n"
        "pool = Pool(act, 2, seconds=60)\n"
        "results = pool.map([(0, ('ok', 1)), (1, ('hang', 1)), (2, ('hang', 1))])\n"
        "next(results); print(*[w.process for w in pool._workers], flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


def test_a_killed_fork_server_loses_no_task() -> None:
    pool = Pool(act, 2, seconds=30)
    ended = {}
    for key, result in pool.map(iter([(n, ("slow", 0.05)) for n in range(40)])):
        if key == 3:
            os.kill(pool._workers[0].server.process, signal.SIGKILL)
        ended[key] = result
    assert ended == dict.fromkeys(range(40), 0.05)


class KillsTheServerWhereItIsLoaded:
    """A job that ends the fork server, and so every worker, before the worker that loads it is ready."""

    def __init__(self, mark: Path, times: int) -> None:
        self.mark, self.times = mark, times

    def __call__(self, task: tuple[str, Any], allow: Allow) -> Any:
        return act(task, allow)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with self.mark.open("a") as mark:
            mark.write(".")
        if self.mark.stat().st_size <= self.times:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)


def test_workers_killed_before_they_were_ready_lose_no_task(tmp_path: Path) -> None:
    pool = Pool(KillsTheServerWhereItIsLoaded(tmp_path / "mark", 3), 1, seconds=30)
    assert dict(pool.map(iter([(n, ("ok", n)) for n in range(5)]))) == {n: n for n in range(5)}


def test_workers_that_are_always_killed_before_they_are_ready_are_an_error(tmp_path: Path) -> None:
    pool = Pool(KillsTheServerWhereItIsLoaded(tmp_path / "mark", 1000), 1, seconds=30)
    with pytest.raises(RuntimeError, match="could not start"):
        dict(pool.map(iter([(0, ("ok", 0))])))


def test_workers_see_the_environment_and_the_folder_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSHEET_TEST", "now")
    monkeypatch.chdir(tmp_path)
    assert results([("variable", "CLIPSHEET_TEST")]) == {0: ("now", str(tmp_path))}
    monkeypatch.delenv("CLIPSHEET_TEST")
    assert results([("variable", "CLIPSHEET_TEST")]) == {0: (None, str(tmp_path))}


class InterruptedOnce:
    """A socket whose first recv() is interrupted before it reads."""

    def __init__(self, whole: socket.socket) -> None:
        self.whole, self.interrupts = whole, True

    def recv(self, size: int) -> bytes:
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt
        return self.whole.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def test_a_request_that_was_interrupted_leaves_no_answer_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ForkServer(())
    monkeypatch.setattr(server, "_socket", InterruptedOnce(server._socket))
    with open(os.devnull) as file:
        with pytest.raises(KeyboardInterrupt):
            server.fork(os.close, file.fileno())
        process = server.fork(time.sleep, file.fileno())  # as many seconds as the descriptor's number
        assert server.end(process) == -signal.SIGKILL
    server.close()


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_whoever_is_long_about_a_result_costs_nobody_else_theirs():
    pool = Pool(act, 2, seconds=1.0)
    results = {}
    for key, result in pool.map(iter([(k, ("slow and done", k)) for k in range(4)])):
        results[key] = result
        time.sleep(1.5)  # longer than a task may take
    assert results == {k: k for k in range(4)}
