"""Configs: YAML and JSON, references, changes from the command line, and one clear error for the rest."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clipsheet import config
from clipsheet.cli import Parser, guarded
from clipsheet.config import build, option
from clipsheet.errors import ConfigError
from clipsheet.outcome import Status
from tests.conftest import Tool, read_table


@dataclass(frozen=True)
class Options:
    detector: str = option("adaptive", "which", choices=("adaptive", "content", "fixed"))
    threshold: float = option(3.0, "of the detector", gt=0)
    max_seconds: float | None = option(None, "seconds", ge=0)
    batch_size: int = option(64, "rows", ge=1)
    use_cpu: bool = option(False, "no GPU")
    scorers: tuple[str, ...] = option((), "names", choices=("aes", "ocr"))
    question: str = option("", "to the model")


def load(folder: Path, content: str, *changes: str, name: str = "config.yaml") -> dict[str, Any]:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return config.load(path, changes)


def refusal(folder: Path, content: str, *changes: str, name: str = "config.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, content, *changes, name=name)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- values ------------------------------------------------------------------------------------


def test_what_is_not_given_has_its_default() -> None:
    assert build(Options, {}) == Options()
    assert build(Options, {"threshold": None, "max_seconds": None}) == Options()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("detector", "content", "content"),
        ("threshold", 2, 2.0),
        ("threshold", 0.001, 0.001),
        ("max_seconds", 0, 0.0),
        ("batch_size", 1, 1),
        ("use_cpu", True, True),
        ("scorers", ["aes", "ocr"], ("aes", "ocr")),
        ("scorers", [], ()),
        ("question", "no", "no"),
        ("question", '"; touch x', '"; touch x'),
        ("question", "", ""),
    ],
)
def test_a_right_value_is_taken(key: str, value: object, expected: object) -> None:
    assert getattr(build(Options, {key: value}), key) == expected


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("threshold", "high", "'high': input should be a valid number"),
        ("threshold", "3.0", "'3.0': input should be a valid number"),
        ("threshold", True, "True: input should be a valid number"),
        ("threshold", float("nan"), "nan: input should be a finite number"),
        ("threshold", float("inf"), "inf: input should be a finite number"),
        ("threshold", 0, "0: input should be greater than 0"),
        ("threshold", -2.5, "-2.5: input should be greater than 0"),
        ("max_seconds", -1, "-1: input should be greater than or equal to 0"),
        ("max_seconds", float("nan"), "nan: input should be a finite number"),
        ("batch_size", 0, "0: input should be greater than or equal to 1"),
        ("batch_size", 1.5, "1.5: input should be a valid integer"),
        ("batch_size", 2.0, "2.0: input should be a valid integer"),
        ("batch_size", True, "True: input should be a valid integer"),
        ("batch_size", "8", "'8': input should be a valid integer"),
        ("use_cpu", "yes", "'yes': input should be a valid boolean"),
        ("use_cpu", 1, "1: input should be a valid boolean"),
        ("question", False, "False: input should be a valid string"),
        ("question", 7, "7: input should be a valid string"),
        ("detector", "adaptiv", "'adaptiv' is none of adaptive, content, fixed"),
        ("scorers", ["aes", "nsfw"], "is none of aes, ocr"),
        ("scorers", "aes", "'aes': input should be a valid tuple"),
        ("scorers", [1], "1: input should be a valid string"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Options, {key: value}, "meta_steps.split_video")
    assert str(caught.value).startswith(f"meta_steps.split_video.{key}")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "better"),
    [("1e-3", "1.0e-3"), ("1e-7", "1.0e-7"), ("5e22", "5.0e+22"), ("2.5e3", "2.5e+3"), ("-1E5", "-1.0e+5")],
)
def test_a_number_that_yaml_takes_for_a_text_is_shown_as_it_must_be_written(
    tmp_path: Path, text: str, better: str
) -> None:
    given = load(tmp_path, f"threshold: {text}\n")
    with pytest.raises(ConfigError, match="threshold") as caught:
        build(Options, given)
    assert str(caught.value).endswith(f"YAML reads {text} as text, write {better}")
    assert load(tmp_path, f"threshold: {better}\n") == {"threshold": float(text)}


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("treshold", "treshold: unknown; did you mean `threshold`?"),
        ("batchsize", "batchsize: unknown; did you mean `batch_size`?"),
        ("Use_cpu", "Use_cpu: unknown; did you mean `use_cpu`?"),
        ("xyzzy", "xyzzy: unknown; known are detector, threshold"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Options, {key: None}, "captioning")
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"captioning.{key}: ")


# --- files -------------------------------------------------------------------------------------

NESTED = {
    "paths": {"ROOT_META": "out", "n": 3},
    "steps": [{"run": True, "fmin": 1, "table": "out/meta_fmin1.csv"}, {"run": False, "x": None, "y": 0.5}],
}


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    yaml = (
        "paths: {ROOT_META: out, n: 3}\nsteps:\n- run: true\n  fmin: 1\n  table: out/meta_fmin1.csv # why\n"
        "- run: false\n  x: null\n  y: 0.5\n"
    )
    assert load(tmp_path, yaml) == NESTED
    assert load(tmp_path, yaml, name="config.yml") == NESTED
    assert load(tmp_path, json.dumps(NESTED), name="config.json") == NESTED
    assert load(tmp_path, "\ufeff" + yaml) == NESTED
    assert load(tmp_path, "\ufeff" + json.dumps(NESTED), name="config.json") == NESTED
    assert load(tmp_path, yaml.replace("\n", "\r\n")) == NESTED


def test_references_are_filled_in_with_their_type(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
paths: {ROOT_META: out, fmin: 2, big: 4.5, on: true, none: null, list: [1, 2]}
more: ${paths}
inner: ${more.fmin}
whole: ${paths.fmin}
spaced: ${ paths.fmin }
float: ${paths.big}
flag: ${paths.on}
none: ${paths.none}
list: ${paths.list}
text: ${paths.ROOT_META}/meta_info_fmin${paths.fmin}_${paths.big}.csv
chain: a/${text}
later: ${last}
deep: {er: [{x: "${paths.ROOT_META}"}]}
last: 1
price: 5$ or $5
""".replace("on: true", '"on": true'),
    )
    assert found["more"] == found["paths"]
    expected = {
        "inner": 2,
        "whole": 2,
        "spaced": 2,
        "float": 4.5,
        "flag": True,
        "none": None,
        "list": [1, 2],
        "text": "out/meta_info_fmin2_4.5.csv",
        "chain": "a/out/meta_info_fmin2_4.5.csv",
        "later": 1,
        "deep": {"er": [{"x": "out"}]},
        "price": "5$ or $5",
    }
    assert {key: found[key] for key in expected} == expected


