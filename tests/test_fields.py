"""Interlaced video is told from progressive video, and is measured and cut in whole pictures."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from clipsheet.media import Media, fields
from tests import footage
from tests.conftest import read_table, write_table
from tests.test_cut import CutTable, scenes

FILM = "fps=24,telecine=pattern=23"  # hard pulldown: two of five pictures are woven of two
DV = ("-c:v", "dvvideo")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "4", "-g", "12", "-bf", "2")


def combing(media: Media) -> float:
    """Share of the pixels that comb, at the most of some pictures."""
    return max(fields.combing(frame.luma().astype(np.int16)) for frame in media.frames([5, 6, 20]))


@pytest.mark.parametrize(
    ("name", "order", "flagged", "codec"),
    [
        ("a.mp4", "tff", True, ()),
        ("a.mkv", "bff", True, ()),
        ("unflagged.mp4", "tff", False, ()),
        ("unflagged_b.mp4", "bff", False, ()),
        ("a.avi", "bff", True, DV),
        ("a.vob", "tff", True, (*MPEG2, "-f", "vob")),
        ("a.ts", "bff", True, MPEG2),
        ("a.mxf", "tff", True, (*MPEG2[:-2], "-pix_fmt", "yuv422p")),
    ],
)
def test_the_order_of_the_fields_is_found_and_frames_are_whole(
    tmp_path: Path, name: str, order: str, flagged: bool, codec: tuple[str, ...]
) -> None:
    path = str(footage.woven(tmp_path / name, order, flagged=flagged, codec=codec))
    media = Media(path)
    assert media.info.fields == order
    assert len(media.info.frame_seconds) == 50
    assert combing(media) < 0.015 < 0.1 < combing(Media(path, deinterlace="off"))


@pytest.mark.parametrize(
    ("filters", "options"),
    [
        ("null", ()),
        ("setfield=tff", ("-flags", "+ilme+ildct")),  # flagged, but whole: film in a broadcast
        (FILM, ()),
        (f"{FILM},setfield=tff", ("-flags", "+ilme+ildct")),
        ("scale=720:480,noise=alls=40:allf=t", ()),
    ],
    ids=["plain", "flagged", "film", "flagged film", "grain"],
)
def test_whole_pictures_are_left_as_they_are(tmp_path: Path, filters: str, options: tuple[str, ...]) -> None:
    path = str(footage.progressive(tmp_path / "a.mp4", *options, filters=filters))
    assert Media(path).info.fields == ""
    before = [frame.rgb() for frame in Media(path, deinterlace="off").frames([3, 4])]
    assert all(np.array_equal(a.rgb(), b) for a, b in zip(Media(path).frames([3, 4]), before, strict=True))


def test_a_still_beginning_hides_nothing(tmp_path: Path) -> None:
    woven = footage.woven(tmp_path / "woven.mp4", "tff", flagged=False)
    black = ("-f", "lavfi", "-i", "color=black:size=720x576:rate=25:duration=1", "-i", f"file:{woven}")
    joined = ("-filter_complex", "[0][1]concat", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25")
    footage.ffmpeg_run(*black, *joined, f"file:{tmp_path / 'a.mp4'}")
    assert Media(str(tmp_path / "a.mp4")).info.fields == "tff"


def test_a_whole_picture_is_the_same_whichever_others_are_wanted(tmp_path: Path) -> None:
    media = Media(str(footage.woven(tmp_path / "a.mp4", "tff", "-g", "12", "-bf", "2")))
    everything = [frame.rgb() for frame in media.frames()]
    assert len(everything) == 50
    for wanted in ([0], [49], [11, 12], [3, 5, 30], range(20, 40)):
        found = {frame.index: frame.rgb() for frame in media.frames(wanted)}
        assert sorted(found) == sorted(wanted)
        assert all(np.array_equal(picture, everything[i]) for i, picture in found.items())
    threaded = dict(media.shrunk(lambda frame: frame.rgb(), threads=3))
    assert all(np.array_equal(threaded[i], everything[i]) for i in range(50))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("woven")
    return [
        footage.woven(folder / "top.mp4", "tff"),
        footage.woven(folder / "bottom.avi", "bff", codec=DV),
        footage.woven(folder / "unflagged.mp4", "tff", flagged=False),
        footage.progressive(folder / "whole.mp4"),
    ]


def tagged(path: str) -> tuple[bool, float]:
    """Whether a clip is flagged as interlaced, and how much its pictures comb as they are stored."""
    with av.open(path) as container:
        pictures = list(container.decode(video=0))
    combs = [fields.combing(fields.sampled_luma(picture)) for picture in pictures[3:8]]
    return pictures[3].interlaced_frame, max(combs)


@pytest.mark.parametrize("encoder", ["libx264", "smart"])
def test_clips_are_whole_and_say_so(tmp_path: Path, sources: list[Path], encoder: str) -> None:
    rows = [{"path": str(path), "timestamp": scenes((0.2, 1.0))} for path in sources]
    done = CutTable(tmp_path, rows, encoder=encoder)
    assert done.failed == []
    for clip in done.clips:
        flagged, combs = tagged(clip["path"])
        assert not flagged
        assert combs < 0.015
        assert len(Media(clip["path"]).info.frame_seconds) == 20


def test_clips_that_stay_woven_say_so(tmp_path: Path, sources: list[Path]) -> None:
    rows = [{"path": str(path), "timestamp": scenes((0.2, 1.0))} for path in sources]
    done = CutTable(tmp_path, rows, deinterlace="off", shorter_size=288)
    assert done.failed == []
    assert [tagged(clip["path"])[0] for clip in done.clips] == [True, True, True, False]
    assert [Media(clip["path"]).info.fields for clip in done.clips] == ["tff", "bff", "tff", ""]
    assert all(tagged(clip["path"])[1] > 0.05 for clip in done.clips[:3])


def test_every_video_is_deinterlaced_where_that_is_asked_for(tmp_path: Path, sources: list[Path]) -> None:
    path = str(sources[-1])
    plain = next(Media(path).frames([10])).luma()
    asked = next(Media(path, deinterlace="bwdif").frames([10])).luma()
    assert not np.array_equal(plain, asked)


def test_info_tells(tmp_path: Path, sources: list[Path], tool) -> None:  # type: ignore[no-untyped-def]
    table = write_table(tmp_path / "m.csv", [{"path": str(path)} for path in sources])
    tool("scoring.info.inference", table)
    assert [row["interlaced"] for row in read_table(tmp_path / "m_info.csv")] == [
        "true",
        "true",
        "true",
        "false",
    ]


def test_a_picture_that_is_too_small_for_the_filter_stays_as_it_is(tmp_path: Path) -> None:
    tiny = [np.full((4, 4, 3), 40 * number, np.uint8) for number in range(4)]
    path = str(footage.encode(tmp_path / "tiny.mkv", tiny, codec=("-c:v", "ffv1", "-pix_fmt", "yuv420p")))
    plain, made = (list(Media(path, deinterlace=how).frames()) for how in ("off", "bwdif"))
    assert len(made) == 4
    assert all(np.array_equal(a.rgb(), b.rgb()) for a, b in zip(plain, made, strict=True))
