"""Programs run as `python -m MODULE` would run them, but forked from a process that has imported the libraries.

A program spends seconds of CPU on importing pandas, PyArrow, PyAV and OpenCV; the tests run hundreds. What a
forked one leaves out is the start of the interpreter, so what depends on that (PYTHON* variables, locales) is
run by a new one.
"""

from __future__ import annotations

import atexit
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from clipsheet.engine.forkserver import ForkServer

LIBRARIES = (
    "pandas",
    "pyarrow.csv",
    "pyarrow.json",
    "pyarrow.parquet",
    "pydantic",
    "clipsheet.engine.sample",
)
SETTINGS_OF_THE_INTERPRETER = ("PYTHON", "LC_", "LANG")


def run(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], directory: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """What `python -m MODULE ARGUMENTS` prints, and its exit code.

    Raises:
        subprocess.TimeoutExpired: it has not ended in time.
    """
    if any(
        name.startswith(SETTINGS_OF_THE_INTERPRETER) and os.environ.get(name) != text
        for name, text in environment.items()
        if name != "PYTHONPATH"
    ):
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=directory, env=environment, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        ended, alive = os.pipe()
        try:
            process = _server().fork(
                _program, alive, module, list(arguments), dict(environment), str(directory), outputs
            )
            os.close(alive)
            in_time = bool(select.select([ended], [], [], timeout)[0])
        finally:
            os.close(ended)
        code = _server().end(process)
        if not in_time:
            raise subprocess.TimeoutExpired([module, *arguments], timeout)
        texts = [Path(output).read_text("utf-8", "replace") for output in outputs]
    return subprocess.CompletedProcess([module, *arguments], code, *texts)


@cache
def _server() -> ForkServer:
    server = ForkServer(LIBRARIES)
    atexit.register(server.close)
    return server


def _program(
    alive: int,
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    directory: str,
    outputs: list[str],
) -> None:
    """The forked process: `alive` is open until it has ended."""
    for number, output in enumerate(outputs, start=1):
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.set_inheritable(alive, False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [directory, *(p for p in paths if p), *(p for p in sys.path if "python3" in p)]
    sys.argv = [module, *arguments]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
