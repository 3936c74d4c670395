"""What clipsheet.media says of a file, and that the pictures it gives are the ones that a player shows."""

from __future__ import annotations

import csv
import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from clipsheet.errors import MediaError
from clipsheet.media import Frame, Media, check_path, fit
from tests import footage


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, footage.Made]:
    return footage.every_kind(tmp_path_factory.mktemp("kinds"))


def pictures_of(media: Media) -> dict[int, np.ndarray]:
    return {frame.index: frame.rgb() for frame in media.frames()}


def failure(path: Path | str, **how: str) -> str:
    with pytest.raises(MediaError) as caught:
        Media(str(path), **how)
    return caught.value.code


# --- every kind of video -----------------------------------------------------------------------


@pytest.mark.parametrize("name", footage.KINDS)
def test_frame_i_is_picture_i_at_its_time_and_size(kinds: dict[str, footage.Made], name: str) -> None:
    made = kinds[name]
    media = Media(str(made.path))
    frames = list(media.frames())
    assert [footage.number_in(frame.rgb()) for frame in frames] == made.numbers
    assert [frame.index for frame in frames] == list(range(len(made.numbers)))
    assert (media.info.height, media.info.width) == (made.height, made.width)
    assert {frame.rgb().shape for frame in frames} == {(made.height, made.width, 3)}
    assert media.info.frame_seconds == pytest.approx(made.seconds, abs=1e-3)
    assert [frame.seconds for frame in frames] == media.info.frame_seconds.tolist()


