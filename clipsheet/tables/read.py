"""Tables read exactly as they stand: one or several files, CSV or Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipsheet import places
from clipsheet.errors import MetaError, one_line
from clipsheet.tables.cells import TEXT, text
from clipsheet.tables.csv import read_csv, read_header
from clipsheet.tables.names import check_ending, check_names
from clipsheet.tables.parts import is_folder, parts


def expand(tables: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The table files meant by names and glob patterns, patterns sorted.

    Raises:
        MetaError: a name that is no file, a pattern that fits none, or another extension.
    """
    found: list[Path] = []
    for name in [os.fspath(table) for table in tables]:
        if places.exists(name):
            matches = [name]
        else:
            matches = places.matching(name)
        if not matches:
            raise MetaError(f"{name}: no such table")
        found += map(Path, matches)
    for path in found:
        check_ending(path)
        if not places.is_file(path) and not is_folder(path):
            raise MetaError(f"{path}: not a file, nor a folder of Parquet parts")
    return found


def read(tables: Path | Sequence[str | os.PathLike[str]], needs: Iterable[str] = ("path",)) -> pd.DataFrame:
    """One table out of one or several files, their rows one after another, columns united.

    Args:
        tables: a path, or names and glob patterns.
        needs: columns that must be there.

    Raises:
        MetaError: no such file, not a table, or a needed column is missing.
    """
    paths = [tables] if isinstance(tables, Path) else expand(tables)
    paths = files(paths)
    frames = [read_parquet(p) if p.suffix == ".parquet" else read_csv(p) for p in paths]
    for path, frame in zip(paths, frames, strict=True):
        for column in needs:
            require(frame, column, path)
    return frames[0] if len(frames) == 1 else concatenate(frames)


def files(paths: Iterable[Path]) -> list[Path]:
    """The files of tables: each itself, or its parts."""
    return [part for path in paths for part in (parts(path) if is_folder(path) else [path])]


def header(path: Path) -> list[str]:
    """The columns of a table file, of which no more is read than their names.

    Raises:
        MetaError: no such file, or not a table.
    """
    if path.suffix != ".parquet":
        return read_header(path)
    path = parts(path)[0] if is_folder(path) else path
    try:
        return list(pq.read_schema(path).names)
    except FileNotFoundError:
        raise MetaError(f"{path}: no such table") from None
    except (pa.ArrowException, OSError) as error:
        raise MetaError(f"{path}: not a Parquet table: {one_line(str(error))}") from error


def require(frame: pd.DataFrame, column: str, path: Path | str) -> None:
    """Raise a MetaError that names what is there, unless `frame` has `column`."""
    if column not in frame.columns:
        there = ", ".join(f"`{c}`" for c in frame.columns) or "none"
        raise MetaError(f"{path}: no column `{column}`; its columns are {there}")


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file as a frame of Arrow types, so that integers stay integers beside nulls."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise MetaError(f"{path}: no such table") from None
    except (pa.ArrowException, OSError) as error:
        raise MetaError(f"{path}: not a Parquet table: {one_line(str(error))}") from error
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, plain)
    check_names(table.column_names, path)
    return table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)


def concatenate(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables one after another; a column that one of them lacks is empty there."""
    types: dict[str, set[object]] = {}
    for frame in frames:
        for column in frame.columns:
            types.setdefault(column, set()).add(frame[column].dtype)
    for index, frame in enumerate(frames):
        for column, kinds in types.items():
            if column not in frame.columns:
                if TEXT in kinds or len(kinds) > 1:
                    frame[column] = pd.Series([""] * len(frame), index=frame.index, dtype=TEXT)
            elif len(kinds) > 1:
                frame[column] = text(frame, column)
        frames[index] = frame
    return pd.concat(frames, ignore_index=True)