def test_references_are_filled_in_in_json_too(tmp_path: Path) -> None:
    given = json.dumps({"a": {"b": 5}, "c": "${a.b}", "d": "x${a.b}y"})
    assert load(tmp_path, given, name="c.json") == {"a": {"b": 5}, "c": 5, "d": "x5y"}


def test_pwd_is_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "a folder"
    here.mkdir()
    monkeypatch.chdir(here)
    found = load(tmp_path, "PYTHONPATH: $(pwd)\nx: $(pwd)/x:$(pwd)\ny: ${x}\n")
    assert found == {"PYTHONPATH": str(here), "x": f"{here}/x:{here}", "y": f"{here}/x:{here}"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: ${b.c}\nb: {d: 1}\n", "`a`: ${b.c} refers to nothing"),
        (
            "paths: {ROOT_META: x}\nb: {c: '${paths.ROOT_MTA}'}\n",
            "`b.c`: ${paths.ROOT_MTA} refers to nothing",
        ),
        ("paths: {ROOT_META: x}\nb: ${paths.ROOT_MTA}\n", "did you mean `ROOT_META` for `ROOT_MTA`?"),
        ("a: ${a}\n", "refers to itself"),
        ("a: ${b}\nb: x${c}\nc: ${a}\n", "refers to itself"),
        ("a: {b: '${a}'}\n", "refers to itself"),
        ("a: &a [*a]\n", "refers to itself"),
        ("a: ${oc.env:HOME}\n", "refers to nothing"),
        ("a: $(touch x)\n", "`a`: $(touch x): only $(pwd) and ${key.key} are filled in"),
        ("a: {b: [1, '$(pwd) $(touch x)']}\n", "`a.b.1`: $(pwd) $(touch x): only $(pwd)"),
        ("a: ${b\nb: 1\n", "only $(pwd) and ${key.key} are filled in"),
        ("a: [1]\nb: x${a}\n", "`b`: ${a} is no text or number to put into x${a}"),
        ("a: null\nb: ${a}/meta.csv\n", "`b`: ${a} is no text or number"),
    ],
)
def test_a_reference_that_cannot_be_filled_in_is_refused(tmp_path: Path, content: str, told: str) -> None:
    message = refusal(tmp_path, content)
    assert told in message
    assert "config.yaml" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: key `a` is given twice"),
        ("x:\n  a: 1\n  b:\n    c: 1\n    c: 2\n", "line 5: key `c` is given twice"),
        ("on: 1\n", "line 1: the key True is no text; put it in quotes"),
        ("a: 1\n7: 2\n", "line 2: the key 7 is no text"),
        ("fmin: 010\n", "line 1: YAML reads 010 as 8; put it in quotes or write 8"),
        ("a: 1\nid: 007\n", "line 2: YAML reads 007 as 7"),
        ("at: 12:30:45\n", "YAML reads 12:30:45 as 45045"),
        ("at: 1:30.5\n", "YAML reads 1:30.5 as 90.5"),
        ("a: !!python/object/apply:os.system ['touch x']\n", "could not determine a constructor"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: !unknown 1\n", "could not determine a constructor"),
        ("a:\n\tb: 1\n", "line 2"),
        ("a: [1\n", "line 2"),
        ("a: 'x\n", "line"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("", "a config is a mapping"),
        ("# only words\n", "a config is a mapping"),
        ("- a\n- b\n", "a config is a mapping"),
        ("just a text\n", "a config is a mapping"),
        ("a: " + "[" * 5000 + "]" * 5000, "recursion"),
        ("b: 1\na: 2024-13-45\n", "line 2: 2024-13-45: month must be in 1..12"),
        ("a: 2024-01-01T25:00:00\n", "line 1: 2024-01-01T25:00:00: hour must be"),
        ("a: " + "9" * 5000, "line 1: 999"),
        ("a: 0x" + "f" * 5000, "line 1: 0xfff"),
        ("a: !!int ''\n", "line 1"),
        ("a: !!bool maybe\n", "line 1: maybe"),
        ("a: !!timestamp now\n", "line 1: now"),
    ],
)
def test_what_yaml_would_quietly_turn_into_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(tmp_path, content)
    assert told in message
    assert "config.yaml" in message
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a": 1, "a": 2}', "key `a` is given twice"),
        ('{"x": {"b": 1, "b": 1}}', "key `b` is given twice"),
        ('{"a": 1,}', "line 1 column"),
        ("[1, 2]", "a config is a mapping"),
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "4300 digits"),
    ],
)
def test_json_that_is_no_config_is_refused(tmp_path: Path, content: str, told: str) -> None:
    message = refusal(tmp_path, content, name="config.json")
    assert told in message
    assert "config.json" in message


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.toml", b"a = 1", "a config ends in .yaml, .yml or .json"),
        ("config", b"a: 1", "a config ends in .yaml, .yml or .json"),
        ("config.yaml", None, "No such file"),
        ("config.yaml", b"a: caf\xe9\n", "byte 6: not UTF-8"),
        ("config.yaml", "a: 1".encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_file_that_is_no_config_is_refused(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert told in str(caught.value)
    assert name in str(caught.value)


def _alias_bomb(width: int) -> str:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 11)]
    return "\n".join(["a0: &a0 [x, x]", *lines]) + "\n"


