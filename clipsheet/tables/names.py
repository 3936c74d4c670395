"""Names of columns, of outputs and of the tables beside them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from clipsheet.errors import MetaError
from clipsheet.tables.parts import is_part

EXTENSIONS = (".csv", ".parquet")
SIDECARS = ("failed", "dropped")
#: Of an automatic name without its ending; leaves room for `_dropped.parquet` and more.
MAX_STEM_BYTES = 200
MAX_NAME_BYTES = 255


def check_names(names: Sequence[str], path: Path) -> None:
    """Raise a MetaError for two columns whose names differ in case or spaces at most."""
    seen: dict[str, str] = {}
    for name in names:
        plain = name.strip().casefold()
        if plain in seen:
            raise MetaError(
                f"{path}: two columns of one name: `{seen[plain]}` and `{name}`; rename or delete one"
            )
        seen[plain] = name


def check_ending(path: Path) -> None:
    """Raise a MetaError unless a file is named like a table."""
    if path.suffix not in EXTENSIONS:
        raise MetaError(f"{path}: a table ends in .csv or .parquet, not in {path.suffix!r}")


def output_path(
    inputs: Path | Sequence[Path], suffix: str, output: str | os.PathLike[str] | None = None
) -> Path:
    """Where a tool writes: `--output`, or `<first stem>_<suffix><ext>` beside its first table.

    Args:
        inputs: every table that the tool reads, or the only one.

    Raises:
        MetaError: the output or a table beside it would be an input, or is not a table's name.
    """
    paths = [inputs] if isinstance(inputs, Path) else inputs
    if output:
        path = Path(output)
        if len(os.fsencode(sidecar(path, "dropped").name)) > MAX_NAME_BYTES:
            raise MetaError(f"{path}: the name is too long for the files beside it; give a shorter --output")
    else:
        stem = _short(f"{paths[0].stem}_{suffix}".replace("/", "_"))
        path = paths[0].with_name(stem + paths[0].suffix)
    check_ending(path)
    check_output(paths, path)
    return path


def check_output(inputs: Sequence[Path], output: Path) -> None:
    """Raise a MetaError if `output` or a table that is written beside it is among the inputs."""
    there = {path.resolve() for path in inputs}
    for path in (output, *(sidecar(output, kind) for kind in SIDECARS)):
        if path.resolve() in there:
            raise MetaError(
                f"{path}: is an input, and no tool writes over its input: "
                "name the tables one by one, or give another --output"
            )


def digest(text: str, length: int) -> str:
    """So many letters that stand for a text in a file's name."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def _short(stem: str) -> str:
    """The stem of a file's name, its middle replaced where it is too long."""
    name = os.fsencode(stem)
    if len(name) <= MAX_STEM_BYTES:
        return stem
    middle = f"-{digest(stem, 12)}-"
    half = (MAX_STEM_BYTES - len(middle)) // 2
    return name[:half].decode("utf-8", "ignore") + middle + name[-half:].decode("utf-8", "ignore")


def sidecar(output: Path, kind: str) -> Path:
    """The table beside `output` that holds its failed or dropped rows: `<stem>_<kind><ext>`.

    Those of a part are a part of such a table of parts.
    """
    if is_part(output):
        return sidecar(output.parent, kind) / output.name
    return output.with_name(f"{output.stem}_{kind}{output.suffix}")
