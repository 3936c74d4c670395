"""`--filter "aes > 4.5 and motion < 20"`: a pandas query over the columns of a table, as data only.

Allowed are column names (in backticks where they hold odd characters), numbers, texts, lists,
comparisons, `and or not in`, arithmetic, and the methods of METHODS. Anything else is refused before
pandas sees it: an expression out of a config file can look at cells and do nothing else. Numbers are
floats, so that no power of integers can grow without end, and there is no arithmetic with texts.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clipsheet import tables
from clipsheet.errors import MetaError, one_line

#: What may be called on a column: `path.str.contains("x")`, `fps.isna()`, `aes.between(4, 6)`.
METHODS = frozenset("isna notna isin between abs".split())
TEXT_METHODS = frozenset("contains startswith endswith len lower upper".split())
_ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.Invert,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.Pow, ast.FloorDiv, ast.BitAnd,
    ast.BitOr, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
    ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Call, ast.Attribute, ast.keyword,
)  # fmt: skip
_BACKTICKS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`([^`]*)`""", re.DOTALL)


class Expression:
    """A checked filter expression.

    Attributes:
        columns: the columns it names.

    Raises:
        MetaError: it is no such expression; says what is wrong with it.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._names: dict[str, str] = {}
        plain = _BACKTICKS.sub(self._stand_in, text)
        try:
            tree = ast.parse(plain.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise MetaError(f"--filter {one_line(text)!r}: not an expression: {error}") from error
        for node in ast.walk(tree):
            self._check(node)
        names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]
        self.columns = list(dict.fromkeys(self._names.get(name, name) for name in names))
        self._texts = {self._names.get(name, name) for name in _used_as_text(tree)}
        try:
            self._plain = ast.unparse(_Floats().visit(tree))  # on one line
        except (RecursionError, OverflowError) as error:
            raise MetaError(f"--filter {one_line(text)!r}: too deep, or a number too large") from error

    def _stand_in(self, match: re.Match[str]) -> str:
        if match.group(1) is None:  # a text, whatever stands in it
            return match.group()
        name = f"column_in_backticks_{len(self._names)}"
        self._names[name] = match.group(1)
        return name

    def _check(self, node: ast.AST) -> None:
        good = isinstance(node, _ALLOWED)
        if isinstance(node, ast.Call):
            function = node.func
            good = isinstance(function, ast.Attribute) and _is_method(function)
        elif isinstance(node, ast.Attribute):
            good = node.attr == "str" or _is_method(node)
        elif isinstance(node, ast.Name):
            good = not node.id.startswith("__")
        elif isinstance(node, ast.Constant):
            good = isinstance(node.value, int | float | str | bool)
        elif isinstance(node, ast.BinOp):
            good = good and not any(_is_text(n) for n in ast.walk(node))
        if not good:
            what = type(node).__name__.lower()
            allowed = ", ".join(sorted(METHODS)) + " and .str." + ", .str.".join(sorted(TEXT_METHODS))
            raise MetaError(
                f"--filter {one_line(self._text)!r}: {what} is not allowed; only columns, comparisons, "
                f"and/or/not/in, arithmetic and the methods {allowed}"
            )

    def keep(self, frame: pd.DataFrame) -> np.ndarray:
        """[N] bool: rows for which it holds; a comparison with an empty cell does not hold.

        Raises:
            MetaError: pandas cannot evaluate it on these columns.
        """
        stand_ins = {name: stand_in for stand_in, name in self._names.items()}
        cells = {stand_ins.get(c, c): _typed(frame, c, c in self._texts) for c in self.columns}
        view = pd.DataFrame(cells, index=frame.index)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This pattern is interpreted as a regular expression")
                kept = view.eval(self._plain, engine="python", local_dict={}, global_dict={})
        except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, ArithmeticError,
                RecursionError, re.error, pa.ArrowException,
                pd.errors.UndefinedVariableError) as error:  # fmt: skip
            raise MetaError(f"--filter {one_line(self._text)!r}: {one_line(str(error))}") from error
        kept = np.asarray(kept)
        if kept.shape != (len(frame),) or kept.dtype != bool:
            raise MetaError(f"--filter {one_line(self._text)!r}: gives no true or false for each row")
        return kept


def _is_method(node: ast.Attribute) -> bool:
    of_text = isinstance(node.value, ast.Attribute) and node.value.attr == "str"
    return node.attr in (TEXT_METHODS if of_text else METHODS)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _used_as_text(tree: ast.AST) -> Iterator[str]:
    """Names that stand beside a text or before `.str`: `007` in such a column is no number."""
    for node in ast.walk(tree):
        sides: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            sides = [node.func.value, *node.args]
        elif isinstance(node, ast.Attribute) and node.attr == "str":
            sides = [node.value, ast.Constant("")]
        among = [inner for side in sides for inner in getattr(side, "elts", [side])]
        if any(map(_is_text, among)):
            yield from (side.id for side in among if isinstance(side, ast.Name))


class _Floats(ast.NodeTransformer):
    """Integers as floats, in place."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            node.value = float(node.value)
        return node


def _typed(frame: pd.DataFrame, column: str, as_text: bool) -> pd.Series:
    """A column as numbers where all its filled cells are, as true/false, else as text."""
    tables.require(frame, column, "--filter")
    cells = tables.text(frame, column)
    if as_text:
        return cells.astype("str")
    values, bad = tables.numbers(frame, column)
    if not bad.any():
        return pd.Series(values, index=frame.index)
    if pc.all(pc.is_in(pa.array(cells), pa.array(["true", "false", ""], pa.large_string()))).as_py():
        return pd.Series((cells == "true").to_numpy(bool), index=frame.index)
    return cells.astype("str")
