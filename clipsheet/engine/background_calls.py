"""Calls that spend their time waiting for somebody else: many at once, each in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

WAIT_SECONDS = 5.0  # at most, before whoever waits is asked for a sign of life


class Flight:
    """Calls a function in threads, which end with the process, whatever they wait for.

    Args:
        function: called with an item; what it raises is given back in the place of its result.
        size: threads.
        heartbeat: called every few seconds while somebody waits here; for calls that end by themselves.
    """

    def __init__(
        self, function: Callable[[Any], Any], size: int, heartbeat: Callable[[], None] = lambda: None
    ) -> None:
        self._function = function
        self._size = size
        self._heartbeat = heartbeat
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._out = 0
        self._threads = 0

    def send(self, key: Any, item: Any) -> Iterator[tuple[Any, Any]]:
        """Hand an item over once a thread is free.

        Returns:
            (key, result or exception) of the calls that have ended by now.
        """
        while self._out >= self._size:
            yield self._next()
        self._out += 1
        if self._threads < self._out:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True).start()
        self._waiting.put((key, item))
        while not self._over.empty():
            yield self._next()

    def land(self) -> Iterator[tuple[Any, Any]]:
        """(key, result or exception) of all that are still out."""
        while self._out:
            yield self._next()

    def close(self, seconds: float = 0.0) -> Iterator[tuple[Any, Any]]:
        """(key, result or exception) of the calls that are over; no thread begins another one.

        Args:
            seconds: to wait for those that are under way. A thread inside a library such as PyTorch is better not
                left behind when the process ends.
        """
        for _ in range(self._threads):
            self._waiting.put(None)
        until = time.monotonic() + seconds
        while self._out:
            try:
                ended = self._over.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            self._out -= 1
            yield ended

    def _next(self) -> tuple[Any, Any]:
        while True:
            try:
                ended = self._over.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                self._heartbeat()
                continue
            self._out -= 1
            return ended

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            key, item = task
            try:
                result = self._function(item)
            except BaseException as error:
                result = error
            self._over.put((key, result))
