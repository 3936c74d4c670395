"""A feature is computed once per picture, whoever starts from it, and kept for whoever comes later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clipsheet.engine.launch import launch
from clipsheet.engine.run import run_scorers
from clipsheet.errors import StorageError
from clipsheet.options import RunOptions
from clipsheet.scorer import MODELS, Scorer
from clipsheet.store.folder import Store
from clipsheet.store.vectors import MERGE_FILES
from tests import footage
from tests.conftest import REPO, listing, read_table, write_table
from tests.probe import Fit, Glow, Shades, run_glow


class Table:
    """A table of clips with captions, and the log of what was encoded."""

    def __init__(self, folder: Path, rows: Sequence[dict[str, str]]) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.path = write_table(folder / "m.csv", rows)
        self.shades = Shades(str(self.log))

    def score(self, *scorers: Scorer, **options: Any) -> list[dict[str, str]]:
        status = run_scorers([str(self.path)], scorers, RunOptions(max_failed=1.0, **options))
        return read_table(status.output)

    def encoded(self) -> int:
        """Pictures that were encoded since the last time this was asked."""
        if not self.log.exists():
            return 0
        count = sum(map(int, self.log.read_text().split()))
        self.log.unlink()
        return count


@pytest.fixture
def table(clips: Path, tmp_path: Path) -> Table:
    """Four whole clips of 3 pictures, one of 1, and one that is cut off."""
    return Table(tmp_path, [{**row, "text": f"clip {i}"} for i, row in enumerate(listing(clips))])


def truth(path: str, positions: Sequence[float] = (0.1, 0.5, 0.9)) -> float:
    from clipsheet.media import Media
    from tests.probe import shrunk

    media = Media(path)
    wanted = [media.info.index_at(seconds) for seconds in media.info.at(*positions)]
    means = {f.index: np.float32(shrunk(f).mean()) for f in media.frames(set(wanted))}
    return round(float(np.mean([means[index] for index in wanted])), 4)


def test_every_picture_is_encoded_once_for_all_who_start_from_it(table: Table) -> None:
    rows = table.score(Glow(table.shades), Fit(table.shades))
    assert table.encoded() == 4 * 3 + 1
    for row in rows:
        if row["path"].endswith("cut_off.mp4"):
            assert row["error"] == "glow: corrupt; fit: corrupt"
            assert row["glow"] == row["fit"] == ""
        else:
            assert float(row["glow"]) == truth(row["path"])
            assert row["fit"]


def test_what_comes_later_needs_no_file_any_more(table: Table, tmp_path: Path) -> None:
    first = table.score(Glow(table.shades))
    table.encoded()
    rows = [{**row, "text": "another caption"} for row in read_table(table.path)]
    write_table(table.path, rows)
    fits = table.score(Fit(table.shades))
    both = table.score(Fit(table.shades), Glow(table.shades, num_frames=1))
    assert table.encoded() == 0
    assert [bool(row["fit"]) for row in fits] == [bool(row["glow"]) for row in first]
    assert [row["fit"] for row in both] == [row["fit"] for row in fits]
    for row in both:
        if not row["error"]:
            assert float(row["glow"]) == truth(row["path"], [0.5])


def test_only_the_pictures_that_are_lacking_are_encoded(table: Table) -> None:
    table.score(Glow(table.shades, num_frames=1))
    assert table.encoded() == 5
    rows = table.score(Glow(table.shades, num_frames=3))
    assert table.encoded() == 4 * 2 + 1  # the one picture of one.mp4 stands at other positions now
    for row in rows:
        if not row["error"]:
            assert float(row["glow"]) == truth(row["path"])


def test_another_parameter_of_the_feature_is_another_feature(table: Table) -> None:
    table.score(Glow(table.shades))
    table.encoded()
    table.score(Glow(Shades(table.shades.log, room=999)))
    assert table.encoded() == 13


def test_a_file_in_several_rows_is_looked_at_once(clips: Path, tmp_path: Path) -> None:
    path = str(clips / "a.mp4")
    captions = ["one", "", "two words", "three of them", "one"]
    table = Table(tmp_path, [{"path": path, "text": text} for text in captions])
    for bs in (1, 16):
        rows = table.score(Fit(table.shades), Glow(table.shades), bs=bs)
        assert [row["error"] for row in rows] == ["", "fit: bad_value", "", "", ""]
        fits = [float(row["fit"]) / len(row["text"]) for row in rows if row["text"]]
        assert fits == pytest.approx([fits[0]] * 4, rel=1e-4)
        assert {row["glow"] for row in rows} == {rows[0]["glow"]}
        assert table.encoded() == (3 if bs == 1 else 0)


def test_a_file_that_fails_fails_all_its_rows(clips: Path, tmp_path: Path) -> None:
    rows = [{"path": str(clips / "cut_off.mp4"), "text": text} for text in "abc"]
    done = Table(tmp_path, rows).score(Fit(Shades(str(tmp_path / "log"))), bs=1)
    assert [row["error"] for row in done] == ["fit: corrupt"] * 3


def test_batches_workers_and_order_change_nothing(clips: Path, tmp_path: Path) -> None:
    found = []
    for number, (bs, workers) in enumerate([(1, 1), (3, 2), (16, 2)]):
        (tmp_path / str(number)).mkdir()
        rows = [{**row, "text": "x"} for row in listing(clips)]
        table = Table(tmp_path / str(number), rows[:: -1 if number else 1])
        scored = table.score(Glow(table.shades), Fit(table.shades), bs=bs, num_workers=workers)
        found.append(sorted((r["path"], r["glow"], r["fit"], r["error"]) for r in scored))
    assert found[0] == found[1] == found[2]


def test_two_processes_make_the_table_of_one(clips: Path, tmp_path: Path) -> None:
    tables = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        table = Table(tmp_path / str(number), listing(clips))
        log = {"log": str(table.log)}
        assert not any(launch(run_glow, [str(table.path)], log, {"max_failed": 1.0}, processes=number))
        tables.append((table.folder / "m_glow.csv").read_bytes())
        assert table.encoded() == 13
    assert tables[0] == tables[1]


def test_a_batch_too_large_for_the_memory_is_done_in_parts(table: Table) -> None:
    small = Shades(table.shades.log, room=4)
    rows = table.score(Glow(small))
    assert [float(r["glow"]) for r in rows if not r["error"]] == [
        truth(r["path"]) for r in rows if not r["error"]
    ]
    assert "gpu_oom" not in "".join(row["error"] for row in rows)


def test_a_picture_too_large_by_itself_fails_its_row(table: Table) -> None:
    rows = table.score(Glow(Shades(table.shades.log, room=0)))
    assert {row["error"] for row in rows} == {"glow: gpu_oom", "glow: corrupt"}


def test_a_vector_that_is_not_finite_fails_its_row_and_is_not_kept(clips: Path, tmp_path: Path) -> None:
    Image.new("L", (64, 64), 90).save(tmp_path / "good.png")
    Image.new("L", (64, 320), 90).save(tmp_path / "bad.png")
    table = Table(tmp_path, [{"path": str(tmp_path / name)} for name in ("good.png", "bad.png")])
    rows = table.score(Glow(Shades(str(table.log), broken=40)))
    assert [row["error"] for row in rows] == ["", "glow: nonfinite"]
    assert rows[0]["glow"] == "90.0"


def run_alone(table: Table, shades: dict[str, Any]) -> int:
    given = json.dumps([[str(table.path)], {"log": str(table.log), **shades}, {"max_failed": 1.0}])
    done = subprocess.run(
        [sys.executable, "-m", "tests.probe", "glow", given], cwd=REPO, env={**os.environ}, check=False
    )
    return done.returncode


def test_a_picture_that_kills_the_process_is_given_up_and_the_others_are_scored(tmp_path: Path) -> None:
    rows = []
    for number, grey in enumerate([10, 20, 250, 30]):
        Image.new("L", (64, 64), grey).save(tmp_path / f"{number}.png")
        rows.append({"path": str(tmp_path / f"{number}.png")})
    table = Table(tmp_path, rows)
    codes = [run_alone(table, {"deadly": 200.0}) for _ in range(4)]
    assert codes[0] < 0
    assert codes[-1] == 0
    done = read_table(tmp_path / "m_glow.csv")
    assert [row["error"] for row in done] == ["", "", "glow: crashed", ""]
    assert [row["glow"] for row in done] == ["10.0", "20.0", "", "30.0"]


# --- on disk -----------------------------------------------------------------------------------


def keys(*names: str) -> pa.Array:
    return pa.array([f"{name:0>24}" for name in names], pa.large_string())


def test_vectors_come_back_as_they_went(tmp_path: Path) -> None:
    folder = Store(tmp_path).vectors(Shades())
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    writer = folder.writer()
    writer.append(keys("a")[0].as_py(), [0.1, 1 / 3, 0.9], vectors)
    writer.append(keys("b")[0].as_py(), [0.5], vectors[:1])
    writer.close()
    there = folder.load()
    places = there.find(keys("b", "c", "a"), [0.5, 0.1, 1 / 3])
    assert (places >= 0).tolist() == [[True, False, False], [False] * 3, [False, True, True]]
    assert np.array_equal(there.read(places[2, 1:]), vectors[:2])
    assert np.array_equal(there.read(places[0, :1]), vectors[:1])


def test_a_span_of_frames_has_a_vector_of_its_own(tmp_path: Path) -> None:
    folder = Store(tmp_path).vectors(Shades())
    keys = [f"{n:024x}" for n in range(3)]
    places = (0.5, (0.0, 0.5), (0.5, 1.0), (0.5, 0.5))
    rng = np.random.default_rng(0)
    given = {key: rng.random((len(places), 4), np.float32) for key in keys[:2]}
    writer = folder.writer()
    for key, vectors in given.items():
        writer.append(key, places, vectors)
    writer.close()
    vectors = folder.load()
    found = vectors.find(pa.array(keys), places[::-1])
    assert (found[2] == -1).all()
    for row, key in enumerate(keys[:2]):
        assert (vectors.read(found[row].tolist()) == given[key][::-1]).all()
    assert (vectors.find(pa.array(keys), [(0.0, 0.4)]) == -1).all()
    assert (
        vectors.matrix()[found[:2].ravel()] == np.concatenate([given[key][::-1] for key in keys[:2]])
    ).all()


def test_a_file_that_was_cut_off_has_lost_its_last_record_only(tmp_path: Path) -> None:
    folder = Store(tmp_path).vectors(Shades())
    writer = folder.writer()
    for name in "abc":
        writer.append(keys(name)[0].as_py(), [0.5], np.full((1, 4), ord(name), np.float32))
    writer.close()
    [path] = folder.folder.glob("*.vectors")
    path.write_bytes(path.read_bytes()[:-3])
    there = folder.load()
    places = there.find(keys("a", "b", "c"), [0.5])
    assert (places >= 0)[:, 0].tolist() == [True, True, False]
    assert there.read(places[1]).tolist() == [[98.0] * 4]


def test_a_damaged_vector_is_named_and_not_used(tmp_path: Path) -> None:
    folder = Store(tmp_path).vectors(Shades())
    writer = folder.writer()
    writer.append(keys("a")[0].as_py(), [0.5], np.ones((1, 4), np.float32))
    writer.close()
    [path] = folder.folder.glob("*.vectors")
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    there = folder.load()
    with pytest.raises(StorageError, match=r"\.vectors: damaged"):
        there.read(there.find(keys("a"), [0.5])[0])


def test_many_files_become_one(tmp_path: Path) -> None:
    folder = Store(tmp_path).vectors(Shades())
    for number in range(MERGE_FILES):
        writer = folder.writer()
        writer.append(keys(str(number))[0].as_py(), [0.5], np.full((1, 4), number, np.float32))
        writer.close()
    folder.merge()
    assert len(list(folder.folder.glob("*.vectors"))) == 1
    there = folder.load()
    places = there.find(keys(*map(str, range(MERGE_FILES))), [0.5])
    assert there.read(places[:, 0])[:, 0].tolist() == [*range(MERGE_FILES)]


def test_what_a_feature_depends_on_stands_beside_its_vectors(table: Table) -> None:
    table.score(Glow(table.shades))
    [said] = (table.folder / ".clipsheet" / "features").glob("shades-*/feature.txt")
    assert repr(table.shades) in said.read_text()
    assert Store(table.folder, models=MODELS).vectors(table.shades).folder == said.parent


def test_a_frame_that_is_lost_fails_only_who_asked_for_it(tmp_path: Path) -> None:
    source = footage.numbered(tmp_path / "whole.mp4", 50, codec=("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"))
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    position, size = packets[round(0.1 * 50)]
    data[position : position + size] = bytes(size)
    (tmp_path / "holed.mp4").write_bytes(data)
    table = Table(tmp_path, [{"path": str(tmp_path / "holed.mp4"), "text": "x"}])
    [alone] = table.score(Glow(table.shades, num_frames=1))
    [together] = table.score(Glow(table.shades, num_frames=1), Fit(table.shades, num_frames=3))
    assert alone["glow"] == together["glow"] != ""
    assert together["error"] == "fit: decode_error"


def test_cells_that_hold_a_value_are_left_alone_and_the_empty_ones_filled(
    clips: Path, tmp_path: Path
) -> None:
    rows = [{**row, "glow": "7" if i == 0 else ""} for i, row in enumerate(listing(clips, "[ab].*"))]
    table = Table(tmp_path, rows)
    scored = table.score(Glow(table.shades), skip_if_existing=True)
    assert scored[0]["glow"] == "7"
    assert float(scored[1]["glow"]) == truth(scored[1]["path"])
    assert table.encoded() == 3