def _reference_bomb(width: int) -> str:
    return "a0: xxxxxxxxxx\n" + "".join(f"a{n}: {f'${{a{n - 1}}}' * width}\n" for n in range(1, 15))


def _section_bomb(width: int) -> str:
    inner = [", ".join(f"k{k}: '${{a{n - 1}}}'" for k in range(width)) for n in range(1, 15)]
    return "a0: {x: 1}\n" + "".join(f"a{n + 1}: {{{keys}}}\n" for n, keys in enumerate(inner))


@pytest.mark.parametrize(
    "bomb",
    [
        _alias_bomb(10),
        _alias_bomb(9),
        _reference_bomb(10),
        _reference_bomb(3),
        _section_bomb(10),
    ],
    ids=["110 aliases", "90 aliases", "references", "few references", "sections"],
)
def test_a_few_lines_that_stand_for_billions_of_values_are_refused(tmp_path: Path, bomb: str) -> None:
    began = time.monotonic()
    message = refusal(tmp_path, bomb)
    assert time.monotonic() - began < 10
    assert "more than" in message


def test_a_few_aliases_are_fine(tmp_path: Path) -> None:
    found = load(tmp_path, "a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    assert found == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}]}


# --- changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place", "value"),
    [
        ("a.b=5", "a.b", 5),
        ("a.b=1.5", "a.b", 1.5),
        ("a.b=true", "a.b", True),
        ("a.b=null", "a.b", None),
        ("a.b=[1, x]", "a.b", [1, "x"]),
        ("a.b=some text: with a colon", "a.b", "some text: with a colon"),
        ("a.b={k: 1}", "a.b", "{k: 1}"),
        ("a.b=007", "a.b", "007"),
        ("a.b=2024-01-02", "a.b", "2024-01-02"),
        ("a.b=x=y", "a.b", "x=y"),
        ("a.b='5'", "a.b", "'5'"),
        ("a.b=!!python/name:os.system", "a.b", "!!python/name:os.system"),
        ("new.section.key=1", "new.section.key", 1),
        ("top=1", "top", 1),
        ("null_section.key=1", "null_section.key", 1),
        ("a.b=${a.c}", "a.b", "kept"),
    ],
)
def test_a_change_is_put_over_the_file(tmp_path: Path, change: str, place: str, value: object) -> None:
    content = "a: {b: 1, c: kept}\nnull_section:\n"
    found: Any = load(tmp_path, content, change)
    assert found["a"]["c"] == "kept"
    for key in place.split("."):
        found = found[key]
    assert found == value
    assert type(found) is type(value)
    assert (tmp_path / "config.yaml").read_text() == content


