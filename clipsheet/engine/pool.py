"""Worker processes that can be killed: a sample that hangs, crashes or swallows memory costs its row only.

A worker does one task at a time for which it has a deadline; its clock starts when the worker says
that it has begun. A worker that dies or overruns is replaced. A task whose worker died is tried
once more when nothing else runs, for the kernel may have killed the worker for another's memory.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import resource
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from clipsheet.engine.forkserver import ForkServer
from clipsheet.errors import MediaError

#: job(payload, allow) -> result; allow(seconds) moves the deadline to so long after the beginning.
Job = Callable[[Any, Callable[[float], None]], Any]
LOOKAHEAD = 2  # tasks a worker holds, so that it never waits while its results are being used
#: A task larger than this waits for an idle worker: a pipe full at both ends would never move again.
LOOKAHEAD_BYTES = 1 << 14
HEARTBEAT_SECONDS = 5.0
#: Workers killed in a row before they were ready, which may happen to any process where memory is short.
STARTS = 8
_shared: tuple[int, ForkServer] | None = None  # process number and its fork server


class Pool:
    """Runs a picklable job on many tasks in `size` supervised processes.

    Args:
        job: called in the workers; may raise MediaError. Any other exception is returned as a
            MediaError `model_error` whose `trace` holds the traceback.
        size: number of processes; they are started when they are needed.
        seconds: deadline of a task until the job allows itself more.
        memory_bytes: address space that a worker may use; None for no limit.
        heartbeat: called every few seconds while map() waits for its workers.
        lookahead: tasks that a worker holds; 1 where they are long, so that none waits behind another.
    """

    def __init__(
        self,
        job: Job,
        size: int,
        *,
        seconds: float,
        memory_bytes: int | None = None,
        heartbeat: Callable[[], None] = lambda: None,
        lookahead: int = LOOKAHEAD,
    ) -> None:
        self._job = pickle.dumps(job)
        self._size = size
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._heartbeat = heartbeat
        self._lookahead = lookahead
        self._workers: list[_Worker] = []
        self._failed_starts = 0  # in a row

    def map(self, tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """(key, result or MediaError) for every (key, payload), in the order they end."""
        coming = iter(tasks)
        again: deque[_Task] = deque()
        suspects: deque[_Task] = deque()  # their worker died; each gets one try alone
        try:
            while True:
                self._hand_out(coming, again)
                if not any(w.tasks for w in self._workers):
                    if not suspects:
                        return
                    self._idle_worker().give(suspects.popleft())
                yield from self._collect(again, suspects)
        finally:
            self.close()

    def close(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _hand_out(self, coming: Iterator[tuple[Any, Any]], again: deque[_Task]) -> None:
        for depth in range(self._lookahead):
            for place in range(self._size):
                if place < len(self._workers) and len(self._workers[place].tasks) > depth:
                    continue
                if depth and place >= len(self._workers):
                    break
                task = again.popleft() if again else _next_task(coming)
                if task is None:
                    return
                if place == len(self._workers):
                    self._workers.append(self._start())
                self._workers[place].give(task)

    def _idle_worker(self) -> _Worker:
        if not self._workers:
            self._workers.append(self._start())
        return self._workers[0]

    def _start(self) -> _Worker:
        return _Worker(self._job, self._seconds, self._memory_bytes)

    def _collect(self, again: deque[_Task], suspects: deque[_Task]) -> Iterator[tuple[Any, Any]]:
        """What has ended by now; waits until something happens."""
        now = time.monotonic()
        patience = max(0.0, min(w.deadline for w in self._workers) - now)
        ready = wait([w.pipe for w in self._workers], min(patience, HEARTBEAT_SECONDS))
        self._heartbeat()
        for place, worker in enumerate(self._workers):
            if worker.pipe in ready:
                try:
                    done = worker.receive()
                except (EOFError, ConnectionResetError, pickle.UnpicklingError):
                    task = worker.tasks.popleft() if worker.tasks else None
                    again.extendleft(reversed(worker.tasks))
                    ended = worker.kill()
                    self._workers[place] = self._start()
                    if task is None:
                        continue
                    if worker.never_ready:
                        self._note_failed_start(ended)
                        again.appendleft(task)  # the worker never saw it
                    elif task.tried:
                        yield task.key, MediaError("crashed", _how_it_ended(ended))
                    else:
                        task.tried = True
                        suspects.append(task)
                    continue
                if not worker.never_ready:
                    self._failed_starts = 0
                if done is not None:
                    yield done
            # Whoever took the last result may have been long about it: what came meanwhile is in the pipe.
            elif worker.tasks and time.monotonic() > worker.deadline and not worker.pipe.poll():
                task = worker.tasks.popleft()
                again.extendleft(reversed(worker.tasks))
                worker.kill()
                self._workers[place] = self._start()
                yield task.key, MediaError("timeout", f"no end after {worker.allowed:g} s")

    def _note_failed_start(self, ended: int) -> None:
        """Raise RuntimeError if it is no use to start another: it failed by itself, or several were killed in a row."""
        self._failed_starts += 1
        if ended >= 0 or self._failed_starts == STARTS:
            raise RuntimeError("a worker process could not start; see its message above") from None


@dataclass
class _Task:
    key: Any
    payload: bytes
    tried: bool = False


def _next_task(coming: Iterator[tuple[Any, Any]]) -> _Task | None:
    pair = next(coming, None)
    return None if pair is None else _Task(pair[0], pickle.dumps(pair[1]))


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@dataclass
class _Worker:
    """The parent's end of one worker process."""

    job: bytes  # pickled
    seconds: float
    memory_bytes: int | None
    tasks: deque[_Task] = field(default_factory=deque)
    deadline: float = float("inf")
    allowed: float = 0.0
    never_ready: bool = True
    _sent: int = 0
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.pipe, far_end = Pipe()
        with far_end:
            self.process = self._fork(far_end.fileno())
        self.pipe.send(self.memory_bytes)
        self.pipe.send_bytes(self.job)

    def _fork(self, descriptor: int) -> int:
        try:
            self.server = _server()
            return self.server.fork(_main, descriptor)
        except ConnectionError:  # it was killed: take a new one
            _forget(self.server)
        try:
            self.server = _server()
            return self.server.fork(_main, descriptor)
        except ConnectionError as error:
            raise RuntimeError("worker processes cannot be started; see the message above") from error

    def give(self, task: _Task) -> None:
        self.tasks.append(task)
        self._send()

    def _send(self) -> None:
        """Send what the worker may have: its next task, and a small one to go on with."""
        while self._sent < len(self.tasks):
            task = self.tasks[self._sent]
            if self._sent and len(task.payload) > LOOKAHEAD_BYTES:
                return
            self._sent += 1
            try:
                self.pipe.send_bytes(task.payload)
            except (BrokenPipeError, ConnectionResetError):  # it died: receive() will find out
                return

    def receive(self) -> tuple[Any, Any] | None:
        """Read one message; (key, result) if it ends a task."""
        kind, value = self.pipe.recv()
        if kind == "ready":
            self.never_ready = False
        elif kind == "began":
            self.allowed, self._began = self.seconds, value
            self.deadline = value + self.allowed
        elif kind == "allow":
            self.allowed = max(self.allowed, value)
            self.deadline = self._began + self.allowed
        else:
            self.deadline = float("inf")
            key = self.tasks.popleft().key
            self._sent -= 1
            self._send()
            return key, value
        return None

    def kill(self) -> int:
        """End the process, and say how it had ended: as `Popen.returncode`."""
        self.pipe.close()
        try:
            return self.server.end(self.process)
        except ConnectionError:
            return -signal.SIGKILL  # with the server


