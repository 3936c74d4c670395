"""Logging and progress, set up in one place."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

PLAIN_SECONDS = 30.0

log = logging.getLogger(__name__)


def setup() -> None:
    """Send the project's messages to standard error, one line each."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for name in ("matplotlib", "PIL", "faiss", "RapidOCR", "pyscenedetect"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Progress:
    """How many of how many are done: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, total: int, what: str, unit: str = "rows") -> None:
        self._total, self._what, self._unit = total, what, unit
        self._done = 0
        self._started = self._told = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=what, unit=unit[:-1], dynamic_ncols=True) if sys.stderr.isatty() else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._told >= PLAIN_SECONDS and self._done:
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate
            log.info(
                "%s: %d of %d %s, %.1f/s, about %.0f s left",
                self._what, self._done, self._total, self._unit, rate, left,
            )  # fmt: skip
            self._told = now
