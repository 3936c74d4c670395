"""Sound for the tests: noise of which no part is like another, put into files, and found again in them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tools import ffmpeg

RATE = 48000


def noise(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """[channels, N] float32: between 250 and 2500 Hz, where any codec keeps it."""
    made = np.random.default_rng(5).standard_normal((channels, round(seconds * rate)))
    spectrum = np.fft.rfft(made)
    hertz = np.fft.rfftfreq(made.shape[1], 1 / rate)
    spectrum[:, (hertz < 250) | (hertz > 2500)] = 0
    made = np.fft.irfft(spectrum, made.shape[1])
    return (0.6 * made / np.abs(made).max()).astype(np.float32)


def with_sound(
    path: Path, sound: np.ndarray, *options: str, rate: int = RATE, layout: str = "", begins: float = 0.0
) -> Path:
    """A video of 25 plain pictures a second with a sound track, [channels, N] float32.

    Args:
        options: of the encoders, before the file.
        layout: of the channels, as FFmpeg calls it.
        begins: seconds by which the sound begins later than the pictures.
    """
    seconds = sound.shape[1] / rate + begins
    pictures = ("-f", "lavfi", "-i", f"testsrc2=size=160x120:rate=25:duration={seconds:.3f}")
    names = layout or {1: "mono", 2: "stereo"}[len(sound)]
    samples = ("-f", "f32le", "-ar", str(rate), "-ch_layout", names, "-itsoffset", str(begins), "-i", "-")
    command = [
        ffmpeg.program(),
        "-v",
        "error",
        "-y",
        *pictures,
        *samples,
        "-map",
        "0:v",
        "-map",
        "1:a",
        *options,
    ]
    data = np.ascontiguousarray(sound.T, "<f4").tobytes()
    subprocess.run([*command, f"file:{path}"], input=data, check=True)
    return path


def moved(source: Path, path: Path, place: Callable[[float], float | None]) -> Path:
    """A copy with the packets of its sound moved by the seconds that `place` gives for their time; None: without."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None or packet.pts is None:
                continue
            if packet.stream.type == "audio":
                seconds = place(float(packet.pts * packet.time_base))
                if seconds is None:
                    continue
                packet.pts += round(seconds / packet.time_base)
                packet.dts += round(seconds / packet.time_base)
            packet.stream = streams[packet.stream.index]
            new.mux_one(packet)
    return path


def by_ffmpeg(path: str | Path, rate: int = RATE) -> np.ndarray:
    """[N] float32: the sound as one channel, by the program, from where the earliest stream of the file begins."""
    in_place = "aresample=async=1:min_hard_comp=0.01:first_pts=0"
    options = ("-map", "0:a:0", "-af", in_place, "-ac", "1", "-ar", str(rate), "-f", "f32le", "-")
    command = [ffmpeg.program(), "-v", "quiet", "-i", f"file:{path}", *options]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")


def by_pyav(path: str | Path) -> tuple[np.ndarray, int]:
    """[channels, N] float32 and samples per second: all that is decoded, one after another."""
    with av.open(str(path)) as file:
        packed = [frame for f in file.decode(audio=0) for frame in av.AudioResampler("flt").resample(f)]
    channels = packed[0].layout.nb_channels
    return np.concatenate([f.to_ndarray().reshape(-1, channels).T for f in packed], axis=1), packed[
        0
    ].sample_rate


def has_sound(path: str | Path) -> bool:
    with av.open(str(path)) as file:
        return bool(file.streams.audio)


def lag(part: np.ndarray, whole: np.ndarray, at: float, rate: int = RATE, reach: float = 0.2) -> float:
    """Seconds by which a part of a sound comes later than it stands in the whole, where it begins at `at` seconds.

    NaN where it is not found within `reach` seconds: its correlation is below 0.8.
    """
    begin, beside = round(at * rate), round(reach * rate)
    padded = np.pad(whole.astype(np.float64), beside)
    near = padded[begin : begin + len(part) + 2 * beside]
    near = np.pad(near, (0, max(0, len(part) + 2 * beside - len(near))))
    size = 1 << (len(near) + len(part)).bit_length()
    fits = np.fft.irfft(np.fft.rfft(near, size) * np.conj(np.fft.rfft(part, size)), size)[: 2 * beside]
    best = int(fits.argmax())
    found = near[best : best + len(part)]
    alike = fits[best] / (np.linalg.norm(part) * np.linalg.norm(found) + 1e-9)
    return (beside - best) / rate if alike > 0.8 else float("nan")


def lags(part: np.ndarray, whole: np.ndarray, at: float, rate: int = RATE, each: float = 0.25) -> np.ndarray:
    """The lag of each quarter of a second; silent ones are left out."""
    pieces = np.split(part, range(0, len(part), round(each * rate)))[1:]
    times = at + each * np.arange(len(pieces))
    heard = [(p, t) for p, t in zip(pieces, times, strict=True) if len(p) > rate / 8 and level(p) > 0.01]
    return np.array([lag(p, whole, t, rate) for p, t in heard])


def level(sound: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(sound.astype(np.float64)).mean())) if sound.size else 0.0
