"""The recipes of docs/design.md, carried out to the letter in a copy of the project."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPO, listing, read_table, write_table

DESIGN = (REPO / "docs" / "design.md").read_text()
FOLDERS = ("clipsheet", "scoring", "captioning", "pipeline", "script")
ROWS = 40
Run = Callable[..., subprocess.CompletedProcess[str]]


def recipe(heading: str, number: int = 0) -> list[tuple[str, str, str]]:
    """(file, line after which, or nothing for a new file, text) of each block; a recipe ends with its README line."""
    section = DESIGN.split(f"## {heading}\n")[1].split("\n## ")[0]
    recipes: list[list[tuple[str, str, str]]] = [[]]
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        first, _, text = block.partition("\n")
        if new := re.fullmatch(r"# new file: (.*)", first):
            recipes[-1].append((new[1], "", text))
        else:
            place = re.fullmatch(r"# in (\S*), after: (.*)", first)
            assert place is not None, first
            recipes[-1].append((place[1], place[2], text))
        if recipes[-1][-1][0] == "README.md":
            recipes.append([])
    return recipes[number]


def lines(steps: list[tuple[str, str, str]]) -> int:
    return sum(len([line for line in text.splitlines() if line.strip()]) for _, _, text in steps)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all recipes carried out."""
    root = tmp_path_factory.mktemp("project")
    for folder in FOLDERS:
        shutil.copytree(REPO / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(REPO / "README.md", root / "README.md")
    for steps in (recipe("How to add a scorer"), recipe("How to add a step"), recipe("How to add a step", 1)):
        for name, after, text in steps:
            path = root / name
            if not after:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                continue
            there = path.read_text()
            assert there.count(f"\n{after}\n") == 1, after
            path.write_text(there.replace(f"\n{after}\n", f"\n{after}\n{text}"))
    return root


@pytest.fixture(scope="module")
def run(project: Path) -> Run:
    """A program of the copy."""

    def program(module: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    return program


@pytest.fixture
def table(tmp_path: Path, clips: Path) -> Path:
    """A table of many rows whose files are few."""
    files = [row["path"] for row in listing(clips) if "cut_off" not in str(row["path"])]
    rows = [{"path": files[n % len(files)], "text": " ".join(["word"] * (n % 5))} for n in range(ROWS)]
    return write_table(tmp_path / "m.csv", rows)


def test_recipes_are_short() -> None:
    scorer = recipe("How to add a scorer")
    assert lines(scorer) <= 45
    assert len({name for name, _, _ in scorer}) <= 4
    for number in range(2):
        assert lines(recipe("How to add a step", number)) <= 60


def test_the_scorer_has_a_command_and_help(run: Run, table: Path) -> None:
    assert "--side N" in run("scoring.redness.inference", "--help").stdout
    run("scoring.redness.inference", table)
    found = read_table(table.with_name("m_redness.csv"))
    assert all(0 <= float(row["redness"]) <= 1 for row in found)
    run("pipeline.datasets.datautil", table.with_name("m_redness.csv"), "--rednessmax", 0.34)
    kept = read_table(table.with_name("m_redness_rednessmax0.34.csv"))
    assert {row["path"] for row in kept} == {row["path"] for row in found if float(row["redness"]) <= 0.34}
    assert "--redness.side" in run("scoring.inference", "--help").stdout


def test_both_kinds_of_step_have_a_command_and_help(run: Run, table: Path, tmp_path: Path) -> None:
    assert "--wordsmin N" in run("pipeline.datasets.few_words", "--help").stdout
    run("pipeline.datasets.few_words", table)
    assert len(read_table(table.with_name("m_fewwords.csv"))) == ROWS * 2 // 5
    assert {row["reason"] for row in read_table(table.with_name("m_fewwords_dropped.csv"))} == {
        "text: few words"
    }
    folder = tmp_path / "pictures"
    assert "--height N" in run("pipeline.datasets.stills", "--help").stdout
    run("pipeline.datasets.stills", table, "--save_dir", folder)
    rows = read_table(table.with_name("m_stills.csv"))
    assert {Path(row["still"]) for row in rows} == set(folder.iterdir())


def test_all_are_stages_of_a_config(run: Run, table: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"paths: {{ROOT_VIDEO: {tmp_path}/v, ROOT_CLIPS: {tmp_path}/c, ROOT_META: {tmp_path}/meta}}\n"
        f"stages:\n- redness_scoring: {{side: 16, input_meta_csv: {table}}}\n- redness_filtering: {{rednessmax: 0.9}}\n"
        f"- few_words: {{wordsmin: 2}}\n- stills: {{save_dir: {tmp_path}/pictures, height: 32}}\n"
    )
    run("script.pipeline_runner", config)
    rows = read_table(tmp_path / "meta" / "meta.csv")
    assert len(rows) == ROWS * 3 // 5
    assert all(Path(row["still"]).is_file() and row["redness"] for row in rows)


COMMANDS = [
    ("scoring.redness.inference", "redness"),
    ("pipeline.datasets.few_words", "fewwords"),
    ("pipeline.datasets.stills", "stills"),
]


@pytest.mark.parametrize(("module", "suffix"), COMMANDS)
def test_two_ranks_make_the_table_of_one_process(run: Run, table: Path, module: str, suffix: str) -> None:
    more = ["--save_dir", table.parent / "pictures"] if suffix == "stills" else []
    output = table.with_name(f"m_{suffix}.csv")
    for rank in (1, 0):
        run(module, table, *more, "--rank", rank, "--world", 2)
        assert not output.exists()
    run(module, table, *more, "--join")
    joined = output.read_bytes()
    shutil.rmtree(table.parent / ".clipsheet")
    run(module, table, *more)
    assert output.read_bytes() == joined


@pytest.mark.parametrize(("module", "suffix"), [COMMANDS[0], COMMANDS[2]])
def test_what_is_killed_goes_on_where_it_was(
    project: Path, run: Run, tmp_path: Path, clips: Path, module: str, suffix: str
) -> None:
    files = []
    for number in range(ROWS):
        files.append(tmp_path / f"{number}.mp4")
        shutil.copyfile(clips / "a.mp4", files[-1])
    table = write_table(tmp_path / "m.csv", [{"path": str(path)} for path in files])
    more = ["--save_dir", str(tmp_path / "pictures")] if suffix == "stills" else []
    command = [sys.executable, "-m", module, str(table), *more, "--num_workers", "1"]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while verdicts(tmp_path) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = verdicts(tmp_path)
    run(module, table, *more)
    assert len(read_table(tmp_path / f"m_{suffix}.csv")) == ROWS
    assert verdicts(tmp_path) <= ROWS + 1  # at most the one that was being written is made twice
    assert before < ROWS


def verdicts(folder: Path) -> int:
    """How many verdicts are kept."""
    paths = folder.glob(".clipsheet/cells/*/*.jsonl")
    return sum(b"_began" not in line for path in paths for line in path.read_bytes().splitlines())
