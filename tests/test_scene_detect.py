"""Shots are found where they begin, and `timestamp` says so to the frame."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenedetect

from pipeline.media import Media
from pipeline.run import prepare_together
from pipeline.splitting.scene_detect import SceneDetect, format_time, split_evenly
from tests import footage
from tests.conftest import Tool, read_table, write_table

SEEDS = (3, 4, 5)
SHOT_SECONDS = 1.6


def detect(path: Path, **parameters: Any) -> list[tuple[float, float]]:
    """The scenes in the `timestamp` of one file, in seconds."""
    scorer = SceneDetect(**parameters)
    (item,) = prepare_together(Media(str(path)), [(scorer, {"path": str(path)})])
    ((cell,),) = scorer.score(None, [item])
    return [(seconds(start), seconds(end)) for start, end in json.loads(cell)]


def seconds(text: str) -> float:
    hours, minutes, rest = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def cuts(path: Path, **parameters: Any) -> list[int]:
    """Indices of the frames with which the scenes after the first begin."""
    scenes = detect(path, **parameters)
    assert scenes[0][0] == 0
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(scenes))
    times = Media(str(path)).info.frame_seconds
    return np.searchsorted(times, [start - 1e-6 for start, _ in scenes[1:]]).tolist()


@pytest.fixture(scope="module")
def three_shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shots") / "three.mp4"
    return footage.encode(path, footage.shots(*SEEDS, seconds=SHOT_SECONDS), codec=footage.B_FRAMES)


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shots of all lengths, with a flash, a dissolve, a fade to black and a fast pan in them."""
    path = tmp_path_factory.mktemp("lively") / "lively.mp4"
    first, second, third = (list(footage.shots(seed, seconds=1.2)) for seed in (11, 12, 13))
    dissolve = [
        (a * (1 - k / 12.0) + b * (k / 12.0)).astype(np.uint8)
        for k, (a, b) in enumerate(zip(first[-12:], second[:12], strict=True))
    ]
    fade = [(picture * (1 - k / 15.0)).astype(np.uint8) for k, picture in enumerate(third[-15:])]
    flash = [np.full_like(first[0], 250)]
    pan = [footage.picture(12 * n) for n in range(30)]
    short = list(footage.shots(14, 15, 16, seconds=0.4))
    pictures = [
        *first[:15],
        *flash,
        *first[16:],
        *dissolve,
        *second[12:],
        *third,
        *fade,
        *pan,
        *short,
        *first,
    ]
    return footage.encode(path, pictures, codec=footage.B_FRAMES)


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_known_cuts_are_found_to_the_frame(three_shots: Path, detector: str) -> None:
    assert detect(three_shots, detector=detector) == [(0, 1.6), (1.6, 3.2), (3.2, 4.8)]


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({"detector": "adaptive"}, scenedetect.AdaptiveDetector(min_scene_len=15)),
        (
            {"detector": "adaptive", "threshold": 1.5, "min_cutscene_len": 0.2},
            scenedetect.AdaptiveDetector(adaptive_threshold=1.5, min_scene_len=5),
        ),
        ({"detector": "content"}, scenedetect.ContentDetector(threshold=25, min_scene_len=15)),
        (
            {"detector": "content", "threshold": 10.0, "min_cutscene_len": 0.04},
            scenedetect.ContentDetector(threshold=10, min_scene_len=1),
        ),
        (
            {"detector": "content", "threshold": 60.0, "min_cutscene_len": 1.0},
            scenedetect.ContentDetector(threshold=60, min_scene_len=25),
        ),
    ],
)
def test_detectors_find_what_pyscenedetect_finds(lively: Path, ours: dict[str, Any], theirs: Any) -> None:
    found = scenedetect.detect(str(lively), theirs, start_in_scene=True)
    expected = [start.frame_num for start, _ in found][1:]
    assert expected
    assert cuts(lively, **ours) == expected


def test_cuts_of_variable_frame_rate_stand_at_their_true_times(tmp_path: Path) -> None:
    slower = r"settb=1/1000,setpts='if(lt(N,25),N*80,2000+(N-25)*20)'"
    path = tmp_path / "vfr.mp4"
    timing = ("-vf", slower, "-fps_mode", "passthrough", "-enc_time_base", "1:1000")
    footage.encode(path, footage.shots(*SEEDS, seconds=1), *timing, "-video_track_timescale", "1000")
    assert [start for start, _ in detect(path)] == [0, 2.0, 2.5]


def test_times_are_cut_to_milliseconds_so_that_no_frame_of_the_next_shot_is_in(tmp_path: Path) -> None:
    pictures = footage.shots(*SEEDS, seconds=1, fps=31)
    path = footage.encode(tmp_path / "a.mp4", pictures, fps=30000 / 1001)
    times = Media(str(path)).info.frame_seconds
    for index, (start, _) in zip([31, 62], detect(path)[1:], strict=True):
        assert times[index] - 0.001 < start <= times[index]


@pytest.mark.parametrize(
    "value, text",
    [(0, "00:00:00.000"), (1.9999, "00:00:01.999"), (0.04 * 3, "00:00:00.120"), (3661.5, "01:01:01.500"),
     (360000.25, "100:00:00.250")],
)  # fmt: skip
def test_a_time_is_written_as_hours_minutes_seconds(value: float, text: str) -> None:
    assert format_time(value) == text


