"""Captions are cleaned by rule, and nothing of them is lost that a rule does not name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipsheet.errors import CallError, MetaError
from pipeline.datasets import captions
from pipeline.datasets.datautil import datautil
from pipeline.datasets.verbs import UtilOptions, Verbs
from tests.conftest import Tool, read_table, write_table
from tests.tiny import VOCABULARY
from tools.convert.openai_clip import openai_tokenizer


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A Man &amp; a <b>Dog</b>", "a man a dog"),
        ("See http://a.b/c?d=1 now", "see now"),
        ("by @someone at www.site.org", "by at"),
        ("A cat \u4f60\u597d sits", "a cat sits"),
        ("IMG_0123.JPG shows 1920x1080", "shows"),
        ("left \u2014 \u201cright\u201d", 'left - "right'),
        ("It costs 5.5 dollars. The end.", "it costs 5.5 dollars. the end."),
        ("nan", "nan"),
        ("", ""),
        ("na\u00efve caf\u00c3\u00a9", "na\u00efve caf\u00e9"),
        ("(a) [b] {c} | * #d", "a b c d"),
        ("some-page-of-a-site", "some page of a site"),
        ("a well-known face", "a well-known face"),
        ("order 12345678 of 10.0.0.1", "order of"),
        ("100%41 sure", "100a sure"),
        ("i <3 you < 5 and > 3", "i <3 you < 5 and > 3"),
    ],
)
def test_cleaning_by_rule_and_cleaning_twice_changes_nothing(text: str, cleaned: str) -> None:
    assert captions.clean(text) == cleaned
    assert captions.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("The video shows a man. He waves", "A man. He waves"),
        ("the image portrays rain", "Rain"),
        ("In the video, the video shows a dog", "The video shows a dog"),
        ("The video you've provided appears to be old", "Old"),
        ("The video is blue\n\nand  red", "Blue and red"),
        ("The video shows", "The video shows"),
        ("The videographer shows skill", "The videographer shows skill"),
        ("", ""),
    ],
)
def test_a_prefix_goes_once_and_the_rest_stays_whole(text: str, rest: str) -> None:
    assert captions.without_prefix(text) == rest


def test_sentences_that_say_what_is_not_there() -> None:
    text = "A cat sits. There are no people! It doesn't move. It sleeps"
    assert captions.without_negations(text) == "A cat sits. It sleeps"
    assert captions.is_too_verbose(text)
    assert not captions.is_too_verbose("A notable knot. There is no one.")


def test_people_are_words_not_letters() -> None:
    assert captions.is_about_people("Two women talk. A mango falls.")
    assert not captions.is_about_people("A mango falls. A man eats it.")


def test_images_become_videos_and_imagery_stays() -> None:
    assert captions.image_to_video("The still image; Images of imagery") == "The video; Videos of imagery"


def test_scores_are_appended_where_known_and_can_be_taken_off() -> None:
    assert captions.with_scores("a", 5.51, 2.0) == "a [aesthetic score: 5.5, motion score: 2.0]"
    assert captions.with_scores("a", None, 2.0) == "a [motion score: 2.0]"
    assert captions.with_scores("a", None, None) == "a"
    assert captions.with_scores("", 5.0, None) == ""
    for scores in ((5.51, 2.0), (5.51, None), (None, 2.0)):
        assert captions.without_scores(captions.with_scores("a [b]", *scores)) == "a [b]"


def done(folder: Path, rows: list[dict[str, str]], **verbs: Any) -> tuple[list[str], dict[str, str]]:
    """The captions that stay, and the reason of each that does not, by path."""
    table = write_table(folder / "t.csv", rows)
    datautil([str(table)], Verbs(**verbs), UtilOptions(str(folder / "out.csv")))
    dropped = folder / "out_dropped.csv"
    reasons = {r["path"]: r["reason"] for r in read_table(dropped)} if dropped.exists() else {}
    return [row["text"] for row in read_table(folder / "out.csv")], reasons


def rows(*texts: str, **more: str) -> list[dict[str, str]]:
    return [{"path": f"{n}.mp4", "text": text, **more} for n, text in enumerate(texts)]


def test_what_a_table_keeps_stays_as_it_is_and_nan_stays_a_word(tmp_path: Path) -> None:
    texts = ["nan", "NA", 'a, "b"\nc', "\U0001f600 \u05e9\u05dc\u05d5\u05dd", "None"]
    kept, reasons = done(tmp_path, rows(*texts, "", " "), remove_empty_caption=True)
    assert kept == texts
    assert reasons == {"5.mp4": "text: empty", "6.mp4": "text: empty"}


def test_a_caption_that_cleaning_empties_is_dropped_too(tmp_path: Path) -> None:
    texts = ("http://a.b", "A Dog")
    kept, reasons = done(tmp_path, rows(*texts), clean_caption=True, remove_empty_caption=True)
    assert (kept, reasons) == (["a dog"], {"0.mp4": "text: empty"})


def test_captions_are_dropped_with_the_reason(tmp_path: Path) -> None:
    texts = ("A man walks through a large green park in the morning",
             "Ein Hund läuft schnell durch den Park und bellt laut",
             "See https://x.y for more", "A man waves, watermark", "A dog runs across a field of grass")  # fmt: skip
    verbs = {"lang": "en", "remove_url": True, "text_filter_substr": "watermark", "filter_human": True}
    kept, reasons = done(tmp_path, rows(*texts), **verbs)
    assert kept == [texts[0]]
    assert reasons == {
        "1.mp4": "text: not en", "2.mp4": "text: holds a URL", "3.mp4": "text: holds a text",
        "4.mp4": "text: no person",
    }  # fmt: skip


def test_duplicates_are_dropped_after_filters(tmp_path: Path) -> None:
    table = [{"path": "a", "text": "x", "aes": "1"}, {"path": "b", "text": "x", "aes": "5"},
             {"path": "c", "text": "x", "aes": "6"}]  # fmt: skip
    kept, reasons = done(tmp_path, table, aesmin=4.0, remove_text_duplication=True)
    assert (kept, reasons) == (["x"], {"a": "aes 1 < 4", "c": "text: listed before"})


def test_rows_without_a_caption_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    kept, reasons = done(tmp_path, rows("", "x", "", "x"), remove_text_duplication=True)
    assert (kept, reasons) == (["", "x", ""], {"3.mp4": "text: listed before"})


@pytest.mark.parametrize(
    "piece", ["a.", "a,", " ", "x a__", "[", "<", "<a", "[motion score: ", "\u4f60 ", "-_ "]
)
def test_a_caption_of_200_kilobytes_is_no_trap(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    for change in (
        captions.clean,
        captions.without_scores,
        captions.without_prefix,
        captions.without_negations,
    ):
        assert isinstance(change(text), str)


def test_captions_are_extended_by_columns(tmp_path: Path) -> None:
    table = [
        {"path": "a", "text": "A dog.", "cmotion": "pan_right", "aes": "5.26", "flow": ""},
        {"path": "b", "text": "", "cmotion": "static", "aes": "3", "flow": ""},
    ]
    kept, _ = done(tmp_path, table, merge_cmotion=True, append_text=" Good.", score_to_text=True)
    assert kept == ["A dog. Good. Camera motion: pan right. [aesthetic score: 5.3]", ""]
    with pytest.raises(MetaError, match="cmotion"):
        done(tmp_path, rows("a"), merge_cmotion=True)


def test_captions_are_loaded_from_files_and_tables(tmp_path: Path) -> None:
    (tmp_path / "a.b.json").write_text(json.dumps({"caption": " A dog "}))
    (tmp_path / "c.json").write_text("{not json")
    (tmp_path / "d.json").write_text(json.dumps({"caption": None}))
    table = [{"path": str(tmp_path / name)} for name in ("a.b.mp4", "c.mp4", "d.mp4", "e.mp4")]
    kept, _ = done(tmp_path, table, load_caption="json")
    assert kept == ["A dog", "", "", ""]
    other = write_table(tmp_path / "new.csv", [{"path": "1.mp4", "text": "new"}])
    kept, _ = done(tmp_path, rows("old", "old"), update_text=str(other))
    assert kept == ["old", "new"]
    bare = [{"path": "1.mp4"}, {"path": "2.mp4"}]
    kept, reasons = done(tmp_path, bare, update_text=str(other), remove_empty_caption=True)
    assert (kept, reasons) == (["new"], {"2.mp4": "text: empty"})


def test_tokens_are_counted_by_any_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    openai_tokenizer(VOCABULARY).save_pretrained(folder)
    done(tmp_path, rows("a dog", ""), count_num_token=str(folder))
    lengths = [int(row["text_len"]) for row in read_table(tmp_path / "out.csv")]
    assert lengths[0] == captions.token_counter(str(folder))("a dog") > 1
    assert lengths[1] == 0
    with pytest.raises(CallError, match="count_num_token"):
        done(tmp_path, rows("a"), count_num_token=str(tmp_path / "none"))


def test_a_wrong_language_names_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"--lang xx: one of af .*en"):
        done(tmp_path, rows("a"), lang="xx")


def test_the_ancestors_names_and_those_of_later_are_one(tmp_path: Path, tool: Tool) -> None:
    write_table(tmp_path / "t.csv", rows("The video shows a Dog", ""))
    tool("pipeline.datasets.datautil", tmp_path / "t.csv", "--refine-llm-caption", "--remove-empty-caption")
    tool("pipeline.datasets.datautil", tmp_path / "t.csv", "--text_remove_prefix", "--text_filter_empty",
         "--output", tmp_path / "o.csv")  # fmt: skip
    assert (tmp_path / "t_noempty_llm.csv").read_bytes() == (tmp_path / "o.csv").read_bytes()
    assert [row["text"] for row in read_table(tmp_path / "o.csv")] == ["A Dog"]
