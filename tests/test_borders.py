"""Bars are found and taken for nothing else, whatever lossy coding leaves of them; dark pictures have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from clipsheet.media import Media
from clipsheet.media.borders import BorderFinder, Borders
from tests import footage

HEIGHT, WIDTH, FRAMES = 240, 432, 12
CODECS: dict[str, Sequence[str]] = {
    "h264_18.mp4": ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p"),
    "h264_35.mp4": ("-c:v", "libx264", "-preset", "veryfast", "-crf", "35", "-pix_fmt", "yuv420p"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "6"),
    "mpeg4_coarse.avi": ("-c:v", "mpeg4", "-q:v", "31"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "8", "-pix_fmt", "yuvj420p"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-crf", "36", "-b:v", "0", "-deadline", "realtime", "-cpu-used", "8"),
}
every_codec = pytest.mark.parametrize("codec", CODECS)
#: [H, W] luma of the Nth picture of a size, 16 black to 235 white.
Scene = Callable[[int, int, int], np.ndarray]


def found(path: Path, count: int = 8) -> Borders:
    """The borders that some frames of a file show."""
    media, finder = Media(str(path)), BorderFinder()
    for frame in media.frames(np.linspace(0, len(media.info.frame_seconds) - 1, count).astype(int)):
        finder.add(frame.luma())
    return finder.borders()


def grey(luma: np.ndarray) -> np.ndarray:
    """[H, W] studio luma as [H, W, 3] uint8 RGB."""
    level = np.clip((luma - 16) * 255 / 219, 0, 255).round().astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)


def texture(seed: int, height: int, width: int, low: float, high: float, cell: int) -> np.ndarray:
    cells = np.random.default_rng(seed).random((height // cell + 2, width // cell + 2), np.float32)
    return low + (high - low) * np.clip(
        cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1
    )


def noise(seed: int, height: int, width: int, sigma: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, (height, width))


def skyline(height: int, width: int) -> np.ndarray:
    """[W] the first row of the buildings."""
    rng, line = np.random.default_rng(3), np.zeros(width, int)
    at = 0
    while at < width:
        wide = int(rng.integers(12, 60))
        line[at : at + wide] = int(height * rng.uniform(0.45, 0.8))
        at += wide
    return line


def city(number: int, height: int, width: int, sky: np.ndarray, sigma: float) -> np.ndarray:
    """Buildings with lit windows below a sky of [H] luma, stars in it; the camera pans."""
    wide, rows = 2 * width, np.arange(height)[:, None]
    building = rows >= skyline(height, wide)[None]
    picture = np.where(building, texture(4, height, wide, 24, 40, 40), sky[:, None])
    rng = np.random.default_rng(5)
    lit = (rng.random((height // 8 + 1, wide // 6 + 1)) < 0.2).repeat(8, 0).repeat(6, 1)[:height, :wide]
    grid = (rows % 8 < 3) & (np.arange(wide) % 6 < 3)[None]
    picture = np.where(building & lit & grid, 150.0, picture)
    y, x = rng.integers(0, height, 80), rng.integers(0, wide, 80)
    star = ~building[y, x]
    picture[y[star], x[star]] = 90
    return picture[:, number : number + width] + noise(number, height, width, sigma)


def bright(number: int, height: int, width: int) -> np.ndarray:
    return texture(1, height, 2 * width, 40, 220, 20)[:, 3 * number :][:, :width]


def night(number: int, height: int, width: int) -> np.ndarray:
    return city(number, height, width, np.linspace(17, 40, height), 2)


def crushed(number: int, height: int, width: int) -> np.ndarray:
    """A sky that is black altogether, and free of noise."""
    picture = city(number, height, width, np.full(height, 8.0), 1)
    line = skyline(height, 2 * width)[number : number + width]
    return np.where(np.arange(height)[:, None] >= line[None], picture, 16)


def dark_room(number: int, height: int, width: int) -> np.ndarray:
    """A dim picture in which a light moves, with grain."""
    rows, columns = np.mgrid[:height, :width]
    light = np.exp(-((columns - 30 * number) ** 2 + (rows - height / 2) ** 2) / (2 * 50**2))
    return texture(7, height, width, 22, 55, 30) + 70 * light + noise(number, height, width, 3)


def vignette(number: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return 16 + (bright(number, height, width) - 16) * np.clip(1.1 - rows**2 - columns**2, 0, 1)


def slope(number: int, height: int, width: int) -> np.ndarray:
    """A sky that rises out of black, the same across the picture."""
    return np.repeat(np.maximum(16, np.linspace(0, 120, height))[:, None], width, axis=1)


def noisy_slope(number: int, height: int, width: int) -> np.ndarray:
    return np.maximum(16, slope(number, height, width) + noise(number, height, width, 3))


def fade(number: int, height: int, width: int) -> np.ndarray:
    return 16 + (night(number, height, width) - 16) * min(1, number / (FRAMES - 3))


def wall(number: int, height: int, width: int) -> np.ndarray:
    dark = np.arange(width)[None] < width / 3 + 10 * np.arange(height)[:, None] / height
    return np.where(dark, 19, bright(number, height, width)) + noise(number, height, width, 2)


def hills(number: int, height: int, width: int) -> np.ndarray:
    """A bright sky over land without any light, upside down: the land is at the top."""
    line = height * 0.3 + 12 * np.sin(np.arange(width) / 30)
    return np.where(np.arange(height)[:, None] < line[None], 16, bright(number, height, width))


def credits(number: int, height: int, width: int) -> np.ndarray:
    """Lines of text that begin below each other and roll over black."""
    picture = np.zeros((height, width), np.uint8)
    for line in range(-4, 9):
        at = (width // 4, height - 8 * number + 36 * line)
        cv2.putText(picture, "HELD BY SOMEBODY", at, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 190, 2)
    return picture.astype(float) + 16


def spotlight(number: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    away = ((columns - width / 2 - 6 * number) / 100) ** 2 + ((rows - height / 2) / 80) ** 2
    return 16 + (bright(number, height, width) - 16) * np.clip(1.2 - away, 0, 1)


DARK: list[Scene] = [
    night, crushed, dark_room, vignette, slope, noisy_slope, fade, wall, hills, credits, spotlight,
]  # fmt: skip
BARS = {
    "letterbox": Borders(32, 32, 0, 0),
    "uneven": Borders(29, 31, 0, 0),
    "pillarbox": Borders(0, 0, 56, 56),
    "windowbox": Borders(26, 26, 45, 45),
    "top": Borders(top=36),
    "left": Borders(left=33),
}


def boxed(scene: Scene, bars: Borders) -> Iterator[np.ndarray]:
    """[H, W] luma of a scene inside black bars."""
    high, wide = HEIGHT - bars.top - bars.bottom, WIDTH - bars.left - bars.right
    for number in range(FRAMES):
        inside = np.clip(scene(number, high, wide), 16, 235)
        yield np.pad(inside, (bars[:2], bars[2:]), constant_values=16)


def check(bars: Borders, truth: Borders, short: int = 3) -> None:
    """Nothing of the picture is taken for a bar, but for what coding mixes with it, and little of a bar is left."""
    for side, is_one, really in zip(Borders._fields, bars, truth, strict=True):
        assert really - short <= is_one <= really + 1, f"{side}: {bars}, not {truth}"


@every_codec
@pytest.mark.parametrize("scene", DARK, ids=lambda scene: scene.__name__)
def test_what_is_only_dark_is_no_bar(tmp_path: Path, codec: str, scene: Scene) -> None:
    pictures = map(grey, boxed(scene, Borders()))
    assert found(footage.encode(tmp_path / codec, pictures, codec=CODECS[codec])) == Borders()


@every_codec
@pytest.mark.parametrize("name", BARS)
def test_bars_are_found(tmp_path: Path, codec: str, name: str) -> None:
    pictures = map(grey, boxed(bright, BARS[name]))
    check(found(footage.encode(tmp_path / codec, pictures, codec=CODECS[codec])), BARS[name])


@every_codec
def test_bars_are_found_around_dark_scenes(tmp_path: Path, codec: str) -> None:
    pictures = map(grey, boxed(dark_room, BARS["letterbox"]))
    check(found(footage.encode(tmp_path / codec, pictures, codec=CODECS[codec])), BARS["letterbox"])


@pytest.mark.parametrize("scene", [night, crushed], ids=lambda scene: scene.__name__)
def test_a_bar_that_does_not_show_against_the_sky_is_as_high_as_the_one_below(
    tmp_path: Path, scene: Scene
) -> None:
    for codec in ("h264_18.mp4", "vp9.webm"):
        pictures = map(grey, boxed(scene, BARS["letterbox"]))
        check(found(footage.encode(tmp_path / codec, pictures, codec=CODECS[codec])), BARS["letterbox"])


def test_bars_are_black_in_full_range_too(tmp_path: Path) -> None:
    pictures = map(grey, boxed(bright, BARS["letterbox"]))
    full = ("-vf", "scale=out_range=pc,format=yuvj420p")
    codec = CODECS["h264_18.mp4"][:-2]
    path = footage.encode(tmp_path / "full.mp4", pictures, *full, codec=codec)
    lowest = min(frame.stored().to_ndarray()[:HEIGHT].min() for frame in Media(str(path)).frames())
    assert lowest < 5  # else it is not what this test is about
    check(found(path), BARS["letterbox"])


def with_text(picture: np.ndarray, number: int) -> np.ndarray:
    """Two subtitles one after the other, in the lower bar and near to the picture; a logo in the upper one."""
    drawn = picture.round().astype(np.uint8)
    words = ("where are we", "at home")[number * 2 // FRAMES]
    cv2.putText(drawn, words, (130, HEIGHT - 16), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 230, 2, cv2.LINE_AA)
    cv2.circle(drawn, (WIDTH - 40, 20), 9, 190, -1, cv2.LINE_AA)
    return drawn.astype(float)


@every_codec
def test_text_and_logos_end_a_bar(tmp_path: Path, codec: str) -> None:
    bars = Borders(44, 44, 0, 0)
    lumas = [with_text(luma, number) for number, luma in enumerate(boxed(bright, bars))]
    bars = found(footage.encode(tmp_path / codec, map(grey, lumas), codec=CODECS[codec]))
    lit = np.flatnonzero((np.max(lumas, axis=0) > 120).any(axis=1))
    assert bars.top <= lit[0]
    assert bars.bottom <= HEIGHT - 1 - lit[-1]
    assert bars[2:] == (0, 0)


def test_a_black_clip_has_no_bars_and_one_that_fades_in_has_its_own() -> None:
    finder = BorderFinder()
    for _ in range(8):
        finder.add(np.zeros((HEIGHT, WIDTH), np.uint8))
    assert finder.borders() == Borders()
    for luma in boxed(lambda n, h, w: 16 + (bright(n, h, w) - 16) * n / FRAMES, BARS["letterbox"]):
        finder.add(grey(luma)[..., 0])
    check(finder.borders(), BARS["letterbox"])


def test_the_order_of_the_frames_does_not_matter() -> None:
    lumas = [grey(luma)[..., 0] for luma in boxed(fade, BARS["windowbox"])]
    seen = set()
    for order in (lumas, lumas[::-1], [*lumas[6:], *lumas[:6]]):
        finder = BorderFinder()
        for luma in order:
            finder.add(luma)
        seen.add(finder.borders())
    assert len(seen) == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (5, 7), (1, 64), (64, 1), (40, 3000)])
def test_any_size_has_borders_that_leave_a_picture(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    for pictures in (
        rng.integers(0, 256, (3, height, width), np.uint8),
        np.zeros((3, height, width), np.uint8),
    ):
        finder = BorderFinder()
        for luma in pictures:
            finder.add(luma)
        assert finder.borders().inside_area(height, width) == height * width


def test_inside_borders_is_at_least_one_pixel() -> None:
    borders = Borders(top=500, bottom=570, left=0, right=1910)
    for height, width in ((1080, 1920), (108, 192), (10, 10), (1, 1)):
        assert borders.inside(np.zeros((height, width)), 1080, 1920).size
    assert borders.inside(np.zeros((1080, 1920)), 1080, 1920).shape == (10, 10)
    assert Borders().inside(np.zeros((3, 5)), 1080, 1920).shape == (3, 5)
