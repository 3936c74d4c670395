"""Clips hold exactly the frames that `timestamp` names, at their times; each row is accounted for."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from clipsheet.engine.files import FILES_PER_TASK, FIRST_TASKS, LAST_TASKS, _groups
from clipsheet.engine.steps import run_step
from clipsheet.errors import CallError, Incomplete, MediaError, StorageError
from clipsheet.media import Media
from clipsheet.options import RunOptions
from clipsheet.store.locks import working_on
from pipeline.splitting.cut import Cut
from pipeline.splitting.cutter import Clip, Cutting
from pipeline.splitting.encoding import failing
from tests import footage
from tests.conftest import Tool, read_table, write_table

NAMES = ["with space.mp4", "a'b\"c.mp4", "new\nline.mp4", "-dash.mp4", "%d.mp4", "a:b,c|d.mp4", "$(touch x).mp4",
         "a.b.c.mp4", "noext", "été\u0301.mp4", "NA.mp4", "n" * 251 + ".mp4", "n" * 250 + "m.mp4"]  # fmt: skip


def stamp(seconds: float) -> str:
    """HH:MM:SS.mmm, cut to milliseconds as tables hold it."""
    milliseconds = int(seconds * 1000 + 1e-6)
    return f"00:{milliseconds // 60000:02d}:{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"


def scenes(*spans: tuple[float, float]) -> str:
    return json.dumps([[stamp(start), stamp(end)] for start, end in spans])


def numbers_in(path: str | Path) -> list[int]:
    return [footage.number_in(frame.rgb()) for frame in Media(str(path)).frames()]


class CutTable:
    """A table that was cut, and what came of it."""

    def __init__(self, folder: Path, rows: list[dict[str, str]], **cutting: Any) -> None:
        self.folder = folder
        self.clips_folder = folder / "out"
        self._table = write_table(folder / "meta.csv", rows)
        self._cutting = Cutting(save_dir=str(self.clips_folder), preset="ultrafast", **cutting)
        self.again()

    def again(self) -> None:
        """Run the same command."""
        workers = 2 if len(read_table(self._table)) > len(NAMES) else 1
        self.status = run_step(
            [str(self._table)], Cut(**vars(self._cutting)), RunOptions(num_workers=workers)
        )

    def _read(self, name: str) -> list[dict[str, str]]:
        path = self.folder / name
        return read_table(path) if path.exists() else []

    @property
    def clips(self) -> list[dict[str, str]]:
        return self._read("meta_clips.csv")

    @property
    def failed(self) -> list[dict[str, str]]:
        return self._read("meta_clips_failed.csv")

    @property
    def dropped(self) -> list[dict[str, str]]:
        return self._read("meta_clips_dropped.csv")


# --- which frames ------------------------------------------------------------------------------

Pieces = dict[str, list[tuple[footage.Made, range, dict[str, str]]]]


def cut_every_kind(folder: Path, spans: Callable[[int], list[tuple[int, int]]], **cutting: Any) -> Pieces:
    """Every kind of video cut into the frames that `spans` names by how many there are."""
    made = footage.every_kind(folder)
    rows, asked = [], []
    for name, source in made.items():
        wanted = spans(len(source.numbers))
        ends = [*source.seconds, 99.0]
        rows.append({"path": str(source.path), "timestamp": scenes(*((ends[a], ends[b]) for a, b in wanted))})
        asked += [(name, source, range(a, b)) for a, b in wanted]
    done = CutTable(folder, rows, **cutting)
    assert done.failed == []
    pieces: Pieces = {name: [] for name in made}
    for (name, source, frames), clip in zip(asked, done.clips, strict=True):
        pieces[name].append((source, frames, clip))
    return pieces


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """Two scenes that follow each other, not at key frames."""
    return cut_every_kind(
        tmp_path_factory.mktemp("pieces"),
        lambda count: [(0, count // 2 - 4), (count // 2 - 4, count)] if count > 1 else [(0, count)],
    )


@pytest.mark.parametrize("name", footage.KINDS)
def test_a_clip_holds_exactly_the_frames_of_its_scene(pieces: Pieces, name: str) -> None:
    for source, frames, clip in pieces[name]:
        assert clip["source_path"] == str(source.path)
        assert numbers_in(clip["path"]) == [source.numbers[i] for i in frames]


@pytest.mark.parametrize("name", footage.KINDS)
def test_a_clip_keeps_the_times_of_its_frames(pieces: Pieces, name: str) -> None:
    for source, frames, clip in pieces[name]:
        times = source.seconds[frames.start : frames.stop]
        assert Media(clip["path"]).info.frame_seconds == pytest.approx(times - times[0], abs=1.1e-3)
        assert float(clip["clip_start"]) == pytest.approx(times[0], abs=1e-3)
        if frames.stop < len(source.seconds):
            assert float(clip["clip_end"]) == pytest.approx(source.seconds[frames.stop], abs=1e-3)
        else:
            assert float(clip["clip_end"]) == pytest.approx(Media(str(source.path)).info.duration)


@pytest.mark.parametrize("name", footage.KINDS)
def test_a_clip_is_as_displayed_with_even_sides(pieces: Pieces, name: str) -> None:
    for source, _, clip in pieces[name]:
        info = Media(clip["path"]).info
        assert (info.height, info.width) == (
            source.height + source.height % 2,
            source.width + source.width % 2,
        )
        assert (info.rotation, info.pixel_aspect, info.codec) == (0, 1, "h264")


def test_a_clip_is_mirrored_and_turned_as_its_source_is_displayed(tmp_path: Path) -> None:
    plain = footage.cfr(tmp_path / "plain.mp4").path
    paths = [footage.displayed(plain, tmp_path / f"{how}.mp4", how) for how in footage.DISPLAYED]
    rows = [{"path": str(path), "timestamp": scenes((0.4, 0.8))} for path in paths]
    done = CutTable(tmp_path, rows)
    assert done.failed == []
    for path, clip in zip(paths, done.clips, strict=True):
        [before], [after] = Media(str(path)).frames([12]), Media(clip["path"]).frames([2])
        assert before.luma().shape == after.luma().shape
        assert np.abs(before.luma().astype(int) - after.luma()).mean() < 4, path.name


def test_an_odd_side_is_padded_and_the_picture_not_scaled(pieces: Pieces) -> None:
    source, frames, clip = pieces["odd_size.mkv"][0]
    before = next(Media(str(source.path)).frames([frames.start])).luma().astype(int)
    after = next(Media(clip["path"]).frames([0])).luma().astype(int)
    assert np.abs(after[:241, :333] - before).mean() < 3


def test_long_scenes_are_split_and_nothing_is_lost(tmp_path: Path) -> None:
    sources = [footage.cfr(tmp_path / "cfr.mp4"), footage.vfr(tmp_path / "vfr.mp4")]
    rows = [{"path": str(s.path), "timestamp": scenes((0.0, 1.0), (1.0, 2.02))} for s in sources]
    done = CutTable(tmp_path, rows, max_seconds=0.4)
    assert done.failed == []
    for source in sources:
        clips = [clip for clip in done.clips if clip["source_path"] == str(source.path)]
        found = [numbers_in(clip["path"]) for clip in clips]
        assert sum(found, []) == source.numbers  # noqa: RUF017
        spans = [(float(clip["clip_start"]), float(clip["clip_end"])) for clip in clips]
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))
        assert all(end - start <= 0.4 + 0.06 for start, end in spans)  # to the next frame
        assert len({clip["path"] for clip in clips}) == len(clips) == 6


def test_short_scenes_are_dropped_with_the_reason(tmp_path: Path) -> None:
    path = str(footage.cfr(tmp_path / "a.mp4").path)
    row = {"path": path, "text": "kept", "timestamp": scenes((0, 0.2), (0.2, 1.0), (1.0, 1.36))}
    done = CutTable(tmp_path, [row], min_seconds=0.5)
    assert [numbers_in(clip["path"]) for clip in done.clips] == [list(range(5, 25))]
    told = [(r["path"], r["text"], r["clip_start"], r["clip_end"], r["reason"]) for r in done.dropped]
    assert told == [
        (path, "kept", "0.0", "0.2", "seconds 0.2 < 0.5"),
        (path, "kept", "1.0", "1.36", "seconds 0.36 < 0.5"),
    ]


# --- the table ---------------------------------------------------------------------------------

HOSTILE = [
    "not json",
    "$(touch x)",
    "__import__('os').system('touch x')",
    '[["00:00:00.000", "00:00:01.000; touch x"]]',
    '[["00:00:00.000", "$(touch x)"]]',
    "[" * 20_000,
    "{}",
    '"00:00:00.000"',
    "NaN",
    "[[0, 1]]",
    "[null]",
    '[["00:00:00.000"]]',
    '[["00:00:01.000", "00:00:00.500"]]',
    '[["00:00:01.000", "00:00:01.000"]]',
    '[["-00:00:01.000", "00:00:01.000"]]',
    '[["00:00:00.000", "inf"]]',
    '[["00:00:00.000", "00:61:00.000"]]',
    '[["00:00:00.000", "99999:00:00.000"]]',
    '[["00:00:00.000", "\\u0660\\u0660:00:01"]]',  # digits, but Arabic ones
    '[["00:00:00.000", "9999:00:00.000"]]',  # eighteen million clips
]


def test_a_cell_that_is_no_list_of_scenes_fails_its_row_and_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(footage.one_frame(tmp_path / "a.mp4").path)
    good = {"path": path, "timestamp": scenes((0, 1)), "text": "good"}
    done = CutTable(
        tmp_path,
        [{"path": path, "timestamp": cell, "text": cell} for cell in HOSTILE] + [good],
        max_seconds=2,
    )
    assert [row["text"] for row in done.clips] == ["good"]
    assert [(row["text"], row["code"]) for row in done.failed] == [(cell, "bad_value") for cell in HOSTILE]
    assert sorted(p.name for p in done.clips_folder.rglob("*.mp4")) == ["a_scene-0.mp4"]
    assert not list(tmp_path.rglob("x"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> CutTable:
    """Rows of many fates in one table."""
    folder = tmp_path_factory.mktemp("mixed")
    source = footage.numbered(folder / "one" / "a.mp4", 20)
    footage.numbered(folder / "two" / "a.mp4", 30, "-vf", "reverse")
    footage.encode(folder / "still.png", [footage.picture(3)], codec=("-c:v", "png"))
    (folder / "broken.mp4").write_bytes(source.read_bytes()[:5000])
    whole = scenes((0, 99))

    def row(path: str, timestamp: str = whole, **cells: str) -> dict[str, str]:
        usual = {"id": "7", "relpath": "", "mine, too": "NA", "ocr": "[]", "num_frames": "20", "error": ""}
        usual |= {"match_red_car": "20", "text_truncated": "0", "windows": "[]"}
        return {**usual, "path": str(folder / path), "timestamp": timestamp, **cells}

    rows = [
        row("one/a.mp4", text="first"),
        row("two/a.mp4", text="second"),
        row("one/a.mp4", scenes((0, 0.2)), text="a line\nand an é", relpath="deep/er/name.mov"),
        row("two/a.mp4", relpath="../../escape.mp4", text="outside"),
        row("two/a.mp4", relpath="/tmp/escape.mp4", text="absolute"),
        row("nowhere.mp4", text="absent"),
        row("broken.mp4", text="broken"),
        row("one/a.mp4", "", error="timestamp: timeout; aes: corrupt", text="not detected"),
        row("two/a.mp4", "  ", text="not run"),
        row("still.png", "[]", text="picture"),
        row("one/a.mp4", scenes((5, 6)), text="beyond the end"),
    ]
    order = ["id", "path", "relpath", "text", "mine, too", "timestamp", "ocr", "num_frames",
             "match_red_car", "text_truncated", "windows", "error"]  # fmt: skip
    return CutTable(folder, [{name: r[name] for name in order} for r in rows])


def test_every_row_ends_in_one_of_the_three_tables(mixed: CutTable) -> None:
    assert [row["text"] for row in mixed.clips] == ["first", "second", "a line\nand an é", "picture"]
    assert {row["text"]: row["reason"] for row in mixed.dropped} == {
        "not detected": "timestamp: timeout",
        "not run": "timestamp: not run",
    }
    assert {row["text"]: row["code"] for row in mixed.failed} == {
        "outside": "bad_path",
        "absolute": "bad_path",
        "absent": "missing",
        "broken": "corrupt",
        "beyond the end": "no_frames",
    }
    assert "5 failed" in mixed.status.line()


def test_sources_of_one_name_in_two_folders_do_not_share_a_clip(mixed: CutTable) -> None:
    first, second, *_ = mixed.clips
    assert numbers_in(first["path"]) == list(range(20))
    assert numbers_in(second["path"]) == list(range(29, -1, -1))
    assert Path(first["path"]).name.startswith("a_")
    assert Path(second["path"]).name.startswith("a_")


def test_a_clip_lies_where_its_relpath_says(mixed: CutTable) -> None:
    clip = mixed.clips[2]
    assert clip["path"] == str(mixed.clips_folder / "deep/er/name_scene-0.mp4")
    assert clip["relpath"] == "deep/er/name_scene-0.mp4"
    assert clip["id"] == "name_scene-0"
    assert not list(mixed.folder.parent.rglob("escape*"))
    assert not list(mixed.clips_folder.rglob("*.part"))


def test_every_column_of_the_source_is_kept_and_what_described_its_file_is_emptied(mixed: CutTable) -> None:
    columns = ["id", "path", "relpath", "text", "mine, too", "timestamp", "ocr", "num_frames",
               "match_red_car", "text_truncated", "windows", "error",
               "source_path", "clip_start", "clip_end"]  # fmt: skip
    assert list(mixed.clips[0]) == columns
    clip = mixed.clips[2]
    assert (clip["mine, too"], clip["ocr"], clip["num_frames"], clip["error"]) == ("NA", "", "", "")
    assert (clip["match_red_car"], clip["text_truncated"], clip["windows"]) == ("", "", "")
    assert (clip["source_path"], clip["clip_start"], clip["clip_end"]) == (
        str(mixed.folder / "one/a.mp4"), "0.0", "0.2",
    )  # fmt: skip
    assert json.loads(clip["timestamp"]) == [["00:00:00.000", "00:00:00.200"]]


def test_a_picture_goes_through_uncut(mixed: CutTable) -> None:
    picture = mixed.clips[-1]
    assert picture["path"] == picture["source_path"] == str(mixed.folder / "still.png")
    assert (picture["timestamp"], picture["clip_start"], picture["clip_end"]) == ("[]", "", "")


def test_any_name_of_a_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = footage.numbered(tmp_path / "a.mp4", 3).read_bytes()
    for name in NAMES:
        Path(name).write_bytes(data)
    done = CutTable(tmp_path, [{"path": name, "timestamp": scenes((0.04, 1))} for name in NAMES])
    assert done.failed == []
    assert [clip["source_path"] for clip in done.clips] == NAMES
    assert [numbers_in(clip["path"]) for clip in done.clips] == [[1, 2]] * len(NAMES)
    assert len(list(done.clips_folder.glob("*.mp4"))) == len(NAMES)
    assert Path(done.clips[0]["path"]).name == "with space_scene-0.mp4"
    assert not Path("x").exists()


# --- running it again --------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_a_deleted_or_changed_clip_is_made_again(tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "a.mp4", 30)
    done = CutTable(tmp_path, [{"path": str(path), "timestamp": scenes((0, 0.4), (0.4, 0.8), (0.8, 1.2))}])

    def state() -> list[tuple[int, bytes]]:
        files = sorted(done.clips_folder.glob("*.mp4"))
        return [(file.stat().st_mtime_ns, file.read_bytes()) for file in files]

    before, table = state(), (tmp_path / "meta_clips.csv").read_bytes()
    done.again()
    assert state() == before
    (done.clips_folder / "a_scene-0.mp4").unlink()
    (done.clips_folder / "a_scene-2.mp4").write_bytes(b"cut off")
    done.again()
    after = state()
    assert after[1] == before[1]
    assert [data for _, data in after] == [data for _, data in before]
    assert (tmp_path / "meta_clips.csv").read_bytes() == table
    footage.encode(path, (footage.picture(100 + n) for n in range(30)))
    done.again()
    assert [numbers_in(clip["path"])[0] for clip in done.clips] == [100, 110, 120]


def test_rows_of_one_source_number_their_scenes_on_and_equal_rows_share_clips(tmp_path: Path) -> None:
    path = str(footage.numbered(tmp_path / "a.mp4", 30))
    first, second, third = scenes((0, 0.4)), scenes((0.4, 0.6), (0.6, 0.8)), scenes((0.8, 1.2))
    rows = [{"path": path, "timestamp": cell} for cell in (first, second, third, first)]
    done = CutTable(tmp_path, rows)
    names = [Path(clip["path"]).name for clip in done.clips]
    assert names == [f"a_scene-{n}.mp4" for n in (0, 1, 2, 3, 0)]
    assert [numbers_in(clip["path"])[0] for clip in done.clips] == [0, 10, 15, 20, 0]
    write_table(tmp_path / "meta.csv", rows[1:3])
    done.again()
    assert [Path(clip["path"]).name for clip in done.clips] == [f"a_scene-{n}.mp4" for n in (0, 1, 2)]
    assert [numbers_in(clip["path"])[0] for clip in done.clips] == [10, 15, 20]
    write_table(tmp_path / "meta.csv", rows)
    done.again()
    assert [numbers_in(clip["path"])[0] for clip in done.clips] == [0, 10, 15, 20, 0]


def test_a_second_table_does_not_overwrite_the_clips_of_another_source(tmp_path: Path) -> None:
    tables: dict[str, Path] = {}
    state: dict[str, tuple[str, int]] = {}
    for name, begin in (("one", 0), ("two", 100)):
        source = footage.encode(tmp_path / name / "a.mp4", (footage.picture(begin + n) for n in range(10)))
        rows = [{"path": str(source), "timestamp": scenes((0, 0.4))}]
        tables[name] = write_table(tmp_path / f"{name}.csv", rows)
    cutting = Cutting(save_dir=str(tmp_path / "out"), preset="ultrafast")
    for _ in range(2):
        for name, begin in (("one", 0), ("two", 100)):
            run_step([str(tables[name])], Cut(**vars(cutting)), RunOptions(num_workers=1))
            [clip] = read_table(tmp_path / f"{name}_clips.csv")
            assert numbers_in(clip["path"]) == list(range(begin, begin + 10))
            now = (clip["path"], os.stat(clip["path"]).st_mtime_ns)
            assert state.setdefault(name, now) == now
    assert Path(state["one"][0]).name == "a_scene-0.mp4"
    [clip] = read_table(tmp_path / "one_clips.csv")
    assert numbers_in(clip["path"]) == list(range(10))


def test_a_source_that_is_not_there_and_a_picture_keep_no_name_from_others(tmp_path: Path) -> None:
    still = footage.encode(tmp_path / "still" / "a.png", [footage.picture(3)], codec=("-c:v", "png"))
    rows = [{"path": str(still), "timestamp": "[]"}]
    CutTable(tmp_path, rows)
    CutTable(tmp_path, [{"path": str(tmp_path / "gone" / "a.mp4"), "timestamp": scenes((0, 0.4))}])
    source = footage.numbered(tmp_path / "right" / "a.mp4", 10)
    done = CutTable(tmp_path, [{"path": str(source), "timestamp": scenes((0, 0.4))}])
    assert [Path(clip["path"]).name for clip in done.clips] == ["a_scene-0.mp4"]


def test_naming_clips_waits_for_another_process_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = footage.numbered(tmp_path / "a.mp4", 3)
    rows = [{"path": str(source), "timestamp": scenes((0, 1))}]
    with ExitStack() as other:
        other.enter_context(working_on(tmp_path / "out" / "claims.json"))
        with monkeypatch.context() as patch, pytest.raises(Incomplete, match="claims"):
            patch.setattr("pipeline.splitting.clip_names.CLAIM_SECONDS", 0)
            CutTable(tmp_path, rows)
        threading.Timer(0.5, other.pop_all().close).start()
        assert len(CutTable(tmp_path, rows).clips) == 1


@pytest.mark.parametrize("content", ["{", "3", '"a"', "[1]"])
def test_damaged_claims_are_named_and_nothing_is_cut(tmp_path: Path, content: str) -> None:
    claims = tmp_path / "out" / ".clipsheet" / "claims.json"
    claims.parent.mkdir(parents=True)
    claims.write_text(content)
    source = footage.numbered(tmp_path / "a.mp4", 3)
    with pytest.raises(StorageError, match=r"claims\.json: damaged"):
        CutTable(tmp_path, [{"path": str(source), "timestamp": scenes((0, 1))}])
    assert not list(tmp_path.rglob("*scene*"))


# --- what the clips are like -------------------------------------------------------------------


def test_target_fps_and_sound(tmp_path: Path) -> None:
    silent = footage.numbered(tmp_path / "silent.mp4", 50, codec=footage.B_FRAMES)
    loud = footage.with_sound(silent, tmp_path / "loud.mp4", begins=1.0)
    rows = [{"path": str(p), "timestamp": scenes((0.6, 1.6))} for p in (silent, loud)]
    done = CutTable(tmp_path, rows, target_fps=10, keep_audio=True)
    assert done.failed == []
    for clip in done.clips:
        info = Media(clip["path"]).info
        assert info.frame_seconds == pytest.approx(np.arange(10) / 10, abs=1e-3)
        drift = np.array(numbers_in(clip["path"])) - (15 + 2.5 * np.arange(10))
        assert np.abs(drift).max() <= 1.5
    assert [Media(clip["path"]).info.has_audio for clip in done.clips] == [False, True]
    level = loudness(done.clips[1]["path"])
    assert np.abs(level[: round(0.35 * 48)]).max() < 0.02
    assert level[round(0.45 * 48) : round(0.95 * 48)].min() > 0.2
    assert len(level) / 48 == pytest.approx(1.0, abs=0.05)


def loudness(path: str) -> np.ndarray:
    """The sound's amplitude, 48 values a second, from the presentation time 0 on."""
    with av.open(path) as container:
        parts = list(container.decode(audio=0))
    assert parts[0].pts is not None and parts[0].time_base is not None
    start = round(float(parts[0].pts * parts[0].time_base) * 48000)
    wave = np.concatenate([part.to_ndarray()[0] for part in parts])
    wave = wave[-start:] if start < 0 else np.pad(wave, (start, 0))
    return np.abs(wave[: len(wave) // 1000 * 1000]).reshape(-1, 1000).max(axis=1)


def test_sizes_shrink_borders_go_pixels_become_square_and_sound_is_left_out(tmp_path: Path) -> None:
    def letterboxed(number: int) -> np.ndarray:
        return np.pad(footage.picture(number), ((40, 40), (0, 0), (0, 0)))

    small = [cv2.resize(footage.picture(n), (136, 102)) for n in range(5)]
    sources = {
        "large": footage.numbered(tmp_path / "large.mp4", 5),
        "small": footage.encode(tmp_path / "small.mp4", small),
        "boxed": footage.encode(tmp_path / "boxed.mp4", (letterboxed(n) for n in range(5))),
        "turned": footage.turned(tmp_path / "turned.mp4", 90).path,
        "wide": footage.numbered(tmp_path / "wide.mp4", 5, "-vf", "setsar=2/1"),
    }
    sources["loud"] = footage.with_sound(sources["large"], tmp_path / "loud.mp4")
    rows = [{"path": str(path), "timestamp": scenes((0, 0.2))} for path in sources.values()]
    done = CutTable(tmp_path, rows, shorter_size=120, crop_borders=True)
    assert done.failed == []
    infos = [Media(clip["path"]).info for clip in done.clips]
    sizes = dict(zip(sources, [(info.height, info.width) for info in infos], strict=True))
    boxed = sizes.pop("boxed")
    assert boxed == pytest.approx((120, 160), abs=4)
    assert sizes == {
        "large": (120, 160),
        "small": (102, 136),
        "turned": (120, 160),
        "wide": (120, 320),
        "loud": (120, 160),
    }
    assert {info.pixel_aspect for info in infos} == {1.0}
    assert not any(info.has_audio for info in infos)
    assert [numbers_in(clip["path"]) for clip in done.clips] == [list(range(5))] * len(sources)


def test_a_nearly_black_picture_is_not_cropped_to_nothing(tmp_path: Path) -> None:
    black = np.zeros((240, 320, 3), np.uint8)
    lines = {"high": np.s_[117:121, :], "wide": np.s_[:, 319:]}
    rows = []
    for name, line in lines.items():
        lit = black.copy()
        lit[line] = 255
        path = footage.encode(tmp_path / f"{name}.mp4", [lit] * 5)
        rows.append({"path": str(path), "timestamp": scenes((0, 0.2))})
    done = CutTable(tmp_path, rows, crop_borders=True)
    assert done.failed == []
    infos = [Media(clip["path"]).info for clip in done.clips]
    assert [(info.height, info.width) for info in infos] == [(240, 320)] * 2


def test_a_copy_begins_at_a_key_frame_and_says_where(tmp_path: Path) -> None:
    sources = [footage.b_frames(tmp_path / "a.mp4"), footage.mpeg_ts(tmp_path / "b.ts")]
    raw = footage.no_times(tmp_path / "raw.h264").path
    rows = [{"path": str(s.path), "timestamp": scenes((0.8, 1.92), (0.52, 0.8))} for s in sources]
    done = CutTable(tmp_path, [*rows, {"path": str(raw), "timestamp": scenes((0, 1))}], encoder="copy")
    for source, clip in zip(sources, done.clips, strict=True):
        original = {f.index: f.rgb() for f in Media(str(source.path)).frames()}
        copied = [frame.rgb() for frame in Media(clip["path"]).frames()]
        assert (clip["clip_start"], clip["clip_end"]) == ("0.96", "1.92")
        assert len(copied) == 24
        assert all(np.array_equal(picture, original[24 + n]) for n, picture in enumerate(copied))
    assert [(row["path"], row["code"]) for row in done.failed] == [
        (str(sources[0].path), "no_frames"),
        (str(sources[1].path), "no_frames"),
        (str(raw), "partial"),
    ]


@pytest.fixture(scope="module")
def spliced(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """Scenes that share frames, copied where they can be."""
    return cut_every_kind(
        tmp_path_factory.mktemp("spliced"),
        lambda count: (
            [(0, count)] if count < 8 else [(3, count - 2), (count // 3, count - count // 4), (0, count)]
        ),
        encoder="smart",
    )


@pytest.mark.parametrize("name", footage.KINDS)
def test_a_clip_that_is_copied_where_it_can_be_is_exact_all_the_same(spliced: Pieces, name: str) -> None:
    for source, frames, clip in spliced[name]:
        assert numbers_in(clip["path"]) == [source.numbers[i] for i in frames]
        times = source.seconds[frames.start : frames.stop]
        assert Media(clip["path"]).info.frame_seconds == pytest.approx(times - times[0], abs=1.1e-3)


@pytest.mark.parametrize("edges", [(0, 75), (25, 75), (10, 75), (10, 63), (27, 77)])
def test_whole_groups_of_pictures_are_copied(
    tmp_path: Path, edges: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    codec = ("-c:v", "libx264", "-preset", "medium", "-pix_fmt", "yuv420p", "-g", "25", "-sc_threshold", "0")
    path = footage.numbered(tmp_path / "a.mp4", 100, codec=codec)
    first, stop = edges
    row = {"path": str(path), "timestamp": scenes((first / 25, stop / 25))}
    with caplog.at_level("WARNING"):
        done = CutTable(tmp_path, [row], encoder="smart")
    assert numbers_in(done.clips[0]["path"]) == list(range(first, stop))
    assert "encoded" not in caplog.text
    copied = set(packets_of(path)) & set(packets_of(done.clips[0]["path"]))
    assert len(copied) >= (stop // 25 - -(-first // 25)) * 25 > 0
    said = decoded_by_ffmpeg(done.clips[0]["path"])
    assert said == ""


def packets_of(path: str | Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def decoded_by_ffmpeg(path: str) -> str:
    """What the program says of a clip while it decodes it."""
    command = [footage.ffmpeg.program(), "-v", "warning", "-i", path, "-f", "null", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_what_cannot_be_copied_is_encoded_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = footage.vp8(tmp_path / "a.webm").path
    with caplog.at_level("WARNING"):
        done = CutTable(tmp_path, [{"path": str(path), "timestamp": scenes((0, 0.4))}], encoder="smart")
    assert "1 of 1 clips: encoded: its codec is vp8, not h264" in caplog.text
    assert numbers_in(done.clips[0]["path"]) == list(range(10))


def test_clips_that_share_frames_get_each_its_own(tmp_path: Path) -> None:
    source = footage.vfr(tmp_path / "a.mp4")
    ends = source.seconds
    spans = [(0, 20), (5, 15), (10, 30), (5, 15)]
    row = {"path": str(source.path), "timestamp": scenes(*((ends[a], ends[b]) for a, b in spans))}
    done = CutTable(tmp_path, [row])
    for (a, b), clip in zip(spans, done.clips, strict=True):
        assert numbers_in(clip["path"]) == source.numbers[a:b]
        assert Media(clip["path"]).info.frame_seconds == pytest.approx(ends[a:b] - ends[a], abs=1.1e-3)


def test_a_clip_does_not_depend_on_what_is_cut_beside_it(tmp_path: Path) -> None:
    codec = ("-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p")
    path = footage.encode(tmp_path / "a.mp4", footage.shots(5, 6, seconds=2), codec=codec)
    found = []
    for name, spans in (("alone", [(0.4, 1.6)]), ("beside", [(0, 1), (0.4, 1.6), (2, 3), (0.4, 1.6)])):
        folder = tmp_path / name
        folder.mkdir()
        table = write_table(folder / "meta.csv", [{"path": str(path), "timestamp": scenes(*spans)}])
        run_step([str(table)], Cut(str(folder / "out"), preset="veryfast"), RunOptions(num_workers=1))
        clips = read_table(folder / "meta_clips.csv")
        found += [Path(c["path"]).read_bytes() for c in clips if c["clip_start"] == "0.4"]
    assert len(found) == 3
    assert len(set(found)) == 1


@pytest.mark.parametrize("width", [320, 634, 640])  # 20 and 40 macroblocks
def test_a_clip_does_not_depend_on_what_memory_held_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    made = []
    frames = footage.shots(5, 6, seconds=2)
    path = footage.encode(tmp_path / "a.mp4", frames, "-vf", f"scale={width}:240", "-preset", "fast")
    for filling in ("1", "85", "255"):  # what glibc fills new memory with, if nobody says otherwise
        monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.perturb={filling}")
        folder = tmp_path / filling
        folder.mkdir()
        table = write_table(folder / "meta.csv", [{"path": str(path), "timestamp": scenes((0.4, 1.6))}])
        run_step([str(table)], Cut(str(folder / "out")), RunOptions(num_workers=1))
        made.append((folder / "out" / "a_scene-0.mp4").read_bytes())
    assert len(set(made)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_every_clip_is_in_one_task_and_tasks_get_shorter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources, clips = [], []
    for count in rng.integers(1, 120, rng.integers(1, 12)).tolist():
        sources.append(list(range(len(clips), len(clips) + count)))
        clips += [Clip("", 0.0, seconds) for seconds in rng.exponential(rng.choice([0, 3, 60]), count)]
    workers = int(rng.integers(1, 17))
    groups = _groups(sources, clips, workers)
    assert sorted(n for group in groups for n in group) == list(range(len(clips)))
    assert max(map(len, groups)) <= FILES_PER_TASK
    source_of = {n: k for k, some in enumerate(sources) for n in some}
    assert all(len({source_of[n] for n in group}) == 1 and group == sorted(group) for group in groups)
    lengths = [sum(clips[n].end for n in group) for group in groups]
    longest = max(clip.end for clip in clips)
    assert all(length <= sum(lengths) / (FIRST_TASKS * workers) + longest for length in lengths)
    assert lengths[-1] <= sum(lengths) / (LAST_TASKS * workers) + longest


def test_a_clip_behind_a_change_of_size_has_the_size_of_the_others(tmp_path: Path) -> None:
    source = footage.changing_size(tmp_path / "a.mp4")
    ends = [*source.seconds, 99.0]
    middle = len(source.numbers) - 5
    row = {"path": str(source.path), "timestamp": scenes((0, ends[5]), (ends[middle], 99.0))}
    done = CutTable(tmp_path, [row], crop_borders=True)
    assert done.failed == []
    assert len({(Media(c["path"]).info.width, Media(c["path"]).info.height) for c in done.clips}) == 1


@pytest.mark.parametrize("encoder", ["libx264", "smart"])
def test_shots_of_one_frame_are_clips_of_one_frame(tmp_path: Path, encoder: str) -> None:
    source = footage.b_frames(tmp_path / "a.mp4")
    spans = [(0, 1), (1, 2), (2, 3), (3, 24), (24, 25), (25, 49), (49, 50)]
    ends = [*source.seconds, 99.0]
    row = {"path": str(source.path), "timestamp": scenes(*((ends[a], ends[b]) for a, b in spans))}
    done = CutTable(tmp_path, [row], encoder=encoder)
    assert [numbers_in(clip["path"]) for clip in done.clips] == [list(range(a, b)) for a, b in spans]


@pytest.mark.parametrize("encoder", ["libx264", "smart", "copy"])
def test_a_damaged_middle_fails_what_it_is_in_only(tmp_path: Path, encoder: str) -> None:
    codec = ("-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p", "-g", "20", "-sc_threshold", "0")
    path = footage.numbered(tmp_path / "a.mp4", 100, codec=codec)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        damaged = [(p.pos, p.size) for p in container.demux(video=0) if p.size][42:56]
    for at, size in damaged:
        data[at + 8 : at + size] = b"\xa5" * (size - 8)
    path.write_bytes(data)
    row = {"path": str(path), "timestamp": scenes((0, 1.6), (1.6, 2.4), (2.4, 4))}
    done = CutTable(tmp_path, [row], encoder=encoder)
    got = {clip["clip_start"]: numbers_in(clip["path"]) for clip in done.clips}
    assert (got["0.0"], got["2.4"]) == (list(range(40)), list(range(60, 100)))
    if encoder != "copy":  # which decodes nothing
        assert [(row["clip_start"], row["code"]) for row in done.failed] == [("1.6", "partial")]


@pytest.mark.parametrize(
    "options", [("-f", "matroska", "-live", "1"), ("-movflags", "frag_keyframe+empty_moov", "-f", "mp4")]
)
def test_a_source_whose_header_has_no_duration_is_cut_to_the_frame(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = footage.numbered(tmp_path / "a.bin", 50, *options, codec=footage.B_FRAMES)
    done = CutTable(tmp_path, [{"path": str(path), "timestamp": scenes((0, 0.8), (0.8, 99))}])
    assert [numbers_in(clip["path"]) for clip in done.clips] == [list(range(20)), list(range(20, 50))]


def test_a_picture_with_a_time_is_a_failed_row(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), footage.picture(3))
    done = CutTable(tmp_path, [{"path": str(tmp_path / "a.png"), "timestamp": scenes((0, 1))}])
    assert [(row["scorer"], row["code"]) for row in done.failed] == [("cut", "no_frames")]


def test_the_crop_stands_in_columns_and_takes_no_line_of_the_picture(tmp_path: Path) -> None:
    pictures = [np.pad(footage.picture(n, 201, 320), ((39, 40), (0, 0), (0, 0))) for n in range(5)]
    boxed = footage.encode(tmp_path / "boxed.mp4", pictures)
    plain = footage.numbered(tmp_path / "plain.mp4", 5)
    rows = [{"path": str(path), "timestamp": scenes((0, 0.2))} for path in (boxed, plain)]
    done = CutTable(tmp_path, rows, crop_borders=True)
    crops = [[int(clip[f"crop_{side}"]) for side in "xywh"] for clip in done.clips]
    assert crops[1] == [0, 0, 320, 240]
    x, y, width, height = crops[0]
    assert (x, width) == (0, 320)
    assert 36 <= y <= 39
    assert 240 <= y + height <= 244
    assert not y % 2
    assert not height % 2
    assert [(Media(clip["path"]).info.width, Media(clip["path"]).info.height) for clip in done.clips] == [
        (320, height), (320, 240),
    ]  # fmt: skip


@pytest.fixture
def boxes(tmp_path: Path) -> list[dict[str, str]]:
    """Rows of a video that is mostly bars in its second half, and of one without any."""

    def boxed(number: int) -> np.ndarray:
        high = 240 if number < 10 else 100
        bar = (240 - high) // 2
        return np.pad(footage.picture(number, high, 320), ((bar, bar), (0, 0), (0, 0)))

    video = footage.encode(tmp_path / "a.mp4", (boxed(n) for n in range(20)))
    plain = footage.numbered(tmp_path / "b.mp4", 5)
    return [
        {"path": str(video), "text": "changing", "timestamp": scenes((0, 0.4), (0.4, 0.8))},
        {"path": str(plain), "text": "plain", "timestamp": scenes((0, 0.2))},
    ]


def test_a_clip_of_which_cropping_leaves_too_little_is_dropped_and_stays_so(
    tmp_path: Path, boxes: list[dict[str, str]]
) -> None:
    done = CutTable(tmp_path, boxes, crop_borders=True)

    def state() -> list[tuple[str, int, bytes]]:
        files = [*tmp_path.glob("meta_clips*.csv"), *done.clips_folder.rglob("*.mp4")]
        return sorted(
            (f.name, f.stat().st_mtime_ns if f.suffix == ".mp4" else 0, f.read_bytes()) for f in files
        )

    for _ in range(2):
        assert [(clip["text"], clip["crop_h"]) for clip in done.clips] == [
            ("changing", "240"),
            ("plain", "240"),
        ]
        [drop] = done.dropped
        assert (drop["path"], drop["text"]) == (boxes[0]["path"], "changing")
        assert (drop["clip_start"], drop["clip_end"]) == ("0.4", "0.8")
        assert drop["reason"] == "crop_ratio 0.4167 < 0.6"
        assert done.failed == []
        assert done.status.dropped == {"crop_ratio < 0.6": 1}
        assert len(list(done.clips_folder.rglob("*.mp4"))) == 2
        before = state()
        done.again()
        assert state() == before


def test_the_least_share_of_a_crop_is_the_users_and_counts_for_crops_only(
    tmp_path: Path, boxes: list[dict[str, str]]
) -> None:
    kept = CutTable(tmp_path, boxes, crop_borders=True, min_crop_ratio=0.4)
    assert [clip["crop_h"] for clip in kept.clips] == ["240", "100", "240"]
    assert kept.dropped == []
    uncropped = [CutTable(tmp_path, boxes, min_crop_ratio=ratio) for ratio in (0.6, 0.9)]
    written = [[os.stat(clip["path"]).st_mtime_ns for clip in done.clips] for done in uncropped]
    assert written[0] == written[1]
    assert len(written[0]) == 3


def test_a_copy_is_not_cropped_and_does_not_say_so(tmp_path: Path, boxes: list[dict[str, str]]) -> None:
    rows = [{**boxes[0], "timestamp": scenes((0, 0.8))}]
    done = CutTable(tmp_path, rows, crop_borders=True, min_crop_ratio=1.0, encoder="copy")
    assert [clip["crop_h"] for clip in done.clips] == [""]
    assert Media(done.clips[0]["path"]).info.height == 240


@pytest.mark.parametrize("encoder", ["libx264", "smart"])
def test_a_dark_sky_is_not_cut_off(tmp_path: Path, encoder: str) -> None:
    def night(number: int) -> np.ndarray:
        rng = np.random.default_rng(number)
        sky = np.linspace(0, 25, 240)[:, None] + rng.normal(0, 2, (240, 320))
        town = np.where(rng.random((240, 320)) < 0.02, 200, 30)
        roofs = 150 + 40 * np.sin(np.arange(320) / 9)
        luma = np.where(np.arange(240)[:, None] > roofs[None], town, sky)
        return np.repeat(luma.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)

    path = footage.encode(tmp_path / "night.mp4", (night(n) for n in range(10)), "-crf", "30")
    done = CutTable(
        tmp_path, [{"path": str(path), "timestamp": scenes((0, 0.4))}], crop_borders=True, encoder=encoder
    )
    assert [clip["crop_h"] for clip in done.clips] == ["240"]


def test_pictures_of_any_size_become_clips(tmp_path: Path) -> None:
    sizes = [(1, 1), (2, 2), (7, 5), (1, 64), (64, 1), (15, 17), (3000, 40), (40, 3000)]
    rows = []
    for width, height in sizes:
        pictures = np.random.default_rng(0).integers(0, 256, (6, height, width, 3), np.uint8)
        path = footage.encode(tmp_path / f"{width}x{height}.mov", pictures, codec=("-c:v", "png"))
        rows.append({"path": str(path), "timestamp": scenes((0, 0.12), (0.12, 0.24))})
    for cutting in ({}, {"crop_borders": True, "shorter_size": 16}, {"encoder": "smart"}):
        done = CutTable(tmp_path, rows, **cutting)
        assert done.failed == []
        infos = [Media(clip["path"]).info for clip in done.clips[::2]]
        long = [16 / min(size) if min(size) > 16 and "shorter_size" in cutting else 1 for size in sizes]
        assert [(info.width, info.height) for info in infos] == [
            tuple(round(side * share / 2 + 1e-9) * 2 if share < 1 else side + side % 2 for side in size)
            for size, share in zip(sizes, long, strict=True)
        ]
        assert all(len(Media(clip["path"]).info.frame_seconds) == 3 for clip in done.clips)


def test_what_nvidia_finds_too_small_is_so() -> None:
    said = (
        "InitializeEncoder failed: invalid param (8): Frame Dimension less than the minimum supported value."
    )
    for detail, code in (
        (said, "too_small"),
        ("InitializeEncoder failed: invalid param (8): Invalid Level.", "partial"),
    ):
        with pytest.raises(MediaError) as caught, failing():
            raise av.error.ExternalError(542398533, detail)
        assert caught.value.code == code


# --- the command -------------------------------------------------------------------------------


def test_a_wrong_call_says_what_is_missing(tmp_path: Path) -> None:
    table = write_table(tmp_path / "meta.csv", [{"path": "a.mp4"}])
    with pytest.raises(CallError, match="--save_dir"):
        run_step([str(table)], Cut(), RunOptions())
    with pytest.raises(CallError, match="timestamp"):
        run_step([str(table)], Cut(save_dir=str(tmp_path / "out")), RunOptions())
    with pytest.raises(CallError, match=r"nowhere\.csv"):
        run_step([str(tmp_path / "nowhere.csv")], Cut(save_dir=str(tmp_path / "out")), RunOptions())
    assert os.listdir(tmp_path) == ["meta.csv"]


def test_the_command_reads_a_table_and_ends_with_one_line(tool: Tool, tmp_path: Path) -> None:
    path = footage.numbered(tmp_path / "a.mp4", 20)
    table = write_table(
        tmp_path / "meta.csv", [{"path": str(path), "timestamp": scenes((0, 0.4), (0.4, 0.8))}]
    )
    out = tmp_path / "out"
    said = tool("pipeline.splitting.cut", table, "--save-dir", out, "--min_seconds=0.4").stdout
    assert said.strip().splitlines()[-1].startswith("clips: 1 rows, 2 out in ")
    clips = read_table(tmp_path / "meta_clips.csv")
    assert [numbers_in(clip["path"]) for clip in clips] == [list(range(10)), list(range(10, 20))]
