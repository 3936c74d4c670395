"""A process that has imported what workers need, and forks one in milliseconds when asked.

Importing NumPy, PyAV and OpenCV takes far longer than a fork, and every worker of every stage would do it again. The
fork server imports them once per program and never starts a thread, so forking it is safe. Workers are its
children: it kills them and reports how they ended, and they die with it. It ends when its socket is closed, which
the kernel does when the program dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
STDERR = 2
MAX_REQUEST_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 10
#: One thread per worker: their number is what uses the cores.
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OPENCV_FOR_THREADS_NUM",
)  # fmt: skip


def die_with_parent(parent: int, how: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, how, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), how)


class ForkServer:
    """The asking program's end. One request at a time; several threads may ask.

    Args:
        modules: imported by the server before it forks for the first time.
    """

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._environment = worker_environment()
        self._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(far_end.fileno()), *modules],
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**self._environment, "PYTHONPATH": os.pathsep.join(_search_path())},
            )

    def fork(self, main: Callable[..., None], descriptor: int, *arguments: Any) -> int:
        """Start a process that calls `main(descriptor, *arguments)`, with this program's stderr.

        Args:
            main, arguments: picklable. The environment, the working directory and `sys.path` are this program's.
            descriptor: of the asking process; the forked one gets its own number for the same file.

        Returns:
            The process number, which stays reserved until end() is called for it.

        Raises:
            ConnectionError: the server has gone.
        """
        now = worker_environment()
        changed = {
            name: now.get(name)
            for name in {*now, *self._environment}
            if now.get(name) != self._environment.get(name)
        }
        place = changed, os.getcwd(), _search_path()
        return int(self._ask("fork", (main, arguments, place), [descriptor, STDERR]))

    def end(self, process: int) -> int:
        """Kill a forked process unless it has ended, and say how it ended: as `Popen.returncode`.

        Raises:
            ConnectionError: the server has gone, and its processes with it.
        """
        return int(self._ask("end", process, []))

    @property
    def process(self) -> int:
        """The server's own process number."""
        return self._process.pid

    def close(self) -> None:
        """End the server and all its processes."""
        self._socket.close()
        self._process.wait()

    def _ask(self, what: str, value: Any, descriptors: list[int]) -> Any:
        with self._lock:
            if self._socket.fileno() < 0:
                raise ConnectionResetError("the fork server was closed")
            self._asked += 1
            socket.send_fds(self._socket, [pickle.dumps((self._asked, what, value))], descriptors)
            while True:
                message = self._socket.recv(MAX_ANSWER_BYTES)
                if not message:
                    raise ConnectionResetError("the fork server has gone")
                number, answer = pickle.loads(message)
                if number == self._asked:  # else it answers an earlier request that was interrupted
                    return answer


def worker_environment() -> dict[str, str]:
    """The environment of a process that shares the cores with its like."""
    return {**os.environ, **dict.fromkeys(THREADS, "1")}


def _search_path() -> list[str]:
    return [p or os.getcwd() for p in sys.path]


# --- the server --------------------------------------------------------------------------------


def _serve(descriptor: int, modules: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for module in modules:
        importlib.import_module(module)
    with socket.socket(fileno=descriptor) as asker:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(asker, MAX_REQUEST_BYTES, 2)
            except ConnectionError:
                return
            if not message:
                return
            number, what, value = pickle.loads(message)
            if what == "fork":
                answer = _fork(asker, value, descriptors)
            else:
                answer = _end(value)
            for received in descriptors:
                os.close(received)
            with contextlib.suppress(ConnectionError):
                asker.send(pickle.dumps((number, answer)))


def _fork(asker: socket.socket, value: Any, descriptors: list[int]) -> int:
    parent = os.getpid()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        die_with_parent(parent)
        asker.close()
        _begin(value, *descriptors)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the server's is to be cleaned up here


def _begin(value: Any, descriptor: int, stderr: int) -> None:
    main, arguments, (changed, directory, search_path) = value
    os.dup2(stderr, STDERR)
    os.close(stderr)
    for name, text in changed.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text
    os.chdir(directory)
    sys.path[:] = search_path
    main(descriptor, *arguments)


def _end(process: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