@pytest.mark.parametrize(
    ("change", "place", "value"),
    [
        ("paths.ROOT_VIDEO=2024", "paths.ROOT_VIDEO", "2024"),
        ("paths.ROOT_VIDEO=true", "paths.ROOT_VIDEO", "true"),
        ("paths.ROOT_META=1.50", "paths.ROOT_META", "1.50"),
        ("new.ROOT_META=2024", "new.ROOT_META", 2024),
        ("paths.n=4", "paths.n", 4),
        ("a.text=007", "a.text", "007"),
        ("a.text=5", "a.text", "5"),
        ("a.text=null", "a.text", None),
        ("a.text=[1]", "a.text", [1]),
        ("a.referring=5", "a.referring", 5),
        ("a.long=" + "9" * 5000, "a.long", "9" * 5000),
        ("a.when=2024-13-45", "a.when", "2024-13-45"),
        ("a.deep=" + "[" * 5000, "a.deep", "[" * 5000),
    ],
)
def test_a_change_of_a_text_or_a_folder_is_a_text(
    tmp_path: Path, change: str, place: str, value: object
) -> None:
    content = "paths: {ROOT_VIDEO: videos, n: 3}\na: {text: old, referring: '${paths.n}'}\n"
    found: Any = load(tmp_path, content, change)
    for key in place.split("."):
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_changes_come_before_references_and_the_last_one_holds(tmp_path: Path) -> None:
    found = load(tmp_path, "a: 1\nb: ${a}\n", "a=2", "a=3")
    assert found == {"a": 3, "b": 3}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("a.b", "write it as key.key=value"),
        ("=1", "write it as key.key=value"),
        ("a..b=1", "write it as key.key=value"),
        ("a.b.c=1", "b holds no keys"),
        ("list.0=1", "list holds no keys"),
        ("a.b=$(touch x)", "only $(pwd)"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(tmp_path: Path, change: str, told: str) -> None:
    assert told in refusal(tmp_path, "a: {b: 1}\nlist: [1]\n", change)


# --- flags -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flags:
    rules: tuple[str, ...] = option((), "one each")
    best: tuple[str, ...] = option((), "so many", names=("PERCENT", "COLUMN"))


def flags(*given: str) -> tuple[list[str], Flags]:
    parser = Parser("flags")
    parser.add_argument("meta", nargs="+")
    parser.add_fields(Flags, "flags")
    found = parser.parse_args(given)
    return found.meta, parser.take(Flags, found)


def test_a_flag_of_a_list_may_be_repeated_and_stand_before_the_table() -> None:
    assert flags("--rules", "a > 1", "m.csv") == (["m.csv"], Flags(("a > 1",)))
    assert flags("m.csv", "--rules", "a > 1", "--rules=b") == (["m.csv"], Flags(("a > 1", "b")))
    assert flags("--best", "30", "aes", "m.csv", "n.csv") == (["m.csv", "n.csv"], Flags((), ("30", "aes")))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["m.csv", "--best", "1", "a", "--best", "2", "b"], "argument --best: given twice; give it once"),
        (["m.csv", "--best", "1"], "argument --best: expected 2 arguments"),
        (["--rules", "a"], "the following arguments are required: meta"),
        (["m.csv", "--\x1b[31mred\n"], "unrecognized arguments: --\\x1b[31mred\\n"),
    ],
)
def test_a_wrong_flag_is_told_of_in_one_safe_line(
    capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        flags(*given)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {told}; see --help\n"


def test_no_name_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise ConfigError(f"a\x1b[2J\nb{'x' * 1000}")

    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert guarded(refuse) == 2
        assert capsys.readouterr().err == f"error: a\\x1b[2J\\nb{'x' * 1000}\n"
        status = Status("to\x1bol", tmp_path / "m\x1b.csv", message="one\x07\ntwo")
        assert guarded(lambda: status) == 0
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
    first, *more = capsys.readouterr().out.splitlines()
    assert first.startswith("to\\x1bol: 0 rows in ")
    assert first.endswith("/m\\x1b.csv")
    assert more == ["one\\x07", "two"]


# --- as a user runs it -------------------------------------------------------------------------


def test_the_scorers_of_repeated_flags_are_all_taken(tmp_path: Path, tool: Tool) -> None:
    (tmp_path / "m.csv").write_text("path\n")
    given = ("--scorers", "info", "--scorers", "motion", "--flow", "1")
    done = tool("scoring.inference", tmp_path / "m.csv", *given, code=2)
    assert done.stderr == "error: unrecognized arguments: --flow 1; see --help\n"
    tool("scoring.inference", tmp_path / "m.csv", *given[:4])
    columns = (tmp_path / "m_scores.csv").read_text().split(",")
    assert {"num_frames", "motion"} <= set(columns)


def test_shell_signs_in_a_value_are_letters(tmp_path: Path, tool: Tool) -> None:
    videos = tmp_path / 'vid"; touch x; $HOME `touch y` & #'
    videos.mkdir()
    (videos / "a.mp4").touch()
    given = {
        "paths": {
            "ROOT_VIDEO": str(videos),
            "ROOT_CLIPS": str(tmp_path / "c"),
            "ROOT_META": str(tmp_path / "m"),
        },
        "meta_steps": {"convert_dataset": {"output_meta_csv": str(tmp_path / "m" / "out.csv")}},
    }
    (tmp_path / "config.json").write_text(json.dumps(given))
    tool("script.pipeline_runner", tmp_path / "config.json", "--only", "convert_dataset", cwd=tmp_path)
    assert [row["path"] for row in read_table(tmp_path / "m" / "out.csv")] == [str(videos / "a.mp4")]
    assert not {"x", "y"} & {path.name for path in tmp_path.rglob("*")}
