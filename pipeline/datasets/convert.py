"""A folder of videos or pictures as a table: python -m pipeline.datasets.convert video ROOT --output meta.csv

Files are known by the ending of their name where it is that of a video (or picture); where pictures and animations
have the same, a few bytes tell them apart; others are opened. What looks like a video (or picture) and cannot be
listed stands in `<output>_failed` with its reason. Rows are sorted by their path below ROOT, so that the same files
give the same table.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pandas as pd

from clipsheet import places, tables
from clipsheet.cli import Parser, run_main
from clipsheet.config import build, option
from clipsheet.engine.pool import Pool
from clipsheet.engine.steps import run_step
from clipsheet.errors import CallError, MediaError, one_line, storing
from clipsheet.media.container import beginning, playlist
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from clipsheet.step import Desk, Outcome, Step
from clipsheet.store.rows import Rows
from clipsheet.tables import textfile
from pipeline.datasets import filetypes
from pipeline.datasets.filetypes import (
    CHECKED_ENDINGS,
    PLAYLIST_BYTES,
    Look,
)

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
#: Of a file whose ending says nothing: with these it is neither a video nor a picture that anybody misses.
NOTHING_THERE = frozenset(["missing", "not_a_file", "empty_file", "bad_path", "outside_root"])


@dataclass
class _Found:
    """Files below a root, and what cannot be listed, each as a path below the root."""

    known: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)  # path, code, detail
    hidden: int = 0


@dataclass(frozen=True)
class Convert(Step):
    """A folder, a URL or a JSON list as a table `path,id,relpath`.

    Attributes:
        root: a folder, a URL that fsspec knows, or with `from_json` a file.
    """

    name: ClassVar[str] = "convert"
    reads: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ("path", "id", "relpath")
    starts: ClassVar[bool] = True
    forgives: ClassVar[bool] = True

    root: str
    kind: str = option("video", "what to look for", choices=("video", "image"))
    from_json: bool = option(False, "ROOT is a JSON list of paths, or of objects with a `path`")
    download: str = option("", "folder to copy the files of a URL (s3://...) to, and to list them in")

    def output(self, inputs: Sequence[Path], given: str) -> Path:
        tables.check_ending(Path(given))
        return Path(given)

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        refused: list[tuple[str, str, str]] = []
        if self.from_json:
            frame = _from_json(Path(self.root))
        else:
            root = self.root
            if "://" in root:
                root = _downloaded(root, self.download)
            elif self.download:
                raise CallError(f"--download copies the files of a URL; {root} is a folder")
            relpaths, refused = _list(self.kind, root, desk.options.num_workers)
            folder = os.path.join(root, "")
            frame = pd.DataFrame({"path": [folder + r for r in relpaths]})
            frame["id"] = [_stem(r) for r in relpaths]
            frame["relpath"] = relpaths
        failed = pd.DataFrame(refused, columns=["path", "code", "detail"], dtype=str)
        failed.insert(1, "scorer", self.name)
        return Outcome(frame.astype(tables.TEXT), failed=failed.astype(tables.TEXT))


def _list(kind: str, root: str, workers: int) -> tuple[list[str], list[tuple[str, str, str]]]:
    if not _is_utf8(root):
        raise CallError(f"{_shown(root)}: the folder's name is not UTF-8; rename it")
    if not os.path.isdir(root):
        raise CallError(f"{root}: no such folder")
    try:
        os.listdir(root)
    except OSError as error:
        raise CallError(f"{root}: cannot be read: {error.strerror}") from error
    found = _walk(root, kind)
    if found.hidden:
        log.info("%s: %d hidden files are left out", root, found.hidden)
    _look_into(kind, root, found, workers)
    return sorted(found.known), found.refused


@dataclass
class _Folder:
    """A folder while its entries are gone through, by its path below the root."""

    path: str
    entries: Iterator[os.DirEntry[str]]
    listed: bool = False  # whether anything in it was


def _walk(root: str, kind: str) -> _Found:
    """All files below a folder; links to folders are followed, each folder once."""
    found = _Found()
    endings, skipped = filetypes.endings(kind), filetypes.skipped_endings(kind)
    videos = kind == filetypes.VIDEO
    seen: set[tuple[int, int]] = set()
    inside = [_enter(root, "", found, seen)]  # from the root down; folders may be nested thousands deep
    while inside:
        folder = inside[-1]
        entry = next(folder.entries, None)
        if entry is None:
            inside.pop()
            if not folder.listed and _ending(folder.path) in endings:  # empty, and named like a video
                found.known.append(folder.path)
                folder.listed = True
            if inside:
                inside[-1].listed |= folder.listed
            continue
        name = entry.name
        path = f"{folder.path}/{name}" if folder.path else name
        if name.startswith("."):
            found.hidden += 1
        elif not _is_utf8(name):
            found.refused.append((_shown(path), "bad_path", "the name is not UTF-8"))
        elif _is_folder(entry):
            inside.append(_enter(root, path, found, seen))
        elif (ending := _ending(name)) in CHECKED_ENDINGS:
            if filetypes.kind_of(entry.path if _is_file(entry) else None, ending) == kind:
                found.known.append(path)
                folder.listed = True
        elif ending in endings:
            if videos and (what := _playlist_in(entry)):
                found.refused.append((path, "format_not_allowed", f"{what} under the name of a video"))
                continue
            found.known.append(path)
            folder.listed = True
        elif ending not in skipped and _is_file(entry):
            found.unknown.append(path)
    return found


def _playlist_in(entry: os.DirEntry[str]) -> str:
    """What kind of playlist a file under a video's name is; only files as small as playlists are opened."""
    try:
        status = entry.stat()
    except OSError:
        return ""
    if not 0 < status.st_size <= PLAYLIST_BYTES or not stat.S_ISREG(status.st_mode):
        return ""
    return playlist(beginning(entry.path))


