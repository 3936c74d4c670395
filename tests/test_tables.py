"""Tables that people have edited: what is read, what is refused, and that writing loses nothing."""

from __future__ import annotations

import csv
import ctypes
import datetime
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsheet import places, tables
from clipsheet.errors import MetaError, StorageError
from clipsheet.tables import csv as parsing
from tests.conftest import REPO, read_table


@contextmanager
def without_privileges() -> Iterator[None]:
    """Let the modes of files and folders count, also for root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    now = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, now) == 0
    less = (ctypes.c_uint32 * 6)(*now)
    less[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, now) == 0


def saved(folder: Path, content: str | bytes, name: str = "meta.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(frame: pd.DataFrame) -> list[list[str]]:
    """A frame's cells as text, row by row."""
    return [list(row) for row in zip(*(tables.text(frame, c) for c in frame.columns), strict=True)]


def refusal(path: Path) -> str:
    with pytest.raises(MetaError) as caught:
        tables.read(path)
    message = str(caught.value)
    assert str(path) in message, "the message names the file"
    assert "\n" not in message
    return message


def text_frame(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns).astype(tables.TEXT)


def round_trip(path: Path, frame: pd.DataFrame) -> list[list[str]]:
    tables.write(frame, path)
    return rows(tables.read(path))


# --- reading what an editor left ---------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "path,text\na.mp4,one\nb.mp4,two\n",
        "\ufeffpath,text\na.mp4,one\nb.mp4,two\n",
        "path,text\r\na.mp4,one\r\nb.mp4,two\r\n",
        "\ufeffpath,text\r\na.mp4,one\r\nb.mp4,two\r\n",
        "path,text\na.mp4,one\nb.mp4,two",
        "path,text\ra.mp4,one\rb.mp4,two\r",
        "path,text\n\na.mp4,one\n\n\nb.mp4,two\n\n",
        "\n\npath,text\na.mp4,one\nb.mp4,two\n",
        '"path","text"\n"a.mp4","one"\n"b.mp4","two"\n',
        '\ufeff"path","text"\r\n"a.mp4","one"\r\n"b.mp4",two',
        '"path",text\na.mp4,"one"\nb.mp4,two\n',
    ],
    ids=[
        "plain",
        "byte order mark",
        "CRLF",
        "as Excel saves it",
        "no last newline",
        "CR alone",
        "blank lines",
        "blank lines before the header",
        "all quoted",
        "all quoted, mark and CRLF",
        "some quoted",
    ],
)
def test_a_table_reads_the_same_however_it_was_saved(tmp_path: Path, content: str) -> None:
    frame = tables.read(saved(tmp_path, content))
    assert list(frame.columns) == ["path", "text"]
    assert rows(frame) == [["a.mp4", "one"], ["b.mp4", "two"]]


