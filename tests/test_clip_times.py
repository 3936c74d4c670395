"""A clip lasts as long as its row says: its last frame too, whatever the source's rate and the encoder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clipsheet.media import Media
from pipeline.splitting.cutter import Clip, CutJob, Cutting, Made
from pipeline.splitting.encoding import encoders
from tests import footage
from tests.test_cut import CutTable, scenes

#: Milliseconds for which the frames of a source are shown: slides, with moving pictures between them.
DELAYS = [40, 40, 40, 40, 200, 40, 40, 40, 500, 40, 40, 60, 40, 40, 900, 40, 40, 40, 40, 700]
SPANS = [(0, 9), (5, 15), (9, 12), (14, 15), (8, 9), (0, 20)]  # frames


def timed(path: Path, delays: Sequence[int] = DELAYS, codec: str = "libx264", tick: Fraction = Fraction(1, 1000),
          still: bool = False, **options: str) -> Path:  # fmt: skip
    """A video with frames of the given durations (milliseconds), the last one included.

    Args:
        tick: seconds of a unit of time stamps.
        still: the same picture in all frames, which encoders code in other orders than they are shown in.
        options: of the encoder.
    """
    pixels = "rgb8" if codec == "gif" else "yuv420p"
    ticks = [round(delay / 1000 / tick) for delay in delays]
    begins = np.cumsum([0, *ticks]).tolist()
    lengths = dict(zip(begins, ticks, strict=False))
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = footage.WIDTH, footage.HEIGHT, pixels
        stream.codec_context.time_base, stream.codec_context.options = tick, options
        for number, begin in enumerate(begins):
            frame = None
            if number < len(delays):
                image = footage.picture(0 if still else number)
                frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = begin, tick
            for packet in stream.encode(frame):
                packet.duration = lengths[packet.pts]
                file.mux(packet)
    return path


def in_order(path: Path) -> bool:
    """Whether packets stand in the order in which their frames are shown."""
    with av.open(str(path)) as file:
        stamps = [packet.pts for packet in file.demux(video=0) if packet.size]
    return stamps == sorted(stamps)


SOURCES: dict[str, dict[str, Any]] = {
    "plain.mp4": {"bf": "0", "g": "5"},
    "reordered.mp4": {"bf": "3", "g": "8", "still": True},
    "fine.mp4": {"tick": Fraction(1, 90000), "bf": "3", "g": "8"},
    "ntsc.mp4": {"tick": Fraction(1, 30000), "bf": "0", "g": "8"},
    "plain.mkv": {"bf": "0", "g": "5"},
    "reordered.mkv": {"bf": "3", "g": "8", "still": True},
    "vp8.webm": {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8"},
    "animation.gif": {"codec": "gif", "tick": Fraction(1, 100)},
    "constant.mp4": {"delays": [40] * 20},
    "constant.mkv": {"delays": [40] * 20, "still": True},
    "one.mp4": {"delays": [800]},
}


#: All that needs no GPU. What MP4 does not hold cannot be copied.
ENCODERS = [*(encoder for encoder in encoders() if not encoder.endswith("nvenc")), "smart", "copy"]


def is_h264(name: str) -> bool:
    return "codec" not in SOURCES[name]


def cut(source: Path, spans: Sequence[tuple[float, float]], **cutting: Any) -> list[tuple[Made, Path]]:
    """CutTable clips in this process."""
    wanted = [Clip(str(source.parent / f"clip_{n}.mp4"), *span) for n, span in enumerate(spans)]
    made = CutJob(Cutting(**cutting))((str(source), wanted), lambda seconds: None)
    assert all(isinstance(clip, Made) for clip in made), made
    return [(clip, Path(wanted[n].target)) for n, clip in enumerate(made)]  # type: ignore[misc]


def lengths(path: Path) -> tuple[float, float, float, int]:
    """Seconds of the video stream, of the file, and of a tick; the number of packets."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        count = sum(1 for packet in file.demux(stream) if packet.size)
        tick = stream.time_base
        return float(stream.duration * tick), file.duration / av.time_base, float(tick), count


