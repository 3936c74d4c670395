"""Bounds of columns: the verbs that keep rows whose number is on the right side, as the columns declare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipsheet.config import option
from clipsheet.errors import ConfigError
from clipsheet.scorer import Bound, Column, at_least, at_most, every_column
from scoring.catalog import SCORERS

SHARE = "0-1"  # the unit of a column whose bounds are limited to it


@dataclass(frozen=True)
class Filter:
    """A bound, the column that it is put on, and whose failures explain an empty cell there."""

    column: str
    bound: Bound
    scorer: str
    unit: str = ""

    @property
    def suffix(self) -> str:
        """Of the output's name."""
        return self.bound.suffix or self.bound.verb.replace("_", "")

    def limit(self, given: Any) -> float:
        """The number that a verb's value stands for."""
        return self.bound.usual if given is True and self.bound.usual is not None else float(given)

    def field(self) -> tuple[str, Any, Any]:
        """Name, type and default of the option."""
        sign, unit = self.bound.keep, f" ({self.unit})" if self.unit else ""
        if self.bound.usual is not None:
            return self.bound.verb, bool, option(False, f"keep {self.column} {sign} {self.bound.usual}")
        share = self.unit == SHARE
        edges = {"ge": 0 if share else self.bound.least, "le": 1 if share else self.bound.most}
        limits: dict[str, Any] = {name: edge for name, edge in edges.items() if edge is not None}
        number: Any = int if self.bound.whole else float
        return self.bound.verb, number | None, option(None, f"keep {self.column} {sign} this{unit}", **limits)


#: Columns that are measured or computed by datautil itself, and those that other tools write.
FILESIZE = Column(
    "filesize", "float", "MiB", "size of the file", bounds=at_least("fsmin", 0) + at_most("fsmax", 0)
)
SECONDS = Column(
    "seconds", "float", "s", "length of the clip",
    bounds=at_most("secondsmax", 0, spares_pictures=True) + at_least("secondsmin", 0, spares_pictures=True),
)  # fmt: skip
FOREIGN = (
    Column("pred_score", "float", "", "preference score", bounds=at_least("prefmin")),
    Column("face_area_ratio", "float", SHARE, "share of faces", bounds=at_least("facemin")),
)
FOREIGN_AFTER = "audit"  # the scorer whose bounds theirs follow in names


def _filters() -> Iterator[Filter]:
    yield from _of("", FILESIZE)
    for name, scorer in SCORERS.items():
        found = [one for column in every_column(scorer) for one in _of(scorer.name, column)]
        yield from sorted(found, key=lambda one: one.bound.order)
        if name == FOREIGN_AFTER:
            yield from (one for column in FOREIGN for one in _of("", column))
    yield from _of("info", SECONDS)


def _of(scorer: str, column: Column) -> Iterator[Filter]:
    return (Filter(column.name, bound, scorer, column.unit) for bound in column.bounds)


#: By verb, in the order in which they are carried out and stand in the output's name.
FILTERS: dict[str, Filter] = {one.bound.verb: one for one in _filters()}


def check_pairs(verbs: Any) -> None:
    """Raise a ConfigError for a least above the most of one column."""
    bounds: dict[str, dict[str, tuple[str, float]]] = {}
    for verb, one in FILTERS.items():
        given = getattr(verbs, verb, None)
        if given is not None and given is not False:
            bounds.setdefault(one.column, {})[one.bound.keep] = verb, one.limit(given)
    for pair in bounds.values():
        (low, least), (high, most) = pair.get(">=", ("", -float("inf"))), pair.get("<=", ("", float("inf")))
        if least > most:
            raise ConfigError(f"{low} {least:g} is more than {high} {most:g}: no row could be kept")


def bounds_given(verbs: Any) -> Mapping[str, Filter]:
    """The filters that are asked for, by verb."""
    given = {verb: getattr(verbs, verb) for verb in FILTERS}
    return {verb: FILTERS[verb] for verb, value in given.items() if value is not None and value is not False}


def columns_of(one: Filter) -> tuple[str, ...]:
    """The columns that a filter looks at."""
    return ("num_frames", "fps") if one.column == SECONDS.name else (one.column,)


def bounds_of(scorer: type[Any]) -> tuple[str, ...]:
    """The verbs of a scorer's columns."""
    return tuple(bound.verb for column in every_column(scorer) for bound in column.bounds)


#: The options of all bounds, as a dataclass.
Bounds: Any = dataclasses.make_dataclass(
    "Bounds", [one.field() for one in FILTERS.values()], frozen=True, namespace={"__post_init__": check_pairs}
)
