"""How a tool's run ended: the summary line, the exit code, and both in a file beside the output."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsheet import errors, places, tables
from clipsheet.store.locks import FOLDER

STATES = {errors.OK: "done", errors.INCOMPLETE: "incomplete"}


#: What a table's next run says again if it has nothing to do.
FACTS = (
    "rows_in", "rows_out", "scored", "failed_rows", "failed", "dropped", "pending", "hours_in", "hours_out",
)  # fmt: skip


@dataclass
class Status:
    """What happened to the rows of a table.

    Attributes:
        tool: what ran.
        output: the table it wrote.
        rows_in, rows_out: rows of the input and of the output.
        scored: rows with a result for everything that was asked for.
        failed: rows by failure, `<scorer>: <code>`.
        dropped: rows by reason, for a step that removes rows.
        pending: rows without a verdict.
        exit_code, message: why it ended as it did; the message is empty when all is well.
        hours_in, hours_out: length of the rows in hours, where the table says it.
        share: number and count of the processes, if this is about the share of one; None for the whole table.
    """

    tool: str
    output: Path
    rows_in: int = 0
    rows_out: int = 0
    scored: int = 0
    failed_rows: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    pending: int = 0
    exit_code: int = errors.OK
    message: str = ""
    seconds: float = 0.0
    hours_in: float | None = None
    hours_out: float | None = None
    share: tuple[int, int] | None = None
    _started: float = field(default_factory=time.time, repr=False)

    def line(self) -> str:
        """The one line with which every tool ends."""
        if self.share is not None:
            share = f"rank {self.share[0]} of {self.share[1]} has done its share"
            return f"{self.tool}: {share} in {self.seconds:.1f} s; the last of them, or --join, writes {self.output}"
        parts = [f"{self.rows_in} rows"]
        if self.rows_out != self.rows_in:
            parts.append(f"{self.rows_out} out")
        if self.failed_rows:
            codes = ", ".join(f"{n} {code}" for code, n in self.failed.items())
            parts.append(f"{self.failed_rows} failed ({codes})")
        if self.dropped:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items())
            parts.append(f"{sum(self.dropped.values())} dropped ({reasons})")
        if self.pending:
            parts.append(f"{self.pending} not run yet")
        text = f"{self.tool}: {', '.join(parts)} in {self.seconds:.1f} s -> {self.output}"
        return f"{text}\n{self.message}" if self.message else text

    @property
    def facts(self) -> dict[str, Any]:
        """What happened to the rows, to be kept."""
        return {name: getattr(self, name) for name in FACTS}

    def judge(self, max_failed: float) -> None:
        """Find the exit code: 4 for rows without a verdict, else 3 for more failures than are allowed.

        Args:
            max_failed: share of all that was tried.
        """
        if self.pending:
            self.exit_code = errors.INCOMPLETE
            self.message = f"{self.pending} rows have no verdict: run the same command again"
            return
        tried = self.scored + self.failed_rows
        if tried and self.failed_rows / tried > max_failed:
            self.exit_code = errors.TOO_MANY_FAILED
            self.message = (
                f"{self.failed_rows} of {tried} failed, more than --max_failed {max_failed:g} allows; "
                f"see {tables.sidecar(self.output, 'failed')}"
            )

    @property
    def path(self) -> Path:
        """Where write() puts it: `<output stem>_status.json`; that of one process's share in a folder of such."""
        if self.share is None:
            return status_path(self.output)
        name = f"{self.share[0]}-of-{self.share[1]}.json"
        return self.output.parent / FOLDER / "ranks" / self.output.stem / name

    def write(self, state: str = "") -> None:
        """Keep it beside the output, for launchers lose exit codes."""
        entry = {
            "tool": self.tool,
            "state": state or STATES.get(self.exit_code, "failed"),
            "exit": self.exit_code,
            "message": self.message,
            "output": os.fspath(self.output),
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "scored": self.scored,
            "failed_rows": self.failed_rows,
            "failed": self.failed,
            "dropped": self.dropped,
            "pending": self.pending,
            "hours_in": self.hours_in,
            "hours_out": self.hours_out,
            "seconds": round(self.seconds, 3),
            "started": _utc(self._started),
            "ended": _utc(time.time()),
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        with places.replacing(self.path) as file:
            file.write(json.dumps(entry, indent=2).encode() + b"\n")


def status_path(output: Path) -> Path:
    """The status file of a table, or of a part of one."""
    if tables.is_part(output):
        return output.parent / FOLDER / "status" / f"{output.stem}.json"
    return output.with_name(f"{output.stem}_status.json")


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


@contextmanager
def recording(status: Status) -> Iterator[Status]:
    """Time a run and write its status, also when it ends with an error, which goes on.

    Until then the file says `running`, and by which process: what a kill leaves behind is no old success.
    """
    begun = time.monotonic()
    status.write("running")
    try:
        yield status
    except BaseException as error:
        status.exit_code = getattr(error, "exit_code", errors.BUG)
        status.message = str(error) or type(error).__name__
        raise
    finally:
        status.seconds = time.monotonic() - begun
        with (
            contextlib.suppress(errors.StorageError) if status.exit_code == errors.STORAGE else nullcontext()
        ):
            status.write()