def _enter(root: str, below: str, found: _Found, seen: set[tuple[int, int]]) -> _Folder:
    """Open a folder; one that cannot be read, or was seen before, has no entries but counts as listed."""
    try:
        status = os.stat(os.path.join(root, below))
        entries = sorted(os.scandir(os.path.join(root, below)), key=lambda e: e.name)
    except OSError as error:
        found.refused.append((_shown(below), "unreadable", error.strerror or ""))
        return _Folder(below, iter(()), listed=True)
    if (status.st_dev, status.st_ino) in seen:
        return _Folder(below, iter(()), listed=True)
    seen.add((status.st_dev, status.st_ino))
    return _Folder(below, iter(entries))


def _ending(path: str) -> str:
    """In lower case, with its dot; of a name that does not begin with one."""
    place = path.rfind(".")
    return path[place:].lower() if place > path.rfind("/") + 1 else ""


def _stem(path: str) -> str:
    """As pathlib has it, at a fifth of the time."""
    name = path.rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    return stem if stem and ending else name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_utf8(name: str) -> bool:
    if name.isascii():
        return True
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class _LookJob:
    """Opens a file whose ending says nothing; runs in a worker process."""

    def __call__(self, path: str, allow: Callable[[float], None]) -> Look:
        return filetypes.look(path)


def _look_into(kind: str, root: str, found: _Found, workers: int) -> None:
    """Open the files whose endings say nothing, and add them to those that are listed or refused."""
    if not found.unknown:
        return
    processes = min(len(found.unknown), workers or os.cpu_count() or 1)
    pool = Pool(_LookJob(), processes, seconds=LOOK_SECONDS, memory_bytes=4 << 30)
    refused = []
    for path, answer in pool.map((path, os.path.join(root, path)) for path in found.unknown):
        named = _ending(path) in filetypes.unread_endings(kind)
        if isinstance(answer, MediaError):  # it was not looked into
            if named or answer.code not in NOTHING_THERE:
                refused.append((path, answer.code, answer.detail))
        elif answer.error is None and answer.kind == kind:
            found.known.append(path)
        elif answer.error is not None and (named or answer.kind == kind):
            refused.append((path, answer.error.code, answer.error.detail))
        elif named:
            refused.append((path, *_misnamed(answer, kind)))
    found.refused += sorted(refused)


