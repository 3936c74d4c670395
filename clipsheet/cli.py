"""The command line: flags from the fields of dataclasses, and how every program ends."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import signal
import sys
import typing
from collections.abc import Callable, Container, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

from clipsheet import log
from clipsheet.config import build, optional_type
from clipsheet.engine.ranks import Share
from clipsheet.engine.run import run_scorers
from clipsheet.engine.steps import run_step
from clipsheet.errors import INCOMPLETE, OK, WRONG_CALL, ClipsheetError, Stopped, one_line
from clipsheet.options import RankOptions, RunOptions
from clipsheet.outcome import Status
from clipsheet.scorer import Scorer
from clipsheet.step import Step

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser for which `--num-workers` and `--num_workers` are one flag."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else args
        return super().parse_args([_underscored(arg) for arg in given], namespace)

    def error(self, message: str) -> NoReturn:
        """End with one line: the usage of some programs has more flags than a screen has lines."""
        _say(_safe(f"error: {message}; see --help"), sys.stderr)
        sys.exit(WRONG_CALL)

    def add_fields(self, cls: type, title: str, prefix: str = "", without: Container[str] = ()) -> None:
        """A flag `--<prefix><field>` for every field of a dataclass, but for those that have no effect."""
        group = self.add_argument_group(title)
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name in without:
                continue
            _add_flag(group, field, hints[field.name], f"--{prefix}{field.name}")

    def share(self, given: argparse.Namespace) -> Share:
        """What this process does, by the flags of RankOptions or by its launcher."""
        return Share.of(self.take(RankOptions, given))

    def take(self, cls: type[T], given: argparse.Namespace) -> T:
        """The dataclass from the flags that add_fields() made of it."""
        names = [f.name for f in dataclasses.fields(cls) if hasattr(given, f.name)]  # type: ignore[arg-type]
        return build(cls, {n: getattr(given, n) for n in names if getattr(given, n) is not None})


def _underscored(arg: str) -> str:
    if not arg.startswith("--"):
        return arg
    name, sign, value = arg[2:].partition("=")
    return f"--{name.replace('-', '_')}{sign}{value}"


def _add_flag(group: Any, field: dataclasses.Field[Any], hint: Any, flag: str) -> None:
    """The flag of a field. None stands for `not given`, so that the default lives in one place."""
    text = field.metadata["help"]
    if field.default not in (None, "", (), False):
        shown = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        text += f" (default {shown})"
    text = text.replace("%", "%%")
    kind = optional_type(hint)
    choices = field.metadata["choices"] or None
    if kind is bool:
        action = argparse.BooleanOptionalAction if field.default else "store_true"
        group.add_argument(flag, action=action, default=None, help=text)
    elif typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        names = field.metadata["names"]
        name = names or (None if choices else _METAVARS[inner])
        # One value for each flag, so that a table may follow, but where a table is none of the choices.
        count = len(names) or ("+" if choices else 1)
        group.add_argument(
            flag, action=_Once if names else "extend", nargs=count, type=inner, choices=choices, metavar=name,
            default=None, help=text,
        )  # fmt: skip
    else:
        name = None if choices else _METAVARS[kind]
        group.add_argument(flag, type=kind, choices=choices, metavar=name, default=None, help=text)


_METAVARS = {int: "N", float: "X", str: "TEXT"}


class _Once(argparse.Action):
    """A flag that is refused when it comes again, where the last one would win unseen."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "given twice; give it once")
        setattr(namespace, self.dest, values)


def scorer_parser(scorer: type[Scorer], description: str) -> Parser:
    """The command line of one scorer."""
    parser = Parser(description)
    parser.add_argument("meta", nargs="+", help="table(s) with a column `path`: .csv or .parquet")
    parser.add_fields(scorer, "what is computed")
    parser.add_fields(RunOptions, "how it is run; changes no result")
    parser.add_fields(RankOptions, "many processes")
    return parser


def main_scorer(scorer: type[Scorer]) -> NoReturn:
    """The program `python -m scoring.<x>.inference META [flags]`."""
    parser = scorer_parser(scorer, describe(scorer))
    given = parser.parse_args()
    run_main(
        lambda: run_scorers(
            given.meta,
            [parser.take(scorer, given)],
            parser.take(RunOptions, given),
            share=parser.share(given),
        )
    )


def main_step(step: type[Step], title: str) -> NoReturn:
    """The program `python -m pipeline.<x> META [flags]` of a step.

    Args:
        title: of its own flags in --help.
    """
    parser = Parser(sys.modules[step.__module__].__doc__ or "")
    parser.add_argument("meta", nargs="+", help=f"table(s) with {' and '.join(f'`{c}`' for c in step.reads)}: "
        ".csv or .parquet")  # fmt: skip
    parser.add_fields(step, title)
    parser.add_fields(RunOptions, "how it is run", without=step.without)
    parser.add_fields(RankOptions, "many processes")
    given = parser.parse_args()
    run_main(
        lambda: run_step(
            given.meta, parser.take(step, given), parser.take(RunOptions, given), parser.share(given)
        )
    )


def describe(scorer: type[Scorer]) -> str:
    """What --help says first: the scorer's own words, then its columns."""
    lines = [sys.modules[scorer.__module__].__doc__ or "", "columns:"]
    for column in build(scorer, {}).columns:
        unit = f" [{column.unit}]" if column.unit else ""
        better = f"; {column.better} is better" if column.better else ""
        lines.append(f"  {column.name:22}{column.meaning}{unit}{better}")
    return "\n".join(lines)


def run_main(program: Callable[[], Status | int | None]) -> NoReturn:
    """Run a program to its end: messages, signals, summary line and exit code."""
    sys.exit(guarded(program))


def guarded(program: Callable[[], Status | int | None]) -> int:
    """Run a program; print its summary or its one-line error; return its exit code."""
    log.setup()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        ended = program()
    except (ClipsheetError, Stopped) as error:
        _say(_safe(f"error: {error}"), sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read our output has gone; the rows are safe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INCOMPLETE
    if isinstance(ended, Status):
        _say("\n".join(map(_safe, ended.line().split("\n"))), sys.stdout)
        return ended.exit_code
    return ended or OK


def _safe(text: str) -> str:
    """One line in which no file's or column's name can steer the terminal."""
    return one_line(text, sys.maxsize)


def _say(text: str, stream: Any) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:  # a log on a full disk
        logging.getLogger(__name__).debug("cannot print: %s", error)


def _stop(number: int, frame: FrameType | None) -> None:
    """The first signal ends the run in order, the second at once."""
    signal.signal(number, signal.SIG_DFL)
    name = signal.Signals(number).name
    raise Stopped(f"stopped by {name}; what was done is kept, the same command does the rest")
