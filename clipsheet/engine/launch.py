"""Which process of how many this is, which device it has, and starting several of them."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsheet.engine.forkserver import die_with_parent

log = logging.getLogger(__name__)
PARTS_PER_RANK = 8  # so that neighbours in a table, which are often alike, are shared out


@dataclass(frozen=True)
class Rank:
    """One process among those that share a table.

    Attributes:
        index: from 0.
        world: how many there are.
        local: its number on this machine, which picks its device.
        local_world: how many of them are on this machine, as far as is known: they share its cores.
        launch: names the launch, the same for all its processes.
    """

    index: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    launch: str = "single"

    @classmethod
    def from_environment(cls) -> Rank:
        """From the variables that torchrun, accelerate and launch() set, else from those of Slurm's srun."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls() if "WORLD_SIZE" in os.environ else cls._of_slurm()
        names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
        launch = "-".join(os.environ.get(name, "") for name in names)
        if os.environ.get("LOCAL_WORLD_SIZE") == str(world):  # all on one machine, children of one launcher
            launch += f"-{os.getppid()}"
        rank = int(os.environ["RANK"])
        local = int(os.environ.get("LOCAL_RANK", str(rank)))
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        return cls(rank, world, local, local_world, "".join(c if c.isalnum() else "-" for c in launch))

    @classmethod
    def _of_slurm(cls) -> Rank:
        """A task of a step that srun started; a batch script is one process, whatever SLURM_NTASKS says."""
        world, step = (os.environ.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"))
        if not (world.isdigit() and step.isdigit() and int(world) > 1):
            return cls()
        per_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0].partition(",")[0]
        launch = (
            f"slurm-{os.environ.get('SLURM_JOB_ID', '')}-{step}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        )
        local = int(os.environ.get("SLURM_LOCALID", "0"))
        return cls(int(os.environ["SLURM_PROCID"]), int(world), local, int(per_node), launch)

    def owned(self, count: int) -> np.ndarray:
        """[count] bool: the rows of a table that are this process's to do.

        A table is divided into PARTS_PER_RANK parts of equal length for each process, which are dealt out by turns.
        """
        part = np.arange(count, dtype=np.int64) * (self.world * PARTS_PER_RANK) // max(1, count)
        return part % self.world == self.index


ALONE = Rank()


def current() -> Rank:
    """This process's rank; from now on the process ends when its launcher does."""
    rank = Rank.from_environment()
    if rank.world > 1 and "WORLD_SIZE" in os.environ:
        die_with_parent(os.getppid(), signal.SIGTERM)
    elif os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        log.info(
            "one process: `accelerate launch --cpu` starts one whatever --num_processes says; "
            "for several on a CPU use `torchrun --nproc_per_node N -m ...`"
        )
    return rank


def device(use_cpu: bool, rank: Rank) -> str:
    """The device of this process: "cuda:1", or whatever accelerator PyTorch finds, or "cpu"."""
    if use_cpu:
        return "cpu"
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    return f"{accelerator.type}:{rank.local % torch.accelerator.device_count()}"


def free_memory() -> None:
    """Give back what PyTorch keeps of a GPU's memory for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def launch(function: Callable[..., Any], *args: Any, processes: int) -> list[int]:
    """Call `function(*args)` in that many fresh processes, each with a rank of its own.

    Args:
        function: importable by name; its arguments picklable.

    Returns:
        The exit code of each process: what `function` returned, as an int or its `exit_code`, else 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
    }
    started = []
    try:
        for index in range(processes):
            place = {"RANK": str(index), "LOCAL_RANK": str(index)}
            process = subprocess.Popen(
                [sys.executable, "-m", "clipsheet.engine.launch"],
                stdin=subprocess.PIPE,
                env={**os.environ, **shared, **place},
            )
            assert process.stdin is not None
            pickle.dump((function, args), process.stdin)
            process.stdin.close()
            started.append(process)
        return [process.wait() for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
        for process in started:
            process.wait()


if __name__ == "__main__":
    called, arguments = pickle.load(sys.stdin.buffer)
    current()
    result = called(*arguments)
    sys.exit(result if isinstance(result, int) else getattr(result, "exit_code", 0))