def test_fixed_cuts_at_a_stride_whatever_is_shown(three_shots: Path) -> None:
    assert detect(three_shots, detector="fixed", stride=2.0) == [(0, 2), (2, 4), (4, 4.8)]
    assert detect(three_shots, detector="fixed", stride=2.4) == [(0, 2.4), (2.4, 4.8)]
    assert detect(three_shots, detector="fixed") == [(0, 4.8)]


def test_long_shots_are_split_evenly_where_frames_begin(three_shots: Path) -> None:
    scenes = detect(three_shots, max_cutscene_len=0.6)
    assert len(scenes) == 9
    times = Media(str(three_shots)).info.frame_seconds
    for start, end in scenes:
        assert end - start <= 0.6 + 0.04
        assert np.abs(times - start).min() < 1e-6
    assert {0.0, 1.6, 3.2} <= {start for start, _ in scenes}
    assert [end for _, end in scenes] == [*(start for start, _ in scenes[1:]), 4.8]


@pytest.mark.parametrize(
    ("span", "longest", "frames", "pieces"),
    [
        ((0, 2), 0.4, [0, 1], [(0, 1), (1, 2)]),
        ((1, 2), 0.4, [0, 1], [(1, 2)]),
        ((0, 9), 2, [0], [(0, 9)]),
        ((0, 9), 3, [0, 1, 2, 5], [(0, 5), (5, 9)]),
    ],
)
def test_a_last_frame_that_is_shown_for_long_stays_whole(
    span: tuple[float, float], longest: float, frames: list[float], pieces: list[tuple[float, float]]
) -> None:
    assert split_evenly(*span, longest, np.array(frames, float)) == pieces


def test_a_cut_too_soon_after_another_is_none(tmp_path: Path) -> None:
    path = footage.encode(tmp_path / "a.mp4", footage.shots(*SEEDS, 6, seconds=0.8))
    assert cuts(path) == [20, 40, 60]
    assert cuts(path, min_cutscene_len=1.0) == [40]
    assert cuts(path, min_cutscene_len=9.0) == []


@pytest.mark.parametrize("detector", ["adaptive", "content", "fixed"])
def test_one_shot_is_one_scene_and_a_picture_has_none(tmp_path: Path, detector: str) -> None:
    one_shot = footage.numbered(tmp_path / "a.mp4", 30)
    one_frame = footage.one_frame(tmp_path / "b.mp4").path
    picture = footage.encode(tmp_path / "c.png", [footage.picture(1)], codec=("-c:v", "png"))
    assert detect(one_shot, detector=detector) == [(0, 1.2)]
    assert detect(one_frame, detector=detector) == [(0, 0.04)]
    assert detect(picture, detector=detector) == []


def test_the_command_adds_the_column_and_fails_only_what_cannot_be_read(
    tool: Tool, tmp_path: Path, three_shots: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(three_shots.read_bytes()[:1000])
    rows = [
        {"path": str(three_shots), "text": "NA"},
        {"path": str(tmp_path / "broken.mp4"), "text": "007"},
    ]
    table = write_table(tmp_path / "meta.csv", rows)
    tool("pipeline.splitting.scene_detect", table, "--detector=content", "--max_failed", 0.5)
    good, bad = read_table(tmp_path / "meta_timestamp.csv")
    assert list(good) == ["path", "text", "timestamp", "error"]
    assert json.loads(good["timestamp"]) == [
        ["00:00:00.000", "00:00:01.600"],
        ["00:00:01.600", "00:00:03.200"],
        ["00:00:03.200", "00:00:04.800"],
    ]
    assert (good["text"], good["error"]) == ("NA", "")
    assert (bad["text"], bad["timestamp"], bad["error"]) == ("007", "", "timestamp: corrupt")


# --- real files --------------------------------------------------------------------------------


def test_published_cuts_of_real_files_are_found(media: Path) -> None:
    listed = json.loads((media / "truth" / "shots.json").read_text())["videos"]
    hard = [video for video in listed if video.get("kind") == "published" and "cuts" in video]
    assert hard
    for video in hard:
        found = cuts(media / video["file"], detector="content", min_cutscene_len=0.2)
        missed = set(video["cuts"]) - set(found)
        invented = set(found) - set(video["cuts"])
        assert (missed, invented) == (set(), set()), video["file"]


def test_published_results_of_pyscenedetect_are_reproduced(media: Path) -> None:
    listed = json.loads((media / "truth" / "shots.json").read_text())["videos"]
    golden = {v["file"]: v["goldens"] for v in listed if "goldens" in v}
    assert golden
    detectors = {"Adaptive": SceneDetect(threshold=3.0), "Content": SceneDetect("content", threshold=27.0)}
    for file, published in golden.items():
        video = Media(str(media / file))
        found = prepare_together(video, [(scorer, {"path": file}) for scorer in detectors.values()])
        for name, scenes in zip(detectors, found, strict=True):
            indices = [video.info.index_at(start) for start, _ in scenes[1:]]
            assert indices == published[f"{name}Detector/default"], file