@pytest.mark.parametrize(
    ("name", "encoder", "preset"),
    [
        (name, encoder, preset)
        for name in SOURCES
        for encoder in ENCODERS
        for preset in ("ultrafast", "veryfast")  # without and with frames coded out of order
        if encoder in ("libx264", "smart") or (preset == "ultrafast" and (encoder != "copy" or is_h264(name)))
    ],
)
def test_a_clip_lasts_as_long_as_its_frames_were_shown(
    tmp_path: Path, name: str, encoder: str, preset: str
) -> None:
    source = timed(tmp_path / name, **SOURCES[name])
    info = Media(str(source)).info
    ends = [*info.frame_seconds.tolist(), info.duration]
    spans = [(a, b) for a, b in SPANS if b < len(ends)] or [(0, 1)]
    if encoder == "copy":
        keys = [*info.key_frames.tolist(), len(info.frame_seconds)]
        spans = list(itertools.pairwise(keys))
    clips = cut(source, [(ends[a], ends[b]) for a, b in spans], encoder=encoder, preset=preset)
    for (a, b), (clip, path) in zip(spans, clips, strict=True):
        stream, whole, tick, count = lengths(path)
        assert (clip.start, clip.end) == pytest.approx((ends[a], ends[b]), abs=1e-6)
        assert count == b - a
        assert stream == pytest.approx(ends[b] - ends[a], abs=tick)
        assert whole == pytest.approx(ends[b] - ends[a], abs=1e-5)  # in whole microseconds
        found = Media(str(path)).info
        assert found.frame_seconds == pytest.approx(np.array(ends[a:b]) - ends[a], abs=tick)
        rounded = tick if in_order(path) else 0.002  # the length of a packet is not that of its frame
        assert found.duration == pytest.approx(ends[b] - ends[a], abs=max(tick, rounded))


def test_frames_coded_out_of_order_are_among_them(tmp_path: Path) -> None:
    assert not in_order(timed(tmp_path / "a.mp4", **SOURCES["reordered.mp4"]))
    source = timed(tmp_path / "b.gif", **SOURCES["animation.gif"])
    assert not in_order(cut(source, [(0, 99)], preset="veryfast")[0][1])


@pytest.mark.parametrize("rate", [10, 25, 30])
@pytest.mark.parametrize("name", ["plain.mp4", "reordered.mkv", "animation.gif", "constant.mp4", "one.mp4"])
def test_the_last_picture_fills_its_time_at_another_rate(tmp_path: Path, name: str, rate: int) -> None:
    source = timed(tmp_path / name, **SOURCES[name])
    info = Media(str(source)).info
    ends = [*info.frame_seconds.tolist(), info.duration]
    spans = [(a, b) for a, b in SPANS if b < len(ends)] or [(0, 1)]
    clips = cut(source, [(ends[a], ends[b]) for a, b in spans], target_fps=rate, shorter_size=120)
    for (a, b), (clip, path) in zip(spans, clips, strict=True):
        stream, whole, _, count = lengths(path)
        assert count == pytest.approx(max(1, (ends[b] - ends[a]) * rate), abs=0.51)
        assert stream == pytest.approx(count / rate, abs=1e-6)
        assert whole == pytest.approx(count / rate, abs=1e-5)
        assert clip.end - clip.start == pytest.approx(stream, abs=1 / rate)


def test_a_source_without_times_and_clips_of_a_greatest_length(tmp_path: Path) -> None:
    raw = footage.no_times(tmp_path / "raw.h264")
    slides = timed(tmp_path / "slides.mp4", **SOURCES["plain.mp4"])
    rows = [{"path": str(raw.path), "timestamp": scenes((0.0, 1.0), (1.0, 2.0))},
            {"path": str(slides), "timestamp": scenes((0.0, sum(DELAYS) / 1000))}]  # fmt: skip
    done = CutTable(tmp_path, rows, max_seconds=1.2)
    assert done.failed == []
    total = {str(raw.path): 2.0, str(slides): sum(DELAYS) / 1000}
    for clip in done.clips:
        stream, whole, tick, _ = lengths(Path(clip["path"]))
        said = float(clip["clip_end"]) - float(clip["clip_start"])
        assert stream == pytest.approx(said, abs=tick)
        assert whole == pytest.approx(said, abs=1e-5)
        total[clip["source_path"]] -= stream
    assert list(total.values()) == pytest.approx([0, 0], abs=1e-3)


def test_the_movie_clock_is_as_fine_as_that_of_the_frames(tmp_path: Path) -> None:
    source = timed(tmp_path / "third.mp4", [33] * 7, tick=Fraction(1, 30000))
    [(_, path)] = cut(source, [(0.033, 0.165)])
    box = path.read_bytes()
    at = box.index(b"mvhd") + 4 + 4 + 8
    scale, duration = (int.from_bytes(box[at + n : at + n + 4], "big") for n in (0, 4))
    assert scale == 30000
    assert duration / scale == pytest.approx(4 * 0.033, abs=1 / 30000)


@pytest.mark.parametrize("name", ["held.mp4", "held.mkv"])
def test_the_last_frame_of_a_recording_is_shown_as_long_as_it_was(tmp_path: Path, name: str) -> None:
    source = timed(tmp_path / name, [40] * 24 + [5000])
    info = Media(str(source)).info
    assert info.duration == pytest.approx(24 * 0.04 + 5, abs=2e-3)
    [(clip, path)] = cut(source, [(0.4, 99)])
    assert clip.end - clip.start == pytest.approx(14 * 0.04 + 5, abs=2e-3)
    assert Media(str(path)).info.duration == pytest.approx(14 * 0.04 + 5, abs=2e-3)
