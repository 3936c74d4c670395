"""What caption_api costs beside its server: python -m benchmarks.caption_api

Clips of 360p, eight frames each, captioned by a server in another process that answers at once. Beside the run is
measured what its workers do alone: decoding the same frames and writing them as JPEG. Target: at most 5 ms of the
captioning process's CPU time for a row, its start left out.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import _clips
from benchmarks._measure import flags, machine, race, verdict
from captioning.caption_api import CaptionApi
from clipsheet.engine.pool import Pool
from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import SampleJob, Task
from clipsheet.options import RunOptions
from tests.chat_server import MODEL, ChatServer

CAPTION = (
    "A dog runs along a beach while waves roll in behind it, seen from a camera that follows it at the height of its "
    "eyes. The light is low and warm, and the sand is wet where the water has just been. Halfway through, the dog "
    "stops, looks back over its shoulder and shakes itself. Two people in coats walk past in the distance."
)


def serve(pipe: Connection) -> None:
    """The server, until the pipe is closed."""
    with ChatServer(answer=lambda body: CAPTION) as server:
        pipe.send(server.base)
        pipe.poll(None)


def used() -> float:
    """CPU seconds of this process so far, its children left out."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime


def main() -> None:
    """The program."""
    given = flags(__doc__ or "", clips=200, concurrency=16)
    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as name, here:
        multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True).start()
        folder = Path(name)
        paths = _clips.make(folder, given.clips)
        scorer = CaptionApi(api_base=here.recv(), model=MODEL, concurrency=given.concurrency)
        runs = iter(range(10**6))
        costs: list[float] = []

        def caption(count: int) -> float:
            """CPU seconds of captioning some clips."""
            table = folder / f"run{next(runs)}" / "clips.csv"
            table.parent.mkdir()
            before = used()
            status = run_scorers([_clips.table(table, paths[:count])], [scorer], RunOptions())
            assert status.exit_code == 0, status
            return used() - before

        def whole() -> None:
            costs.append(caption(given.clips))

        def decode() -> None:
            pool = Pool(SampleJob((scorer,)), os.cpu_count() or 1, seconds=60)
            tasks = ((n, Task({"path": str(path)}, (0,))) for n, path in enumerate(paths))
            assert sum(1 for _ in pool.map(tasks)) == given.clips

        start = min(caption(1) for _ in range(3))
        print(f"caption_api: {given.clips} clips of 360p, {scorer.num_frames} frames each")
        ways: dict[str, Callable[[], object]] = {"the whole run": whole, "decoding and JPEG alone": decode}
        run, decoding = race(given.repeat, ways).values()
        row = 1000 * (sorted(costs)[len(costs) // 2] - start) / given.clips
        verdict("ms of CPU a row in the captioning process", row, most=5)
        print(
            f"{1000 * (run - decoding) / given.clips:.2f} ms a row longer than decoding alone, start included"
        )
    machine()


if __name__ == "__main__":
    main()
