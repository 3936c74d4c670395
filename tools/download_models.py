"""Bring weight files into pretrained_models/ and check them: python -m tools.download_models [NAME...]

Without a name it lists what there is. A file has its name only when it is whole and its sha256 is the
published one. A file in a foreign format is then converted, as by tools.convert; it is not needed any more.
A cut transfer goes on where it ended, in the same run and in the next; two runs at once wait for each
other. Through a proxy: set https_proxy. From a mirror: CLIPSHEET_WEIGHTS=FILE names a table like
tools/weights.yaml with other URLs.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import logging
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from clipsheet.cli import Parser, run_main
from clipsheet.errors import WRONG_CALL, CallError, storing
from clipsheet.scorer import MODELS
from clipsheet.weights.converted import CONVERT, converted, is_foreign
from clipsheet.weights.table import DOWNLOAD, Model, WeightFile, table
from tools.convert.formats import convert, is_converted

TRIES = 5
PAUSE_SECONDS = 2.0  # before the second try; then twice as long each time
TIMEOUT_SECONDS = 60.0  # without a single byte
CHUNK_BYTES = 1 << 16  # what a killed run loses at most

log = logging.getLogger(__name__)


class _TryAgain(Exception):
    """What came is not the file; another try may bring it."""


def download(model: Model, folder: Path) -> None:
    """Bring the files of a model that are not there or not right, and convert those in foreign formats.

    A foreign file that was converted before is not needed again.

    Raises:
        CallError: a file cannot be had (says where it is and where to put it by hand), or not be converted.
        StorageError: no room, or the folder cannot be written.
    """
    with _alone(folder):
        for file in model.files:
            target = folder / file.path
            if _is_converted(target):
                continue
            wrong = file.wrong(target) if target.is_file() else "not there"
            if wrong:
                _bring(file, target, wrong)
        for target in (
            folder / file.path for file in model.files
        ):  # the vocabulary of a CLIP is there by now
            if is_foreign(target) and not _is_converted(target):
                print(convert(target))


def _is_converted(target: Path) -> bool:
    """Whether the run time has what it needs of a foreign file; False for others."""
    return is_foreign(target) and is_converted(target)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock."""
    with storing(folder):
        _make(folder)
        lock = open(folder / ".lock", "ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another download is writing to %s: waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # as a file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def _bring(file: WeightFile, target: Path, wrong: str) -> None:
    """Fetch a file under another name beside `target`, check it, and give it its name."""
    partial = target.with_name(f".{target.name}.part")
    with storing(target):
        _make(target.parent)
    _fetch(file, partial, target)
    with storing(target):
        with open(partial, "rb+") as whole:
            os.fsync(whole.fileno())
        if target.exists():
            aside = target.with_name(target.name + ".wrong")
            os.replace(target, aside)
            log.warning("%s: %s; it is now %s", target, wrong, aside.name)
        os.replace(partial, target)
    if file.sha256 is None:
        log.warning("%s: taken as it came, there is no published sha256 to compare it with", target)
    print(target)


def _fetch(file: WeightFile, partial: Path, target: Path) -> None:
    """Fill `partial` with the published bytes, in several tries."""
    reason = ""
    for count in range(TRIES):
        if count:
            pause = PAUSE_SECONDS * 2 ** (count - 1)
            log.info("%s: %s; trying again in %.0f s", file.url, reason, pause)
            time.sleep(pause)
        try:
            _transfer(file, partial)
            return
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except urllib.error.URLError as error:
            reason = f"cannot be reached ({error.reason})"
            if isinstance(error.reason, ConnectionRefusedError | socket.gaierror) or _no_network(
                error.reason
            ):
                break
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = f"the transfer broke off ({error!r})"
        except _TryAgain as error:
            reason = str(error)
    # The same command again takes what was put there; what needs no conversion is looked at by --check.
    then = f"{DOWNLOAD} {file.model}" + ("" if is_foreign(target) else " --check")
    raise CallError(
        f"{file.url}: {reason}; fetch it elsewhere and put it at {target}{file.description}, then {then}"
    )


def _no_network(reason: object) -> bool:
    return isinstance(reason, OSError) and reason.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)


def _transfer(file: WeightFile, partial: Path) -> None:
    """One try: go on from what is in `partial`, and check the whole.

    Without a published sum it begins again: two halves could be of two versions, and nothing would tell.
    """
    begun = partial.stat().st_size if file.sha256 and partial.exists() else 0
    if not begun or begun != file.bytes:
        _receive(file, partial, begun)
    if wrong := file.wrong(partial):
        partial.unlink()
        raise _TryAgain(wrong)


