"""Tables that are folders of Parquet files: `meta.parquet/part-00000.parquet`, `part-00001.parquet`, ..."""

from __future__ import annotations

import re
from pathlib import Path

from clipsheet import places
from clipsheet.errors import MetaError

_NAME = re.compile(r"part-(\d{5,})\.parquet")


def is_folder(path: Path) -> bool:
    """Whether a table is a folder of parts."""
    return path.suffix == ".parquet" and places.is_folder(path)


def is_part(path: Path) -> bool:
    """Whether a file is a part of such a table, by its name."""
    return path.parent.suffix == ".parquet" and _NAME.fullmatch(path.name) is not None


def parts(folder: Path) -> list[Path]:
    """The parts of a table in order.

    Raises:
        MetaError: there are none, or one between others is missing.
    """
    found = {int(match[1]): path for path in places.entries(folder) if (match := _NAME.fullmatch(path.name))}
    if not found:
        raise MetaError(f"{folder}: no parts; they are called part-00000.parquet, part-00001.parquet, ...")
    missing = [number for number in range(max(found)) if number not in found]
    if missing:
        raise MetaError(
            f"{folder}: part-{missing[0]:05}.parquet is missing; put it back or number the parts anew"
        )
    return [found[number] for number in sorted(found)]
