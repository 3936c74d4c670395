"""A process that makes no progress ends itself, and says where it hung."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from types import TracebackType

from clipsheet.errors import INCOMPLETE

STDERR = 2


class Watchdog:
    """Within its `with` block, a process silent for `seconds` prints its stacks and exits with 4.

    With 1, where native code holds the interpreter's lock, half as long again after that.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = self._armed = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        # Should native code hang with the interpreter's lock held, no thread of ours will run.
        self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """Something was done."""
        self._last = time.monotonic()
        if self._last - self._armed > self._seconds / 10:
            self._arm()

    def _arm(self) -> None:
        self._armed = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds * 1.5, exit=True, file=STDERR)

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                os.write(
                    STDERR, f"no progress for {self._seconds:g} s; run the same command again\n".encode()
                )
                faulthandler.dump_traceback(STDERR)
                os._exit(INCOMPLETE)
