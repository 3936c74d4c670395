"""Which processes of a launch are still at work."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from clipsheet.engine.launch import Rank
from clipsheet.errors import storing
from clipsheet.store.locks import FOLDER, try_lock

OVER = b"over"
START_SLACK_SECONDS = 600.0  # by which the processes of a launch may begin one after another


class Presence:
    """Marks a process of a launch as at work until it ends, for the one that waits for the others."""

    def __init__(self, folder: Path, rank: Rank) -> None:
        self._ranks = folder / FOLDER / "ranks" / rank.launch
        path = self._ranks / str(rank.index)
        with storing(path):
            self._ranks.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "w+b", buffering=0)  # stays open, and locked, until the process ends
        while try_lock(self._file) is False:  # someone is looking whether we have ended
            time.sleep(0.05)
        self._began = time.time()

    def beat(self) -> None:
        """This process is alive."""
        os.utime(self._file.fileno())

    def over(self) -> None:
        """This process has done its rows; for file systems that cannot tell by its lock."""
        self._file.write(OVER)

    def last_beat(self) -> float:
        """When the last sign of life of any process of the launch was, in seconds since 1970."""
        return max((path.stat().st_mtime for path in self._ranks.glob("*")), default=0.0)

    def ended(self, world: int) -> bool:
        """Whether all processes but number 0 have begun and are over."""
        for rank in range(1, world):
            try:
                with open(self._ranks / str(rank), "r+b") as file:
                    stale = os.fstat(file.fileno()).st_mtime < self._began - START_SLACK_SECONDS
                    locked = try_lock(file)
                    if stale or locked is False or (locked is None and file.read() != OVER):
                        return False
            except FileNotFoundError:
                return False
        return True

    def remove(self) -> None:
        """All are over: leave nothing behind."""
        for path in self._ranks.glob("*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._ranks.rmdir()