@pytest.mark.parametrize("name", footage.KINDS)
def test_some_frames_are_the_same_pictures_as_among_all(kinds: dict[str, footage.Made], name: str) -> None:
    media = Media(str(kinds[name].path))
    whole = pictures_of(media)
    last = len(whole) - 1
    rng = np.random.default_rng(0)
    few = [rng.choice(last + 1, min(3, last + 1), replace=False).tolist() for _ in range(5)]
    for wanted in [[0], [last], [last // 2], [0, last], range(last // 3, last // 2 + 1), *few]:
        frames = list(media.frames(wanted))
        assert [frame.index for frame in frames] == sorted(set(wanted))
        for frame in frames:
            assert np.array_equal(frame.rgb(), whole[frame.index]), (wanted, frame.index)


def test_no_frame_is_given_when_none_is_wanted(kinds: dict[str, footage.Made]) -> None:
    assert list(Media(str(kinds["cfr.mp4"].path)).frames([])) == []


@pytest.mark.parametrize(
    "name, fps, seconds",
    [
        ("cfr.mp4", 25, 2.0),
        ("vfr.mp4", 40 / 2.02, 2.02),  # 40 frames, the last from 1.98 s as long as its packet says
        ("edit_list.mp4", 25, 1.4),
        ("late_start.mkv", 25, 2.0),
        ("one_frame.mp4", 25, 0.04),
        ("no_times.h264", 25, 2.0),
        ("animation.gif", 25, 1.2),
    ],
)
def test_duration_and_rate_are_those_of_the_shown_frames(
    kinds: dict[str, footage.Made], name: str, fps: float, seconds: float
) -> None:
    info = Media(str(kinds[name].path)).info
    assert info.duration == pytest.approx(seconds, abs=2e-3)
    assert info.fps == pytest.approx(fps, rel=2e-3)


def test_a_time_finds_the_frame_that_is_shown_then(kinds: dict[str, footage.Made]) -> None:
    made = kinds["vfr.mp4"]
    info = Media(str(made.path)).info
    middles = (made.seconds[:-1] + made.seconds[1:]) / 2
    assert [info.index_at(t) for t in made.seconds] == made.numbers
    assert [info.index_at(t) for t in middles] == made.numbers[:-1]
    assert info.index_at(-5) == 0
    assert info.index_at(1e9) == made.numbers[-1]


def test_moments_at_a_stride_are_times_of_frames(kinds: dict[str, footage.Made]) -> None:
    info = Media(str(kinds["cfr.mp4"].path)).info
    assert info.every(0.5) == pytest.approx([0, 0.52, 1.0, 1.52], abs=1e-6)
    assert len(info.every(0.001)) == 50
    assert info.every(0.04, most=3) == pytest.approx([0, 0.96, 1.96])
    assert info.at(0.1, 0.5) == pytest.approx([0.2, 1.0])


def test_sound_is_reported(kinds: dict[str, footage.Made], tmp_path: Path) -> None:
    silent = kinds["cfr.mp4"].path
    footage.with_sound(silent, tmp_path / "loud.mp4")
    assert not Media(str(silent)).info.has_audio
    assert Media(str(tmp_path / "loud.mp4")).info.has_audio


def test_pixels_that_are_not_square_are_reported(tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "wide.mp4", 5, "-vf", "setsar=16/11")
    info = Media(str(path)).info
    assert info.pixel_aspect == pytest.approx(16 / 11, rel=1e-3)
    assert (info.height, info.width) == (240, 320)


@pytest.mark.parametrize("how", footage.DISPLAYED)
def test_a_picture_is_mirrored_and_turned_as_its_matrix_says(
    kinds: dict[str, footage.Made], tmp_path: Path, how: str
) -> None:
    turn = footage.DISPLAYED[how][1]
    plain = kinds["cfr.mp4"].path
    before = next(Media(str(plain)).frames([7]))
    media = Media(str(footage.displayed(plain, tmp_path / "a.mp4", how)))
    frame = next(media.frames([7]))
    assert np.array_equal(frame.rgb(), turn(before.rgb()))
    assert np.array_equal(frame.luma(), turn(before.luma()))
    assert (media.info.height, media.info.width) == frame.rgb().shape[:2]
    sides = (27, 48) if media.info.rotation % 180 == 0 else (48, 27)
    assert np.array_equal(frame.scaled(*sides), turn(before.scaled(27, 48)))
    assert frame.luma(30, 40).shape == (30, 40)


def test_a_container_is_known_by_its_content_not_its_name(
    kinds: dict[str, footage.Made], tmp_path: Path
) -> None:
    named_wrongly = tmp_path / "matroska.mp4"
    named_wrongly.write_bytes(kinds["late_start.mkv"].path.read_bytes())
    assert len(Media(str(named_wrongly)).info.frame_seconds) == 50


@pytest.mark.parametrize("source", [(1, 3000), (3000, 1), (2, 2328), (3749, 1), (8, 5081), (1, 1), (7, 5)])
@pytest.mark.parametrize("target", [(48, 27), (56, 392)])
def test_a_picture_of_any_shape_is_scaled(
    tmp_path: Path, source: tuple[int, int], target: tuple[int, int]
) -> None:
    width, height = source
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: -(-height // 2), : -(-width // 2)] = 200  # a quarter, or a half of what is one pixel wide
    path = footage.encode(tmp_path / "a.mov", [picture], codec=("-c:v", "png"))
    [frame] = Media(str(path)).frames()
    wide, high = target
    small = frame.scaled(high, wide)
    assert small.shape == (high, wide, 3)
    assert small[0, 0].mean() == pytest.approx(200, abs=4)
    assert small[-1, -1].mean() == pytest.approx(200 if source == (1, 1) else 0, abs=4)


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_of_a_file_cut_off_behind_its_index_what_is_there_counts(tmp_path: Path, share: float) -> None:
    whole = footage.numbered(tmp_path / "whole.mp4", 50, "-movflags", "+faststart", codec=footage.B_FRAMES)
    data = whole.read_bytes()
    path = tmp_path / "cut_off.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    media = Media(str(path))
    frames = list(media.frames())
    numbers = [footage.number_in(frame.rgb()) for frame in frames]
    assert 5 < len(numbers) < 50
    assert numbers == (media.info.frame_seconds * 25).round().astype(int).tolist()
    assert [frame.index for frame in media.frames([0, len(numbers) - 1])] == [0, len(numbers) - 1]


def test_a_file_cut_off_before_its_index_is_corrupt(kinds: dict[str, footage.Made], tmp_path: Path) -> None:
    data = kinds["b_frames.mp4"].path.read_bytes()
    (tmp_path / "cut_off.mp4").write_bytes(data[: len(data) * 6 // 10])
    assert failure(tmp_path / "cut_off.mp4") == "corrupt"


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mkv", "mpeg_ts.ts"])
def test_where_a_file_is_damaged_a_picture_does_not_depend_on_what_else_is_wanted(
    kinds: dict[str, footage.Made], tmp_path: Path, name: str
) -> None:
    data = bytearray(kinds[name].path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    path = tmp_path / name
    path.write_bytes(data)
    media = Media(str(path))
    whole = pictures_of(media)
    assert 40 <= len(whole) < 51
    for index in range(50):
        alone = {frame.index: frame.rgb() for frame in media.frames([index])}
        assert list(alone) == [i for i in whole if i == index]
        assert all(np.array_equal(picture, whole[i]) for i, picture in alone.items())


def test_frames_that_do_not_decode_are_left_out_and_never_black(tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "a.avi", 30, codec=("-c:v", "mjpeg", "-q:v", "3"))
    data = bytearray(path.read_bytes())
    pictures = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xd8"]
    for start in pictures[10:13]:
        data[start : start + 1000] = bytes(1000)
    path.write_bytes(data)
    media = Media(str(path))
    numbers = {frame.index: footage.number_in(frame.rgb()) for frame in media.frames()}
    expected = [n for n in range(30) if n not in (10, 11, 12)]
    assert numbers == {n: n for n in expected}
    assert [frame.index for frame in media.frames([9, 11, 14])] == [9, 14]


def test_a_jump_of_time_stamps_is_too_long(tmp_path: Path) -> None:
    jump = r"setpts='if(lt(N,4),N,N+86400*25)/(25*TB)'"
    path = footage.numbered(tmp_path / "jump.mkv", 8, "-vf", jump, "-fps_mode", "passthrough")
    assert failure(path) == "too_long"


def test_an_unknown_duration_is_counted(tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "live.mkv", 20, "-live", "1", "-f", "matroska")
    info = Media(str(path)).info
    assert len(info.frame_seconds) == 20
    assert info.duration == pytest.approx(0.8, abs=1e-3)


def test_a_header_that_claims_a_day_is_not_believed(tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "a.mp4", 20, "-video_track_timescale", "25000")
    data = bytearray(path.read_bytes())
    for box, at in (b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24):
        place = data.index(box) + at
        data[place : place + 4] = (0x7FFFFFFF).to_bytes(4, "big")
    path.write_bytes(data)
    info = Media(str(path)).info
    assert len(info.frame_seconds) == 20
    assert info.duration == pytest.approx(0.8, abs=1e-3)


# --- what is no video --------------------------------------------------------------------------


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    footage.ffmpeg_run("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", f"file:{tmp_path / 'a.mp4'}")
    assert failure(tmp_path / "a.mp4") == "no_video"


def test_sound_with_a_cover_picture_is_no_video(kinds: dict[str, footage.Made], tmp_path: Path) -> None:
    cover = kinds["cover_art.mp4"].path.with_name("cover.png")
    path = tmp_path / "song.m4a"
    sound = ("-f", "lavfi", "-i", "sine=d=1", "-i", f"file:{cover}", "-map", "0", "-map", "1")
    footage.ffmpeg_run(
        *sound, "-c:a", "aac", "-c:v", "copy", "-disposition:v", "attached_pic", f"file:{path}"
    )
    assert failure(path) == "no_video"


@pytest.mark.parametrize(
    "content", [b"just text\n" * 50, b"<html><body>404</body></html>", bytes(range(256)) * 40]
)
def test_what_is_no_media_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.mp4"
    path.write_bytes(content)
    assert failure(path) in ("corrupt", "format_not_allowed")


@pytest.mark.parametrize(
    "script",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{other}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{other}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["hls", "concat", "sdp"],
)
def test_a_script_that_names_another_file_is_not_followed(
    kinds: dict[str, footage.Made], tmp_path: Path, script: str
) -> None:
    path = tmp_path / "a.mp4"
    path.write_text(script.format(other=kinds["mpeg_ts.ts"].path))
    assert failure(path) in ("format_not_allowed", "corrupt")


# --- pictures ----------------------------------------------------------------------------------


def colours() -> np.ndarray:
    """Four different quarters, so that a turn shows."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:], image[20:, :30] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    return image


def test_a_png_is_one_frame_without_duration(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    media = Media(str(tmp_path / "a.png"))
    assert media.info.is_image
    assert (media.info.height, media.info.width, media.info.duration, media.info.fps) == (40, 60, 0, 0)
    assert media.info.frame_seconds.tolist() == [0.0]
    frame, *more = media.frames()
    assert not more
    assert np.array_equal(frame.rgb(), colours())
    assert [f.index for f in media.frames([0])] == [0]


@pytest.mark.parametrize("orientation, turns", [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_jpeg_is_turned_as_its_exif_says(tmp_path: Path, orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(colours())
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    media = Media(str(tmp_path / "a.jpg"))
    expected = np.rot90(colours(), turns)
    assert (media.info.height, media.info.width) == expected.shape[:2]
    difference = np.abs(next(media.frames()).rgb().astype(int) - expected)
    assert np.median(difference) < 4  # JPEG rings at the edges


def test_transparency_and_palettes_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(colours()).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([colours(), np.full((40, 60), 128, np.uint8)])).save(tmp_path / "alpha.png")
    for name in ("palette.png", "alpha.png"):
        assert next(Media(str(tmp_path / name)).frames()).rgb().shape == (40, 60, 3)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    assert failure(tmp_path / "bomb.png") == "too_large"


def test_a_picture_that_is_cut_off_does_not_decode(tmp_path: Path) -> None:
    Image.fromarray(footage.picture(3)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    assert failure(tmp_path / "a.png") == "decode_error"


# --- what stands beside the pictures -------------------------------------------------------------


def test_side_data_that_pyav_does_not_know_is_no_failure(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    data = b""
    for number in range(3):
        Image.fromarray(footage.picture(number)).save(tmp_path / "one.jpg", exif=exif)
        data += (tmp_path / "one.jpg").read_bytes()
    (tmp_path / "raw.mjpeg").write_bytes(data)
    path = tmp_path / "moving.avi"
    footage.ffmpeg_run("-f", "mjpeg", "-i", f"file:{tmp_path / 'raw.mjpeg'}", "-c", "copy", f"file:{path}")
    with av.open(str(path)) as file:  # AV_FRAME_DATA_EXIF
        assert [data.type.value for data in next(file.decode(video=0)).side_data] == [31]
    assert len(list(Media(str(path)).frames())) == 3


def test_a_tag_in_no_known_encoding_is_no_failure(tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "a.mkv", 10, "-metadata", "title=Caf@ noir")
    path.write_bytes(path.read_bytes().replace(b"Caf@", b"Caf\xe9"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert len(Media(str(path)).info.frame_seconds) == 10


# --- pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["cfr.mp4", "turned_90.mp4", "ten_bit.mp4", "changing_size.ts", "animation.gif"]
)
@pytest.mark.parametrize("size", [None, (120, 160), (64, 100)])
def test_luma_is_the_grey_of_the_rgb_picture(
    kinds: dict[str, footage.Made], name: str, size: tuple[int, int] | None
) -> None:
    last = len(kinds[name].numbers) - 1
    for frame in Media(str(kinds[name].path)).frames([2, last]):
        luma = frame.luma(*(size or ()))
        grey = cv2.cvtColor(frame.rgb(*(size or ())), cv2.COLOR_RGB2GRAY)
        assert luma.shape == grey.shape == (size or (frame.height, frame.width))
        # rounding of the conversions, and clipped colours at the edges of the squares
        difference = np.abs(luma.astype(int) - grey)
        assert difference.mean() < 1.5
        assert np.quantile(difference, 0.99) <= 8


@pytest.mark.parametrize("colour_range", ["tv", "pc"])
def test_luma_goes_from_black_to_white_whatever_the_stored_range(tmp_path: Path, colour_range: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (64, 1, 3))
    convert = f"scale=out_range={colour_range}:out_color_matrix=bt601,format=yuv420p"
    options = ("-vf", convert, "-color_range", colour_range, "-qp", "0")
    path = footage.encode(tmp_path / "ramp.mp4", [ramp] * 3, *options)
    luma = next(Media(str(path)).frames([1])).luma()
    assert np.abs(luma.astype(int) - ramp[..., 0]).max() <= 2


@pytest.mark.parametrize(
    ("pixels", "name"), [("yuv420p10le", "a.mkv"), ("yuv422p12le", "a.mkv"), ("uyvy422", "a.mov")]
)
def test_luma_does_not_depend_on_the_pixel_format(tmp_path: Path, pixels: str, name: str) -> None:
    def luma(path: Path, pixels: str) -> np.ndarray:
        codec = ("-pix_fmt", pixels, "-c:v", "ffv1" if path.suffix == ".mkv" else "rawvideo")
        path = footage.encode(path, [footage.picture(3)] * 2, codec=codec)
        return next(Media(str(path)).frames([1])).luma().astype(int)

    assert np.abs(luma(tmp_path / name, pixels) - luma(tmp_path / "whole.mkv", "yuv444p")).mean() < 1


def test_a_smaller_picture_is_averaged_over_areas(kinds: dict[str, footage.Made]) -> None:
    frame = next(Media(str(kinds["cfr.mp4"].path)).frames([7]))
    blocks = frame.rgb().reshape(60, 4, 80, 4, 3).mean(axis=(1, 3))
    assert np.abs(frame.rgb(60, 80) - blocks).max() <= 1
    assert frame.rgb(480, 640).shape == (480, 640, 3)
    assert footage.number_in(frame.rgb(480, 640)) == 7


def test_one_frame_serves_many_threads_at_once(kinds: dict[str, footage.Made]) -> None:
    path = str(kinds["ten_bit.mp4"].path)
    expected = pictures_of(Media(path))

    def ask(frame_and_size: tuple) -> np.ndarray:  # type: ignore[type-arg]
        frame, size = frame_and_size
        return frame.rgb() if size is None else frame.luma(*size)

    with ThreadPoolExecutor(8) as threads:
        for frame in Media(path).frames():
            asked = [(frame, size) for size in (None, (120, 160), None, (90, 90)) * 4]
            answers = list(threads.map(ask, asked, timeout=30))
            for answer in answers[::2]:
                assert np.array_equal(answer, expected[frame.index])
            assert {answer.shape for answer in answers[1::2]} == {(120, 160), (90, 90)}


@pytest.mark.parametrize(
    "size, limits, expected",
    [
        ((1080, 1920), {"short": 360}, (360, 640)),
        ((1920, 1080), {"short": 360}, (640, 360)),
        ((1080, 1920), {"long": 512}, (288, 512)),
        ((100, 200), {"short": 360}, (100, 200)),
        ((1, 8000), {"long": 100}, (1, 100)),
    ],
)
def test_fit_shrinks_and_never_enlarges(
    size: tuple[int, int], limits: dict[str, int], expected: tuple[int, int]
) -> None:
    assert fit(*size, **limits) == expected


# --- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["", "   ", "a\0b.mp4", "bad\udcff.mp4", "http://127.0.0.1:9/a.mp4", "concat:a.ts|b.ts",
             "data:video/mp4;base64,AAAA", "subfile,,start,0,end,9,,:/etc/passwd", "x" * 5000],
)  # fmt: skip
def test_a_cell_that_is_no_path_of_a_file_is_bad_path(cell: str) -> None:
    assert failure(cell) == "bad_path"


def test_what_stands_at_a_path_has_its_code(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.mp4"))
    codes = {
        "empty.mp4": "empty_file",
        "loop.mp4": "unreadable",
        "dangling.mp4": "missing",
        "absent.mp4": "missing",
        "empty.mp4/inside.mp4": "missing",
        "device.mp4": "not_a_file",
        "pipe.mp4": "not_a_file",
        "socket.mp4": "not_a_file",
        ".": "not_a_file",
    }
    assert {name: failure(tmp_path / name) for name in codes} == codes


def test_nothing_outside_the_root_is_read(kinds: dict[str, footage.Made], tmp_path: Path) -> None:
    outside = kinds["cfr.mp4"].path
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.mp4").symlink_to(outside)
    inside = root / "inside.mp4"
    inside.write_bytes(outside.read_bytes())
    assert failure(outside, root=str(root)) == "outside_root"
    assert failure(root / "link.mp4", root=str(root)) == "outside_root"
    assert failure(root / ".." / "root" / ".." / outside.name, root=str(root)) in ("outside_root", "missing")
    assert check_path(str(inside), str(root))[0] == os.path.realpath(inside)


@pytest.mark.parametrize(
    "name", ["with space.mp4", "a'b\"c.mp4", "new\nline.mp4", "$(touch x).mp4", "`x`.mp4", "été.mp4", "-dash.mp4",
             "%d.mp4", "a:b,c.mp4", "[1]*?.mp4", "=1+1.mp4", "n" * 251 + ".mp4"],
)  # fmt: skip
def test_any_name_of_a_file_is_read(
    kinds: dict[str, footage.Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(kinds["one_frame.mp4"].path.read_bytes())
    for path in (name, str(tmp_path / name)):
        assert [footage.number_in(f.rgb()) for f in Media(path).frames()] == [9]


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "a.mp4", 5)
    media = Media(str(path))
    media.check_unchanged()
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(MediaError, match="changed"):
        media.check_unchanged()
    path.unlink()
    with pytest.raises(MediaError, match="changed"):
        media.check_unchanged()


# --- real files --------------------------------------------------------------------------------


def test_published_facts_of_real_files(media: Path) -> None:
    facts = {item["file"]: item for item in json.loads((media / "truth/metadata.json").read_text())["items"]}

    def info(name: str):  # type: ignore[no-untyped-def]
        return Media(str(media / "videos" / name)).info

    turned = info("torchcodec__nasa_13013_rotated.mp4")
    displayed = facts["videos/torchcodec__nasa_13013_rotated.mp4"]["displayed"]
    assert f"{turned.width}x{turned.height}" == displayed
    hevc = info("torchcodec__h265_video.mp4")
    assert hevc.frame_seconds[6] == pytest.approx(facts["videos/torchcodec__h265_video.mp4"]["frame_6_pts"])
    av1 = info("torchcodec__av1_video.mkv")
    assert av1.frame_seconds[10] == pytest.approx(facts["videos/torchcodec__av1_video.mkv"]["frame_10_pts"])
    first, step = (facts["videos/torchcodec__discard_first_keyframe.mp4"][key]
                   for key in ("first_output_pts", "frame_duration"))  # fmt: skip
    discarding = info("torchcodec__discard_first_keyframe.mp4").frame_seconds
    assert discarding[:2] == pytest.approx([first, first + step])
    counter = facts["videos/pyscenedetect__counter.mp4"]
    found = info("pyscenedetect__counter.mp4")
    assert (len(found.frame_seconds), found.fps, found.duration) == pytest.approx(
        (counter["frames"], counter["fps"], counter["duration_s"])
    )


def test_frame_counts_and_sizes_of_real_files_are_those_of_the_manifest(media: Path) -> None:
    with open(media / "MANIFEST.csv", newline="", encoding="utf-8") as file:
        listed = [row for row in csv.DictReader(file) if row["kind"] == "video" and row["frames"]]
    small = [row for row in listed if int(row["bytes"]) < 3_000_000]
    assert len(small) > 10
    # the manifest counts packets: five of these are there to be decoded from, and not shown
    hidden = {"videos/torchcodec__discard_first_keyframe.mp4": 5}
    # and describes the first of two streams, where players show the other
    best = {"videos/torchcodec__nasa_13013.mp4": (390, 270, 480)}
    wrong = {}
    for row in small:
        info = Media(str(media / row["file"])).info
        size = (int(row["height"]), int(row["width"]))
        turned = any(turn % 180 for turn in json.loads(row["rotation"] or "[]"))
        expected = (int(row["frames"]) - hidden.get(row["file"], 0), *(size[::-1] if turned else size))
        found = (len(info.frame_seconds), info.height, info.width)
        if found != best.get(row["file"], expected):
            wrong[row["file"]] = (found, expected)
    assert wrong == {}


# --- made small, in several threads ------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grouped") / "a.mp4"
    return footage.numbered(path, 400, "-g", "40", codec=footage.B_FRAMES)


def decoding_threads() -> int:
    return sum(t is not threading.main_thread() for t in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_frames_come_in_order_whatever_the_threads(grouped: Path, threads: int) -> None:
    pairs = list(Media(str(grouped)).shrunk(lambda frame: frame.rgb(), threads))
    assert [index for index, _ in pairs] == list(range(400))
    assert [footage.number_in(picture) for _, picture in pairs] == list(range(400))


@pytest.mark.parametrize("threads", [1, 3])
def test_only_frames_that_are_needed_are_sure_to_come(grouped: Path, threads: int) -> None:
    needed = np.zeros(400, bool)
    needed[90:110] = True
    pairs = dict(Media(str(grouped)).shrunk(lambda frame: frame.rgb(), threads, needed))
    assert set(range(90, 110)) <= set(pairs)
    assert len(pairs) < 350
    assert all(footage.number_in(picture) == index for index, picture in pairs.items())
    pairs = dict(Media(str(grouped)).shrunk(lambda frame: frame.rgb(), threads, needed, range(95, 205)))
    assert set(range(95, 110)) <= set(pairs) <= set(range(95, 205))


def test_no_thread_stays_when_an_end_is_made(grouped: Path) -> None:
    before = decoding_threads()

    def fails(frame: Frame) -> np.ndarray:
        if frame.index == 130:
            raise ValueError("spoilt")
        return frame.luma()

    with pytest.raises(ValueError, match="spoilt"):
        list(Media(str(grouped)).shrunk(fails, 3))
    begun = Media(str(grouped)).shrunk(lambda frame: frame.luma(), 3)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert decoding_threads() == before
