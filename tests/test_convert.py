"""convert: which files of a folder become rows, in which order, and what is said about the others."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from clipsheet import tables
from clipsheet.engine.steps import run_step
from clipsheet.errors import CallError, ClipsheetError, MediaError
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from pipeline.datasets.convert import Convert
from pipeline.datasets.filetypes import look
from tests import footage, heif
from tests.conftest import Tool, read_table
from tests.test_tables import without_privileges

ODD_NAMES = [
    *("a b.mp4", "it's.mp4", 'say "hi".mp4', "line\nbreak.mp4", "return\rhere.mp4", "$(touch x).mp4"),
    "`touch x`.mp4",
    *("-dash.mp4", "%d.mp4", "co:lon.mp4", "com,ma.mp4", "[1].mp4", "*.mp4", "=1+1.mp4", "日本.mp4"),
    *("👩.mp4", "~.mp4", "http:.mp4"),
    *("NA.mp4", "null.mp4", "007.mp4", "1e5.mp4", "a.b.c.mp4", "u\u2028s.mp4", "x" * 251 + ".mp4"),
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root: Path | str, kind: str = "video", workers: int = 0) -> tuple[Status, list[dict[str, str]]]:
    """What convert says of a folder, and the rows of its table."""
    output = Path(root).parent / "out" / "meta.csv"
    status = run_step([], Convert(str(root), kind), RunOptions(output=str(output), num_workers=workers))
    return status, read_table(output)


def relpaths(root: Path, kind: str = "video") -> list[str]:
    return [row["relpath"] for row in listed(root, kind)[1]]


def failed(root: Path) -> list[dict[str, str]]:
    path = root.parent / "out" / "meta_failed.csv"
    return read_table(path) if path.exists() else []


# --- rows --------------------------------------------------------------------------------------


def test_a_row_is_path_id_and_relpath(root: Path) -> None:
    touch(root, "one.mp4", "sub/deep/two.MKV")
    status, rows = listed(root)
    assert rows == [
        {"path": f"{root}/one.mp4", "id": "one", "relpath": "one.mp4"},
        {"path": f"{root}/sub/deep/two.MKV", "id": "two", "relpath": "sub/deep/two.MKV"},
    ]
    assert list(rows[0]) == ["path", "id", "relpath"]
    assert status.exit_code == 0
    assert status.line().startswith("convert: 2 rows in ")


def test_rows_are_sorted_by_relpath_and_the_same_each_time(root: Path) -> None:
    names = ["b.mp4", "a/z.mp4", "a.mp4", "B.mp4", "a-b.mp4", "a/y/c.mkv", "10.mp4", "9.mp4", "é.mp4"]
    touch(root, *names)
    assert relpaths(root) == sorted(names)
    before = (root.parent / "out" / "meta.csv").read_bytes()
    moved = root.parent / "elsewhere"
    touch(moved, *reversed(names))
    shutil.rmtree(root)
    moved.rename(root)
    assert relpaths(root) == sorted(names)
    assert (root.parent / "out" / "meta.csv").read_bytes() == before


def test_every_odd_name_is_a_row_byte_for_byte(root: Path) -> None:
    touch(root, *ODD_NAMES)
    rows = listed(root)[1]
    assert [row["relpath"] for row in rows] == sorted(ODD_NAMES)
    assert [row["id"] for row in rows] == [name.removesuffix(".mp4") for name in sorted(ODD_NAMES)]
    assert all(os.path.exists(row["path"]) for row in rows)
    again = tables.read(root.parent / "out" / "meta.csv")
    assert again["path"].tolist() == [row["path"] for row in rows]
    assert not list(root.parent.rglob("x"))


def test_composed_and_decomposed_names_are_two_files(root: Path) -> None:
    names = [unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD")]
    touch(root, *names)
    assert relpaths(root) == sorted(names)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_relative_root_gives_relative_paths(
    root: Path, monkeypatch: pytest.MonkeyPatch, slash: str
) -> None:
    touch(root, "a.mp4")
    monkeypatch.chdir(root.parent)
    run_step([], Convert(f"videos{slash}"), RunOptions(output=str(Path("meta.csv"))))
    assert read_table(Path("meta.csv")) == [{"path": "videos/a.mp4", "id": "a", "relpath": "a.mp4"}]


def test_parquet_holds_the_same_rows(root: Path) -> None:
    touch(root, "007.mp4", "8.mp4", "sub/NA.mp4")
    rows = listed(root)[1]
    output = root.parent / "meta.parquet"
    run_step([], Convert(str(root)), RunOptions(output=str(output)))
    frame = tables.read(output)
    assert {name: frame[name].tolist() for name in frame} == {k: [row[k] for row in rows] for k in rows[0]}


def test_an_empty_folder_is_a_table_of_a_header(root: Path) -> None:
    status, rows = listed(root)
    assert rows == []
    assert status.exit_code == 0
    assert (root.parent / "out" / "meta.csv").read_text() == "path,id,relpath\n"


# --- which files -------------------------------------------------------------------------------


def test_videos_and_pictures_are_told_by_their_endings(root: Path) -> None:
    touch(root, "a.mp4", "b.WebM", "c.gif", "d.jpg", "e.PNG", "f.txt", "g.csv", "h.mp3", "i.mp4.part")
    assert relpaths(root, "video") == ["a.mp4", "b.WebM", "c.gif"]
    assert relpaths(root, "image") == ["d.jpg", "e.PNG"]


def test_a_file_of_unknown_ending_is_looked_into(root: Path) -> None:
    footage.numbered(root / "film.mp4", 5).rename(root / "film")
    shutil.copy(root / "film", root / "film.xyz")
    cv2.imwrite(str(root / "picture.png"), footage.picture(1))
    (root / "picture.png").rename(root / "picture")
    touch(root, "empty")
    (root / "words.abc").write_text("no video")
    os.mkfifo(root / "pipe")
    rows = listed(root, workers=1)[1]
    assert [row["relpath"] for row in rows] == ["film", "film.xyz"]


# --- pictures and animations -------------------------------------------------------------------


def test_animations_are_videos_and_pictures_are_none_whatever_the_ending(root: Path) -> None:
    image = footage.picture(1)
    for name in ("still.png", "still.webp", "still.avif", "still.apng"):
        Image.fromarray(image).save(root / name, "PNG" if name.endswith("png") else None)
    heif.write_grid(root / "still.heic", image, tile=128)
    shutil.copy(root / "still.heic", root / "still.heif")
    footage.apng(root / "moving.png")
    shutil.copy(root / "moving.png", root / "moving.apng")
    footage.webp(root / "moving.webp")
    footage.gif(root / "moving.gif")
    footage.motion_jpeg(root / "moving.mjpeg")
    coder = ("-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p")
    footage.numbered(root / "moving.avif", 3, codec=coder)
    stills = sorted(path.name for path in root.glob("still.*"))
    assert relpaths(root, "image") == stills
    assert relpaths(root, "video") == sorted(path.name for path in root.glob("moving.*"))
    for path in list(root.iterdir()):  # without an ending they are opened
        path.rename(root / path.name.replace(".", "_"))
    assert relpaths(root, "image") == [name.replace(".", "_") for name in stills]
    assert len(relpaths(root, "video")) == 6
    assert failed(root) == []


def test_what_has_the_name_of_a_picture_and_cannot_be_read_is_a_row_for_the_next_tool(root: Path) -> None:
    touch(root, "empty.webp", "empty.png", "empty.apng")
    (root / "text.heic").write_text("no picture")
    (root / "dangling.avif").symlink_to("absent.avif")
    os.mkfifo(root / "pipe.png")
    (root / "zero.webp").symlink_to("/dev/zero")
    images = ["dangling.avif", "empty.png", "empty.webp", "pipe.png", "text.heic", "zero.webp"]
    assert relpaths(root, "image") == images
    assert relpaths(root, "video") == ["empty.apng"]


def test_ogg_is_listed_where_it_holds_video(root: Path) -> None:
    footage.numbered(root / "video.ogg", 5, codec=("-c:v", "libtheora"))
    footage.ffmpeg_run("-f", "lavfi", "-i", "sine=d=1", "-c:a", "libvorbis", f"file:{root / 'sound.ogg'}")
    assert relpaths(root) == ["video.ogg"]


# --- what looks like a video and is not read ---------------------------------------------------

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
PLAYLISTS = {
    "a.m3u8": HLS, "hls.mp4": HLS, "hls": HLS, "hls.mkv": f"\ufeff{HLS}",
    "a.ffconcat": "ffconcat version 1.0\nfile 'a.mp4'\n",
    "concat": "ffconcat version 1.0\nfile 'a.mp4'\n", "a.sdp": SDP, "session": SDP,
    "a.mpd": '<?xml version="1.0"?>\n<!-- x --><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
}  # fmt: skip


def refusals(root: Path, kind: str = "video") -> dict[str, str]:
    """The code of every file that is not listed, and a check of what is said about them."""
    status, rows = listed(root, kind, workers=1)
    found = {row["path"]: row["code"] for row in failed(root)}
    assert not {row["relpath"] for row in rows} & set(found)
    assert (status.exit_code, status.failed_rows) == (0, len(found))
    assert not found or f"{len(found)} failed (" in status.line()
    assert all(row["detail"] or row["code"] == "empty_file" for row in failed(root))
    return found


def test_a_playlist_is_named_with_its_reason(root: Path) -> None:
    for name, text in PLAYLISTS.items():
        (root / name).write_text(text, encoding="utf-8")
    assert refusals(root) == dict.fromkeys(PLAYLISTS, "format_not_allowed")
    for row in failed(root):
        assert (
            "playlist" in row["detail"]
            or "script" in row["detail"]
            or "SDP" in row["detail"]
            or ("manifest" in row["detail"])
        )


def test_a_video_in_a_format_that_is_not_read_is_named_with_its_reason(root: Path) -> None:
    footage.numbered(root / "a.wtv", 5, codec=("-c:v", "mpeg2video"))
    shutil.copy(root / "a.wtv", root / "recording")
    small = ("-vf", "scale=256:128", "-c:v", "roqvideo")
    footage.numbered(root / "a.roq", 5, fps=30, codec=small)
    footage.numbered(root / "a.avi", 5, codec=("-c:v", "asv1"))
    (root / "a.avi").rename(root / "unread_codec")
    data = footage.numbered(root / "whole.mp4", 20).read_bytes()
    (root / "cut_off").write_bytes(data[: len(data) // 2])
    (root / "text.bik").write_text("no video at all")
    touch(root, "empty.swf")
    assert refusals(root) == {
        "a.wtv": "format_not_allowed", "recording": "format_not_allowed", "a.roq": "format_not_allowed",
        "unread_codec": "format_not_allowed", "cut_off": "corrupt", "text.bik": "corrupt", "empty.swf": "empty_file",
    }  # fmt: skip
    assert relpaths(root) == ["whole.mp4"]
    details = {row["path"]: row["detail"] for row in failed(root)}
    assert details["recording"].startswith("wtv: ")
    assert "asv1" in details["unread_codec"]


def test_a_file_that_is_named_like_an_unread_format_but_is_read_is_listed(root: Path) -> None:
    footage.numbered(root / "a.mp4", 5).rename(root / "really_mp4.wtv")
    assert relpaths(root) == ["really_mp4.wtv"]
    assert failed(root) == []


def test_text_documents_programs_and_sound_are_no_videos(root: Path) -> None:
    (root / "readme").write_text("just words\n" * 40)
    (root / "subtitles").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    (root / "script").write_text("#!/bin/sh\nexec true\n")
    (root / "page").write_text("<!doctype html><html><body>no</body></html>")
    (root / "paper").write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 40)
    shutil.copy(sys.executable, root / "program")
    for name in ("a.m4a", "a.wav", "a.flac", "a.mp3"):
        footage.ffmpeg_run("-f", "lavfi", "-i", "sine=d=1", f"file:{root / name}")
        shutil.copy(root / name, root / name.replace(".", "_"))
    rng = np.random.default_rng(0)
    for number in range(60):
        (root / f"random_{number}").write_bytes(rng.bytes(int(rng.integers(10, 20_000))))
    assert refusals(root) == {}
    assert relpaths(root) == []
    assert refusals(root, "image") == {}


def test_a_picture_in_a_format_that_is_not_read_is_named_with_its_reason(root: Path) -> None:
    image = Image.fromarray(footage.picture(1))
    image.save(root / "a.jp2")
    shutil.copy(root / "a.jp2", root / "scan")
    image.save(root / "photo.nef", "TIFF", tiffinfo={254: 1})
    (root / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"></svg>')
    (root / "a.psd").write_bytes(b"nothing")
    found = refusals(root, "image")
    assert found.pop("a.psd") == "corrupt"
    assert found == dict.fromkeys(["a.jp2", "scan", "photo.nef", "a.svg"], "format_not_allowed")
    assert refusals(root, "video") == {}


def test_a_file_that_may_not_be_read_is_unreadable(root: Path) -> None:
    footage.numbered(root / "a.mp4", 5).rename(root / "closed")
    (root / "closed").chmod(0)
    with without_privileges(), pytest.raises(MediaError, match="unreadable"):
        look(str(root / "closed"))


# --- folders -----------------------------------------------------------------------------------


def test_hidden_files_and_folders_are_left_out(root: Path) -> None:
    touch(root, "a.mp4", ".b.mp4", ".git/c.mp4", "sub/.d.mp4", "sub/e.mp4")
    assert relpaths(root) == ["a.mp4", "sub/e.mp4"]
    assert failed(root) == []


def test_what_cannot_be_a_file_but_is_named_like_a_video_is_a_row_for_the_next_tool(root: Path) -> None:
    touch(root, "a.mp4")
    (root / "folder.mp4").mkdir()
    os.mkfifo(root / "pipe.mp4")
    (root / "dangling.mp4").symlink_to("absent.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "zero.mp4").symlink_to("/dev/zero")
    assert relpaths(root) == ["a.mp4", "dangling.mp4", "folder.mp4", "loop.mp4", "pipe.mp4", "zero.mp4"]


def test_links_without_an_ending_that_lead_nowhere_are_no_videos(root: Path) -> None:
    touch(root, "a.mp4")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("absent")
    assert relpaths(root) == ["a.mp4"]


def test_a_folder_named_like_a_video_is_searched(root: Path) -> None:
    touch(root, "show.mp4/part1.mp4")
    assert relpaths(root) == ["show.mp4/part1.mp4"]


def test_links_to_folders_are_followed_each_folder_once(root: Path) -> None:
    touch(root, "a/x.mp4")
    touch(root.parent / "outside", "y.mp4")
    (root / "a" / "up").symlink_to("..")
    (root / "b").symlink_to(root.parent / "outside")
    (root / "c").symlink_to(root.parent / "outside")
    assert relpaths(root) == ["a/x.mp4", "b/y.mp4"]


def test_folders_may_be_nested_deeper_than_python_calls(root: Path) -> None:
    folders = [root]
    for _ in range(1500):
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    try:
        (folders[-1] / "a.mp4").touch()
        (folders[-1] / "empty.mp4").mkdir()
        below = "d/" * 1500
        assert relpaths(root) == [f"{below}a.mp4", f"{below}empty.mp4"]
    finally:  # shutil.rmtree calls itself, too
        (folders[-1] / "a.mp4").unlink()
        (folders[-1] / "empty.mp4").rmdir()
        for folder in reversed(folders[1:]):
            folder.rmdir()


def test_links_to_files_are_rows(root: Path) -> None:
    touch(root.parent, "y.mp4")
    (root / "link.mp4").symlink_to("../y.mp4")
    assert relpaths(root) == ["link.mp4"]


def test_the_output_may_stand_in_the_folder(root: Path) -> None:
    touch(root, "a.mp4")
    for _ in range(2):
        run_step([], Convert(str(root)), RunOptions(output=str(root / "meta.csv")))
        assert [row["relpath"] for row in read_table(root / "meta.csv")] == ["a.mp4"]


# --- what cannot be listed ---------------------------------------------------------------------


def test_a_name_that_is_not_utf8_is_told_of_and_not_a_row(root: Path) -> None:
    touch(root, "a.mp4")
    (root / os.fsdecode(b"caf\xe9.mp4")).touch()
    (root / os.fsdecode(b"\xff")).mkdir()
    touch(root / os.fsdecode(b"\xff"), "b.mp4")
    status, rows = listed(root)
    assert [row["relpath"] for row in rows] == ["a.mp4"]
    assert [(row["path"], row["scorer"], row["code"]) for row in failed(root)] == [
        ("caf\\xe9.mp4", "convert", "bad_path"),
        ("\\xff", "convert", "bad_path"),
    ]
    assert failed(root)[0]["detail"] == "the name is not UTF-8"
    assert (status.exit_code, status.failed_rows) == (0, 2)
    assert "2 failed (2 convert: bad_path)" in status.line()


def test_a_folder_below_that_cannot_be_read_is_told_of(root: Path) -> None:
    touch(root, "a.mp4", "closed/b.mp4")
    (root / "closed").chmod(0)
    with without_privileges():
        rows = listed(root)[1]
    (root / "closed").chmod(0o700)
    assert [row["relpath"] for row in rows] == ["a.mp4"]
    assert [(row["path"], row["code"], row["detail"]) for row in failed(root)] == [
        ("closed", "unreadable", "Permission denied")
    ]
    assert relpaths(root) == ["a.mp4", "closed/b.mp4"]
    assert failed(root) == [], "what was told of an earlier run is gone"


def test_a_root_that_cannot_be_read_is_an_error_and_leaves_no_table(root: Path) -> None:
    root.chmod(0)
    with without_privileges(), pytest.raises(CallError, match="cannot be read: Permission denied") as caught:
        listed(root)
    root.chmod(0o700)
    assert caught.value.exit_code == 2
    assert not (root.parent / "out" / "meta.csv").exists()


@pytest.mark.parametrize("name", ["absent", "file.mp4", "absent\nfolder"])
def test_a_root_that_is_no_folder_is_an_error(root: Path, name: str) -> None:
    touch(root, "file.mp4")
    with pytest.raises(CallError, match="no such folder") as caught:
        listed(root / name)
    assert caught.value.exit_code == 2


def test_a_root_whose_name_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    touch(root, "a.mp4")
    with pytest.raises(CallError, match=r"caf\\xe9: the folder's name is not UTF-8"):
        run_step([], Convert(str(root)), RunOptions(output=str(tmp_path / "meta.csv")))


def test_a_url_needs_a_folder_to_copy_to(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="give --download FOLDER"):
        run_step([], Convert("s3://bucket/videos"), RunOptions(output=str(tmp_path / "meta.csv")))


def test_a_folder_needs_no_download(root: Path) -> None:
    with pytest.raises(CallError, match="--download copies the files of a URL"):
        run_step([], Convert(str(root), download="copy"), RunOptions(output=str(root.parent / "meta.csv")))


def test_the_files_of_a_url_are_copied_and_listed(root: Path) -> None:
    touch(root, "b.mp4", "sub/a.mp4")
    (root / "b.mp4").write_bytes(b"content")
    copy = root.parent / "copy"
    output = root.parent / "meta.csv"
    for _ in range(2):
        run_step([], Convert(f"file://{root}", download=str(copy)), RunOptions(output=str(output)))
        assert [row["path"] for row in read_table(output)] == [f"{copy}/b.mp4", f"{copy}/sub/a.mp4"]
    assert (copy / "b.mp4").read_bytes() == b"content"


def test_a_url_of_an_unknown_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"nosuch://x"):
        run_step(
            [],
            Convert("nosuch://x", download=str(tmp_path / "copy")),
            RunOptions(output=str(tmp_path / "meta.csv")),
        )


def test_another_ending_of_the_output_is_an_error_before_anything_is_written(root: Path) -> None:
    with pytest.raises(ClipsheetError, match=r"a table ends in \.csv or \.parquet") as caught:
        run_step([], Convert(str(root)), RunOptions(output=str(root.parent / "meta.txt")))
    assert caught.value.exit_code == 2
    assert not (root.parent / "meta.txt").exists()


# --- lists -------------------------------------------------------------------------------------


def from_json(folder: Path, entries: object) -> list[dict[str, str]]:
    source = folder / "list.json"
    source.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    run_step([], Convert(str(source), from_json=True), RunOptions(output=str(folder / "meta.csv")))
    return read_table(folder / "meta.csv")


def test_a_json_list_of_paths_keeps_its_order_and_its_empty_paths(tmp_path: Path) -> None:
    paths = ["/data/b.mp4", "a.mp4", "", "  ", "/data/b.mp4", "http://x/y.mp4"]
    rows = from_json(tmp_path, paths)
    assert [row["path"] for row in rows] == paths
    assert rows[0] == {"path": "/data/b.mp4", "id": "b", "relpath": "data/b.mp4"}


def test_a_json_list_of_objects_keeps_their_columns(tmp_path: Path) -> None:
    rows = from_json(
        tmp_path,
        [
            {"path": "a.mp4", "text": "NA", "n": 5, "x": 0.5, "ok": True, "none": None, "boxes": [{"é": 1}]},
            {"caption": "a, b\n", "path": "b.mp4", "id": "007", "n": 12345678901234567890},
            "c.mp4",
        ],
    )
    empty = dict.fromkeys(["text", "n", "x", "ok", "none", "boxes", "caption"], "")
    assert rows == [
        {"path": "a.mp4", "id": "a", "relpath": "a.mp4"} | empty
        | {"text": "NA", "n": "5", "x": "0.5", "ok": "true", "boxes": '[{"é": 1}]'},
        {"path": "b.mp4", "id": "007", "relpath": "b.mp4"} | empty
        | {"n": "12345678901234567890", "caption": "a, b\n"},
        {"path": "c.mp4", "id": "c", "relpath": "c.mp4"} | empty,
    ]  # fmt: skip


def test_an_empty_json_list_is_a_table_of_a_header(tmp_path: Path) -> None:
    assert from_json(tmp_path, "\ufeff[]") == []
    assert (tmp_path / "meta.csv").read_text() == "path,id,relpath\n"


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ('{"path": "a"}', "a JSON list of paths or of objects is needed"),
        ("[1]", "entry 0 is no path"),
        ('["a", {"file": "b"}]', "entry 1 is no path and has no `path`"),
        ('["a", {"path": 7}]', "entry 1 is no path"),
        ('["a", null]', "entry 1 is no path"),
        ('["a", "b\\u0000c"]', "entry 1: b\\x00c holds what no table can hold"),
        ('[{"path": "a", "text": "\\ud800"}]', "entry 0: \\ud800 holds what no table can hold"),
        ("[" * 100_000, "nested too deep"),
        ('["a", ' + "9" * 5000 + "]", "not JSON"),
        ('[{"path": "a", "Path": "b"}]', "two columns of one name: `path` and `Path`"),
        ('[{"path": "a", "x": 1}, {"path": "a", "x ": 1}]', "two columns of one name: `x` and `x `"),
    ],
)
def test_a_list_that_gives_no_table_is_an_error(tmp_path: Path, entries: str, told: str) -> None:
    with pytest.raises(CallError) as caught:
        from_json(tmp_path, entries)
    assert told in str(caught.value)
    assert "list.json" in str(caught.value)
    assert not (tmp_path / "meta.csv").exists()


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"absent\.json: No such file"):
        run_step(
            [],
            Convert(str(tmp_path / "absent.json"), from_json=True),
            RunOptions(output=str(tmp_path / "meta.csv")),
        )


# --- as a user runs it -------------------------------------------------------------------------


def test_the_program_lists_a_folder_and_says_so_in_one_line(root: Path, tool: Tool) -> None:
    touch(root, "b.mp4", "$(touch x).png", "c.jpg")
    output = root.parent / "meta.csv"
    done = tool("pipeline.datasets.convert", "image", root, "--output", output, "--num-workers", 1)
    assert [row["relpath"] for row in read_table(output)] == ["$(touch x).png", "c.jpg"]
    assert done.stdout.startswith("convert: 2 rows in ")
    assert done.stdout.endswith(f" s -> {output}\n")
    assert json.loads((root.parent / "meta_status.json").read_text())["exit"] == 0
    assert not list(root.parent.rglob("x"))


def test_the_program_ends_with_2_where_there_is_no_folder(tmp_path: Path, tool: Tool) -> None:
    output = tmp_path / "meta.csv"
    done = tool("pipeline.datasets.convert", "video", tmp_path / "absent", "--output", output, code=2)
    assert done.stderr == f"error: {tmp_path}/absent: no such folder\n"
    assert not output.exists()
    assert json.loads((tmp_path / "meta_status.json").read_text())["exit"] == 2
