"""Clips with sound: as long and as loud as in the source, in sync with it, and checked before they get their names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clipsheet.errors import MediaError
from clipsheet.media import Media
from clipsheet.media.container import SOUND_CODECS
from clipsheet.media.sound import sound_of
from pipeline.splitting import clip_files, sound_check
from pipeline.splitting.clip_files import AAC_LAYOUTS, AAC_RATES, EncodedClip
from pipeline.splitting.cut import Cutting
from pipeline.splitting.cutter import SILENT, Clip, CutJob, Made
from pipeline.splitting.encoding import Coding
from pipeline.splitting.sound_check import Levels, difference
from tests import footage
from tests.soundtracks import RATE, by_ffmpeg, by_pyav, has_sound, lag, lags, level, moved, noise, with_sound

SYNC = 0.02  # seconds
SPANS = [(0.2, 1.4), (2.61, 4.0), (5.3, 99.0)]  # begin and end at no key frame
SECONDS = 7.0

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-pix_fmt", "yuv420p")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "5", "-g", "50")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "5", "-g", "50")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "50")
FLV1 = ("-c:v", "flv", "-q:v", "5", "-g", "50")
THEORA = ("-c:v", "libtheora", "-q:v", "4", "-g", "50")
MS = ("-c:v", "msmpeg4", "-q:v", "5", "-g", "50")

#: Video encoder, sound encoder with its options, samples per second and channels, by the name of the file.
CONTAINERS: dict[str, tuple[tuple[str, ...], str, int, int]] = {
    "mp3.avi": (MPEG4, "libmp3lame", 44100, 2),
    "mp3_vbr.avi": (MPEG4, "libmp3lame -q:a 5", 48000, 2),
    "mp3_22.avi": (MPEG4, "libmp3lame", 22050, 1),
    "ac3.avi": (MPEG4, "ac3", 48000, 2),
    "mp2.avi": (MPEG4, "mp2", 44100, 2),
    "adpcm_ms.avi": (MPEG4, "adpcm_ms", 44100, 2),
    "adpcm_ima_wav.avi": (MPEG4, "adpcm_ima_wav", 22050, 1),
    "adpcm_yamaha.avi": (MPEG4, "adpcm_yamaha", 22050, 1),
    "pcm_s16le.avi": (MPEG4, "pcm_s16le", 48000, 2),
    "pcm_u8.avi": (MPEG4, "pcm_u8", 11025, 1),
    "aac.mp4": (H264, "aac", 44100, 2),
    "mp3.mp4": (H264, "libmp3lame", 44100, 2),
    "ac3.mp4": (H264, "ac3", 48000, 2),
    "alac.mp4": (H264, "alac", 44100, 2),
    "aac.mov": (H264, "aac", 48000, 1),
    "pcm_s16le.mov": (H264, "pcm_s16le", 48000, 2),
    "pcm_s24le.mov": (H264, "pcm_s24le", 48000, 2),
    "pcm_mulaw.mov": (H264, "pcm_mulaw", 8000, 1),
    "adpcm_ima_qt.mov": (H264, "adpcm_ima_qt", 22050, 1),
    "opus.mkv": (H264, "libopus", 48000, 2),
    "vorbis.mkv": (H264, "libvorbis", 44100, 2),
    "flac.mkv": (H264, "flac", 96000, 2),
    "aac.mkv": (H264, "aac", 48000, 2),
    "eac3.mkv": (H264, "eac3", 48000, 2),
    "dca.mkv": (H264, "dca -strict -2", 48000, 2),
    "opus.webm": (VP8, "libopus", 48000, 2),
    "vorbis.webm": (VP8, "libvorbis", 44100, 2),
    "mp2.ts": (MPEG2, "mp2", 48000, 2),
    "aac.ts": (H264, "aac", 48000, 2),
    "aac_slow.ts": (H264, "aac -b:a 24k", 16000, 1),
    "ac3.ts": (H264, "ac3", 48000, 2),
    "s302m.ts": (H264, "s302m -strict -2", 48000, 2),
    "mp2.mpg": (MPEG2, "mp2", 48000, 2),
    "ac3.vob": (MPEG2, "ac3", 48000, 2),
    "mp3.flv": (FLV1, "libmp3lame", 44100, 2),
    "nellymoser.flv": (FLV1, "nellymoser", 22050, 1),
    "adpcm_swf.flv": (FLV1, "adpcm_swf", 22050, 1),
    "aac.flv": (H264, "aac", 44100, 2),
    "wmav2.wmv": (MS, "wmav2", 44100, 2),
    "pcm_s16le.mxf": (MPEG2, "pcm_s16le", 48000, 2),
    "vorbis.ogv": (THEORA, "libvorbis", 44100, 2),
    "opus.ogv": (THEORA, "libopus", 48000, 2),
}


def made(folder: Path, name: str) -> Path:
    """A file of CONTAINERS."""
    pictures, encoder, rate, channels = CONTAINERS[name]
    codec, *options = encoder.split()
    sound = np.repeat(noise(SECONDS, rate), channels, axis=0)
    return with_sound(folder / name, sound, *pictures, "-c:a", codec, *options, rate=rate)


def cut(source: Path, spans: Sequence[tuple[float, float]], **cutting: Any) -> list[Made | MediaError]:
    """Cut clips <folder of the source>/0.mp4, 1.mp4, ... in this process."""
    wanted = [Clip(str(source.parent / f"{n}.mp4"), *span) for n, span in enumerate(spans)]
    job = CutJob(Cutting(keep_audio=True, preset="ultrafast", **cutting))
    return job((str(source), wanted), lambda seconds: None)  # type: ignore[return-value]


def checked(source: Path, spans: Sequence[tuple[float, float]] = SPANS, **cutting: Any) -> list[Made]:
    """Cut clips, and compare length, level and sync of their sound with those of the source as ffmpeg plays it."""
    results = cut(source, spans, **cutting)
    begin = Media(str(source)).info.start_seconds
    whole = by_ffmpeg(source)
    for number, clip in enumerate(results):
        assert isinstance(clip, Made), clip
        path = source.parent / f"{number}.mp4"
        part = by_ffmpeg(path)
        seconds = clip.end - clip.start
        assert len(part) / RATE == pytest.approx(seconds, abs=1024 / 8000)
        assert stream_seconds(path, "audio") == pytest.approx(seconds, abs=1e-3)
        first, last = round((clip.start + begin) * RATE), round((clip.end + begin) * RATE)
        assert level(part) == pytest.approx(level(whole[first:last]), rel=0.1)
        found = lags(part, whole, clip.start + begin)
        assert len(found) > 3
        assert np.abs(found).max() < SYNC
    return results  # type: ignore[return-value]


def stream_seconds(path: str | Path, kind: str) -> float:
    """The length of the first stream of a kind, which must begin at 0."""
    with av.open(str(path)) as file:
        stream: Any = next(iter(getattr(file.streams, kind)))
        assert stream.start_time == 0
        return float(stream.duration * stream.time_base)


# --- every container and codec -----------------------------------------------------------------


@pytest.mark.parametrize("name", CONTAINERS)
def test_sound_of_a_clip_is_that_of_its_time(tmp_path: Path, name: str) -> None:
    notes = [clip.note for clip in checked(made(tmp_path, name))]
    assert notes == [""] * 3


@pytest.mark.parametrize("name", ["aac.mp4", "aac.ts", "opus.mkv"])
@pytest.mark.parametrize("encoder", ["copy", "smart"])
def test_sound_of_a_copied_clip_is_that_of_its_time(tmp_path: Path, name: str, encoder: str) -> None:
    checked(made(tmp_path, name), [(0.2, 3.4), (2.61, 5.1), (3.3, 99.0)], encoder=encoder)


def test_pictures_and_sound_keep_together_at_another_rate(tmp_path: Path) -> None:
    source = made(tmp_path, "aac.mkv")
    for clip, number in zip(checked(source, target_fps=7), itertools.count(), strict=False):
        frames = len(Media(str(tmp_path / f"{number}.mp4")).info.frame_seconds)
        assert frames == pytest.approx((clip.end - clip.start) * 7, abs=1)


FORMS = [
    ("pcm_u8.mkv", "mono", 8000), ("pcm_s16le.avi", "mono", 6000), ("pcm_s16be.mov", "quad", 32000),
    ("pcm_s16le.mkv", "2.1", 44100), ("pcm_s24le.mov", "stereo", 176400), ("pcm_s32le.mkv", "stereo", 192000),
    ("pcm_f32le.mov", "5.0", 48000), ("pcm_f64le.mkv", "7.1", 96000), ("flac.mkv", "5.1(side)", 44100),
    ("flac.mkv", "7.1", 48000), ("ac3.mkv", "5.1(side)", 48000), ("pcm_s16le.mov", "6.1", 48000),
    ("alac.mov", "mono", 37800),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout", "rate"), FORMS)
def test_any_rate_format_and_number_of_channels(tmp_path: Path, name: str, layout: str, rate: int) -> None:
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    sound = noise(3.0, rate, len(names))
    pictures = MPEG4 if name.endswith("avi") else H264
    source = with_sound(
        tmp_path / name, sound, *pictures, "-c:a", name.split(".")[0], rate=rate, layout=layout
    )
    [clip] = cut(source, [(1.0, 2.6)])
    assert isinstance(clip, Made), clip
    made, made_rate = by_pyav(tmp_path / "0.mp4")
    assert made_rate == min((r for r in AAC_RATES if r >= rate), default=96000)
    expected = np.fft.irfft(np.fft.rfft(sound), 3 * made_rate) * made_rate / rate
    with av.open(str(tmp_path / "0.mp4")) as file:
        channels = file.streams.audio[0].layout
    assert channels.name in AAC_LAYOUTS
    found = {channel.name: made[n, : round(1.6 * made_rate)] for n, channel in enumerate(channels.channels)}
    if "SL" not in found:
        found |= {"SL": found.get("BL"), "SR": found.get("BR")}
    for number, channel in enumerate(names):
        if channel in ("LFE", "BC"):
            continue  # cut off above 120 Hz; shared out among the channels at the back
        part = found[channel]
        assert np.abs(lags(part, expected[number], clip.start, made_rate)).max() < SYNC
        assert level(part) == pytest.approx(level(expected[number]), rel=0.2)


# --- gaps, overlaps, changes -------------------------------------------------------------------


def silent(part: np.ndarray, start: float, end: float) -> bool:
    return level(part[round(start * RATE) : round(end * RATE)]) < 1e-3


@pytest.mark.parametrize("name", ["aac.mp4", "aac.mkv", "mp2.ts", "pcm_s16le.mov", "aac.flv"])
def test_sound_that_begins_late_or_ends_early_is_filled_up_with_silence(tmp_path: Path, name: str) -> None:
    whole = made(tmp_path, name if name != "aac.mkv" else "aac.mp4")
    begins, stops = 2.0 + (1.4 if name.endswith("ts") else 0.0), 4.6 + (1.4 if name.endswith("ts") else 0.0)
    source = moved(whole, tmp_path / f"part_{name}", lambda t: 0.0 if begins <= t < stops else None)
    results = cut(source, [(0.2, 1.4), (1.2, 3.0), (3.6, 5.6), (5.4, 6.8)])
    assert [isinstance(r, Made) and r.note for r in results] == [SILENT, "", "", SILENT]
    assert [has_sound(tmp_path / f"{n}.mp4") for n in range(4)] == [False, True, True, False]
    late, early = by_ffmpeg(tmp_path / "1.mp4"), by_ffmpeg(tmp_path / "2.mp4")
    assert (len(late) / RATE, len(early) / RATE) == pytest.approx((1.8, 2.0), abs=0.06)
    assert silent(late, 0, 0.65)
    assert silent(early, 1.2, 2.0)
    truth = by_ffmpeg(whole)
    offset = Media(str(whole)).info.start_seconds
    assert np.abs(lags(late[round(0.9 * RATE) :], truth, 2.1 + offset)).max() < SYNC
    assert np.abs(lags(early[: round(0.9 * RATE)], truth, 3.6 + offset)).max() < SYNC


HOLES = {
    "a hole": lambda t: None if 2.8 <= t < 3.3 else 0.0,
    "a short hole": lambda t: None if 2.8 <= t < 2.85 else 0.0,
    "a jump ahead": lambda t: 0.0 if t < 2.8 else 0.03,
    "steps ahead": lambda t: 0.004 * max(0, int((t - 2.8) / 0.1)),
    "overlaps": lambda t: -0.018 * sum(t >= step for step in (2.8, 3.0, 3.2)),
    "one wrong stamp": lambda t: 0.018 if 3.0 <= t < 3.021 else 0.0,
}  # fmt: skip


@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov", "flv"])
@pytest.mark.parametrize("what", HOLES)
def test_time_stamps_say_where_sound_is(tmp_path: Path, what: str, ending: str) -> None:
    place: Callable[[float], float | None] = HOLES[what]
    whole = made(tmp_path, "aac.mp4" if ending != "flv" else "aac.flv")
    source = moved(whole, tmp_path / f"moved.{ending}", place)
    results = cut(source, [(2.2, 4.4), (4.28, 6.0)])
    truth, offset = by_ffmpeg(whole), Media(str(whole)).info.start_seconds
    for number, clip in enumerate(results):
        assert isinstance(clip, Made), clip
        part = by_ffmpeg(tmp_path / f"{number}.mp4")
        assert len(part) / RATE == pytest.approx(clip.end - clip.start, abs=0.03)
        for at in np.arange(0, len(part) / RATE - 0.2, 0.1):
            if 2.65 < clip.start + at < 3.4 and what != "one wrong stamp":
                continue  # some of it is silence, or cut off
            late = lag(part[round(at * RATE) :][: RATE // 10], truth, clip.start + at + offset)
            if what == "steps ahead" and np.isnan(late):
                continue  # one of the gaps is in it
            assert late == pytest.approx(place(clip.start + at) or 0.0, abs=SYNC)
    if what == "a hole":
        assert silent(by_ffmpeg(tmp_path / "0.mp4"), 0.7, 1.0)


@pytest.mark.parametrize("second", [("aac", 44100, "mono"), ("ac3", 48000, "5.1")])
def test_a_change_of_rate_or_channels_in_mid_stream(tmp_path: Path, second: tuple[str, int, str]) -> None:
    codec, rate, layout = second
    channels = av.AudioLayout(layout).nb_channels
    first = "-c:a", codec, "-muxdelay", "0", "-muxpreload", "0"
    one = with_sound(tmp_path / "one.ts", np.repeat(noise(3.0), 2, axis=0), *H264, *first)
    two = with_sound(
        tmp_path / "two.ts", np.repeat(noise(3.0, rate), channels, axis=0), *H264, *first,
        "-output_ts_offset", "3.2", rate=rate, layout=layout,
    )  # fmt: skip
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    info = Media(str(both)).info
    join = int(np.argmax(np.diff(info.frame_seconds)))  # the last frame before
    begins = float(info.frame_seconds[join + 1])
    clips_made = cut(both, [(0.5, 2.0), (begins + 0.4, begins + 2.0), (begins - 1.2, begins + 1.2)])
    assert all(isinstance(clip, Made) for clip in clips_made)
    parts = [by_ffmpeg(tmp_path / f"{n}.mp4") for n in range(3)]
    truths = [by_ffmpeg(path) for path in (one, two)]
    starts = [Media(str(path)).info.start_seconds for path in (one, two)]
    assert np.abs(lags(parts[0], truths[0], clips_made[0].start + starts[0])).max() < SYNC  # type: ignore[union-attr]
    inside = clips_made[1].start - begins + starts[1]  # type: ignore[union-attr]
    assert np.abs(lags(parts[1], truths[1], inside)).max() < SYNC
    after = round((begins - clips_made[2].start) * RATE) + RATE // 10  # type: ignore[union-attr]
    assert np.abs(lags(parts[2][after:], truths[1], 0.1 + starts[1])).max() < SYNC


@pytest.mark.parametrize("name", ["aac.mp4", "mp3.avi", "flac.mkv"])
def test_what_does_not_decode_is_silence(tmp_path: Path, name: str) -> None:
    whole = made(tmp_path, name)
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as file:
        times = [(p.pos, p.size, float(p.pts * p.time_base)) for p in file.demux(audio=0) if p.size]
    for position, size, time in times:
        if time < 1.0:
            data[position + 16 : position + size] = b"\xa5" * (size - 16)
    source = tmp_path / f"damaged_{name}"
    source.write_bytes(data)
    [clip] = cut(source, [(0.2, 2.6)])
    assert isinstance(clip, Made), clip
    part = by_ffmpeg(tmp_path / "0.mp4")
    assert len(part) / RATE == pytest.approx(clip.end - clip.start, abs=0.06)
    found = lags(part[round(1.2 * RATE) :], by_ffmpeg(whole), clip.start + 1.2)
    assert np.abs(found).max() < SYNC


def test_a_source_without_sound_is_no_deviation_and_one_whose_sound_is_not_read_is(tmp_path: Path) -> None:
    without = footage.numbered(tmp_path / "without.mp4", 25)
    unread = with_sound(tmp_path / "dfpwm.mkv", noise(1.0), *H264, "-c:a", "dfpwm")
    assert "dfpwm" not in SOUND_CODECS
    results = [*cut(without, [(0.2, 0.8)]), *cut(unread, [(0.2, 0.8)])]
    assert [isinstance(clip, Made) and clip.note for clip in results] == ["", SILENT]


def test_every_decoder_of_sound_is_one_that_ffmpeg_has() -> None:
    assert {av.codec.Codec(name, "r").type for name in SOUND_CODECS} == {"audio"}


# --- files with several clocks -----------------------------------------------------------------


def joined(folder: Path, lengths: Sequence[float], ending: str, codec: str) -> Path:
    """Parts whose clocks all begin alike, one after another in a file."""
    sound = noise(sum(lengths))
    data, begun = b"", 0.0
    for number, seconds in enumerate(lengths):
        piece = sound[:, round(begun * RATE) : round((begun + seconds) * RATE)]
        pictures = H264 if ending == "ts" else MPEG2
        part = with_sound(folder / f"{number}.{ending}", piece, *pictures, "-c:a", codec)
        data += part.read_bytes()
        begun += seconds
    path = folder / f"joined.{ending}"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("ending", "codec"), [("ts", "mp2"), ("ts", "ac3"), ("vob", "ac3")])
def test_sound_of_joined_parts_goes_by_the_clocks_of_the_pictures(
    tmp_path: Path, ending: str, codec: str
) -> None:
    path = joined(tmp_path, [4.0, 0.6, 9.0, 5.0], ending, codec)
    truth = noise(18.6)[0]
    media = Media(str(path))
    assert media.info.duration == pytest.approx(18.6, abs=0.05)
    for start, end in [(0.5, 2.0), (3.4, 5.6), (4.2, 4.5), (6.0, 8.0), (12.9, 14.8), (17.0, 18.4)]:
        with media.sound(start, end) as sound:
            assert sound is not None
            part = np.concatenate(list(sound.pieces()), axis=1)[0]
        assert len(part) == sound.samples == round((end - start) * RATE)
        found = lags(part, truth, start)
        assert np.isnan(found).sum() <= sum(start < border < end for border in (4.0, 4.6, 13.6))
        assert np.nanmax(np.abs(found)) < SYNC


def test_sound_whose_own_clock_is_set_back_goes_on(tmp_path: Path) -> None:
    part = made(tmp_path, "aac.ts")
    with av.open(str(part)) as file:
        stamps = [p.pts for p in file.demux(video=0) if p.size]
        first = min(stamps) * file.streams.video[0].time_base
    only_sound = tmp_path / "sound.ts"
    same_pid = ("-streamid", "0:257")
    footage.ffmpeg_run(
        "-i", f"file:{part}", "-map", "0:a", "-c", "copy", "-copyts", *same_pid, f"file:{only_sound}"
    )
    path = tmp_path / "twice.ts"
    path.write_bytes(part.read_bytes() + only_sound.read_bytes())
    with closing(sound_of(str(path), 0.5, 12.5, [(0, -float(first))])) as found:
        sound = np.concatenate(list(next(found).pieces()), axis=1)[0]
    truth = noise(SECONDS, RATE)[0]
    assert np.abs(lags(sound[: 6 * RATE], truth, 0.5)).max() < SYNC
    again = lags(sound[round(6.75 * RATE) : round(11.75 * RATE)], truth, 0.25)  # 7.25 s on the clock
    assert np.abs(again).max() < 0.1  # the second run goes on where the first one ended


# --- streaming ---------------------------------------------------------------------------------


def test_sound_is_read_no_further_than_the_pictures_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path, "pcm_s16le.mov")
    taken = [0.0]
    pieces = clip_files.Sound.pieces

    def counted(sound: clip_files.Sound) -> Iterator[np.ndarray]:
        for piece in pieces(sound):
            taken[0] += piece.shape[1] / sound.rate
            yield piece

    monkeypatch.setattr(clip_files.Sound, "pieces", counted)
    media = Media(str(source))
    coding = Coding.of("libx264", (), crf=30, preset="ultrafast")
    clip = EncodedClip(tmp_path / "clip.mp4", media, 0, 170, coding, sound=True)
    for frame in media.frames(range(170)):
        clip.add(frame)
        assert taken[0] <= frame.seconds + 1.0
    clip.close()
    assert taken[0] == pytest.approx(6.8, abs=0.01)


# --- the check ---------------------------------------------------------------------------------


def levels(sound: np.ndarray) -> Levels:
    made = Levels(RATE)
    for piece in np.array_split(sound, 7, axis=1):
        made.add(piece)
    return made


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "nothing": (lambda sound: sound, ""),
    "a little later": (lambda sound: np.pad(sound, ((0, 0), (480, 0)))[:, :-480], ""),
    "half as loud": (lambda sound: 0.6 * sound, ""),
    "later": (lambda sound: np.pad(sound, ((0, 0), (1920, 0)))[:, :-1920], "the sound is +0.040 s late"),
    "earlier": (lambda sound: np.pad(sound, ((0, 0), (0, 1920)))[:, 1920:], "the sound is -0.040 s late"),
    "quiet": (lambda sound: 0.1 * sound, "the level of the sound changed by -20.0 dB"),
    "loud": (lambda sound: 10 * sound, "the level of the sound changed by +20.0 dB"),
    "silent at the end": (lambda sound: sound * (np.arange(sound.shape[1]) < 2.5 * RATE), "dB"),
    "cut off": (lambda sound: sound[:, : 3 * RATE], "3.000 of 4.000 s of sound were written"),
    "longer": (lambda sound: np.pad(sound, ((0, 0), (0, 9600)), "wrap"), "4.200 of 4.000 s of sound"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_the_check_finds_what_is_wrong_with_sound(tmp_path: Path, what: str) -> None:
    change, expected = CHANGES[what]
    sound = np.repeat(noise(4.0), 2, axis=0) * (0.5 + 0.4 * np.sin(np.arange(4 * RATE) / 3000))
    sound = sound.astype(np.float32)
    clip = with_sound(tmp_path / "clip.mov", change(sound).astype(np.float32), *H264, "-c:a", "pcm_f32le")
    said = difference(Media(str(clip)), levels(sound))
    assert said == "" if not expected else expected in said


def test_the_check_finds_that_sound_is_missing(tmp_path: Path) -> None:
    clip = footage.numbered(tmp_path / "clip.mp4", 25)
    assert difference(Media(str(clip)), levels(noise(1.0))) == "the sound is missing"


ODD_SOUNDS = {
    "nothing but treble": lambda t: np.sin(2 * np.pi * 19000 * t) * 0.5,
    "a steady tone": lambda t: np.sin(2 * np.pi * 440 * t) * 0.5,
    "clicks": lambda t: ((t * 10) % 1 < 1e-4) * 0.9,
    "one click": lambda t: (np.abs(t - 1.5) < 1e-5) * 0.9,
    "silence": lambda t: 0 * t,
    "hiss": lambda t: np.random.default_rng(1).standard_normal(len(t)) * 0.2,
    "out of scale": lambda t: np.random.default_rng(1).standard_normal(len(t)) * 3,
    "faint": lambda t: np.random.default_rng(1).standard_normal(len(t)) * 3e-4,
}


@pytest.mark.parametrize("rate", [22050, 96000])
@pytest.mark.parametrize("what", ODD_SOUNDS)
def test_the_check_lets_odd_sounds_pass(tmp_path: Path, what: str, rate: int) -> None:
    sound = ODD_SOUNDS[what](np.arange(3 * rate) / rate)[None].astype(np.float32)
    source = with_sound(
        tmp_path / "odd.mov", np.repeat(sound, 2, axis=0), *H264, "-c:a", "pcm_f32le", rate=rate
    )
    results = cut(source, [(0.0, 1.2), (1.2, 1.24), (1.24, 1.36), (1.4, 99)])
    assert [isinstance(clip, Made) and clip.note for clip in results] == [""] * 4


def test_a_clip_whose_sound_is_not_as_it_was_put_in_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(tmp_path, "aac.mp4")
    until = clip_files.SoundTrack.until

    def late(track: clip_files.SoundTrack, seconds: float) -> Iterator[av.Packet]:
        for packet in until(track, seconds):
            packet.pts += RATE // 10
            packet.dts += RATE // 10
            yield packet

    monkeypatch.setattr(clip_files.SoundTrack, "until", late)
    [result] = cut(source, [(1.0, 3.0)])
    assert isinstance(result, MediaError)
    assert result.code == "partial"
    assert "late" in result.detail
    assert not (tmp_path / "0.mp4").exists()
    assert sound_check.SYNC_SECONDS == SYNC