def _server() -> ForkServer:
    """The fork server of this program, which all its pools share."""
    global _shared
    if _shared is None or _shared[0] != os.getpid():  # a forked program has its own
        server = ForkServer(("clipsheet.engine.sample",))
        _shared = os.getpid(), server
        atexit.register(_forget, server)
    return _shared[1]


def _forget(server: ForkServer) -> None:
    global _shared
    if _shared is not None and _shared[1] is server:
        _shared = None
    server.close()


def _main(descriptor: int) -> None:
    """A worker: receive the job, then tasks, one after another."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When the parent has closed its end, there is nobody left to work for.
    with Connection(descriptor) as pipe, contextlib.suppress(EOFError, ConnectionError):
        memory_bytes = pipe.recv()
        job: Job = pipe.recv()
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        pipe.send(("ready", None))
        while True:
            payload = pipe.recv()
            pipe.send(("began", time.monotonic()))
            pipe.send(("done", _run(job, payload, lambda seconds: pipe.send(("allow", seconds)))))


def _run(job: Job, payload: Any, allow: Callable[[float], None]) -> Any:
    try:
        return job(payload, allow)
    except Exception as error:
        return failure_of(error)


def failure_of(error: Exception) -> MediaError:
    """What an exception means for the row at which it was raised."""
    return error if isinstance(error, MediaError) else out_of_memory(error) or unexpected(error)


def unexpected(error: Exception) -> MediaError:
    """An unforeseen exception as a row's failure that keeps its traceback."""
    failure = MediaError("model_error", f"{type(error).__name__}: {error}")
    failure.trace = "".join(traceback.format_exception(error))
    return failure


def out_of_memory(error: Exception) -> MediaError | None:
    """The failure of a row that needs more memory than the GPU or the machine has; else None."""
    if isinstance(error, MemoryError):
        return MediaError("out_of_memory", str(error))
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in str(error):
        return MediaError("gpu_oom", str(error))
    return None