TEXTS = [
    *("NA", "N/A", "n/a", "None", "null", "NULL", "nan", "NaN", "<NA>", "#N/A", "-", "true", "False", "inf"),
    *("007", "1e5", "0123e45", "12345678901234567", "9007199254740993", "0.30000000000000004", "1e-300"),
    "5.10",
    *("1,5", " leading", "trailing ", "  ", "=1+1", "+1", "-1", "@cmd", "\ttab", "'", '"', '""', 'a "b" c'),
    *("a\nb", "a\rb", "a\r\nb", "\r", "\n", "\r\n", "a\u2028b", "a\u2029b", "\x85", "\x0b\x0c", "\x01\x1f"),
    "\ufeff",
    *("naïve", "日本語", "👩‍👩‍👧", "e\u0301", "\u00e9", "{'a': 1}", '[{"x": [1, 2]}]', "C:\\n\\t", "%d", "`x`"),
    "x" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_a_cell_stays_what_it_is(tmp_path: Path, text: str) -> None:
    quoted = text.replace('"', '""')
    frame = tables.read(saved(tmp_path, f'path,text\na.mp4,"{quoted}"\nb,\n'))
    assert rows(frame) == [["a.mp4", text], ["b", ""]]
    tables.write(frame, tmp_path / "again.csv")
    assert read_table(tmp_path / "again.csv") == [{"path": "a.mp4", "text": text}, {"path": "b", "text": ""}]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_a_cell_stays_what_it_is_in_parquet(tmp_path: Path, text: str) -> None:
    frame = text_frame(path=["a.mp4"], text=[text], empty=[""])
    assert round_trip(tmp_path / "meta.parquet", frame) == [["a.mp4", text, ""]]


def test_texts_that_look_missing_are_texts_to_other_readers_of_the_parquet_too(tmp_path: Path) -> None:
    frame = text_frame(path=["a", "b"], text=["nan", "nan"], id=["007", "8"], n=["1", ""], x=["0.5", "2.0"])
    tables.write(frame, tmp_path / "meta.parquet")
    assert pq.read_table(tmp_path / "meta.parquet").to_pydict() == {
        "path": ["a", "b"],
        "text": ["nan", "nan"],
        "id": ["007", "8"],
        "n": [1, None],
        "x": [0.5, 2.0],
    }


@pytest.mark.parametrize("extension", [".csv", ".parquet"])
def test_an_empty_table_keeps_its_text_columns(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"meta{extension}"
    tables.write(tables.read(saved(tmp_path, "path,text\n", "in.csv")), path)
    frame = tables.read(path)
    assert list(frame.columns) == ["path", "text"]
    assert len(frame) == 0
    assert all(pa.types.is_large_string(frame[c].dtype.pyarrow_dtype) for c in frame.columns)


@pytest.mark.parametrize("blanks", ["", "\n", "\r\n", " \n\t\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_empty_file_is_no_table(tmp_path: Path, mark: str, blanks: str) -> None:
    assert "empty; a table begins with a header" in refusal(saved(tmp_path, mark + blanks))


def test_one_column_with_empty_cells_keeps_its_rows(tmp_path: Path) -> None:
    frame = text_frame(path=["a", "", "b", ""])
    assert round_trip(tmp_path / "meta.csv", frame) == [["a"], [""], ["b"], [""]]
    assert (tmp_path / "meta.csv").read_bytes() == b'path\na\n""\nb\n""\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("path,text\na,b\nc,d,e\nf,g\n", "record 2 (line 3) has 3 cells, the header has 2"),
        ("path,text\na,b\nc\nf,g\n", "record 2 (line 3) has 1 cells, the header has 2"),
        ('path,text\n"a\nb",x\nc,d,\n', "record 2 (line 4) has 3 cells, the header has 2"),
        ("path,text\na,b\n ,\n\n\nc,d,e\n", "record 3 (line 6) has 3 cells"),
        ('path,text\na,b\nc,"d\ne,f\ng,h\n', "record 2, which begins in line 3: unexpected end of data"),
        ('path,text\na,b\nc,"d"e\n', "record 2, which begins in line 3: ',' expected after '\"'"),
        ('path,text\na,"b" \n', "record 1, which begins in line 2"),
        ('"path,text\na,b\n', "this is no header of column names"),
        ("path,text\na,b\npath,text\nc,d\n", "record 2 (line 3) is the header again"),
        ('path,text\n"a\n\nx",b\npath,text\nc,d\n', "record 2 (line 5) is the header again"),
        ("path\na\npath\n", "record 2 (line 3) is the header again"),
        ("path,text,path\na,b,c\n", "two columns of one name: `path` and `path`"),
        ("path,text,Text\na,b,c\n", "two columns of one name: `text` and `Text`"),
        ("path,text, text \na,b,c\n", "two columns of one name: `text` and ` text `"),
        ("path;text\na;b\n", "the header has one column `path;text`; the separator must be a comma"),
        ("path\ttext\na\tb\n", "the separator must be a comma"),
        (b"path,text\na,b\nc\0d,e\n", "line 3, byte 15: a NUL byte"),
        (b"\xef\xbb\xbfpath,text\na,b\nc\0d,e\n", "line 3, byte 18: a NUL byte"),
        ("path,text\na,caf\xe9\n".encode("latin-1"), "line 2, byte 15: not UTF-8"),
        (b"\xef\xbb\xbf" + "path,text\na,caf\xe9\n".encode("latin-1"), "line 2, byte 18: not UTF-8"),
        ("pa\xe9th\na\n".encode("latin-1"), "line 1, byte 2: not UTF-8"),
        (b"path,text\n" + b"a,b\n" * 30_000 + b"a,\xff\n", "line 30002, byte 120012: not UTF-8"),
        ("path,text\na,b\n".encode("utf-16"), "byte 0: UTF-16 text; save the table as UTF-8"),
        (b"\xfe\xff" + "path,text\na,b\n".encode("utf-16-be"), "UTF-16"),
        ("Path,text\na,b\n", "no column `path`; its columns are `Path`, `text`"),
        ("file\na\n", "no column `path`; its columns are `file`"),
    ],
)
def test_what_would_have_to_be_guessed_at_is_refused(tmp_path: Path, content: str | bytes, told: str) -> None:
    path = saved(tmp_path, content)
    before = path.read_bytes()
    assert told in refusal(path)
    assert path.read_bytes() == before


def test_a_row_that_only_begins_like_the_header_is_a_row(tmp_path: Path) -> None:
    path = saved(tmp_path, "path,text\npath,b\na,text\n")
    assert rows(tables.read(path)) == [["path", "b"], ["a", "text"]]


def test_an_unreadable_table_is_a_sentence(tmp_path: Path) -> None:
    path = saved(tmp_path, "path\na\n")
    path.chmod(0)
    with without_privileges():
        assert "cannot be read: Permission denied" in refusal(path)


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "*.csv", "no/such/folder.csv"])
def test_a_missing_table_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MetaError, match="no such table"):
        tables.read([tmp_path / name])


