"""Names of clips: one source per name, in one table and among all tables of a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd

from clipsheet import places, tables
from clipsheet.errors import Incomplete, MediaError, StorageError, storing
from clipsheet.store.locks import FOLDER, working_on
from pipeline.splitting.cutter import Cutting, name_hash

CLAIM_SECONDS = 60.0  # to wait for another process that names its clips


def clip_stems(frame: pd.DataFrame, cutting: Cutting) -> list[str | MediaError]:
    """For every row the path of its clips without `_scene-<i>.mp4`; no two sources share one."""
    paths = tables.text(frame, "path").to_numpy()
    below = tables.text(frame, "relpath").to_numpy() if "relpath" in frame.columns else None
    plain: list[str | MediaError] = []
    sources: dict[str, set[str]] = {}
    for row, path in enumerate(paths):
        relpath = below[row] if below is not None and below[row] else os.path.basename(path)
        stem = os.path.normpath(os.path.splitext(relpath)[0])
        if stem.startswith("..") or os.path.isabs(stem) or "\0" in stem:
            plain.append(MediaError("bad_path", f"relpath {relpath} leaves the folder of the clips"))
            continue
        folder, name = os.path.split(stem)
        stem = os.path.join(cutting.save_dir, folder, _shortened(name))
        plain.append(stem)
        sources.setdefault(stem, set()).add(path)
    return [
        f"{stem}_{name_hash(path)}" if isinstance(stem, str) and len(sources[stem]) > 1 else stem
        for stem, path in zip(plain, paths, strict=True)
    ]


@contextmanager
def claiming(save_dir: str) -> Iterator[dict[str, str]]:
    """The source of each stem in a folder of clips, to be added to; kept when the block ends.

    Raises:
        Incomplete: another process holds them for long.
        StorageError: they cannot be read or written.
    """
    path = Path(save_dir) / FOLDER / "claims.json"
    with _taking_turns(Path(save_dir) / path.name):
        try:
            with storing(path):
                claims = dict(json.loads(path.read_bytes())) if path.exists() else {}
        except (ValueError, TypeError) as error:
            raise StorageError(
                f"{path}: damaged ({error}); delete it, then cut the oldest table first: "
                "which source has which name of clips is found anew"
            ) from error
        known = len(claims)
        yield claims
        if len(claims) != known:
            with places.replacing(path) as file:
                file.write(json.dumps(claims, indent=0).encode() + b"\n")


@contextmanager
def _taking_turns(output: Path) -> Iterator[None]:
    """Hold a lock that others hold for a moment only: wait for it."""
    deadline = time.monotonic() + CLAIM_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(working_on(output))
                break
            except Incomplete:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def claim(claims: dict[str, str], stem: str, path: str, save_dir: str) -> str:
    """The stem, or one with a hash where the clips of that name are of another source.

    What is not there gets no clips and claims nothing: a path that is put right later finds its name free.
    """
    source = os.path.abspath(path)
    hashed = f"{stem}_{name_hash(source)}"
    for name in (stem, hashed):
        key = os.path.relpath(name, save_dir)
        if key not in claims and os.path.exists(path):
            claims[key] = source
        if claims.get(key, source) == source:
            return name
    return hashed


def _shortened(name: str, limit: int = 200) -> str:
    """A name that leaves room for `_scene-<i>` within the 255 bytes of a file name."""
    raw = os.fsencode(name)
    return name if len(raw) <= limit else f"{raw[:limit].decode('utf-8', 'ignore')}_{name_hash(name)}"
