"""Technical quality of the picture, measured without any weights, median over one frame a second.

`sharpness`: variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield
microscopy", ICPR 2000) of luma shrunk to a short side of 720. `noise`: standard deviation of the
noise (Immerkaer, "Fast noise variance estimation", CVIU 64, 1996) in the calmer blocks of the
picture. `blockiness`: luma steps across the borders of 8 x 8 blocks over those inside blocks (after
Wang, Sheikh, Bovik, "No-reference perceptual quality assessment of JPEG compressed images", ICIP
2002). `contrast`: RMS contrast (Peli, "Contrast in complex images", JOSA A 7, 1990). `frozen`: share
of the seconds in which no block of the picture changes.

Black borders are measured first, and everything else inside them, where 2 x 2 blocks must be left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import cv2
import numpy as np

from clipsheet.config import option
from clipsheet.errors import MediaError
from clipsheet.media import MediaInfo, fit
from clipsheet.media.borders import BorderFinder, Borders
from clipsheet.scorer import Column, Frame, Frames, Row, Scorer, at_least, at_most

SHARPNESS_SHORT_SIDE = 720
SATURATION_SHORT_SIDE = 144
#: Noise and blocks are properties of single pixels: measured unshrunk, in the middle of large ones.
NATIVE_HEIGHT, NATIVE_WIDTH = 1088, 1920
BLOCK = 8  # of every block-based codec since JPEG and MPEG-1
NOISE_BLOCK = 16  # a picture must have one
CALM_PERCENTILE = 25
DARK, BRIGHT = 3, 252  # luma outside is crushed or blown out
MIN_STEP = 0.05  # grey levels; a flat picture has no blocks to be seen
FROZEN_LEVELS = 2.0  # of luma, what compression alone does to a block's mean
#: Immerkaer's mask, the difference of two Laplacians: blind to edges and planes.
NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


COLUMNS = (
    Column(
        "sharpness",
        "float",
        "",
        "variance of the Laplacian: below 50 blurred",
        "higher",
        bounds=at_least("sharpnessmin"),
    ),
    Column(
        "noise",
        "float",
        "grey levels",
        "standard deviation: above 5 grainy",
        "lower",
        bounds=at_most("noisemax"),
    ),
    Column(
        "blockiness",
        "float",
        "",
        "steps at 8x8 blocks: 1 none, above 1.3 visible",
        "lower",
        bounds=at_most("blockinessmax"),
    ),
    Column(
        "brightness",
        "float",
        "0-1",
        "mean luma",
        bounds=at_least("brightnessmin") + at_most("brightnessmax"),
    ),
    Column("contrast", "float", "0-1", "standard deviation of luma", bounds=at_least("contrastmin")),
    Column("saturation", "float", "0-1", "mean HSV saturation"),
    Column(
        "clipped",
        "float",
        "0-1",
        "share of pixels black or white",
        "lower",
        bounds=at_most("clippedmax"),
    ),
    Column(
        "black_borders",
        "float",
        "0-1",
        "share of the picture that is border",
        "lower",
        bounds=at_most("bordersmax"),
    ),
    Column(
        "frozen",
        "float",
        "0-1",
        "share of the time without any change",
        "lower",
        bounds=at_most("frozenmax"),
    ),
)


@dataclass(frozen=True)
class Quality(Scorer):
    """Nine numbers of technical quality."""

    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 3

    seconds: float = option(1.0, "seconds between the frames looked at", gt=0)
    max_frames: int = option(32, "frames looked at, evenly spread over a longer clip", ge=3)

    @property
    def columns(self) -> tuple[Column, ...]:
        return COLUMNS

    def times(self, info: MediaInfo) -> Sequence[float]:
        times = info.every(self.seconds, self.max_frames)
        return times if len(times) >= 3 else info.at(0.1, 0.5, 0.9)

    def prepare(self, row: Row, frames: Frames) -> tuple[float, ...]:
        frames.info.check_size(NOISE_BLOCK)
        finder = BorderFinder()
        looks = []
        for frame in frames:
            luma = frame.luma()  # [H, W] uint8
            finder.add(luma)
            looks.append(_Look.at(frame, luma))
        borders = finder.borders()
        measured = np.median([look.measure(borders) for look in looks], axis=0)
        changes = [later.change_since(earlier) for earlier, later in pairwise(looks)]
        frozen = np.mean(np.array(changes) < FROZEN_LEVELS) if changes else 0.0
        height, width = frames.info.height, frames.info.width
        values = [*measured, 1 - borders.inside_area(height, width) / (height * width), frozen]
        return tuple(round(float(value), 5) for value in values)


# --- one frame ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """What is kept of a frame until the borders of the whole clip are known."""

    height: int
    width: int
    native: np.ndarray  # [<=1088, <=1920] uint8 luma of the middle, on the grid of 8x8 blocks
    top: int  # of `native` in the frame
    left: int
    shrunk: np.ndarray  # [H, W] uint8 luma, short side 720 at most
    colour: np.ndarray  # [H, W, 3] uint8 RGB, short side 144 at most
    blocks: np.ndarray  # [H/8, W/8] float32 mean luma

    @classmethod
    def at(cls, frame: Frame, luma: np.ndarray) -> _Look:
        height, width = luma.shape
        top = max(0, height - NATIVE_HEIGHT) // (2 * BLOCK) * BLOCK
        left = max(0, width - NATIVE_WIDTH) // (2 * BLOCK) * BLOCK
        small = fit(height, width, short=SHARPNESS_SHORT_SIDE)
        colour = fit(height, width, short=SATURATION_SHORT_SIDE)
        grid = (max(1, width // BLOCK), max(1, height // BLOCK))
        return cls(
            height,
            width,
            luma[top : top + NATIVE_HEIGHT, left : left + NATIVE_WIDTH].copy(),
            top,
            left,
            cv2.resize(luma, small[::-1], interpolation=cv2.INTER_AREA),
            frame.rgb(*colour),
            cv2.resize(luma.astype(np.float32), grid, interpolation=cv2.INTER_AREA),
        )

    def measure(self, borders: Borders) -> list[float]:
        """Sharpness, noise, blockiness, brightness, contrast, saturation, clipped."""
        luma = borders.inside(self.shrunk, self.height, self.width)
        colour = borders.inside(self.colour, self.height, self.width)
        native = self._native_inside(borders)
        if min(native.shape) < NOISE_BLOCK:
            high, wide = native.shape
            raise MediaError(
                "too_small", f"{wide}x{high} pixels inside the borders; at least 16x16 are needed"
            )
        mean, deviation = _mean_and_deviation(luma)
        return [
            sharpness(luma),
            noise(native),
            blockiness(native),
            mean / 255,
            deviation / 255,
            float(cv2.cvtColor(colour, cv2.COLOR_RGB2HSV)[..., 1].mean()) / 255,
            1 - cv2.countNonZero(cv2.inRange(luma, DARK + 1, BRIGHT - 1)) / luma.size,
        ]

    def change_since(self, earlier: _Look) -> float:
        """The largest change of any block's mean luma."""
        return float(cv2.norm(self.blocks, earlier.blocks, cv2.NORM_INF))

    def _native_inside(self, borders: Borders) -> np.ndarray:
        """The unshrunk part without borders, still on the grid of blocks."""
        rows = _on_grid(borders.top - self.top, self.height - borders.bottom - self.top)
        columns = _on_grid(borders.left - self.left, self.width - borders.right - self.left)
        return self.native[rows, columns]


