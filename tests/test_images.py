"""Pictures and animations: which of both a file is, and that its pixels and times are those a viewer shows."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from clipsheet.errors import MediaError
from clipsheet.media import Media
from clipsheet.media.images import signature
from tests import footage, heif
from tests.conftest import REPO

UNEQUAL_MS = [100, 40, 300]
SEQUENCE_CODER = (
    "-c:v",
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "log-level=none",
    "-pix_fmt",
    "yuv420p",
)


def failure(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        Media(str(path))
    return caught.value.code


def rgb(path: Path) -> np.ndarray:
    """The pixels of a picture."""
    media = Media(str(path))
    assert media.info.is_image
    frame, *more = media.frames()
    assert not more
    return frame.rgb()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a WebP file (RFC 9649, 2.3)."""
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


def webp(path: Path, size: tuple[int, int], frames: Sequence[tuple[np.ndarray, int, int, int, int]]) -> Path:
    """Write an animation.

    Args:
        size: width and height of the canvas.
        frames: [H, W, 3 or 4] uint8 pictures, left and top (even), milliseconds, and flags: 1 clears the
            frame's place behind it, 2 replaces what is there instead of blending with it.
    """
    body = chunk(b"VP8X", bytes([0x12, 0, 0, 0]) + three(size[0] - 1) + three(size[1] - 1))
    body += chunk(b"ANIM", struct.pack("<IH", 0xFF00FF00, 0))
    for image, left, top, milliseconds, flags in frames:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "WEBP", lossless=True, exact=True)
        coded = file.getvalue()
        sides = three(image.shape[1] - 1) + three(image.shape[0] - 1)
        place = three(left // 2) + three(top // 2) + sides + three(milliseconds) + bytes([flags])
        body += chunk(b"ANMF", place + coded[coded.index(b"VP8L") :])
    path.write_bytes(chunk(b"RIFF", b"WEBP" + body))
    return path


def numbered_webp(path: Path, count: int = 12, milliseconds: Sequence[int] = UNEQUAL_MS) -> Path:
    size = (footage.WIDTH, footage.HEIGHT)
    shown = [milliseconds[n % len(milliseconds)] for n in range(count)]
    return webp(path, size, [(footage.picture(n), 0, 0, shown[n], 2) for n in range(count)])


def saved(path: Path, image: np.ndarray, **how: object) -> Path:
    Image.fromarray(image).save(path, **how)  # type: ignore[arg-type]
    return path


# --- animated WebP -----------------------------------------------------------------------------


def test_an_animated_webp_is_a_video_of_its_frames_at_their_times(tmp_path: Path) -> None:
    media = Media(str(numbered_webp(tmp_path / "a.webp")))
    assert not media.info.is_image
    assert media.info.codec == "webp"
    assert [footage.number_in(frame.rgb()) for frame in media.frames()] == list(range(12))
    begins = np.cumsum([0, *UNEQUAL_MS * 4]) / 1000
    assert media.info.frame_seconds == pytest.approx(begins[:-1])
    assert media.info.duration == pytest.approx(begins[-1])
    assert media.info.fps == pytest.approx(12 / 1.76)
    pairs = dict(media.shrunk(lambda frame: frame.rgb(), 3, wanted=[2, 9]))
    assert {index: footage.number_in(picture) for index, picture in pairs.items()} == {2: 2, 9: 9}


def test_a_frame_of_ten_milliseconds_or_less_lasts_a_hundred_as_in_browsers(tmp_path: Path) -> None:
    info = Media(str(numbered_webp(tmp_path / "a.webp", 4, [0, 10, 11, 0]))).info
    assert info.frame_seconds == pytest.approx([0, 0.1, 0.2, 0.211])
    assert info.duration == pytest.approx(0.311)


def test_parts_of_the_canvas_are_blended_and_cleared_as_the_format_says(tmp_path: Path) -> None:
    ground = footage.picture(3)
    height, width = ground.shape[:2]
    patch = np.full((40, 60, 4), (200, 30, 60, 255), np.uint8)
    hole = patch.copy()
    hole[:, 30:, 3] = 0
    frames = [
        (ground, 0, 0, 50, 2),
        (hole, 20, 10, 50, 0),  # blended: its transparent half shows the ground
        (hole, 100, 50, 50, 1 | 2),  # replaces, then is cleared
        (patch, 200, 150, 50, 0),
    ]
    path = webp(tmp_path / "a.webp", (width, height), frames)
    blended = ground.copy()
    blended[10:50, 20:50] = patch[0, 0, :3]
    replaced = blended.copy()
    replaced[50:90, 100:130] = patch[0, 0, :3]
    replaced[50:90, 130:160] = hole[0, 40, :3]  # transparent: its colour, as for every picture with alpha
    cleared = blended.copy()
    cleared[50:90, 100:160] = 0
    cleared[150:190, 200:260] = patch[0, 0, :3]
    media = Media(str(path))
    for frame, expected in zip(media.frames(), [ground, blended, replaced, cleared], strict=True):
        assert np.array_equal(frame.rgb(), expected), frame.index
    for index, expected in ((3, cleared), (1, blended)):
        (frame,) = media.frames([index])
        assert np.array_equal(frame.rgb(), expected)


def test_an_animated_webp_is_decoded_in_constant_memory(tmp_path: Path) -> None:
    """250 frames of 1 megapixel are 750 MB as RGB: with 400 MB more than it starts with, there is no room for all."""
    frames = [(np.full((1000, 1000, 3), n, np.uint8), 0, 0, 40, 2) for n in range(250)]
    path = webp(tmp_path / "a.webp", (1000, 1000), frames)
    program = (
        "import resource, sys; from clipsheet.media import Media\n"
        "Media(sys.argv[1])\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)\n"
        "print([int(f.luma(8, 8)[0, 0]) for f in Media(sys.argv[1]).frames()] == list(range(250)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr


def test_an_animated_webp_that_is_cut_off_does_not_decode(tmp_path: Path) -> None:
    data = numbered_webp(tmp_path / "a.webp").read_bytes()
    for share in (0.05, 0.5, 0.95):
        (tmp_path / "b.webp").write_bytes(data[: int(len(data) * share)])
        assert failure(tmp_path / "b.webp") == "decode_error"


def test_what_follows_a_damaged_frame_is_left_out(tmp_path: Path) -> None:
    data = bytearray(numbered_webp(tmp_path / "a.webp").read_bytes())
    seventh = [i for i in range(len(data)) if data[i : i + 4] == b"ANMF"][6]
    data[seventh + 60 : seventh + 400] = np.random.default_rng(0).bytes(340)
    (tmp_path / "a.webp").write_bytes(data)
    numbers = [footage.number_in(frame.rgb()) for frame in Media(str(tmp_path / "a.webp")).frames()]
    assert numbers == list(range(6))


def test_an_animation_with_a_canvas_of_too_many_pixels_is_refused_before_room_is_made(tmp_path: Path) -> None:
    data = bytearray(numbered_webp(tmp_path / "a.webp").read_bytes())
    data[24:30] = three(16000 - 1) + three(200_000 - 1)
    (tmp_path / "a.webp").write_bytes(data)
    assert failure(tmp_path / "a.webp") == "too_large"


def test_a_frame_of_hours_is_too_long(tmp_path: Path) -> None:
    assert failure(numbered_webp(tmp_path / "a.webp", 2, [40, 4_000_000])) == "too_long"


# --- which of both it is -----------------------------------------------------------------------


def png_with(path: Path, source: Path, kind: bytes, size: int) -> Path:
    """A copy of a PNG with a chunk of that size behind its header."""
    data, body = source.read_bytes(), np.random.default_rng(0).bytes(size)
    extra = struct.pack(">I", size) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data[:33] + extra + data[33:])
    return path


def test_pictures_and_animations_are_told_apart_by_their_first_bytes(tmp_path: Path) -> None:
    image = footage.picture(1)
    apng = footage.numbered(tmp_path / "moving.png", 5, "-f", "apng", codec=("-c:v", "apng"))
    stills = [
        saved(tmp_path / "still.png", image),
        png_with(tmp_path / "still_comment.png", tmp_path / "still.png", b"tEXt", 60_000),
        footage.numbered(tmp_path / "one.png", 1, "-f", "apng", codec=("-c:v", "apng")),
        saved(tmp_path / "still.webp", image),
        saved(
            tmp_path / "lossless.webp",
            np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),
            lossless=True,
        ),
        webp(tmp_path / "one.webp", (320, 240), [(image, 0, 0, 40, 2)]),
        saved(tmp_path / "still.avif", image),
        heif.write_grid(tmp_path / "still.heic", image, tile=128),
        saved(tmp_path / "still.jpg", image),
        saved(tmp_path / "still.tif", image),
        saved(tmp_path / "still.bmp", image),
        saved(tmp_path / "still.ppm", image),
    ]
    moving = [
        apng,
        png_with(tmp_path / "moving_comment.png", apng, b"tEXt", 60_000),
        numbered_webp(tmp_path / "moving.webp", 5),
        footage.numbered(tmp_path / "moving.gif", 5, codec=("-c:v", "gif")),
        footage.numbered(tmp_path / "moving.mjpeg", 5, codec=("-c:v", "mjpeg")),
        sequence(tmp_path / "moving.heics", 5),
    ]
    for path in (*stills, *moving):
        for name in (path, path.with_suffix(".bin")):  # by content, not by name
            name.write_bytes(path.read_bytes())
            media = Media(str(name))
            assert media.info.is_image == signature(str(name)).still == (path in stills), name
            assert len(media.info.frame_seconds) == (1 if path in stills else 5), name
            assert [footage.number_in(frame.rgb()) for frame in media.frames()] == (
                [0 if path.stem == "one" and path.suffix == ".png" else 1]
                if path in stills
                else list(range(5))
            ), name


