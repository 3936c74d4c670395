"""High dynamic range: what a stream is coded in, and pictures of it mapped to the standard dynamic range.

PQ (SMPTE ST 2084) and HLG (ARIB STD-B67) are turned into light by ITU-R BT.2100, highlights are compressed by
the EETF of BT.2390-11 (5.4.1) applied to the brightest channel, BT.2020 primaries become BT.709 by BT.2087, and
the result is coded by BT.1886. Diffuse white, 203 cd/m2 in HDR (BT.2408), becomes white in SDR.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Final

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

#: FFmpeg's names of transfer functions and primaries (libavutil/pixdesc.c), by their code points of ITU-T H.273.
TRANSFERS: Final = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084",
    17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
PRIMARIES: Final = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
UNKNOWN: Final = "unknown"
PQ, HLG = "smpte2084", "arib-std-b67"
HDR: Final = (PQ, HLG)

CODES: Final = 1024  # of 10 bits
WHITE: Final = 203.0  # cd/m2, BT.2408
HLG_PEAK: Final = 1000.0  # cd/m2 of a nominal HLG display, BT.2100
HLG_GAMMA: Final = 1.2  # of the same, for each channel, as zimg (FFmpeg's zscale) has it
PQ_PEAK: Final = 10_000.0
DISPLAY_GAMMA: Final = 2.4  # BT.1886
#: Linear light of BT.2020 to that of BT.709 (BT.2087, annex).
TO_BT709: Final = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
#: A brighter share of the pixels is light sources and glints, for which nothing else is to be darkened.
BRIGHTEST_SHARE: Final = 0.001
MEASURED_SHORT_SIDE: Final = 180  # pixels of the pictures in which the brightest are looked for
BLOCK_LINES: Final = 16
ROOTS: Final = 4096  # steps of the square root of light, in which the table of the last step is looked up


class ToneMap:
    """Maps pictures of one video.

    Args:
        transfer: one of HDR.
        peak: cd/m2 of the brightest pixels of the video.
    """

    def __init__(self, transfer: str, peak: float) -> None:
        self._transfer = transfer
        self.peak = max(WHITE, peak)

    @classmethod
    def measured(cls, transfer: str, pictures: Iterable[av.VideoFrame]) -> ToneMap:
        """For a video by some of its pictures."""
        brightest = [0.0]
        for picture in pictures:
            shrink = min(1.0, MEASURED_SHORT_SIDE / min(picture.height, picture.width))
            width, height = (max(1, round(side * shrink)) for side in (picture.width, picture.height))
            codes = picture.reformat(width, height, "gbrp10le", threads=1).to_ndarray().max(axis=-1)
            brightest.append(float(np.quantile(codes, 1 - BRIGHTEST_SHARE)))
        return cls(transfer, float(light(np.array(max(brightest) / (CODES - 1)), transfer)))

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 RGB of the standard dynamic range from [H, W, 3] uint16 RGB of 10 bits."""
        made = np.empty(codes.shape, np.uint8)
        for top in range(0, len(codes), BLOCK_LINES):
            made[top : top + BLOCK_LINES] = self._mapped(codes[top : top + BLOCK_LINES])
        return made

    def _mapped(self, codes: np.ndarray) -> np.ndarray:
        """A few lines, which fit into the processor's cache while they go through all steps."""
        channels = [np.ascontiguousarray(codes[..., channel]) for channel in range(3)]
        linear = [np.take(self._light, channel) for channel in channels]
        if self.peak > WHITE:
            brightest = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
            dimmed = np.take(self._compression, brightest)
            linear = [channel * dimmed for channel in linear]
        mixed = cv2.transform(cv2.merge(linear), TO_BT709)
        np.clip(mixed, 0, 1, out=mixed)
        steps = (np.sqrt(mixed) * (ROOTS - 1) + 0.5).astype(np.uint16)
        return np.take(self._coded, steps)

    def picture(self, source: av.VideoFrame) -> av.VideoFrame:
        """A picture as stored, mapped, yuv420p of BT.709."""
        codes = source.reformat(format="gbrp10le", threads=1).to_ndarray()
        made = av.VideoFrame.from_ndarray(self(codes), "rgb24")
        made = made.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        made.color_trc, made.color_primaries = ColorTrc.BT709, ColorPrimaries.BT709
        return made

    @cached_property
    def _light(self) -> np.ndarray:
        """[1024] float32 light of each code, in units of diffuse white."""
        return (light(np.arange(CODES) / (CODES - 1), self._transfer) / WHITE).astype(np.float32)

    @cached_property
    def _compression(self) -> np.ndarray:
        """[1024] float32 by which a pixel is dimmed, by the code of its brightest channel."""
        bright = light(np.arange(CODES) / (CODES - 1), self._transfer)
        return (eetf(bright, self.peak) / np.maximum(bright, 1e-9)).astype(np.float32)

    @cached_property
    def _coded(self) -> np.ndarray:
        """[4096] uint8 by the square root of light."""
        linear = (np.arange(ROOTS) / (ROOTS - 1)) ** 2
        return np.round(255 * linear ** (1 / DISPLAY_GAMMA)).astype(np.uint8)


def light(signal: np.ndarray, transfer: str) -> np.ndarray:
    """cd/m2 of a display, for a signal from 0 to 1 (BT.2100, tables 4 and 5)."""
    if transfer == PQ:
        return _pq_light(signal)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return HLG_PEAK * scene**HLG_GAMMA


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_light(signal: np.ndarray) -> np.ndarray:
    root = signal ** (1 / _M2)
    return PQ_PEAK * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def _pq_signal(bright: np.ndarray | float) -> np.ndarray:
    root = (np.asarray(bright) / PQ_PEAK) ** _M1
    return ((_C1 + _C2 * root) / (1 + _C3 * root)) ** _M2


def eetf(bright: np.ndarray, peak: float, white: float = WHITE) -> np.ndarray:
    """Light up to `peak` compressed to light up to `white`, all cd/m2; what is dark stays as it is."""
    if peak <= white:
        return np.minimum(bright, white)
    top = _pq_signal(peak)
    signal = _pq_signal(np.minimum(bright, peak)) / top
    most = _pq_signal(white) / top
    knee = 1.5 * most - 0.5
    t = (signal - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    )
    return _pq_light(np.where(signal < knee, signal, spline) * top)
