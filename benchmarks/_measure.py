"""Measuring ways of doing one task against each other, and saying what came out."""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = ("numpy", "pandas", "pyarrow", "av", "opencv-python-headless")
MIB = 1 << 20


def flags(description: str, **sizes: int) -> argparse.Namespace:
    """A benchmark's flags: `--repeat`, and one for each size, with their defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {**sizes, "repeat": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    return parser.parse_args()


def race(repeat: int, ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way; they take turns, and every other round goes backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeat):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        print(f"  {name:36} {statistics.median(taken):8.2f} s  ({min(taken):.2f} to {max(taken):.2f})")
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def growth(function: Callable[..., object], *args: object, first: Sequence[object]) -> int:
    """Bytes by which a fresh process grows at most while it calls an importable function.

    Args:
        first: arguments of a small task of the same sort, done before: what the process takes but
            once, for code and libraries, is not counted.
    """
    with multiprocessing.get_context("spawn").Pool(1) as fresh:
        return fresh.apply(_growth, (function, args, tuple(first)))


def _growth(function: Callable[..., object], args: tuple[object, ...], first: tuple[object, ...]) -> int:
    function(*first)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    function(*args)
    return memory("VmHWM") - before


def memory(name: str) -> int:
    """A number of /proc/self/status, such as VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def verdict(words: str, ratio: float, *, least: float | None = None, most: float | None = None) -> None:
    """Print a ratio beside its target."""
    met = (least is None or ratio >= least) and (most is None or ratio <= most)
    target = f"at least {least:g}" if least is not None else f"at most {most:g}"
    print(f"{ratio:.2f} {words}; target: {target}, {'met' if met else 'MISSED'}")


def machine() -> None:
    """Print what the numbers were taken on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, {versions}\n")
