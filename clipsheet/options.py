"""Execution options, which every tool shares."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clipsheet.config import option
from clipsheet.errors import ConfigError
from clipsheet.media import READERS
from clipsheet.scorer import MODELS

GIB = 1 << 30


@dataclass(frozen=True)
class RunOptions:
    """Execution options. None changes a result, except `reader`, which is therefore part of every fingerprint."""

    bs: int = option(16, "samples scored at once", ge=1)
    num_workers: int = option(0, "decoding processes; 0: one per core, shared by all ranks", ge=0)
    use_cpu: bool = option(False, "use no GPU")
    skip_if_existing: bool = option(False, "do not recompute cells that already have a value")
    keep_as: str = option("", "before overwriting a column, copy it to <column>_<this>")
    output: str = option("", "table to write instead of <table>_<suffix>.csv")
    pretrained_models: str = option(os.fspath(MODELS), "folder of the weight files")
    root: str = option("", "refuse files outside this folder")
    reader: str = option(READERS[0], "what decodes videos; decord: pip install decord", choices=READERS)
    timeout: float = option(60.0, "seconds a sample may take, or 4 times its length", gt=0)
    worker_memory: float = option(4.0, "GiB of address space per decoding process", gt=0)
    max_failed: float = option(0.2, "share of rows that may fail before the exit code is 3", ge=0, le=1)
    retry_failed: bool = option(False, "try every failed row again")
    compile: bool = option(
        False, "compile CLIP's image encoder with torch.compile: slow to start, fast on GPUs"
    )
    stall: float = option(900.0, "seconds without progress after which a process gives up", gt=0)

    @property
    def models(self) -> Path:
        """The folder of the weight files."""
        return Path(self.pretrained_models)


@dataclass(frozen=True)
class RankOptions:
    """One run as several processes that never wait for each other, on one machine or many."""

    rank: int | None = option(
        None, "do the share of this one of --world processes, from 0, and write no table", ge=0
    )
    world: int | None = option(None, "how many processes share the table", ge=1)
    join: bool = option(False, "write the table from what all ranks have done so far, and do nothing else")

    def __post_init__(self) -> None:
        if self.join and (self.rank is not None or self.world is not None):
            raise ConfigError("--join cannot be combined with --rank or --world")
        if (self.rank is None) != (self.world is None):
            raise ConfigError("--rank and --world go together: this process's number, and how many there are")
        if self.rank is not None and self.world is not None and self.rank >= self.world:
            raise ConfigError(f"--rank {self.rank}: ranks are counted from 0 to {self.world - 1}")