def test_no_other_file_is_taken_for_a_picture(tmp_path: Path) -> None:
    footage.numbered(tmp_path / "a.mp4", 2)
    footage.numbered(tmp_path / "a.avi", 2, codec=("-c:v", "mjpeg"))
    (tmp_path / "text").write_text("P6 is a word; BM is none\n")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"RIFF")
    for path in tmp_path.iterdir():
        assert not signature(str(path)).still or not signature(str(path)).certain, path
    assert failure(tmp_path / "text") == "corrupt"


def test_of_a_jpeg_that_holds_further_pictures_the_first_is_the_picture(tmp_path: Path) -> None:
    first, second = (Image.fromarray(footage.picture(n)) for n in (7, 8))
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    data = (tmp_path / "phone.jpg").read_bytes()
    assert data.count(b"\xff\xd9\xff\xd8\xff") == 1
    assert footage.number_in(rgb(tmp_path / "phone.jpg")) == 7
    # A preview of another size behind the picture, without an index: still a picture.
    small = io.BytesIO()
    second.resize((160, 120)).save(small, "JPEG")
    saved(tmp_path / "preview.jpg", footage.picture(9))
    with (tmp_path / "preview.jpg").open("ab") as file:
        file.write(small.getvalue())
    assert footage.number_in(rgb(tmp_path / "preview.jpg")) == 9


