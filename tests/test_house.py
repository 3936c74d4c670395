"""The shape of the source: sizes, and imports that go down only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPO

MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60
#: What a folder may import, beside itself.
MAY_IMPORT = {
    "clipsheet": set(),
    "scoring": {"clipsheet"},
    "captioning": {"clipsheet", "scoring"},
    "pipeline": {"clipsheet", "scoring", "captioning"},
    "script": {"clipsheet", "scoring", "captioning", "pipeline"},
    "tools": {"clipsheet", "scoring", "captioning", "pipeline", "script"},
}
MODULES = {
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in MAY_IMPORT
    for path in sorted((REPO / folder).rglob("*.py"))
}


def imported(name: str) -> Iterator[str]:
    """Modules of this project that a module imports, anywhere in it."""
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def room(module: str) -> str:
    """The folder of a module: itself, where it is a file of `clipsheet/` or a package."""
    parts = module.split(".")
    inside = parts if MODULES[module].name == "__init__.py" else parts[:-1]
    return module if inside == ["clipsheet"] and len(parts) == 2 else ".".join(inside)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_and_no_function_is_long(name: str) -> None:
    source = MODULES[name].read_text()
    assert source.count("\n") <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, node.name


def test_imports_go_down_only() -> None:
    for name in MODULES:
        top = name.split(".")[0]
        for other in imported(name):
            assert other.split(".")[0] in {top, *MAY_IMPORT[top]}, f"{name} imports {other}"


def test_no_folder_imports_itself_through_another() -> None:
    below: dict[str, set[str]] = {}
    for name in MODULES:
        below.setdefault(room(name), set()).update(room(o) for o in imported(name) if room(o) != room(name))
    try:
        list(TopologicalSorter(below).static_order())
    except CycleError as error:
        pytest.fail(f"folders import one another: {' -> '.join(error.args[1][::-1])}")


#: Calls that reach for a file, which in these rooms only `clipsheet/places.py` makes.
REACHING = {"open", "read_bytes", "read_text", "write_bytes", "write_text", "stat", "fstat", "unlink", "mkdir", "glob",
            "iterdir", "scandir", "listdir", "rename", "replace", "exists", "is_file", "is_dir"}  # fmt: skip
#: Locks and files that grow are of this machine.
LOCAL = ("clipsheet.store.locks",)
HARMLESS = {"places", "av", "Image", "pillow_heif"}


@pytest.mark.parametrize(
    "name", [n for n in MODULES if n.startswith(("clipsheet.tables", "clipsheet.store", "clipsheet.media"))]
)
def test_only_places_reaches_for_files(name: str) -> None:
    if name in LOCAL:
        return
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id == "open":
            assert any(k.arg == "closefd" for k in node.keywords), ast.unparse(node)
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name | ast.Attribute):
            owner = ast.unparse(called.value)
            reaching = called.attr in REACHING - {"replace"} or (owner == "os" and called.attr == "replace")
            assert not reaching or owner in HARMLESS, ast.unparse(node)


def test_the_packages_are_those_on_disk() -> None:
    assert {path.name for path in Path(REPO).iterdir() if (path / "__init__.py").is_file()} - {
        "tests", "benchmarks",
    } == set(MAY_IMPORT)  # fmt: skip
