"""From results on disk to the columns of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clipsheet import tables
from clipsheet.engine.todo import filled, holds_value
from clipsheet.errors import CallError
from clipsheet.options import RunOptions
from clipsheet.scorer import Scorer, all_columns
from clipsheet.store.folder import Store
from clipsheet.store.rows import Rows


@dataclass
class Joined:
    frame: pd.DataFrame
    failed: pd.DataFrame
    status_counts: dict[str, int]
    failed_rows: int
    scored_rows: int
    pending_rows: int


def join(rows: Rows, scorers: Sequence[Scorer], options: RunOptions, store: Store) -> Joined:
    """The table with the columns of some scorers filled from the store."""
    frame = with_earlier_kept(rows.frame, all_columns(scorers), options.keep_as)
    codes: dict[str, np.ndarray] = {}
    failures = []
    pending = np.zeros(len(frame), bool)
    for scorer in scorers:
        verdicts = store.cells(scorer).load()
        at = verdicts.find(rows.keys(scorer.reads))
        kept = filled(frame, scorer) if options.skip_if_existing else np.zeros(len(frame), bool)
        at = np.where(kept, -1, at)
        pending |= (at < 0) & ~kept
        for column in scorer.columns:
            texts = _take(verdicts.columns[column.name], at)
            held = holds_value(frame, column.name) if options.skip_if_existing else kept
            if held.any():
                texts = pc.if_else(pa.array(held), pa.array(tables.text(frame, column.name)), texts)
            _place(frame, column.name, texts)
        codes[scorer.name] = _take(verdicts.error, at).to_numpy(zero_copy_only=False)
        bad = np.flatnonzero(codes[scorer.name] != "")
        if len(bad):
            details = _take(verdicts.detail, at).to_numpy(zero_copy_only=False)
            failures.append(
                frame.iloc[bad].assign(scorer=scorer.name, code=codes[scorer.name][bad], detail=details[bad])
            )
    tables.set_errors(frame, codes)
    failed = np.logical_or.reduce([c != "" for c in codes.values()])
    counts = Counter(f"{n}: {code}" for n, c in codes.items() for code in c[c != ""])
    return Joined(
        frame,
        pd.concat(failures, ignore_index=True) if failures else frame.iloc[:0],
        dict(counts.most_common()),
        int(failed.sum()),
        int((~failed & ~pending).sum()),
        int(pending.sum()),
    )


def with_earlier_kept(frame: pd.DataFrame, columns: Sequence[str], name: str) -> pd.DataFrame:
    """A copy, in which what stands in some columns stands in `<column>_<name>` too.

    Raises:
        CallError: there is such a column already.
    """
    frame = frame.copy()
    for column in columns if name else ():
        if column in frame.columns:
            kept = f"{column}_{name}"
            if kept in frame.columns:
                raise CallError(f"--keep_as {name}: there is a column `{kept}` already; take another name")
            frame.insert(list(frame.columns).index(column), kept, frame[column])
    return frame


def _take(texts: pa.Array, at: np.ndarray) -> pa.Array:
    """[N] texts at some positions, empty where the position is -1."""
    return pc.fill_null(texts.take(pa.array(at, mask=at < 0)), "")


def _place(frame: pd.DataFrame, name: str, texts: pa.Array) -> None:
    """Set a column: where it stands, or else at the end but before a last `error`."""
    column = tables.text_column(texts, frame)
    if name in frame.columns:
        frame[name] = column
    else:
        last = len(frame.columns)
        before_error = last > 0 and frame.columns[-1] == "error"
        frame.insert(last - 1 if before_error else last, name, column)
