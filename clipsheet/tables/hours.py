"""How long the clips of a table are together."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clipsheet.tables.cells import numbers


def hours(frame: pd.DataFrame) -> float | None:
    """Hours of a table by its column `duration`, else by `clip_start` and `clip_end`; None where nothing says it."""
    if "duration" in frame.columns:
        seconds, _ = numbers(frame, "duration")
        if not np.isnan(seconds).all():
            return round(float(np.nansum(seconds)) / 3600, 6)
    if {"clip_start", "clip_end"} <= set(frame.columns):
        start, end = numbers(frame, "clip_start")[0], numbers(frame, "clip_end")[0]
        return round(float(np.nansum(end - start)) / 3600, 6)
    return None