# --- HEIF and AVIF -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A picture that needs tiles of 512 pixels at all edges."""
    return cv2.resize(footage.picture(5), (1300, 900))


@pytest.mark.parametrize(
    "properties, quarters, mirror",
    [
        ([], 0, None),
        ([heif.turned(1)], 1, None),
        ([heif.turned(3)], 3, None),
        ([heif.mirrored(0)], 0, 0),
        ([heif.turned(1), heif.mirrored(1)], 1, 1),
    ],
)
def test_a_heic_of_tiles_comes_out_whole_turned_and_mirrored(
    tmp_path: Path, photo: np.ndarray, properties: list[bytes], quarters: int, mirror: int | None
) -> None:
    path = heif.write_grid(tmp_path / "a.heic", photo, properties=properties)
    expected = np.rot90(photo, quarters)
    expected = expected if mirror is None else np.flip(expected, mirror)
    found = rgb(path)
    assert found.shape == expected.shape
    assert (Media(str(path)).info.height, Media(str(path)).info.width) == expected.shape[:2]
    assert np.abs(found.astype(int) - expected).mean() < 2  # the loss of HEVC at that quality


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p10le", "gray"])
def test_a_heic_of_other_pixels_is_read(tmp_path: Path, photo: np.ndarray, pixels: str) -> None:
    found = rgb(heif.write_grid(tmp_path / "a.heic", photo, pixels=pixels))
    expected = (
        photo if pixels != "gray" else np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    )
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_a_heic_is_not_turned_twice(tmp_path: Path, photo: np.ndarray) -> None:
    """Cameras write the turn as a property and in Exif; the property alone counts (ISO/IEC 23008-12, A.2.1)."""
    note = Image.Exif()
    note[0x0112] = 6  # clockwise by a quarter
    exif = b"Exif\0\0" + note.tobytes().removeprefix(b"Exif\0\0")
    for properties, quarters in (([heif.turned(3)], 3), ([], 0)):
        path = heif.write_grid(tmp_path / "a.heic", photo, properties=properties, exif=exif)
        assert np.abs(rgb(path).astype(int) - np.rot90(photo, quarters)).mean() < 2


