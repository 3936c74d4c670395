"""What the tests share: made footage, real media where it is there, and running a program as a user does."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests import footage, programs

REPO = Path(__file__).parents[1]
MEDIA = Path(os.environ.get("CLIPSHEET_MEDIA", REPO.parent / "shared" / "media"))
FAULTS = Path(os.environ.get("CLIPSHEET_FAULTS", REPO.parent / "shared" / "faults"))

csv.field_size_limit(1 << 30)
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side already; torch is not loaded yet
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def there(path: Path) -> Path:
    if path.exists():
        return path
    if os.environ.get("FAIL_WITHOUT_MEDIA"):
        pytest.fail(f"{path} is not there")
    pytest.skip(f"{path} is not there (FAIL_WITHOUT_MEDIA=1 makes this a failure)")


@pytest.fixture(scope="session", autouse=True)
def weights_table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The table of weights without what is published of LPIPS' backbones: random ones have their names."""
    models = yaml.safe_load((REPO / "tools" / "weights.yaml").read_text("utf-8"))
    for model in models:
        if model["name"].startswith("lpips-"):
            model["files"] = [{**file, "bytes": None, "sha256": None} for file in model["files"]]
    path = tmp_path_factory.mktemp("table") / "weights.yaml"
    path.write_text(yaml.safe_dump(models), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSHEET_WEIGHTS", str(path))
        yield


@pytest.fixture
def published_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table as it is published, for this process and those that it starts."""
    monkeypatch.delenv("CLIPSHEET_WEIGHTS")


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address of this machine, host:port, that refuses every connection for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real media with known truths."""
    return there(MEDIA)


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of broken and hostile files with manifest.csv."""
    maker = there(FAULTS / "make_faults.py")
    out = tmp_path_factory.mktemp("faults")
    programs = tmp_path_factory.mktemp("bin")
    (programs / "ffmpeg").symlink_to(footage.ffmpeg.program())
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([sys.executable, maker, out], check=True, env=environment, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five small clips of different kinds, and one that is cut off."""
    folder = tmp_path_factory.mktemp("clips")
    footage.numbered(folder / "a.mp4", 50)
    footage.numbered(folder / "b.mkv", 75, fps=30)
    footage.encode(folder / "c.mp4", footage.shots(3, 4, seconds=2))
    footage.encode(folder / "still.mp4", [footage.picture(7)] * 50)
    footage.encode(folder / "one.mp4", [footage.picture(9)])
    whole = (folder / "c.mp4").read_bytes()
    (folder / "cut_off.mp4").write_bytes(whole[: len(whole) // 3])
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights of tiny models."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("models")
    tiny.make(folder)
    return folder


Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tool() -> Tool:
    """Runs `python -m MODULE ARGUMENTS` and returns what it said; `code` is the exit code expected."""

    def run(
        module: str, *arguments: object, code: int | None = 0, env: Mapping[str, str] | None = None,
        cwd: Path = REPO, timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(REPO), **(env or {})}
        done = programs.run(module, [str(a) for a in arguments], environment, cwd, timeout)
        if code is not None:
            assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows as a CSV, its columns in the order of the first row; rows that hold a CR in quotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        plain = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        quoted = csv.DictWriter(file, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writeheader()
        for row in rows:
            (quoted if any("\r" in str(cell) for cell in row.values()) else plain).writerow(row)
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV as text, read by nothing of ours."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def listing(folder: Path, pattern: str = "*.*") -> list[dict[str, object]]:
    """A table's rows for the files of a folder."""
    return [{"path": str(path)} for path in sorted(folder.glob(pattern)) if path.is_file()]