@pytest.mark.parametrize("name", ["meta.txt", "meta", "meta.csv.gz", "meta.xlsx"])
def test_another_ending_is_no_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(MetaError, match=r"a table ends in \.csv or \.parquet"):
        tables.read([saved(tmp_path, "path\na\n", name)])


def test_a_folder_named_like_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").mkdir()
    with pytest.raises(MetaError, match="not a file"):
        tables.read([tmp_path / "meta.csv"])


def test_a_csv_named_parquet_is_refused(tmp_path: Path) -> None:
    assert "not a Parquet table" in refusal(saved(tmp_path, "path\na\n", "meta.parquet"))


def test_a_quoted_cell_may_reach_over_many_megabytes(tmp_path: Path) -> None:
    long = "line\r\n" * 1_600_000 + "\r" * 10
    content = f'path,text\na,"{long}"\nb,x\n'
    assert len(content) > parsing.BLOCK_BYTES
    assert rows(tables.read(saved(tmp_path, content))) == [["a", long], ["b", "x"]]


def test_a_table_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "path\na.mp4\n")
    parse = parsing._parse_fast

    def save_meanwhile(*args: object) -> pa.Table | None:
        saved(tmp_path, 'path\n"b,\nc.mp4"\n')
        return parse(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(parsing, "_parse_fast", save_meanwhile)
    assert "changed while it was read" in refusal(path)


def test_a_large_table_of_cells_with_carriage_returns_keeps_every_row(tmp_path: Path) -> None:
    cells = [f"{n}\rx,{'y' * 80}" for n in range(100_000)]
    frame = text_frame(path=[str(n) for n in range(100_000)], text=cells)
    tables.write(frame, tmp_path / "meta.csv")
    assert (tmp_path / "meta.csv").stat().st_size > parsing.BLOCK_BYTES
    assert tables.read(tmp_path / "meta.csv")["text"].tolist() == cells


# --- several tables ----------------------------------------------------------------------------


def test_several_tables_stand_one_after_another_with_all_columns(tmp_path: Path) -> None:
    first = saved(tmp_path, "path,text\na,one\n", "b.csv")
    second = saved(tmp_path, "aes,path\n5.10,b\n,c\n", "a.csv")
    frame = tables.read([first, second])
    assert list(frame.columns) == ["path", "text", "aes"]
    assert rows(frame) == [["a", "one", ""], ["b", "", "5.10"], ["c", "", ""]]


def test_a_pattern_means_its_tables_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("part_2", "part_1", "part_3", "other"):
        saved(tmp_path, f"path\n{name}\n", f"{name}.csv")
    frame = tables.read([tmp_path / "other.csv", tmp_path / "part_*.csv"])
    assert frame["path"].tolist() == ["other", "part_1", "part_2", "part_3"]


def test_a_name_with_the_signs_of_a_pattern_is_that_file(tmp_path: Path) -> None:
    saved(tmp_path, "path\nbrackets\n", "meta[1].csv")
    saved(tmp_path, "path\none\n", "meta1.csv")
    assert tables.read([tmp_path / "meta[1].csv"])["path"].tolist() == ["brackets"]


def test_the_second_of_two_tables_is_named_when_it_lacks_the_path(tmp_path: Path) -> None:
    first, second = saved(tmp_path, "path\na\n"), saved(tmp_path, "file\nb\n", "second.csv")
    with pytest.raises(MetaError, match=r"second\.csv: no column `path`"):
        tables.read([first, second])


def test_csv_and_parquet_join_with_integers_intact(tmp_path: Path) -> None:
    saved(tmp_path, "path,n,only\na,007,x\n", "a.csv")
    pq.write_table(pa.table({"path": ["b", "c"], "n": [9007199254740993, None]}), tmp_path / "b.parquet")
    saved(tmp_path, "path\nd\n", "c.csv")
    frame = tables.read([tmp_path / "*.csv", tmp_path / "b.parquet"])
    expected = [["a", "007", "x"], ["d", "", ""], ["b", "9007199254740993", ""], ["c", "", ""]]
    assert rows(frame) == expected
    assert round_trip(tmp_path / "out.csv", frame) == expected
    assert round_trip(tmp_path / "out.parquet", frame) == expected


def test_integers_stay_integers_when_another_parquet_lacks_their_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a"], "n": [9007199254740993]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"path": ["b"]}), tmp_path / "b.parquet")
    tables.write(tables.read([tmp_path / "a.parquet", tmp_path / "b.parquet"]), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "path,n\na,9007199254740993\nb,\n"


# --- parquet -----------------------------------------------------------------------------------


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "path": pa.array(["a", "b"]),
            "n": pa.array([1, None], pa.int32()),
            "x": pa.array([0.1, None], pa.float32()),
            "ok": pa.array([True, None]),
            "when": pa.array([datetime.datetime(2024, 1, 2), None], pa.timestamp("us")),
            "boxes": pa.array([[1, 2], None], pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    tables.write(tables.read(tmp_path / "in.parquet"), tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").equals(table)


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["5", "5.5", ""], [5.0, 5.5, None]),
        (["0.10", "-2", "1.250"], [0.1, -2.0, 1.25]),
        (["9007199254740993"], [9007199254740993]),
        (["1e-07", "0.5"], [1e-7, 0.5]),
        (["9007199254740993", "0.5"], None),
        (["0.1000000000000000055511151231257827", "1"], None),
        (["12345678901234567890"], None),
        (["007", "8"], None),
        (["1e5"], None),
        (["1e+5"], None),
        (["+1", "2"], None),
        ([".5", "1"], None),
        (["5.", "1"], None),
        ([" 5", "1"], None),
        (["1\n", "2"], None),
        (["00.5", "1"], None),
        (["9" * 400], None),
        (["1e+999"], None),
        (["inf", "1"], None),
    ],
)
def test_a_column_is_of_numbers_where_every_cell_is_exactly_its_number(
    tmp_path: Path, cells: list[str], found: list[float] | None
) -> None:
    tables.write(text_frame(path=[f"p{n}" for n in range(len(cells))], x=cells), tmp_path / "m.parquet")
    values = pq.read_table(tmp_path / "m.parquet").column("x").to_pylist()
    assert values == (cells if found is None else found)
    assert [type(v) for v in values] == [type(v) for v in (cells if found is None else found)]


@pytest.mark.parametrize("name", ["path", "text", "id", "relpath", "error", "source_path", "timestamp"])
def test_a_column_of_texts_is_never_one_of_numbers(tmp_path: Path, name: str) -> None:
    tables.write(text_frame(**{name: ["1", "", "2"]}), tmp_path / "m.parquet")
    assert pq.read_table(tmp_path / "m.parquet").column(name).to_pylist() == ["1", None, "2"]


def test_a_column_has_one_type_in_all_parts_of_a_table(tmp_path: Path) -> None:
    frame = text_frame(path=list("abcde"), x=["1", "2", "3.5", "4", "5"], y=["1", "2", "3", "4", "many"])
    paths = [tmp_path / f"{n}.parquet" for n in range(3)]
    tables.write_parts(frame, paths)
    parts = [pq.read_table(path) for path in paths]
    assert [part.num_rows for part in parts] == [2, 2, 1]
    assert len({part.schema for part in parts}) == 1
    assert pa.concat_tables(parts).to_pydict() == {
        "path": list("abcde"), "x": [1.0, 2.0, 3.5, 4.0, 5.0], "y": ["1", "2", "3", "4", "many"],
    }  # fmt: skip


def test_parquet_as_csv_has_empty_cells_and_whole_numbers(tmp_path: Path) -> None:
    table = {"path": ["a", "b"], "n": [3, None], "x": [0.1, None], "ok": [True, None], "text": [None, "t"]}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    tables.write(tables.read(tmp_path / "in.parquet"), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "path,n,x,ok,text\na,3,0.1,true,\nb,,,,t\n"


def test_categories_of_another_writer_are_texts(tmp_path: Path) -> None:
    column = pa.array(["x", None, "x"]).dictionary_encode()
    pq.write_table(pa.table({"path": ["a", "b", "c"], "kind": column}), tmp_path / "in.parquet")
    assert rows(tables.read(tmp_path / "in.parquet")) == [["a", "x"], ["b", ""], ["c", "x"]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_missing_texts_of_a_parquet_are_empty_texts(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"path": pa.array(["a", None], kind)}), tmp_path / "in.parquet")
    assert tables.text(tables.read(tmp_path / "in.parquet"), "path").tolist() == ["a", ""]


def test_an_index_that_pandas_wrote_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["a", "b"], "n": [1, 2]}).set_index("path")
    frame.to_parquet(tmp_path / "in.parquet")
    assert sorted(tables.read(tmp_path / "in.parquet").columns) == ["n", "path"]