def test_a_still_avif_is_a_picture_turned_as_it_says(tmp_path: Path, photo: np.ndarray) -> None:
    for orientation, quarters in ((1, 0), (6, 3), (8, 1)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / "a.avif", photo, quality=95, exif=exif)
        found = rgb(path)
        assert found.shape == np.rot90(photo, quarters).shape
        assert np.abs(found.astype(int) - np.rot90(photo, quarters)).mean() < 2


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".webp", ".png", ".jpg"])
def test_a_picture_that_is_cut_off_does_not_decode_and_garbage_is_corrupt(
    tmp_path: Path, photo: np.ndarray, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    data = (heif.write_grid(path, photo) if suffix == ".heic" else saved(path, photo)).read_bytes()
    for size in (40, 200, len(data) // 2, len(data) * 95 // 100):
        path.write_bytes(data[:size])
        assert failure(path) == "decode_error", size
    path.write_bytes(np.random.default_rng(1).bytes(20_000))
    assert failure(path) == "corrupt"
    path.write_bytes(b"")
    assert failure(path) == "empty_file"


def test_a_heic_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, photo: np.ndarray) -> None:
    assert failure(heif.write_grid(tmp_path / "a.heic", photo, claimed=(9000, 9000))) == "too_large"


def test_tiles_that_do_not_fill_what_the_header_claims_are_no_picture(
    tmp_path: Path, photo: np.ndarray
) -> None:
    assert failure(heif.write_grid(tmp_path / "a.heic", photo, claimed=(4000, 4000))) == "decode_error"


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_the_thumbnail_of_a_raw_picture_is_no_picture(tmp_path: Path, tags: dict[int, object]) -> None:
    path = saved(tmp_path / "a.dng", footage.picture(1), format="TIFF", tiffinfo=tags)
    assert failure(path) == "format_not_allowed"


# --- sequences in the same container -----------------------------------------------------------


def sequence(path: Path, count: int) -> Path:
    """A HEIF image sequence: the track of an MP4, with the brand and handler that say so."""
    data = footage.numbered(
        path.with_suffix(".mp4"), count, "-tag:v", "hvc1", codec=SEQUENCE_CODER
    ).read_bytes()
    path.write_bytes(data.replace(b"ftypisom", b"ftyphevc", 1).replace(b"vide", b"pict", 1))
    return path


def test_of_an_animated_avif_the_track_is_read_not_the_still_beside_it(tmp_path: Path) -> None:
    coder = ("-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "20", "-pix_fmt", "yuv420p")
    path = footage.numbered(tmp_path / "a.avif", 6, codec=coder)
    assert signature(str(path)).moving
    media = Media(str(path))
    assert [footage.number_in(frame.rgb()) for frame in media.frames()] == list(range(6))
    assert not media.info.is_image


def test_a_sequence_is_a_video(tmp_path: Path) -> None:
    path = sequence(tmp_path / "a.heic", 6)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    media = Media(str(path))
    assert not media.info.is_image
    assert [footage.number_in(frame.rgb()) for frame in media.frames()] == list(range(6))
