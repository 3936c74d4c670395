"""What every scorer keeps to; and each one's numbers against pictures whose truth is known."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from captioning.caption_llava import CaptionLlava
from captioning.caption_pllava import CaptionPllava
from captioning.caption_qwen2vl import CaptionQwen2vl
from captioning.captioner import Captioner
from captioning.catalog import CAPTIONERS
from clipsheet.cli import describe, scorer_parser
from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import prepare_together
from clipsheet.errors import MediaError
from clipsheet.media import Media
from clipsheet.options import RunOptions
from clipsheet.scorer import MODELS, Home, Scorer, every_column, frame_positions, provenance
from pipeline.datasets.deduplication import Hashes
from scoring.aesthetic.scorer import Aesthetic
from scoring.catalog import SCORERS
from scoring.embedding.scorer import Embedding
from scoring.info.scorer import Info
from scoring.lpips.scorer import Lpips
from scoring.matching.scorer import Matching, OptionMatching
from scoring.motion.scorer import Motion
from scoring.nsfw.scorer import Nsfw
from scoring.ocr.scorer import Ocr
from scoring.quality.scorer import Quality, blockiness, noise, sharpness
from scoring.shots.detection import SceneDetect
from tests import footage
from tests.conftest import REPO, listing, read_table, write_table
from tools import ffmpeg

#: What scorers are given that have a model, or columns that are optional.
GIVEN: dict[type[Scorer], Scorer] = {
    type(scorer): scorer
    for scorer in (
        Ocr(num_boxes=True, max_single_percentage=True, total_text_percentage=True),
        Lpips(net="squeeze"),
        Aesthetic(clip="tiny", head="head.pth"),
        Nsfw(clip="tiny", head="nsfw.safetensors"),
        Matching(clip="tiny"),
        OptionMatching(("dog", "red car"), clip="tiny"),
        Embedding(clip="tiny"),
        CaptionQwen2vl(pretrained_model_name_or_path="qwen", max_new_tokens=16),
        CaptionLlava(pretrained_model_name_or_path="llava", max_new_tokens=16),
        CaptionPllava(pretrained_model_name_or_path="pllava", max_new_tokens=16, pooling_shape=(4, 2, 2)),
    )
}
#: Those that need a server or a text, and have tests of their own.
APART = ("api_caption", "enhance_caption")
CLASSES = [*SCORERS.values(), Hashes, *(cls for name, cls in CAPTIONERS.items() if name not in APART)]
#: One of each kind, with every optional column.
ALL = [GIVEN.get(cls) or cls() for cls in CLASSES]
every_scorer = pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.name)


# --- the contract ------------------------------------------------------------------------------


def test_every_scorer_has_a_program_and_a_line_in_the_catalogue():
    programs = {path.parent.name for path in (REPO / "scoring").glob("*/inference.py")}
    elsewhere = {"option", "audit", "scene_detect"}  # matching, with --option; pipeline.splitting
    assert programs == set(SCORERS) - elsewhere


@every_scorer
def test_it_is_a_value(scorer: Scorer):
    assert pickle.loads(pickle.dumps(scorer)) == scorer
    assert hash(scorer) == hash(replace(scorer))
    with pytest.raises(FrozenInstanceError):
        setattr(scorer, (fields(scorer) or fields(Motion))[0].name, None)


@every_scorer
def test_every_parameter_is_in_its_provenance_and_its_help(scorer: Scorer, models):
    shown = scorer_parser(type(scorer), describe(type(scorer))).format_help()
    unsaid = {"question", "prompt", "prompt_file", *scorer.how} if isinstance(scorer, Captioner) else set()
    for field in fields(scorer):  # type: ignore[arg-type]
        assert (f" {field.name}=" in f" {provenance(scorer, models)}".replace("(", " ")) != (
            field.name in unsaid
        )
        assert f"--{field.name}" in shown
        assert field.metadata["help"]


@every_scorer
def test_its_columns_are_described(scorer: Scorer):
    columns = every_column(type(scorer)) or scorer.columns  # of its words, where there are some
    assert set(scorer.columns) <= set(columns)
    assert len({column.name for column in columns}) == len(columns)
    for column in columns:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
        assert column.meaning
        assert column.kind in ("float", "int", "text", "json", "bool")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """The clips, and a still picture file."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in clips.iterdir():
        (folder / path.name).symlink_to(path)
    Image.fromarray(footage.picture(5)).save(folder / "photo.jpg")
    return folder