# --- writing -----------------------------------------------------------------------------------


def test_what_is_written_is_utf8_with_lf_and_few_quotes(tmp_path: Path) -> None:
    frame = text_frame(path=["a,b", 'c"d', "e"], text=["1", "naïve", "x\ry"])
    tables.write(frame, tmp_path / "meta.csv")
    expected = 'path,text\n"a,b",1\n"c""d",naïve\ne,"x\ry"\n'
    assert (tmp_path / "meta.csv").read_bytes() == expected.encode()


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\rb", "a b", "é", ""])
def test_any_column_name_survives(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"path": ["x"], name: ["y"]}).astype(tables.TEXT)
    tables.write(frame, tmp_path / "meta.csv")
    assert read_table(tmp_path / "meta.csv") == [{"path": "x", name: "y"}]
    assert list(tables.read(tmp_path / "meta.csv").columns) == ["path", name]


def test_a_table_of_nothing_but_a_nameless_column_survives(tmp_path: Path) -> None:
    tables.write(pd.DataFrame({"": ["x"]}).astype(tables.TEXT), tmp_path / "meta.csv")
    assert (tmp_path / "meta.csv").read_bytes() == b'""\nx\n'


ALPHABET = [
    "a",
    "7",
    ".",
    " ",
    ",",
    '"',
    "'",
    "\n",
    "\r",
    "\r\n",
    ";",
    "\t",
    "é",
    "\u2028",
    "\x85",
    "\\",
    "\ufeff",
    "",
]


