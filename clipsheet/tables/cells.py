"""Cells: their text, their numbers, and the `error` column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

#: Never numbers, whatever their cells look like: a column has one type in every table.
TEXT_COLUMNS = frozenset("path text id relpath error source_path timestamp".split())
TEXT = pd.ArrowDtype(pa.large_string())
# Arrow's own allocators keep what they once had; a table is large, and often the only one.
pa.set_memory_pool(pa.system_memory_pool())


def cell(value: object) -> str:
    """How a value stands in a CSV cell: the shortest exact number, JSON as is, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return repr(float(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    return str(value)


def text(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as text: CSV columns as they are, typed ones as they would stand in a CSV."""
    series = frame[column]
    if series.dtype == TEXT and not series.hasnans:
        return series
    return pd.Series(as_text(pa.array(series)), index=frame.index, dtype=TEXT)


def text_column(cells: Sequence[str] | np.ndarray | pa.Array, frame: pd.DataFrame) -> pd.Series:
    """Cells as a text column that fits `frame`."""
    if isinstance(cells, pa.Array):
        return pd.Series(pd.arrays.ArrowExtensionArray(cells), index=frame.index)
    return pd.Series(cells, index=frame.index, dtype=TEXT)


def numbers(frame: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column as numbers.

    Returns:
        values: [N] float64, NaN where the cell is empty or no finite number.
        bad: [N] bool, true where the cell is filled and no finite number.
    """
    array = pa.chunked_array([pa.array(frame[column])]) if len(frame) else pa.chunked_array([[]])
    if not any(is_kind(array.type) for is_kind in _NUMERIC):
        array = pa.chunked_array([as_text(array)])
        trimmed = pc.utf8_trim_whitespace(array)
        filled = pc.fill_null(pc.not_equal(trimmed, ""), False)
        try:
            parsed = pc.cast(pc.if_else(filled, trimmed, None), pa.float64())
            values = parsed.to_numpy(zero_copy_only=False).astype(np.float64)
        except pa.ArrowInvalid:
            values = np.array([_number(c) for c in trimmed.to_pylist()], np.float64)
        filled = filled.to_numpy(zero_copy_only=False)
    else:
        values = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values = values.astype(np.float64)
        filled = pc.is_valid(array).to_numpy(zero_copy_only=False)
    bad = filled.astype(bool) & ~np.isfinite(values)
    return np.where(bad, np.nan, values), bad


_NUMERIC = (
    pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null
)  # fmt: skip


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return float("nan")


def number_text(value: float) -> str:
    """A number in a file name: the shortest exact form, so that two thresholds never collide."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def parse_errors(cell: str) -> dict[str, str]:
    """`"aes: corrupt; ocr: timeout"` as a dict from scorer to code, in order."""
    pairs = (entry.partition(":") for entry in cell.split(";") if entry.strip())
    return {name.strip(): code.strip() for name, _, code in pairs}


def format_errors(errors: Mapping[str, str]) -> str:
    """The inverse of parse_errors."""
    return "; ".join(f"{name}: {code}" if code else name for name, code in errors.items())


def set_errors(frame: pd.DataFrame, codes: Mapping[str, np.ndarray]) -> None:
    """Write the failures of some scorers into the column `error`; those of others stay.

    Args:
        codes: for each scorer one code per row, empty where it did not fail.
    """
    old = text(frame, "error").to_numpy() if "error" in frame.columns else np.full(len(frame), "")
    touched = old != ""
    for column in codes.values():
        touched = touched | (np.asarray(column, dtype=object) != "")
    new = old.astype(object)
    for row in np.flatnonzero(touched).tolist():
        errors = parse_errors(old[row])
        for name, column in codes.items():
            errors.pop(name, None)
            if column[row]:
                errors[name] = column[row]
        new[row] = format_errors(errors)
    frame["error"] = text_column(new, frame)


def as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if pa.types.is_large_string(column.type):
        return column if not column.null_count else pc.fill_null(column, "")
    if pa.types.is_string(column.type):
        return pc.fill_null(column.cast(pa.large_string()), "")
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return pc.fill_null(pc.cast(column, pa.large_string()), "")
    return pa.array([cell(value) for value in column.to_pylist()], pa.large_string())