def _on_grid(start: int, stop: int) -> slice:
    return slice(-(-max(0, start) // BLOCK) * BLOCK, max(0, stop))


def sharpness(luma: np.ndarray) -> float:
    """Variance of the Laplacian of [H, W] uint8 luma; 0 for a flat one."""
    return _mean_and_deviation(cv2.Laplacian(luma, cv2.CV_16S))[1] ** 2


def _mean_and_deviation(image: np.ndarray) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(image)
    return float(mean[0, 0]), float(deviation[0, 0])


def noise(luma: np.ndarray) -> float:
    """Standard deviation of the noise of [H, W] uint8 luma of at least 16 x 16, in grey levels.

    Immerkaer's estimate sqrt(pi / 2) / 6 x mean |luma * mask|, per block of 16 x 16; the 25th
    percentile over the blocks that are not clipped, since texture only ever adds to it.
    """
    height, width = (side // NOISE_BLOCK for side in luma.shape)
    luma = luma[: height * NOISE_BLOCK, : width * NOISE_BLOCK]
    response = cv2.filter2D(luma, cv2.CV_32F, NOISE_MASK)
    np.abs(response, out=response)
    means = cv2.resize(response, (width, height), interpolation=cv2.INTER_AREA)
    levels = cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)
    open_blocks = means[(levels > DARK) & (levels < BRIGHT)]
    if not len(open_blocks):
        return 0.0
    return float(np.sqrt(np.pi / 2) / 6 * np.percentile(open_blocks, CALM_PERCENTILE))


def blockiness(luma: np.ndarray) -> float:
    """Mean luma step across the borders of 8x8 blocks over that inside blocks; 1 means none.

    Args:
        luma: [H, W] uint8, its first pixel the corner of a block; two blocks high and wide at least.
    """
    return float(np.mean([_step_ratio(luma, axis) for axis in (1, 0)]))


def _step_ratio(luma: np.ndarray, axis: int) -> float:
    """Of the steps between columns (axis 1) or rows (axis 0)."""
    before, after = (luma[:, :-1], luma[:, 1:]) if axis else (luma[:-1], luma[1:])
    steps = cv2.reduce(cv2.absdiff(after, before), 1 - axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    across = steps.ravel() / luma.shape[1 - axis]  # from column (row) i to i + 1
    at_border = np.arange(1, len(across) + 1) % BLOCK == 0
    inner = across[~at_border].mean()
    return float(across[at_border].mean() / inner) if inner > MIN_STEP else 1.0