@pytest.mark.parametrize("block_bytes", [7, 100, parsing.BLOCK_BYTES])
@pytest.mark.parametrize("seed", range(30))
def test_random_tables_read_and_write_as_the_csv_module_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, block_bytes: int
) -> None:
    monkeypatch.setattr(parsing, "BLOCK_BYTES", block_bytes)
    draw = random.Random(seed)
    names = ["path", "text", 'odd "name",\r'][: draw.randint(1, 3)]
    table = [
        ["".join(draw.choices(ALPHABET, k=draw.randint(0, 6))) for _ in names]
        for _ in range(draw.randint(0, 300))
    ]
    table = [row for row in table if row != names]
    quoting = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    with open(tmp_path / "theirs.csv", "w", newline="", encoding=draw.choice(["utf-8", "utf-8-sig"])) as file:
        csv.writer(file, lineterminator="\r\n", quoting=quoting).writerows([names, *table])
    frame = tables.read(tmp_path / "theirs.csv")
    assert rows(frame) == table
    tables.write(frame, tmp_path / "ours.csv")
    with open(tmp_path / "ours.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file, strict=True)) == [names, *table]
    assert rows(tables.read(tmp_path / "ours.csv")) == table
    tables.write(frame, tmp_path / "ours.parquet")
    assert rows(tables.read(tmp_path / "ours.parquet")) == table


@pytest.mark.parametrize("block_bytes", [7, 100, parsing.BLOCK_BYTES])
@pytest.mark.parametrize("seed", range(15))
def test_random_bytes_are_read_as_the_csv_module_reads_them_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, block_bytes: int
) -> None:
    monkeypatch.setattr(parsing, "BLOCK_BYTES", block_bytes)
    draw = random.Random(seed)
    for _ in range(50):
        body = "".join(draw.choices([*ALPHABET, ",", "\n", '"'], k=draw.randint(0, 25)))
        path = saved(tmp_path, "path,text\n" + body)
        with open(path, newline="", encoding="utf-8") as file:
            try:
                expected = [row for row in csv.reader(file, strict=True) if row][1:]
            except csv.Error:
                expected = [["refused"]]
        if all(len(row) == 2 for row in expected) and ["path", "text"] not in expected:
            assert rows(tables.read(path)) == expected, body
        else:
            refusal(path)


