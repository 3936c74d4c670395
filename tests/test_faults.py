"""Broken and hostile files through the whole of it: each ends as it must, and nothing else is touched."""

from __future__ import annotations

import csv
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clipsheet.engine.run import run_scorers
from clipsheet.options import RunOptions
from scoring.info.scorer import Info
from scoring.motion.scorer import Motion
from scoring.ocr.scorer import Ocr
from scoring.quality.scorer import Quality
from tests.conftest import REPO, read_table, write_table

GIB = 1 << 30


@contextmanager
def listening(port: int = 0) -> Iterator[tuple[int, list[Any]]]:
    """A port of this machine, and who connected to it."""
    seen: list[Any] = []
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except PermissionError:  # port 9 is the superuser's: nobody listens, a connection would fail
            yield port, seen
            return
        server.listen()
        server.settimeout(0.1)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                try:
                    seen.append(server.accept()[1])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], seen
        finally:
            over.set()
            thread.join()


def manifest(faults: Path) -> list[dict[str, str]]:
    with open(faults / "manifest.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [row for row in csv.DictReader(file) if row["made"] == "yes"]


def test_every_file_of_the_corpus_ends_as_its_manifest_says(faults, tmp_path):
    cases = [c for c in manifest(faults) if c["case"] != "name_not_utf8"]
    table = write_table(
        tmp_path / "m.csv", [{"path": str(faults / c["file"]), "case": c["case"]} for c in cases]
    )
    scorers = [Info(), Ocr(), Motion(), Quality()]
    with listening(9) as (_, connected):
        first = run_scorers([str(table)], scorers, RunOptions(num_workers=2, max_failed=1.0))
    assert connected == []
    rows = read_table(first.output)
    assert [row["case"] for row in rows] == [case["case"] for case in cases]
    for case, row in zip(cases, rows, strict=True):
        if case["needs"] == "nonroot" and os.geteuid() == 0:
            continue
        errors = dict(part.split(": ") for part in row["error"].split("; ")) if row["error"] else {}
        if case["expect"] == "ok":
            assert not errors, (case["case"], errors)
            assert row["num_frames"] == case["frames"], case["case"]
            assert sorted((row["width"], row["height"])) == sorted((case["width"], case["height"])), case[
                "case"
            ]
            assert row["motion"] and row["sharpness"] and row["ocr"], case["case"]
        elif case["expect"] == "fail":
            allowed = case["reason"].split("|")
            assert set(errors) == {"info", "ocr", "motion", "quality"}, (case["case"], errors)
            assert set(errors.values()) <= set(allowed), (case["case"], errors)
            assert not row["num_frames"] + row["motion"] + row["sharpness"] + row["ocr"]
    again = write_table(
        tmp_path / "again" / "m.csv", [{"path": row["path"], "case": row["case"]} for row in rows]
    )
    second = run_scorers([str(again)], scorers, RunOptions(num_workers=2, max_failed=1.0))
    assert second.output.read_bytes() == first.output.read_bytes()


def test_the_quickstart_over_the_corpus_keeps_every_good_file(faults, tmp_path, tool):
    done = tool(
        "script.pipeline_runner", REPO / "config" / "quickstart.yaml", "--set",
        f"paths.ROOT_VIDEO={faults / 'media'}", f"paths.ROOT_CLIPS={tmp_path / 'clips'}",
        f"paths.ROOT_META={tmp_path / 'meta'}", cwd=REPO, timeout=600,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < 4 * GIB
    meta = tmp_path / "meta"
    listed = {row["path"] for row in read_table(meta / "meta_videos.csv")}
    good = read_table(meta / "meta_videos_info_fmin1.csv")
    bad = read_table(meta / "meta_videos_info_fmin1_dropped.csv")
    assert sorted([row["path"] for row in good + bad]) == sorted(listed)
    clips = read_table(meta / "meta_clips.csv")
    sidecars = [meta / f"meta_clips_{kind}.csv" for kind in ("dropped", "failed")]
    aside = [row for path in sidecars if path.exists() for row in read_table(path)]
    assert {r["source_path"] for r in clips} | {r["path"] for r in aside} == {r["path"] for r in good}
    assert all(Path(row["path"]).is_file() for row in clips)
    for case in manifest(faults):
        path = str(faults / case["file"])
        if case["expect"] == "ok" and path in listed:
            assert path in {row["path"] for row in good}, case["case"]
        if case["expect"] == "fail" and path in listed and not case["needs"]:
            assert path in {row["path"] for row in bad}, case["case"]


def test_no_file_name_is_executed(faults, tmp_path):
    for folder in (REPO, faults, faults / "media" / "names", Path.cwd()):
        assert not (folder / "x").exists()


@pytest.mark.parametrize("cell", [
    "http://127.0.0.1:{port}/x.mp4", "tcp://127.0.0.1:{port}", "rtmp://127.0.0.1:{port}/x",
    "concat:/etc/passwd|/etc/hosts", "subfile,,start,0,end,0,,:/etc/passwd", "data:video/mp4;base64,AAAA",
    "file:/etc/passwd", "pipe:0", "-", " ", "",
])  # fmt: skip
def test_a_path_cell_is_a_path_and_nothing_else(cell, tmp_path):
    with listening() as (port, connected):
        table = write_table(tmp_path / "m.csv", [{"path": cell.format(port=port), "id": "1"}])
        status = run_scorers([str(table)], [Info()], RunOptions(num_workers=1, max_failed=1.0))
    assert connected == []
    [row] = read_table(status.output)
    assert row["error"] in ("info: bad_path", "info: missing")
    assert row["num_frames"] == ""


def test_a_path_that_leaves_the_root_is_refused(clips, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "real.mp4").write_bytes((clips / "a.mp4").read_bytes())
    (inside / "link.mp4").symlink_to(clips / "a.mp4")
    paths = [inside / "real.mp4", inside / "link.mp4", inside / ".." / "inside" / "real.mp4", clips / "a.mp4"]
    table = write_table(tmp_path / "m.csv", [{"path": str(path)} for path in paths])
    status = run_scorers([str(table)], [Info()], RunOptions(num_workers=1, root=str(inside), max_failed=1.0))
    errors = [row["error"] for row in read_table(status.output)]
    assert errors == ["", "info: outside_root", "", "info: outside_root"]