def rows_of(
    scorer: Scorer, folder: Path, out: Path, models: Path, **options: Any
) -> dict[str, dict[str, str]]:
    table = write_table(out / "m.csv", [{**row, "text": "a dog"} for row in listing(folder)])
    run = RunOptions(max_failed=1.0, pretrained_models=str(models), **options)
    status = run_scorers([str(table)], [scorer], run)
    return {Path(row["path"]).name: row for row in read_table(status.output)}


@every_scorer
def test_every_row_gets_a_value_of_the_right_kind_or_a_reason(scorer: Scorer, pictures, models, tmp_path):
    rows = rows_of(scorer, pictures, tmp_path, models)
    assert len(rows) == 7
    for name, row in rows.items():
        if name == "cut_off.mp4":
            assert row["error"] == f"{scorer.name}: corrupt"
            assert all(row[column.name] == "" for column in scorer.columns)
            continue
        assert row["error"] == ""
        for column in scorer.columns:
            check_kind(row[column.name], column, may_be_empty=name == "photo.jpg")


def check_kind(cell: str, column: Any, *, may_be_empty: bool) -> None:
    if cell == "":
        assert may_be_empty, column.name
        return
    if column.kind == "float":
        assert np.isfinite(float(cell))
    elif column.kind == "int":
        assert str(int(cell)) == cell
    elif column.kind == "json":
        assert isinstance(json.loads(cell), list)
    elif column.kind == "bool":
        assert cell in ("true", "false")
    if column.unit == "0-1":
        assert 0 <= float(cell) <= 1


@every_scorer
def test_batches_and_neighbours_change_nothing(scorer: Scorer, pictures, models, tmp_path):
    rows = rows_of(scorer, pictures, tmp_path / "1", models, bs=1, num_workers=1)
    again = rows_of(scorer, pictures, tmp_path / "2", models, bs=5, num_workers=2)
    assert rows == again


@pytest.mark.parametrize("scorer", [s for s in ALL if s.feature is None], ids=lambda scorer: scorer.name)
def test_it_gets_the_same_frames_alone_and_in_company(scorer: Scorer, pictures):
    media = Media(str(pictures / "b.mkv"))
    [alone] = prepare_together(media, [(scorer, {})])
    [*_, together] = prepare_together(media, [(Motion(), {}), (Quality(), {}), (scorer, {})])
    assert pickle.dumps(alone) == pickle.dumps(together)