@pytest.mark.parametrize("extension", [".csv", ".parquet"])
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, extension: str) -> None:
    frame = text_frame(path=["a", "b"], aes=["4.5", ""])
    first, second = tmp_path / f"1{extension}", tmp_path / f"2{extension}"
    tables.write(frame, first)
    tables.write(tables.read(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_a_write_that_fails_leaves_the_old_table_and_nothing_else(tmp_path: Path) -> None:
    path = saved(tmp_path, "path\nold\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*meta\.csv: File too large"):
            tables.write(text_frame(path=["x" * 1000] * 1000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "path\nold\n"
    assert os.listdir(tmp_path) == ["meta.csv"]


def test_a_killed_writer_leaves_the_old_table_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    path = saved(tmp_path, "path\nold\n")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom clipsheet import places\n"
        "with places.replacing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'path\\nnew')\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], cwd=REPO, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "path\nold\n"
    assert len(os.listdir(tmp_path)) == 2
    tables.write(text_frame(path=["new"]), path)
    assert path.read_text() == "path\nnew\n"
    assert os.listdir(tmp_path) == ["meta.csv"]


def test_an_error_while_writing_leaves_the_old_table(tmp_path: Path) -> None:
    path = saved(tmp_path, "path\nold\n")
    with pytest.raises(KeyError), places.replacing(path) as file:
        file.write(b"path\nhalf")
        raise KeyError
    assert path.read_text() == "path\nold\n"
    assert os.listdir(tmp_path) == ["meta.csv"]


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    target = saved(tmp_path, "path\nold\n", "target.csv")
    target.chmod(0o640)
    link = tmp_path / "here" / "link.csv"
    link.parent.mkdir()
    link.symlink_to("../target.csv")
    tables.write(text_frame(path=["new"]), link)
    assert link.is_symlink()
    assert target.read_text() == "path\nnew\n"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(link.parent) == ["link.csv"]


def test_a_folder_without_write_permission_is_a_storage_error(tmp_path: Path) -> None:
    path = saved(tmp_path, "path\nold\n")
    tmp_path.chmod(0o500)
    with without_privileges(), pytest.raises(StorageError, match="Permission denied"):
        tables.write(text_frame(path=["new"]), path)
    tmp_path.chmod(0o700)
    assert path.read_text() == "path\nold\n"


def test_a_file_in_the_place_of_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    path = saved(tmp_path, "path\nold\n")
    with pytest.raises(StorageError, match="Not a directory"):
        tables.write(text_frame(path=["new"]), path / "out.csv")


def test_a_pipe_in_the_place_of_the_table_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "meta.csv")
    with pytest.raises(MetaError, match="not a regular file"):
        tables.write(text_frame(path=["new"]), tmp_path / "meta.csv")


def test_missing_folders_of_the_output_are_made(tmp_path: Path) -> None:
    tables.write(text_frame(path=["new"]), tmp_path / "a" / "b" / "meta.csv")
    assert read_table(tmp_path / "a" / "b" / "meta.csv") == [{"path": "new"}]


@pytest.mark.parametrize("stem", ["m" * 250, "画" * 80])
def test_a_table_may_have_the_longest_name_there_is(tmp_path: Path, stem: str) -> None:
    assert round_trip(tmp_path / f"{stem}.csv", text_frame(path=["a"])) == [["a"]]


# --- cells -------------------------------------------------------------------------------------


def test_a_number_is_a_finite_number_and_all_else_is_bad() -> None:
    cells = [
        "1",
        " 2.5 ",
        "-3e2",
        "+4",
        "",
        "  ",
        "high",
        "5,3",
        "nan",
        "inf",
        "1e400",
        "0x10",
        "9007199254740993",
    ]
    values, bad = tables.numbers(text_frame(x=cells), "x")
    expected = [1, 2.5, -300, 4] + [np.nan] * 8 + [9007199254740992]
    assert np.array_equal(values, expected, equal_nan=True)
    assert [c for c, is_bad in zip(cells, bad, strict=True) if is_bad] == [
        *("high", "5,3", "nan", "inf", "1e400", "0x10")
    ]


@pytest.mark.parametrize(
    ("array", "values", "bad"),
    [
        (pa.array([1, None]), [1, np.nan], [False, False]),
        (pa.array([1.5, float("inf")]), [1.5, np.nan], [False, True]),
        (pa.array([True, None]), [1, np.nan], [False, False]),
        (pa.array(["7", None]), [7, np.nan], [False, False]),
        (pa.array([datetime.date(2024, 1, 2), None]), [np.nan, np.nan], [True, False]),
        (pa.array([[1], None]), [np.nan, np.nan], [True, False]),
        (pa.nulls(2), [np.nan, np.nan], [False, False]),
    ],
    ids=["int", "float", "bool", "text", "date", "list", "null"],
)
def test_numbers_of_a_typed_column(array: pa.Array, values: list[float], bad: list[bool]) -> None:
    frame = pd.DataFrame({"x": pd.Series(array, dtype=pd.ArrowDtype(array.type))})
    found, found_bad = tables.numbers(frame, "x")
    assert np.array_equal(found, values, equal_nan=True)
    assert found_bad.tolist() == bad


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (True, "true"),
        (np.False_, "false"),
        (3, "3"),
        (np.int64(2**53 + 1), "9007199254740993"),
        (0.1 + 0.2, "0.30000000000000004"),
        (np.float64(4.5), "4.5"),
        (1e-300, "1e-300"),
        ("NA", "NA"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_how_a_value_stands_in_a_cell(value: object, cell: str) -> None:
    assert tables.cell(value) == cell


def test_errors_of_several_scorers_live_in_one_cell() -> None:
    frame = text_frame(
        path=["a", "b", "c", "d"], error=["aes: corrupt; ocr: timeout", "", "ocr: timeout", ""]
    )
    tables.set_errors(frame, {"ocr": np.array(["", "", "missing", "corrupt"], object)})
    assert frame["error"].tolist() == ["aes: corrupt", "", "ocr: missing", "ocr: corrupt"]
    assert tables.parse_errors("aes: corrupt; ocr: timeout") == {"aes": "corrupt", "ocr": "timeout"}
    assert tables.format_errors({"aes": "corrupt", "ocr": "timeout"}) == "aes: corrupt; ocr: timeout"


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (4.5, "4.5"),
        (4.0, "4"),
        (5, "5"),
        (0.15, "0.15"),
        (0.1, "0.1"),
        (4.75, "4.75"),
        (-1, "-1"),
        (0, "0"),
        (1e-7, "1e-07"),
        (2073600, "2073600"),
        (0.30000000000000004, "0.30000000000000004"),
        (1e20, "1e+20"),
    ],
)
def test_numbers_in_names_are_the_shortest_exact_form(number: float, text: str) -> None:
    assert tables.number_text(number) == text
    assert float(text) == number


@pytest.mark.parametrize(
    ("first", "output", "expected"),
    [
        ("dir/meta.csv", None, "dir/meta_aes.csv"),
        ("dir/meta.parquet", None, "dir/meta_aes.parquet"),
        ("a.b.csv", None, "a.b_aes.csv"),
        ("dir/meta.csv", "other/out.parquet", "other/out.parquet"),
    ],
)
def test_the_output_stands_beside_the_first_table(first: str, output: str | None, expected: str) -> None:
    assert tables.output_path(Path(first), "aes", output) == Path(expected)


@pytest.mark.parametrize("output", ["meta.csv", "./meta.csv", "sub/../meta.csv", "link.csv"])
def test_no_output_is_its_own_input(tmp_path: Path, output: str) -> None:
    path = saved(tmp_path, "path\na\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.csv").symlink_to("meta.csv")
    with pytest.raises(MetaError, match="no tool writes over its input"):
        tables.output_path(path, "aes", tmp_path / output)


@pytest.mark.parametrize("name", ["m_aes.csv", "m_aes_failed.csv", "m_aes_dropped.csv"])
def test_an_output_and_the_tables_beside_it_are_no_input(tmp_path: Path, name: str) -> None:
    inputs = [saved(tmp_path, "path\na\n", "m.csv"), saved(tmp_path, "path\nb\n", name)]
    with pytest.raises(MetaError, match=f"{name}: is an input, .*: name the tables one by one, or give"):
        tables.output_path(inputs, "aes")
    with pytest.raises(MetaError, match="no tool writes over its input"):
        tables.check_output(inputs, tmp_path / "m_aes.csv")
    assert tables.output_path(inputs, "aes", tmp_path / "other.csv") == tmp_path / "other.csv"
    assert tables.output_path(inputs, "ocr") == tmp_path / "m_ocr.csv"


@pytest.mark.parametrize("stem", ["m" * 250, "画" * 80, "m" * 197, os.fsdecode(b"\xff" * 240)])
def test_a_long_name_leaves_room_for_the_files_beside_it(stem: str) -> None:
    first = Path(f"{stem}.csv")
    path = tables.output_path(first, "aesmin4.5")
    assert path == tables.output_path(first, "aesmin4.5"), "the next run finds it"
    assert path.stem.endswith("_aesmin4.5")
    assert len(os.fsencode(path.stem)) <= 200
    assert len({path, *(tables.output_path(first, f"aesmin{n}") for n in range(9))}) == 10
    again = path
    for _ in range(5):
        again = tables.output_path(again, "info")
        assert len(os.fsencode(again.stem)) <= 200
    assert again != path


def test_a_name_of_200_bytes_is_left_as_it_is() -> None:
    assert tables.output_path(Path("m" * 196 + ".csv"), "aes") == Path("m" * 196 + "_aes.csv")


def test_a_given_name_too_long_for_the_files_beside_it_is_refused() -> None:
    assert tables.output_path(Path("m.csv"), "aes", "m" * 243 + ".csv") == Path("m" * 243 + ".csv")
    with pytest.raises(MetaError, match="the name is too long"):
        tables.output_path(Path("m.csv"), "aes", "m" * 244 + ".csv")


def test_a_separator_in_a_suffix_is_no_folder() -> None:
    assert tables.output_path(Path("d/meta.csv"), "best30a/b") == Path("d/meta_best30a_b.csv")


def test_an_output_must_be_named_like_a_table() -> None:
    with pytest.raises(MetaError, match=r"a table ends in \.csv or \.parquet, not in '\.txt'"):
        tables.output_path(Path("meta.csv"), "aes", "out.txt")


def test_sidecars_are_named_after_the_output() -> None:
    assert tables.sidecar(Path("d/meta_aes.csv"), "failed") == Path("d/meta_aes_failed.csv")
