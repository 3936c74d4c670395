"""Files of the kinds that users of other tools reported as read wrong, through convert, scores, shots and clips."""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from clipsheet.media import Media, fields
from tests.conftest import REPO, Tool, read_table, there

REALFILES = Path(os.environ.get("CLIPSHEET_REALFILES", REPO.parent / "shared" / "realfiles"))
#: Cases whose pictures carry their own number; of those that are turned it cannot be read.
NUMBERED = ("01_ts_concat", "03_one_repeated_stamp", "05_h264_avi", "08_animated", "30_no_stss")
SIZES = "18_sizes"
FLASHES = "20_flash"  # of which boundaries are another matter
STILLS = ("still.webp", "still.png", "still.avif")


@pytest.fixture(scope="module")
def casekit() -> ModuleType:
    """The corpus' own readers of the truth."""
    spec = importlib.util.spec_from_file_location("casekit", there(REALFILES / "casekit.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files and manifest.csv; made by the ffmpeg on PATH, which must have zscale."""
    maker = there(REALFILES / "make_realfiles.py")
    program = shutil.which("ffmpeg")
    filters = subprocess.run([program, "-filters"], capture_output=True, text=True) if program else None
    if filters is None or " zscale " not in filters.stdout or not shutil.which("ffprobe"):
        if os.environ.get("FAIL_WITHOUT_MEDIA"):
            pytest.fail("no ffmpeg and ffprobe with zscale on PATH")
        pytest.skip("no ffmpeg and ffprobe with zscale on PATH (FAIL_WITHOUT_MEDIA=1 makes this a failure)")
    out = tmp_path_factory.mktemp("realfiles")
    subprocess.run([sys.executable, maker, out], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="module")
def manifest(corpus: Path) -> list[dict[str, str]]:
    with open(corpus / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tables(corpus: Path, tool: Tool) -> Path:
    """The folder of the tables that the commands leave."""
    folder = corpus / "tables"
    folder.mkdir()
    tool("pipeline.datasets.convert", "video", corpus, "--output", folder / "meta.csv")
    tool("pipeline.datasets.convert", "image", corpus, "--output", folder / "pictures.csv")
    scorers = ("--scorers", "info", "motion", "quality")
    tool("scoring.inference", folder / "meta.csv", *scorers, timeout=900)
    tool("pipeline.splitting.scene_detect", folder / "meta.csv", timeout=900)
    cut = ("--save_dir", corpus / "clips", "--keep_audio", "--preset", "ultrafast", "--crf", "12")
    tool("pipeline.splitting.cut", folder / "meta_timestamp.csv", *cut, timeout=900)
    return folder


def by_file(table: Path, corpus: Path, column: str = "path") -> dict[str, list[dict[str, str]]]:
    """The rows of each file, by its path below the corpus."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in read_table(table) if table.exists() else []:
        found.setdefault(os.path.relpath(row[column], corpus), []).append(row)
    return found


def test_videos_and_pictures_are_listed_once_each(
    corpus: Path, manifest: list[dict[str, str]], tables: Path
) -> None:
    videos, pictures = by_file(tables / "meta.csv", corpus), by_file(tables / "pictures.csv", corpus)
    stills = {row["file"] for row in manifest if Path(row["file"]).name in STILLS}
    assert set(pictures) == stills
    assert set(videos) == {row["file"] for row in manifest} - stills


def test_frames_seconds_and_sizes_are_those_of_the_manifest(
    corpus: Path, manifest: list[dict[str, str]], tables: Path
) -> None:
    scores = by_file(tables / "meta_scores.csv", corpus)
    wrong = {}
    for row in manifest:
        if row["file"] not in scores:
            continue
        [found] = scores[row["file"]]
        expected = [row[f"expect_{name}"] for name in ("frames", "width", "height")]
        seconds = abs(float(found["duration"]) - float(row["expect_seconds"]))
        if [found["num_frames"], found["width"], found["height"]] != expected or seconds > 0.05:
            wrong[row["file"]] = {name: found[name] for name in ("num_frames", "duration", "width", "error")}
        elif found["error"] and not (row["case"] == SIZES and found["error"].endswith("too_small")):
            wrong[row["file"]] = {"error": found["error"]}
    assert wrong == {}


def test_clips_hold_the_frames_of_their_sources_in_order(
    corpus: Path, manifest: list[dict[str, str]], tables: Path, casekit: ModuleType
) -> None:
    clips = by_file(tables / "meta_timestamp_clips.csv", corpus, "source_path")
    failed = by_file(tables / "meta_timestamp_clips_failed.csv", corpus)
    assert {file for file in failed if not file.startswith(SIZES)} == set()
    for row in manifest:
        if row["case"] not in NUMBERED or row["file"] not in clips:
            continue
        truth = casekit.numbers(corpus / row["file"]) or list(range(int(row["expect_frames"])))
        numbers = [n for clip in clips[row["file"]] for n in casekit.numbers(clip["path"])]
        left = [n for n in truth if n in set(numbers)]
        assert numbers == left, row["file"]
        assert len(numbers) > 0.9 * len(truth), row["file"]


def test_mirrored_pictures_look_as_ffmpeg_shows_them(
    corpus: Path, manifest: list[dict[str, str]], tables: Path, tmp_path: Path
) -> None:
    clips = by_file(tables / "meta_timestamp_clips.csv", corpus, "source_path")
    for row in (row for row in manifest if row["case"] == "07_flip"):
        raw = tmp_path / "shown"
        command = ["ffmpeg", "-v", "error", "-y", "-i", corpus / row["file"], "-frames:v", "1"]
        subprocess.run([*command, "-pix_fmt", "rgb24", "-f", "rawvideo", raw], check=True)
        height, width = int(row["expect_height"]), int(row["expect_width"])
        shown = np.frombuffer(raw.read_bytes(), np.uint8).reshape(height, width, 3).astype(int)
        for path in (corpus / row["file"], clips[row["file"]][0]["path"]):
            assert np.abs(next(Media(str(path)).frames([0])).rgb() - shown).mean() < 5, path


def test_high_dynamic_range_scores_as_the_standard_range(corpus: Path, tables: Path) -> None:
    scores = by_file(tables / "meta_scores.csv", corpus)
    plain, pq, hlg = (scores[f"14_hdr/{name}.mp4"][0] for name in ("sdr", "pq", "hlg"))
    for row, transfer in ((pq, "smpte2084"), (hlg, "arib-std-b67")):
        assert (row["hdr"], row["color_transfer"], row["bit_depth"]) == ("true", transfer, "10")
        assert float(row["contrast"]) == pytest.approx(float(plain["contrast"]), rel=0.05)
        assert float(row["brightness"]) == pytest.approx(float(plain["brightness"]), rel=0.05)
    assert plain["hdr"] == "false"


def test_interlaced_files_are_told_and_their_clips_are_not(corpus: Path, tables: Path) -> None:
    scores = by_file(tables / "meta_scores.csv", corpus)
    clips = by_file(tables / "meta_timestamp_clips.csv", corpus, "source_path")
    told = {file: rows[0]["interlaced"] for file, rows in scores.items() if file.startswith("10_")}
    assert told == {file: "false" if "progressive" in file else "true" for file in told}
    assert len(told) == 5
    for file in told:
        frame = next(Media(clips[file][0]["path"]).frames([5]))
        assert fields.combing(frame.luma().astype(np.int16)) < 0.015


def test_captions_are_read_or_fail(corpus: Path, tables: Path, tool: Tool) -> None:
    rows = [row for row in read_table(tables / "meta.csv") if "23_captions" in row["path"]]
    table = tables / "captions.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    tool("pipeline.datasets.datautil", table, "--load_caption", "txt", "--output", tables / "loaded.csv")
    text = {Path(row["path"]).name: row["text"] for row in read_table(tables / "loaded.csv")}
    assert text == {
        "bom.mp4": "A dog runs.", "utf16.mp4": "A dog runs.", "cp1252.mp4": "",
        "lines.mp4": "A dog runs.\nIt barks.", "empty.mp4": "", "missing.mp4": "",
        "a.b.c.mp4": "dots", "upper.MP4": "upper",
    }  # fmt: skip
    failed = read_table(tables / "loaded_failed.csv")
    assert [(Path(row["path"]).name, row["code"]) for row in failed] == [("cp1252.mp4", "bad_text")]
