"""Compares the sound of a written clip with the sound that was encoded: length, level, synchronisation."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from clipsheet.media import Media
from clipsheet.media.sound import Sound

WINDOWS_PER_SECOND: Final = 200
#: Samples are averaged down to about this rate. The encoder may drop high frequencies, so only those below 4 kHz
#: are compared.
LOW_RATE: Final = 8000
#: Level and shift are not judged where less than this share of the power is below 4 kHz.
LOW_SHARE: Final = 0.05
#: Length of an AAC frame (ISO/IEC 14496-3, 4.5.2.1.1), by which the end may differ.
FRAME_SAMPLES: Final = 1024
SYNC_SECONDS: Final = 0.02
SHIFT_SECONDS: Final = 0.5  # largest shift that is searched for
#: A shift is reported only if its correlation is higher by this much: periodic or steady sound fits many shifts.
CLEARLY_BETTER: Final = 0.1
LEAST_SECONDS: Final = 0.2  # shorter sound has too few windows to find a shift
LEAST_CHANGE: Final = 0.1  # standard deviation over mean of the amplitude; steadier sound shows no shift
MAX_LEVEL_DECIBELS: Final = 6.0  # AAC at the default bit rate stays within 1 dB, in single clicks within 4 dB
QUIET: Final = 0.1  # amplitude relative to the loudest second: -20 dB
INAUDIBLE: Final = 1e-3  # root mean square, full scale 1: -60 dBFS


class Levels:
    """The level of sound over time, in windows of about 5 ms.

    Attributes:
        rate: samples per second.
        samples: samples per channel that were added.
    """

    def __init__(self, rate: int) -> None:
        self._averaged = max(1, rate // LOW_RATE)
        self._window = self._averaged * max(1, round(rate / self._averaged / WINDOWS_PER_SECOND))
        self._rest: np.ndarray | None = None  # [N, channels] samples of an incomplete window
        self._powers: list[np.ndarray] = []
        self._sum = 0.0
        self.rate = rate
        self.samples = 0

    @property
    def windows_per_second(self) -> float:
        """Values per second in powers()."""
        return self.rate / self._window

    def add(self, piece: np.ndarray) -> None:
        """Add the next samples, [channels, N] float32."""
        self.samples += piece.shape[1]
        self._sum += float(np.linalg.norm(piece)) ** 2 / len(piece)
        packed = piece.T if self._rest is None else np.concatenate([self._rest, piece.T])  # [N, channels]
        whole = len(packed) // self._window * self._window
        self._rest = packed[whole:]
        # A matrix product takes a tenth of the time of numpy's mean over so few values.
        channels, averaged = len(piece), self._averaged
        average = np.kron(np.full((averaged, 1), 1 / averaged), np.eye(channels)).astype(np.float32)
        low = packed[:whole].reshape(-1, averaged * channels) @ average  # [M, channels]
        power = np.square(low).reshape(-1, self._window // averaged * channels)
        self._powers.append(power @ np.full(power.shape[1], 1 / power.shape[1], np.float32))

    def powers(self) -> np.ndarray:
        """[N] float32: mean square of each window over all channels, below 4 kHz."""
        return np.concatenate([*self._powers, np.zeros(0, np.float32)])

    def is_low(self) -> bool:
        """Whether enough of the power is below 4 kHz to judge level and shift."""
        return level(self.powers()) ** 2 >= LOW_SHARE * self._sum / max(1, self.samples)


def levels_of(sound: Sound) -> Levels:
    """Decode a whole Sound."""
    levels = Levels(sound.rate)
    for piece in sound.pieces():
        levels.add(piece)
    return levels


def difference(clip: Media, put_in: Levels) -> str:
    """Compare a clip with the sound that was encoded into it.

    Returns:
        What is wrong, or an empty string.

    Raises:
        MediaError: the clip cannot be opened.
    """
    seconds = put_in.samples / put_in.rate
    with clip.sound(0.0, seconds + SHIFT_SECONDS) as sound:
        if sound is None:
            return "the sound is missing"
        found = levels_of(sound)
        begin, end = sound.first / sound.rate, sound.stop / sound.rate
    if begin > SYNC_SECONDS:
        return f"the sound begins {begin:.3f} s late"
    if abs(seconds - end) > FRAME_SAMPLES / put_in.rate:
        return f"{end:.3f} of {seconds:.3f} s of sound were written"
    before = put_in.powers()
    after = found.powers()[: len(before)]
    if not put_in.is_low():
        return ""
    if change := level_change(before, after, put_in.windows_per_second):
        return f"the level of the sound changed by {change:+.1f} dB"
    late = shift(before, after, put_in.windows_per_second)
    return f"the sound is {late:+.3f} s late" if abs(late) > SYNC_SECONDS else ""


def level(powers: np.ndarray) -> float:
    """Root mean square, from the mean squares of windows."""
    return float(np.sqrt(powers.mean(dtype=np.float64))) if len(powers) else 0.0


def level_change(before: np.ndarray, after: np.ndarray, rate: float) -> float:
    """The largest change of level in any second, in decibels; 0 if it is at most MAX_LEVEL_DECIBELS.

    Seconds much quieter than the loudest one are not judged, because the encoder spreads loud sound into them.

    Args:
        before, after: [N] mean squares of windows.
        rate: windows per second.
    """
    seconds = max(1, int(len(before) / rate))
    after = np.pad(after, (0, len(before) - len(after)))
    levels = np.array([[level(part) for part in np.array_split(p, seconds)] for p in (before, after)])
    loudest = levels[0].max()
    judged = levels[0] >= max(INAUDIBLE, QUIET * loudest)
    judged |= QUIET * levels[1] > max(INAUDIBLE, loudest)
    if not judged.any():
        return 0.0
    changes = 20 * np.log10(np.maximum(levels[1], INAUDIBLE) / np.maximum(levels[0], INAUDIBLE))[judged]
    most = float(changes[np.abs(changes).argmax()])
    return most if abs(most) > MAX_LEVEL_DECIBELS else 0.0


def shift(before: np.ndarray, after: np.ndarray, rate: float) -> float:
    """The delay of `after` in seconds, by cross-correlation of the amplitudes; 0 if no delay fits clearly better.

    Each minute is judged separately, and the largest delay is returned.

    Args:
        before, after: [N] mean squares of windows.
        rate: windows per second.
    """
    after = np.pad(after, (0, len(before) - len(after)))
    minutes = max(1, round(len(before) / (60 * rate)))
    parts = zip(np.array_split(before, minutes), np.array_split(after, minutes), strict=True)
    return max((_shift(*part, rate) for part in parts), key=abs)


def _shift(before: np.ndarray, after: np.ndarray, rate: float) -> float:
    if len(before) < LEAST_SECONDS * rate:
        return 0.0
    farthest = min(round(SHIFT_SECONDS * rate), len(before) // 2)
    size = len(before) + farthest
    one, other = (np.fft.rfft(_changes(powers), size) for powers in (before, after))
    shifts = np.arange(-farthest, farthest + 1)
    fits = np.fft.irfft(np.conj(one) * other, size)[shifts]
    near = np.abs(shifts) <= SYNC_SECONDS * rate
    return float(shifts[np.argmax(fits)]) / rate if fits.max() - fits[near].max() > CLEARLY_BETTER else 0.0


def _changes(powers: np.ndarray) -> np.ndarray:
    """[N] amplitudes minus their mean, normalised to length 1; zeros if they hardly change."""
    amplitudes = np.sqrt(powers.astype(np.float64))
    mean = amplitudes.mean()
    amplitudes -= mean
    length = float(np.linalg.norm(amplitudes))
    return amplitudes / length if length > LEAST_CHANGE * mean * math.sqrt(len(powers)) else amplitudes * 0.0
