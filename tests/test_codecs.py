"""Codecs of archives and recorders: every frame is the one that FFmpeg shows, also when only some are wanted."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from clipsheet.media import Frame, Media
from tests import footage
from tests.footage import ffmpeg

COUNT = 24
GROUP = ("-g", "8")
#: By the name that the decoder has for itself: the file's ending, and how the footage is encoded.
CODERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "v210": (".mov", ("-c:v", "v210")),
    "r210": (".mov", ("-c:v", "r210")),
    "magicyuv": (".avi", ("-c:v", "magicyuv")),
    "dirac": (".mov", ("-c:v", "vc2", "-pix_fmt", "yuv422p")),
    "jpegls": (".avi", ("-c:v", "jpegls")),
    "zmbv": (".avi", ("-c:v", "zmbv", *GROUP)),
    "flashsv": (".flv", ("-c:v", "flashsv", *GROUP)),
    "flashsv2": (".flv", ("-c:v", "flashsv2", *GROUP)),
    "msvideo1": (".avi", ("-c:v", "msvideo1", *GROUP)),
    "qtrle": (".mov", ("-c:v", "qtrle", *GROUP)),
    "cinepak": (".avi", ("-c:v", "cinepak", *GROUP)),
    "mjpeg": (".mjpeg", ("-c:v", "mjpeg", "-q:v", "3")),
}


@pytest.fixture(scope="module", params=CODERS)
def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    suffix, coder = CODERS[request.param]
    return footage.numbered(tmp_path_factory.mktemp(request.param) / f"a{suffix}", COUNT, codec=coder)


def digest(frame: Frame) -> str:
    """MD5 of the pixels as they were decoded, without padding, as FFmpeg's framemd5 takes it."""
    stored = frame.stored()
    planar = len(stored.planes) > 1
    found = hashlib.md5()
    for plane in stored.planes:
        sample = 2 if stored.format.components[0].bits > 8 else 1
        row = plane.width * sample if planar else stored.width * stored.format.padded_bits_per_pixel // 8
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
        found.update(rows[: plane.height, :row].tobytes())
    return found.hexdigest()


def shown_by_ffmpeg(path: Path) -> list[str]:
    command = [
        ffmpeg.program(),
        "-v",
        "error",
        "-i",
        f"file:{path}",
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split(",")[-1].strip() for line in lines if not line.startswith("#")]


def test_every_frame_is_the_one_that_ffmpeg_shows(coded: Path) -> None:
    media = Media(str(coded))
    assert not media.info.is_image
    frames = list(media.frames())
    assert [footage.number_in(frame.rgb()) for frame in frames] == list(range(COUNT))
    assert [digest(frame) for frame in frames] == shown_by_ffmpeg(coded)
    assert media.info.frame_seconds == pytest.approx(np.arange(COUNT) / 25, abs=1e-3)


def test_some_frames_are_the_same_as_among_all(coded: Path) -> None:
    media = Media(str(coded))
    all_of_them = [digest(frame) for frame in media.frames()]
    rng = np.random.default_rng(0)
    wanted = [[index] for index in range(COUNT)]
    wanted += [rng.choice(COUNT, 4, replace=False).tolist() for _ in range(5)]
    for indices in wanted:
        found = {frame.index: digest(frame) for frame in media.frames(indices)}
        assert found == {index: all_of_them[index] for index in indices}


def test_each_decoder_is_known_by_the_name_that_it_has_for_itself() -> None:
    for name in set(CODERS) - {"mjpeg"}:
        assert av.Codec(name, "r").name == name