def _receive(file: WeightFile, partial: Path, begun: int) -> None:
    request = urllib.request.Request(file.url, headers={"User-Agent": "clipsheet"})
    if begun:
        request.add_header("Range", f"bytes={begun}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is there than the server has: begin again
            partial.unlink()
            raise _TryAgain("the server has less than was received before") from error
        raise
    with response:
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(
            f"bytes {begun}-"
        ):
            begun = 0
        length = response.headers.get("Content-Length")
        total = begun + int(length) if length is not None else file.bytes
        first = response.read(CHUNK_BYTES)
        if _is_page(response.headers.get_content_type(), first):
            raise _TryAgain("the server sent a web page in place of the file")
        with storing(partial):
            if total is not None and shutil.disk_usage(partial.parent).free < total - begun:
                raise OSError(errno.ENOSPC, f"{total - begun:,} bytes are needed")
        done = _write(response, first, partial, begun, total)
    if total is not None and done < total:
        raise _TryAgain(f"the transfer ended after {done:,} of {total:,} bytes")


def _write(
    response: http.client.HTTPResponse, chunk: bytes, partial: Path, begun: int, total: int | None
) -> int:
    """Append to `partial` what comes after `begun` bytes, which are kept; how many there are then."""
    with storing(partial):
        out = open(partial, "ab")
        out.truncate(begun)
    bar = tqdm(
        total=total, initial=begun, desc=partial.name[1:-5], unit="B", unit_scale=True, dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with out, bar:
        while chunk:
            with storing(partial):
                out.write(chunk)
                out.flush()
            begun += len(chunk)
            bar.update(len(chunk))
            chunk = response.read(CHUNK_BYTES)
    return begun


def _is_page(kind: str, beginning: bytes) -> bool:
    start = beginning[:512].lstrip().lower()
    return kind == "text/html" or start.startswith((b"<!doctype html", b"<html"))


# --- what is there -----------------------------------------------------------------------------


def check(models: Sequence[Model], folder: Path) -> int:
    """Print the state of every file, one line each.

    Returns:
        The exit code.
    """
    bad = 0
    for file in (file for model in models for file in model.files):
        target = folder / file.path
        ready = _is_converted(target)
        wrong = file.wrong(target) if target.is_file() else ""
        if not _is_here(target):
            said = f"missing {target}: {DOWNLOAD} {file.model}"
        elif wrong:
            said = f"wrong {target}: {wrong}; {DOWNLOAD} {file.model}"
        elif is_foreign(target) and not ready:
            said = f"not converted {target}: {CONVERT} {target}"
        else:
            said = f"ok {target if target.is_file() else converted(target)}"
            said += "" if file.sha256 else " (no published sha256 to compare with)"
        bad += not said.startswith("ok ")
        print(said)
    return WRONG_CALL if bad else 0


def _is_here(target: Path) -> bool:
    """Whether a file, or what it was converted to, is there."""
    return target.is_file() or _is_converted(target)


def listing(folder: Path) -> str:
    """One line for each model: its name, its size, whether it is there, what it is."""
    lines = []
    for model in table().values():
        there = sum(_is_here(folder / file.path) for file in model.files)
        state = {0: "", len(model.files): "there"}.get(there, f"{there} of {len(model.files)} files")
        lines.append(f"{model.name:24} {_size(model):>9}  {state:14} {model.about}")
    return "\n".join([*lines, "", f"{DOWNLOAD} NAME brings one, --check looks at what is there"])


def _size(model: Model) -> str:
    sizes = [file.bytes for file in model.files]
    if None in sizes:
        return ""
    total = sum(size or 0 for size in sizes)
    return f"{total / 1e6:,.1f} MB" if total >= 1e5 else f"{total / 1e3:,.1f} kB"


def readme() -> str:
    """The text of pretrained_models/README.md."""
    lines = [
        "# Weights",
        "",
        "Weight files are put here (`--pretrained_models DIR` names another folder). They are not part of the",
        "repository. Written by `python -m tools.download_models --readme` from `tools/weights.yaml`.",
        "",
        "    python -m tools.download_models                          what there is, and what of it is here",
        "    python -m tools.download_models aesthetic                bring one",
        "    python -m tools.download_models aesthetic --check        is it here, and is it the published one",
        "    python -m tools.convert pretrained_models/ViT-L-14.pt    convert a file that was put here by hand",
        "    python -m tools.pth_to_safetensors IN OUT.safetensors    a pickle of weights as safetensors",
        "",
        "A machine without a network: fetch the files elsewhere, put them at the paths below, run the command that",
        "brings them (it converts what is not read as it is), then `--check`.",
        "Weights are used only when their sha256 is the one below; where there is none, no two sources publish one.",
        "The weights of RapidOCR (PP-OCR, Apache-2.0) come inside its package.",
    ]
    for model in table().values():
        lines += [
            "",
            f"## {model.name}",
            f"{model.about}. Columns: {', '.join(f'`{c}`' for c in model.columns)}.",
        ]
        lines += [f"Licence: {model.licence}. {_size(model)}".rstrip(), ""]
        lines += ["| file | bytes | sha256 |", "|---|---|---|"]
        for file in model.files:
            size = "unknown" if file.bytes is None else f"{file.bytes}"
            lines.append(f"| [{file.path}]({file.url}) | {size} | {file.sha256 or 'not published'} |")
        foreign = [MODELS / file.path for file in model.files if is_foreign(Path(file.path))]
        lines += [f"\nConverted after the download to `{converted(path)}`." for path in foreign]
    return "\n".join(lines)


def _program(names: Sequence[str], everything: bool, checking: bool, folder: Path) -> int:
    known = table()
    for name in names:
        if name not in known:
            raise CallError(f"no model {name!r} is known; known are {', '.join(known)}")
    models = [known[name] for name in (known if everything else dict.fromkeys(names))]
    if checking and not models:
        models = [m for m in known.values() if any(_is_here(folder / file.path) for file in m.files)]
    if checking:
        return check(models, folder)
    for model in models:
        download(model, folder)
    if not models:
        print(listing(folder))
    return 0


def main() -> None:
    """The program."""
    parser = Parser(__doc__ or "")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to bring; none: list what there is")
    parser.add_argument("--all", action="store_true", help="bring or check everything")
    parser.add_argument(
        "--check", action="store_true", help="bring nothing; without a NAME: check what is there"
    )
    parser.add_argument(
        "--to", type=Path, default=MODELS, metavar="DIR", help=f"the folder (default {MODELS})"
    )
    parser.add_argument("--readme", action="store_true", help="print the text of pretrained_models/README.md")
    given = parser.parse_args()
    if given.readme:
        print(readme())
        return
    run_main(lambda: _program(given.names, given.all, given.check, given.to))


if __name__ == "__main__":
    main()
