"""High dynamic range is told, and measured and cut as what it looks like in the standard range."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from clipsheet.errors import ConfigError
from clipsheet.media import Media, hdr
from clipsheet.media.frame import LUMA_OF_BT709
from pipeline.splitting.cutter import Cutting
from tests import footage
from tests.conftest import read_table, write_table
from tests.test_cut import CutTable, scenes

TO_BT2020 = np.linalg.inv(hdr.TO_BT709.astype(float))


def signal(light: np.ndarray, transfer: str) -> np.ndarray:
    """The inverse of hdr.light(), by a table."""
    steps = np.linspace(0, 1, 1 << 16)
    return np.interp(light, hdr.light(steps, transfer), steps)


def coded(path: Path, pictures: list[np.ndarray], transfer: str) -> Path:
    """Pictures of the standard range, white at 203 cd/m2, as HEVC of 10 bits in PQ or HLG and BT.2020."""
    frames = []
    for picture in pictures:
        linear = (picture / 255) ** hdr.DISPLAY_GAMMA * hdr.WHITE
        frames.append(np.round(signal(linear @ TO_BT2020.T, transfer) * 65535).astype("<u2").tobytes())
    height, width = pictures[0].shape[:2]
    raw = path.with_suffix(".raw")
    raw.write_bytes(b"".join(frames))
    source = (
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb48le",
        "-s",
        f"{width}x{height}",
        "-r",
        "25",
        "-i",
        f"file:{raw}",
    )
    tags = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:log-level=none"
    convert = "scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le"
    coder = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "8", "-x265-params", tags)
    footage.ffmpeg_run(*source, "-vf", convert, *coder, "-tag:v", "hvc1", f"file:{path}")
    return path


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """With black, white and soft colours in them."""
    made = [footage.picture(n) for n in range(12)]
    return [cv2.GaussianBlur(picture, (0, 0), 2) for picture in made]


@pytest.fixture(scope="module")
def sources(pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hdr")
    plain = ("-vf", "scale=out_color_matrix=bt709,format=yuv420p", "-colorspace", "bt709", "-crf", "8")
    made = {transfer: coded(folder / f"{transfer}.mp4", pictures, transfer) for transfer in hdr.HDR}
    return made | {"bt709": footage.encode(folder / "sdr.mp4", pictures, *plain)}


@pytest.mark.parametrize("transfer", hdr.HDR)
def test_what_fits_the_standard_range_looks_as_it_does_there(
    sources: dict[str, Path], pictures: list[np.ndarray], transfer: str
) -> None:
    media = Media(str(sources[transfer]))
    assert media.info.hdr
    for frame in media.frames([0, 7]):
        expected = pictures[frame.index].astype(int)
        assert np.abs(frame.rgb().astype(int) - expected).mean() < 3
        grey = cv2.transform(pictures[frame.index], LUMA_OF_BT709).astype(int)
        assert np.abs(frame.luma().astype(int) - grey).mean() < 3
        small = cv2.resize(pictures[frame.index], (80, 60), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(frame.rgb(60, 80).astype(int) - small).mean() < 3
        assert np.abs(frame.scaled(60, 80).astype(int) - small).mean() < 5


def test_scores_are_those_of_the_standard_range(sources: dict[str, Path], tmp_path: Path, tool) -> None:  # type: ignore[no-untyped-def]
    table = write_table(tmp_path / "m.csv", [{"path": str(path)} for path in sources.values()])
    tool("scoring.inference", table, "--scorers", "info", "quality")
    pq, hlg, plain = read_table(tmp_path / "m_scores.csv")
    for row in (pq, hlg):
        for column in ("contrast", "brightness", "saturation"):
            assert float(row[column]) == pytest.approx(float(plain[column]), abs=0.02), column
    told = [
        (row["color_transfer"], row["color_primaries"], row["bit_depth"], row["hdr"]) for row in (pq, hlg)
    ]
    assert told == [(transfer, "bt2020", "10", "true") for transfer in hdr.HDR]
    assert (plain["bit_depth"], plain["hdr"]) == ("8", "false")


def told(path: str) -> tuple[str, int, int, int]:
    """Pixel format, transfer function, primaries and matrix of a clip."""
    with av.open(path) as container:
        picture = next(container.decode(video=0))
    return picture.format.name, picture.color_trc, picture.color_primaries, picture.colorspace


def test_clips_are_of_the_standard_range_and_say_so(
    sources: dict[str, Path], pictures: list[np.ndarray], tmp_path: Path
) -> None:
    rows = [{"path": str(sources[transfer]), "timestamp": scenes((0, 99))} for transfer in hdr.HDR]
    done = CutTable(tmp_path, rows, crf=10)
    assert done.failed == []
    for clip in done.clips:
        assert told(clip["path"]) == ("yuv420p", 1, 1, 1)
        media = Media(clip["path"])
        assert not media.info.hdr
        for frame in media.frames([0, 7]):
            assert np.abs(frame.rgb().astype(int) - pictures[frame.index]).mean() < 4


def test_clips_that_keep_the_range_say_so(sources: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"path": str(path), "timestamp": scenes((0, 99))} for path in sources.values()]
    done = CutTable(tmp_path, rows, hdr="keep", crf=10)
    assert done.failed == []
    assert [told(clip["path"]) for clip in done.clips] == [
        ("yuv420p10le", 16, 9, 9), ("yuv420p10le", 18, 9, 9), told(str(sources["bt709"])),
    ]  # fmt: skip
    for clip, transfer in zip(done.clips, hdr.HDR, strict=False):
        before, after = (next(Media(str(p)).frames([7])).rgb() for p in (sources[transfer], clip["path"]))
        assert np.abs(before.astype(int) - after).mean() < 3


def test_an_encoder_of_8_bits_does_not_keep_the_range() -> None:
    with pytest.raises(ConfigError, match="libopenh264"):
        Cutting(hdr="keep", encoder="libopenh264")


@pytest.mark.parametrize("peak", [203.0, 600.0, 1000.0, 4000.0, 10_000.0])
def test_highlights_are_compressed_and_the_dark_is_kept(peak: float) -> None:
    bright = np.linspace(0, peak, 500)
    mapped = hdr.eetf(bright, peak)
    assert (np.diff(mapped) > -1e-9).all()
    assert mapped[0] == pytest.approx(0, abs=1e-6)
    assert mapped[-1] == pytest.approx(hdr.WHITE, rel=1e-3)
    dark = bright[bright < 15]
    assert hdr.eetf(dark, peak) == pytest.approx(dark, rel=1e-3, abs=1e-6)


def test_the_transfer_functions_are_those_of_bt2100() -> None:
    assert hdr.light(np.array([0.5080784, 0.5806889, 0.7518271, 1.0]), hdr.PQ) == pytest.approx(
        [100, 203, 1000, 10_000], rel=1e-3
    )
    assert hdr.light(np.array([0.0, 0.75, 1.0]), hdr.HLG) == pytest.approx([0, 203, 1000], rel=5e-3)


def test_glints_darken_nothing(pictures: list[np.ndarray], tmp_path: Path) -> None:
    lit = [picture.astype(float) for picture in pictures]
    for picture in lit:
        picture[100:104, 150:154] = 255 * 4  # some 5000 cd/m2 on 16 of 76800 pixels
    path = coded(tmp_path / "a.mp4", lit, hdr.PQ)
    frame = next(Media(str(path)).frames([3]))
    assert np.abs(frame.rgb().astype(int) - pictures[3]).mean() < 4
