"""Captions beside videos: every encoding that says what it is, and a reason for each that cannot be read."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import pytest

from clipsheet.engine.steps import run_step
from clipsheet.errors import CallError
from clipsheet.options import RunOptions
from clipsheet.outcome import Status
from pipeline.datasets.convert import Convert
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import UtilOptions, Verbs
from tests import footage
from tests.conftest import Tool, read_table, write_table

TEXT = "Un chien \u00e0 c\u00f4t\u00e9 \U0001f415, na\u00eff."
BOM16, BOM32 = codecs.BOM_UTF16_LE, codecs.BOM_UTF32_LE
READ = {
    "plain": TEXT.encode(),
    "utf8_bom": codecs.BOM_UTF8 + TEXT.encode() + b"\r\n",
    "utf16_le": BOM16 + TEXT.encode("utf-16-le"),
    "utf16_be": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf32_le": BOM32 + TEXT.encode("utf-32-le"),
    "utf32_be": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
}
EMPTY = {"empty": b"", "spaces": b" \r\n", "only_bom": codecs.BOM_UTF8, "only_bom16": BOM16}
UNREADABLE = {
    "cp1252": b"A dog\x92s \x93best\x94 day",
    "latin1": "caf\u00e9 au lait".encode("latin-1"),
    "utf16_without_mark": "A dog".encode("utf-16-le"),
    "utf16_cut_off": (BOM16 + "A dog".encode("utf-16-le"))[:-1],
    "half_a_character": BOM16 + b"\x3d\xd8",
    "nul": b"A dog\0runs",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "huge": b"word " * 300_000,
}
JSON_READ = {
    "plain": json.dumps({"caption": f" {TEXT} "}).encode(),
    "utf8_bom": codecs.BOM_UTF8 + json.dumps({"caption": TEXT}, ensure_ascii=False).encode(),
    "utf16": BOM16 + json.dumps({"caption": TEXT}, ensure_ascii=False).encode("utf-16-le"),
}
JSON_UNREADABLE = {
    "no_json": b"A dog runs.",
    "cut_off": b'{"caption": "A do',
    "list": b'["A dog"]',
    "number": b'{"caption": 5}',
    "null": b'{"caption": null}',
    "cp1252": b'{"caption": "A dog\x92s day"}',
    "half_a_character": b'{"caption": "\\ud800"}',
    "nul": b'{"caption": "a\\u0000b"}',
    "deep": b'{"caption": ' + b"[" * 100_000,
}


def loaded(
    folder: Path, files: dict[str, bytes], ending: str, **verbs: object
) -> tuple[Status, list[dict[str, str]]]:
    """What datautil says, and its rows, for videos of these names with such files beside them."""
    for name, data in files.items():
        (folder / f"{name}.{ending}").write_bytes(data)
    table = write_table(
        folder / "meta.csv", [{"path": str(folder / f"{name}.mp4"), "id": name} for name in files]
    )
    given = Verbs(load_caption=ending, **verbs)  # type: ignore[arg-type]
    status = datautil([str(table)], given, UtilOptions(output=str(folder / "out.csv")))
    return status, read_table(folder / "out.csv")


def failed(folder: Path) -> dict[str, tuple[str, str, str]]:
    path = folder / "out_failed.csv"
    rows = read_table(path) if path.exists() else []
    return {row["id"]: (row["scorer"], row["code"], row["detail"]) for row in rows}


@pytest.mark.parametrize("ending, files", [("txt", READ), ("json", JSON_READ)])
def test_a_caption_is_read_in_the_encoding_that_its_file_names(
    tmp_path: Path, ending: str, files: dict[str, bytes]
) -> None:
    status, rows = loaded(tmp_path, files, ending)
    assert {row["id"]: row["text"] for row in rows} == dict.fromkeys(files, TEXT)
    assert list(rows[0]) == ["path", "id", "text"]
    assert (status.exit_code, status.failed_rows, failed(tmp_path)) == (0, 0, {})


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_a_missing_or_empty_file_is_an_empty_caption(tmp_path: Path, ending: str) -> None:
    without = {"other": b'{"title": "A dog"}'} if ending == "json" else {}
    _, rows = loaded(tmp_path, EMPTY | without, ending)
    assert {row["id"]: row["text"] for row in rows} == dict.fromkeys(EMPTY | without, "")
    assert failed(tmp_path) == {}
    table = write_table(
        tmp_path / "m.csv", [{"path": p} for p in (f"{tmp_path}/none.mp4", "", "..", "http://x/a.mp4")]
    )
    status = datautil([str(table)], Verbs(load_caption=ending))
    assert [row["text"] for row in read_table(status.output)] == [""] * 4
    assert status.failed_rows == 0


@pytest.mark.parametrize("ending, files", [("txt", UNREADABLE), ("json", JSON_UNREADABLE)])
def test_a_caption_that_cannot_be_read_is_a_failed_row(
    tmp_path: Path, ending: str, files: dict[str, bytes]
) -> None:
    good = {"good": READ["plain"] if ending == "txt" else JSON_READ["plain"]}
    status, rows = loaded(tmp_path, {**files, **good}, ending)
    found = {row["id"]: (row["text"], row["error"]) for row in rows}
    assert found == {**dict.fromkeys(files, ("", "caption: bad_text")), "good": (TEXT, "")}
    assert {name: entry[:2] for name, entry in failed(tmp_path).items()} == dict.fromkeys(
        files, ("caption", "bad_text")
    )
    for name, (_, _, detail) in failed(tmp_path).items():
        assert f"{name}.{ending}: " in detail
    assert f"{len(files)} failed ({len(files)} caption: bad_text)" in status.line()
    assert status.exit_code == 0


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    table = write_table(
        tmp_path / "meta.csv", [{"path": f"{tmp_path}/{name}.mp4"} for name in ("pipe", "folder")]
    )
    status = datautil([str(table)], Verbs(load_caption="txt"))
    assert [row["error"] for row in read_table(status.output)] == ["caption: not_a_file"] * 2


def test_another_run_takes_the_failure_away(tmp_path: Path) -> None:
    loaded(tmp_path, {"a": b"\xff"}, "txt")
    (tmp_path / "a.txt").write_text("A dog.")
    again = Verbs(load_caption="txt")
    datautil([str(tmp_path / "out.csv")], again, UtilOptions(output=str(tmp_path / "again.csv")))
    (row,) = read_table(tmp_path / "again.csv")
    assert (row["text"], row["error"]) == ("A dog.", "")


def test_a_filter_says_why_there_is_no_caption(tmp_path: Path) -> None:
    files = {"bad": b"\xff\xff", "none": b"", "good": b"A dog."}
    _, rows = loaded(tmp_path, files, "txt", remove_empty_caption=True)
    assert [row["id"] for row in rows] == ["good"]
    dropped = {row["id"]: row["reason"] for row in read_table(tmp_path / "out_dropped.csv")}
    assert dropped == {"bad": "text: bad_text", "none": "text: empty"}


def test_failures_of_files_and_of_captions_stand_side_by_side(tmp_path: Path) -> None:
    footage.numbered(tmp_path / "fine.mp4", 3)
    for name in ("broken", "both"):
        (tmp_path / f"{name}.mp4").write_bytes(b"no video at all")
    files = {"fine": b"\xff", "broken": b"A dog.", "both": b"\xff"}
    status, rows = loaded(tmp_path, files, "txt", info=True)
    assert {row["id"]: row["error"] for row in rows} == {
        "fine": "caption: bad_text", "broken": "info: corrupt", "both": "info: corrupt; caption: bad_text",
    }  # fmt: skip
    kept = read_table(tmp_path / "out_failed.csv")
    assert sorted((row["id"], row["scorer"]) for row in kept) == [
        ("both", "caption"), ("both", "info"), ("broken", "info"), ("fine", "caption"),
    ]  # fmt: skip
    assert status.failed_rows == 3
    assert status.failed == {"info: corrupt": 2, "caption: bad_text": 2}


def test_the_program_says_how_many_captions_cannot_be_read(tmp_path: Path, tool: Tool) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x93quoted\x94")
    table = write_table(tmp_path / "meta.csv", [{"path": f"{tmp_path}/a.mp4"}])
    done = tool("pipeline.datasets.datautil", table, "--load_caption", "txt")
    assert "1 failed (1 caption: bad_text)" in done.stdout


def test_a_list_of_paths_is_read_in_the_encoding_that_it_names(tmp_path: Path) -> None:
    source, output = tmp_path / "list.json", tmp_path / "meta.csv"
    source.write_bytes(BOM16 + json.dumps(["a\u00e9.mp4"], ensure_ascii=False).encode("utf-16-le"))
    run_step([], Convert(str(source), from_json=True), RunOptions(output=str(output)))
    assert [row["path"] for row in read_table(output)] == ["a\u00e9.mp4"]
    source.write_bytes(b'["caf\xe9.mp4"]')
    with pytest.raises(CallError, match=r"list\.json: byte 5: not UTF-8; save it as UTF-8"):
        run_step([], Convert(str(source), from_json=True), RunOptions(output=str(output)))