def _misnamed(found: Look, kind: str) -> tuple[str, str]:
    """Code and detail of a file whose ending is that of videos (or pictures) that are not read."""
    if found.kind:
        return "format_not_allowed", f"no {kind}, but a {found.kind}"
    return "corrupt", f"named like a {kind}, and in no format that is known"


def _downloaded(url: str, folder: str) -> str:
    """Copy the files below a URL into a folder, those that are not there yet; return the folder."""
    if not folder:
        raise CallError(f"{url}: only local files can be read; give --download FOLDER to copy them to")
    try:
        system, base = fsspec.core.url_to_fs(url)
        names = {name: details["size"] for name, details in system.find(base, detail=True).items()}
    except (OSError, ValueError, ImportError) as error:
        raise CallError(f"{url}: {one_line(str(error))}") from error
    if not names:
        raise CallError(f"{url}: nothing there")
    for name, size in sorted(names.items()):
        relpath = os.path.relpath(name, base)
        target = Path(folder) / relpath
        if relpath.startswith("..") or os.path.isabs(relpath):
            raise CallError(f"{url}: {one_line(name)} lies outside it")
        if target.exists() and target.stat().st_size == size:
            continue
        with places.replacing(target) as file, system.open(name, "rb") as source:
            while block := source.read(1 << 22):
                with storing(target):
                    file.write(block)
    return folder


def _from_json(path: Path) -> pd.DataFrame:
    try:
        text = textfile.decode(path.read_bytes())
    except OSError as error:
        raise CallError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CallError(f"{path}: {error}") from error
    try:
        return _json_frame(path, json.loads(text))
    except ValueError as error:
        raise CallError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise CallError(f"{path}: lists or objects are nested too deep") from error


def _json_frame(path: Path, entries: Any) -> pd.DataFrame:
    if not isinstance(entries, list):
        raise CallError(f"{path}: a JSON list of paths or of objects is needed")
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(entries):
        row = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(row, dict) or not isinstance(row.get("path"), str):
            raise CallError(f"{path}: entry {number} is no path and has no `path`")
        names = {"id": Path(row["path"]).stem, "relpath": row["path"].lstrip("/")}
        cells = {"path": row["path"], **names, **{k: _json_cell(v) for k, v in row.items()}}
        for text in (*cells, *cells.values()):
            if "\0" in text or not _is_utf8(text):
                raise CallError(f"{path}: entry {number}: {one_line(text)} holds what no table can hold")
        rows.append(cells)
    columns = list(dict.fromkeys(["path", "id", "relpath", *(key for row in rows for key in row)]))
    tables.check_names(columns, path)
    return pd.DataFrame([{c: row.get(c, "") for c in columns} for row in rows], columns=columns, dtype=str)


def _json_cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else tables.cell(value)


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("kind", choices=("video", "image"), help="what to look for")
    parser.add_argument("root", help="a folder, a URL that fsspec knows, or with --from_json a list")
    parser.add_argument("--output", required=True, help="table to write: .csv or .parquet")
    parser.add_fields(Convert, "options", without=("kind", "root"))
    parser.add_argument(
        "--num_workers", type=int, default=0, metavar="N",
        help="processes that look into files of unknown ending; 0: one per core",
    )  # fmt: skip
    given = parser.parse_args()

    def program() -> Status:
        options = build(RunOptions, {"output": given.output, "num_workers": given.num_workers})
        return run_step([], parser.take(Convert, given), options)

    run_main(program)


if __name__ == "__main__":  # run as the module that it is: workers know its classes by that name
    from pipeline.datasets.convert import main as program

    program()
