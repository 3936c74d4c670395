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

from clipsheet.engine.forkserver import die_with_parent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rank:
    """One process among those that share a table.

    Attributes:
        index: from 0; process 0 joins the results.
        world: how many there are.
        local: its number on this machine, which picks its device.
        launch: names the launch, the same for all its processes.
    """

    index: int = 0
    world: int = 1
    local: int = 0
    launch: str = "single"

    @classmethod
    def from_environment(cls) -> Rank:
        """From the variables that torchrun, accelerate and launch() set."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
        launch = "-".join(os.environ.get(name, "") for name in names)
        if os.environ.get("LOCAL_WORLD_SIZE") == str(world):  # all on one machine, children of one launcher
            launch += f"-{os.getppid()}"
        rank = int(os.environ["RANK"])
        local = int(os.environ.get("LOCAL_RANK", str(rank)))
        return cls(rank, world, local, "".join(c if c.isalnum() else "-" for c in launch))

    @property
    def is_main(self) -> bool:
        """Whether this process joins the results and writes the table."""
        return self.index == 0


def current() -> Rank:
    """This process's rank; from now on the process ends when its launcher does."""
    rank = Rank.from_environment()
    if rank.world > 1:
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
