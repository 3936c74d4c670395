"""A table on its way through the verbs, and what has been dropped from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipsheet import tables
from clipsheet.errors import MetaError
from clipsheet.step import Outcome
from pipeline.datasets.bounds import Filter


class Sieve:
    """A table on its way through the verbs, and what has been dropped from it."""

    def __init__(self, frame: pd.DataFrame, missing: str = "drop", strict: bool = False) -> None:
        self.frame = frame
        self._missing, self._strict = missing, strict
        self._dropped: list[pd.DataFrame] = []
        self.reasons: Counter[str] = Counter()

    def drop(self, rows: np.ndarray, reasons: Sequence[str] | np.ndarray | str, told: str) -> None:
        """Drop the rows that [N] bool marks.

        Args:
            reasons: of each row of the table, or one for all.
            told: the reason without its value, for the summary.
        """
        if not rows.any():
            return
        gone = self.frame[rows].copy()
        texts = reasons if isinstance(reasons, str) else np.asarray(reasons, object)[rows]
        gone["reason"] = tables.text_column([texts] * len(gone) if isinstance(texts, str) else texts, gone)
        self._dropped.append(gone)
        self.reasons[told] += len(gone)
        self.frame = self.frame[~rows].reset_index(drop=True)

    def outcome(self) -> Outcome:
        """What is left, and all dropped rows with their column `reason`."""
        dropped = tables.concatenate(self._dropped) if self._dropped else None
        return Outcome(self.frame, dropped, dropped_for=self.reasons)

    def bound(
        self, filter: Filter, bound: float | np.ndarray, values: np.ndarray, bad: np.ndarray, told: str = ""
    ) -> None:
        """Keep rows on the right side of a bound.

        Args:
            bound: one for all, or [N] float64.
            values: [N] float64, NaN where there is no value.
            bad: [N] bool, where a cell is filled with something else.
            told: the bound in the summary, where it is not one number.
        """
        name = filter.column
        beyond = values < bound if filter.bound.keep == ">=" else values > bound
        sign = "<" if filter.bound.keep == ">=" else ">"
        pairs = zip(values, np.broadcast_to(bound, values.shape), strict=True)
        reasons = [f"{name} {tables.number_text(v)} {sign} {tables.number_text(b)}" for v, b in pairs]
        if name == "lpips":
            single = "lpips -1: fewer than two frames"
            reasons = [single if v == -1 else r for v, r in zip(values, reasons, strict=True)]
        empty = np.isnan(values)
        if filter.bound.spares_pictures:
            empty &= ~_is_picture(self.frame)
        why = self._why_empty(filter, empty | bad, bad)
        for stops, rows, flag in (
            (self._strict, bad, "--strict"),
            (self._missing == "stop", empty, "--missing stop"),
        ):
            if stops and rows.any():
                row = int(np.flatnonzero(rows)[0])
                raise MetaError(f"row {row + 1}: {why[row]}; {flag} stops there")
        if self._missing == "keep":
            empty = bad
        told = told or tables.number_text(float(bound))
        self.drop(beyond | empty, np.where(empty, why, reasons), f"{name} {sign} {told}")

    def _why_empty(self, filter: Filter, empty: np.ndarray, bad: np.ndarray) -> np.ndarray:
        why = np.full(len(self.frame), "", object)
        errors = tables.text(self.frame, "error").to_numpy() if "error" in self.frame.columns else None
        cells, spoilt = None, np.zeros(len(self.frame), bool)
        if filter.column in self.frame.columns:  # else it is computed of others
            cells, (_, spoilt) = (
                tables.text(self.frame, filter.column),
                tables.numbers(self.frame, filter.column),
            )
        for row in np.flatnonzero(empty):
            code = tables.parse_errors(errors[row]).get(filter.scorer) if errors is not None else None
            if bad[row]:
                code = f"bad_value {cells.iat[row]!r}" if cells is not None and spoilt[row] else "bad_value"
            why[row] = f"{filter.column}: {code or 'not run'}"
        return why

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Values and bad cells of a column; of `seconds` the length of each clip."""
        if name != "seconds":
            tables.require(self.frame, name, "the table")
            return tables.numbers(self.frame, name)
        if "duration" in self.frame.columns:
            return tables.numbers(self.frame, "duration")
        frames, bad_frames = self.column("num_frames")
        fps, bad_fps = self.column("fps")
        with np.errstate(divide="ignore", invalid="ignore"):
            seconds = np.where(fps > 0, frames / fps, np.nan)
        return seconds, bad_frames | bad_fps


def _is_picture(frame: pd.DataFrame) -> np.ndarray:
    """[N] bool: rows measured as one frame without a rate."""
    if not {"num_frames", "fps"} <= set(frame.columns):
        return np.zeros(len(frame), bool)
    frames, _ = tables.numbers(frame, "num_frames")
    fps, bad = tables.numbers(frame, "fps")
    return (frames == 1) & np.isnan(fps) & ~bad