#: Width and height of tiny and of very long pictures.
SIZES = (
    (1, 1), (2, 2), (3, 3), (7, 5), (3, 64), (64, 3), (1, 64), (64, 1), (1, 3000), (3000, 1), (12, 8), (8, 11),
    (13, 13), (14, 14), (15, 17), (16, 16), (3000, 40), (40, 3000),
)  # fmt: skip
#: Least short and long side of a picture, by scorer; all others measure any.
LEAST = {
    "motion": (8, 12), "quality": (16, 16), "caption_qwen2vl": (14, 14), "caption_llava": (14, 14),
    "caption_pllava": (14, 14),
}  # fmt: skip


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of two seconds of each size."""
    folder, rng = tmp_path_factory.mktemp("sizes"), np.random.default_rng(0)
    for width, height in SIZES:
        pictures = rng.integers(0, 256, (4, height, width, 3), np.uint8)
        footage.encode(folder / f"{width}x{height}.mov", pictures, fps=2, codec=("-c:v", "png"))
    return folder


@every_scorer
def test_a_picture_of_any_size_is_measured_or_too_small(scorer: Scorer, sizes, models, tmp_path):
    rows = rows_of(scorer, sizes, tmp_path, models)
    assert len(rows) == len(SIZES)
    short, long = LEAST.get(scorer.name, (1, 1))
    for width, height in SIZES:
        row = rows[f"{width}x{height}.mov"]
        if min(width, height) < short or max(width, height) < long:
            assert row["error"] == f"{scorer.name}: too_small"
            assert all(row[column.name] == "" for column in scorer.columns)
            continue
        assert row["error"] in ("", f"{scorer.name}: bad_output")  # a random language model may say nothing
        if not row["error"]:
            for column in scorer.columns:
                check_kind(row[column.name], column, may_be_empty=False)


@pytest.mark.parametrize(
    "scorer",
    [
        *(SceneDetect(detector) for detector in ("adaptive", "content", "transnetv2", "fixed")),
        *(Hashes(hash) for hash in ("ahash", "dhash", "whash")),
        *(Lpips(net=net) for net in ("alex", "vgg")),
        Motion(flow_pairs=0),
    ],
    ids=repr,
)
def test_no_variant_of_a_scorer_needs_more(scorer: Scorer, sizes, models, tmp_path):
    if isinstance(scorer, Lpips):
        from tests import tiny

        models = tmp_path / "models"
        tiny.save_backbone(models, scorer.net)
    rows = rows_of(scorer, sizes, tmp_path, models)
    assert {name: row["error"] for name, row in rows.items()} == dict.fromkeys(rows, "")


def test_where_a_number_of_frames_looks():
    assert frame_positions(1) == [0.5]
    assert frame_positions(2) == [0.25, 0.75]
    assert frame_positions(3) == [0.1, 0.5, 0.9]
    assert frame_positions(4) == [0.125, 0.375, 0.625, 0.875]


# --- info --------------------------------------------------------------------------------------


def value(scorer: Scorer, path: Path, row: dict[str, str] | None = None) -> dict[str, Any]:
    """What a scorer says of one file, by column."""
    [item] = prepare_together(Media(str(path)), [(scorer, row or {})])
    if isinstance(item, Exception):
        raise item
    [values] = scorer.score(scorer.load(Home(MODELS)), [item])
    return {column.name: v for column, v in zip(scorer.columns, values, strict=True)}


def test_info_counts_what_decodes(clips):
    found = value(Info(), clips / "b.mkv")
    assert found | {"bit_rate": 0} == {
        "num_frames": 75, "height": 240, "width": 320, "aspect_ratio": 0.75, "fps": 30.0,
        "resolution": 76800, "duration": 2.5, "codec": "h264", "bit_rate": 0, "has_audio": False,
        "video_streams": 1, "color_transfer": "unknown", "color_primaries": "unknown", "bit_depth": 8,
        "hdr": False, "interlaced": False,
    }  # fmt: skip
    size = (clips / "b.mkv").stat().st_size
    assert found["bit_rate"] == round(8 * size / 2.5)


# --- motion ------------------------------------------------------------------------------------


def test_motion_is_that_of_vmaf(tmp_path):
    path = footage.encode(tmp_path / "m.mp4", footage.shots(3, 5, seconds=1, fps=24), "-crf", "10", fps=24)
    stats = tmp_path / "stats"
    footage.ffmpeg_run("-i", str(path), "-vf", f"vmafmotion=stats_file={stats}", "-f", "null", "-")
    # FFmpeg's filter reads studio luma, of 220 levels; here it is stretched to 256 and rounded again.
    single = [float(word) * 255 / 219 for word in re.findall(r"motion:([\d.]+)", stats.read_text())][1:]
    expected = np.minimum(single, [*single[1:], single[-1]]).mean()
    assert value(Motion(), path)["motion"] == pytest.approx(expected, rel=0.03)


def test_flow_is_the_shift_over_the_diagonal(tmp_path):
    rng = np.random.default_rng(4)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (240, 600, 3), np.uint8), (0, 0), 2)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    pictures = (np.ascontiguousarray(ground[:, 3 * n : 3 * n + 320]) for n in range(48))
    found = value(Motion(), footage.encode(tmp_path / "shift.mp4", pictures, "-crf", "12", fps=24))
    assert found["flow"] == pytest.approx(3 / np.hypot(240, 320), rel=0.1)


def test_frozen_clips_and_pictures_do_not_move(pictures):
    still = {"motion": pytest.approx(0, abs=0.05), "flow": pytest.approx(0, abs=1e-3)}
    assert value(Motion(), pictures / "still.mp4") == still
    assert value(Motion(), pictures / "photo.jpg") == {"motion": 0, "flow": 0}


def test_motion_does_not_depend_on_the_frame_rate(tmp_path):
    def scene(fps: int) -> Iterator[np.ndarray]:
        ground = cv2.resize(np.random.default_rng(2).integers(0, 256, (12, 48, 3), np.uint8), (960, 240))
        for n in range(2 * fps):
            yield np.ascontiguousarray(ground[:, 240 * n // fps :][:, :320])

    found = [
        value(Motion(), footage.encode(tmp_path / f"{fps}.mp4", scene(fps), fps=fps))["motion"]
        for fps in (24, 48)
    ]
    assert found[1] == pytest.approx(found[0], rel=0.1)


# --- quality -----------------------------------------------------------------------------------


def textured(seed: int = 1) -> np.ndarray:
    """[480, 640] uint8 luma with edges at many sizes."""
    rng = np.random.default_rng(seed)
    image = np.full((480, 640), 128, np.uint8)
    for _ in range(400):
        x, y, r = (int(v) for v in rng.integers(2, [640, 480, 30]))
        cv2.circle(image, (x, y), r, int(rng.integers(30, 226)), -1, cv2.LINE_AA)
    return image


def test_sharpness_falls_with_every_blur():
    image = textured()
    found = [sharpness(image)] + [sharpness(cv2.GaussianBlur(image, (0, 0), s)) for s in (0.7, 1.5, 3, 6)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 10 * found[2]
    assert sharpness(np.full((100, 100), 90, np.uint8)) == 0


@pytest.mark.parametrize("sigma", [2.0, 5.0, 12.0])
def test_noise_is_the_standard_deviation_that_was_added(sigma):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(60, 200, (4, 6), np.uint8), (640, 480), interpolation=cv2.INTER_LINEAR)
    noisy = np.clip(smooth + rng.normal(0, sigma, smooth.shape), 0, 255).round().astype(np.uint8)
    assert noise(noisy) == pytest.approx(sigma, rel=0.12)  # the calm quarter of the blocks reads low
    assert noise(smooth) < 0.5


def test_blockiness_rises_with_jpeg_compression():
    image = textured()
    found = []
    for quality in (95, 40, 10, 3):
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        found.append(blockiness(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)))
    assert blockiness(image) == pytest.approx(1, abs=0.1)
    assert found == sorted(found)
    assert found[-1] > 1.5


def test_light_borders_and_frozen_time(tmp_path):
    frames = []
    for n in range(50):
        picture = np.zeros((240, 320, 3), np.uint8)
        picture[48:-48, :160] = (200, 40, 40)
        picture[48:-48, 160:] = (60, 60, 60)
        if n < 25:  # then it stands still
            picture[100:140, 4 * n : 4 * n + 60] = 255
        frames.append(picture)
    path = footage.encode(tmp_path / "q.mp4", frames, "-crf", "1", fps=5)
    found = value(Quality(), path)
    assert found["black_borders"] == pytest.approx(0.4, abs=0.001)
    assert found["frozen"] == pytest.approx(
        4 / 9, abs=1e-4
    )  # of ten frames a second apart, the last four pairs
    luma = 0.299 * 200 + 0.587 * 40 + 0.114 * 40
    assert found["brightness"] == pytest.approx((luma + 60) / 2 / 255, abs=0.03)
    assert found["contrast"] == pytest.approx((luma - 60) / 2 / 255, abs=0.1)
    assert found["saturation"] == pytest.approx(0.4, abs=0.06)
    assert value(Quality(), footage.encode(tmp_path / "b.mp4", [0 * frames[0]] * 10))["clipped"] == 1


# --- ocr ---------------------------------------------------------------------------------------


def page(size: tuple[int, int], lines: dict[tuple[int, int], str], height: int) -> Image.Image:
    """White lines of text on grey, at (left, top) pixels."""
    image = Image.new("RGB", size, (70, 80, 90))
    pen = ImageDraw.Draw(image)
    for place, line in lines.items():
        pen.text(place, line, font=ImageFont.load_default(height), fill="white")
    return image


SHARES = Ocr(num_boxes=True, max_single_percentage=True, total_text_percentage=True)


def test_ocr_reads_and_measures_text_where_it_stands(tmp_path):
    lines = {(100, 100): "BREAKING NEWS", (100, 500): "weather and traffic"}
    page((1600, 900), lines, 80).save(tmp_path / "page.png")
    found = value(SHARES, tmp_path / "page.png")
    texts = json.loads(found["ocr"])
    assert sorted(t["transcription"] for t in texts) == ["BREAKING NEWS", "weather and traffic"]
    assert found["num_boxes"] == 2
    boxes = {t["transcription"]: np.array(t["points"]) for t in texts}
    assert boxes["BREAKING NEWS"].min(axis=0) == pytest.approx([100, 110], abs=20)
    assert boxes["weather and traffic"].min(axis=0) == pytest.approx([100, 515], abs=20)
    areas = [cv2.contourArea(box.astype(np.float32)) / (1600 * 900) for box in boxes.values()]
    assert found["max_single_percentage"] == pytest.approx(max(areas), abs=0.002)
    assert found["total_text_percentage"] == pytest.approx(sum(areas), abs=0.005)


def test_ocr_of_a_picture_without_text_is_an_empty_list(tmp_path):
    Image.new("RGB", (640, 360), "navy").save(tmp_path / "plain.png")
    assert value(SHARES, tmp_path / "plain.png") == {
        "ocr": "[]", "num_boxes": 0, "max_single_percentage": 0, "total_text_percentage": 0,
    }  # fmt: skip


def test_ocr_takes_the_middle_frame_or_the_worst_of_several(tmp_path):
    empty = np.asarray(page((640, 360), {}, 40))
    titled = np.asarray(page((640, 360), {(40, 150): "THE END OF IT"}, 60))
    path = footage.encode(tmp_path / "end.mp4", [*[empty] * 20, *[titled] * 5], "-crf", "18")
    assert value(Ocr(num_boxes=True), path)["num_boxes"] == 0
    worst = value(Ocr(num_boxes=True, num_frames=3), path)
    assert worst["num_boxes"] == 1
    assert json.loads(worst["ocr"])[0]["transcription"].replace(" ", "") == "THEENDOFIT"


def test_an_engine_that_is_not_installed_is_named_with_its_command(tmp_path, clips, tool):
    table = write_table(tmp_path / "m.csv", listing(clips))
    done = tool("scoring.ocr.inference", table, "--engine", "mmocr", code=2)
    assert "mim install" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_ocr_reads_what_the_authors_of_the_model_read(media):
    truth = json.loads((media / "truth" / "ocr.json").read_text())["items"]
    published = {item["file"]: item["first_text"] for item in truth if "first_text" in item}
    for file in (
        "images/rapidocr/ch_en_num.jpg",
        "images/rapidocr/img_exif_orientation.jpg",
        "images/rapidocr/issue_170.png",
    ):
        read = [t["transcription"] for t in json.loads(value(SHARES, media / file)["ocr"])]
        assert published[file] in read


# --- another reader ----------------------------------------------------------------------------


def test_decord_reads_what_pyav_reads_and_its_scores_are_kept_apart(clips, tmp_path):
    table = write_table(tmp_path / "m.csv", listing(clips, "[abc].*"))
    found = []
    for reader in ("pyav", "decord"):
        status = run_scorers([str(table)], [Quality(), Motion()], RunOptions(num_workers=1, reader=reader))
        found.append(read_table(status.output))
    assert len(list((tmp_path / ".clipsheet" / "cells").iterdir())) == 4
    for one, other in zip(*found, strict=True):
        assert one["error"] == other["error"] == ""
        for column in ("brightness", "contrast", "frozen"):  # luma by way of RGB: rounded twice
            assert float(other[column]) == pytest.approx(float(one[column]), rel=0.05, abs=0.01)


# --- several at once ---------------------------------------------------------------------------


def test_scoring_inference_takes_the_flags_of_each_scorer(tmp_path, clips, tool):
    table = write_table(tmp_path / "m.csv", listing(clips, "[ab].*"))
    tool(
        "scoring.inference", table, "--scorers", "info", "motion", "ocr",
        "--ocr.num-boxes", "--motion.flow_pairs=2", "--num_workers", 2,
    )  # fmt: skip
    rows = read_table(tmp_path / "m_scores.csv")
    assert list(rows[0]) == [
        "path", *(c.name for c in Info().columns), "motion", "flow", "ocr", "num_boxes", "error",
    ]  # fmt: skip
    assert [row["num_frames"] for row in rows] == ["50", "75"]


def test_scoring_inference_refuses_a_flag_of_a_scorer_that_does_not_run(tmp_path, clips, tool):
    table = write_table(tmp_path / "m.csv", listing(clips))
    done = tool("scoring.inference", table, "--scorers", "info", "--ocr.num_boxes", code=2)
    assert "--ocr.num_boxes" in done.stderr


def test_the_ffmpeg_of_the_package_is_taken_whatever_is_on_the_path(monkeypatch, tmp_path):
    old = tmp_path / "ffmpeg"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    ffmpeg.program.cache_clear()
    try:
        assert os.access(ffmpeg.program(), os.X_OK)
        assert ffmpeg.program() != str(old)
    finally:
        ffmpeg.program.cache_clear()


# --- nearly black pictures ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "lit"),
    [
        (1080, 1920, np.s_[538:542, :]),
        (1080, 1920, np.s_[:, 1916:]),
        (1080, 1920, np.s_[538:542, 900:904]),
        (240, 320, np.s_[119:121, :]),
    ],
)
def test_a_nearly_black_picture_has_all_its_numbers(tmp_path, height, width, lit):
    picture = np.zeros((height, width), np.uint8)
    picture[lit] = 200
    Image.fromarray(picture).convert("RGB").save(tmp_path / "line.png")
    found = value(Quality(), tmp_path / "line.png")
    assert all(np.isfinite(number) for number in found.values())
    assert value(Hashes(), tmp_path / "line.png")["hashes"]
    assert found["black_borders"] == 0


def test_what_borders_leave_may_be_too_small(tmp_path):
    picture = np.zeros((30, 320), np.uint8)
    picture[12:18] = 200
    Image.fromarray(picture).convert("RGB").save(tmp_path / "line.png")
    with pytest.raises(MediaError) as error:
        value(Quality(), tmp_path / "line.png")
    assert error.value.code == "too_small"
    assert "inside the borders" in error.value.detail


def test_a_picture_of_16_x_16_has_noise_and_blocks(tmp_path):
    rng = np.random.default_rng(0)
    blocks = np.kron([[40, 160], [200, 90]], np.ones((8, 8))) + rng.normal(0, 3, (16, 16))
    Image.fromarray(blocks.round().astype(np.uint8)).convert("RGB").save(tmp_path / "blocks.png")
    found = value(Quality(), tmp_path / "blocks.png")
    assert found["blockiness"] > 5
    assert found["noise"] > 1
