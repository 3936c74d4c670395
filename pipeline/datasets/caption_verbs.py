"""Verbs on captions: two groups of them, each a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipsheet import tables
from clipsheet.config import option
from clipsheet.errors import CallError, MediaError, one_line
from clipsheet.step import Desk, Outcome, failures
from clipsheet.store.rows import Rows
from pipeline.datasets import captions
from pipeline.datasets.caption_files import caption_beside
from pipeline.datasets.row_verbs import VerbGroup
from pipeline.datasets.sieve import Sieve


@dataclass(frozen=True)
class Captions(VerbGroup):
    """The verbs that look at `text`, and those that change it."""

    load_caption: str | None = option(
        None,
        "set `text` to what stands beside the file: `caption` of its .json, or its .txt",
        choices=("json", "txt"),
    )
    remove_url: bool = option(False, "drop captions with a URL")
    text_filter_substr: str | None = option(None, "drop captions that hold this text")
    lang: str | None = option(None, "keep captions in this language (ISO 639-1, as en), by lingua")
    remove_empty_caption: bool = option(False, "keep rows with a caption, before and after it is changed")
    filter_too_verbose: bool = option(False, "drop captions of which two sentences say what is not there")
    filter_human: bool = option(False, "keep captions whose first sentence names a person")
    merge_cmotion: bool = option(False, "append the camera motion in `cmotion`")
    refine_llm_caption: bool = option(False, "take off `The video shows` and its like")
    text_image2video: bool = option(False, "call an image a video")
    text_refine_sentences: bool = option(False, "take out sentences that say what is not there")
    append_text: str | None = option(None, "append this to every caption")
    score_to_text: bool = option(False, "append the scores in `aes` and `flow`")
    text_undo_score2text: bool = option(False, "take such scores off")
    clean_caption: bool = option(False, "lower case, without markup, URLs, file names, CJK and special signs")
    update_text: str | None = option(None, "take `text` from this table, by path")

    @property
    def repeatable(self) -> bool:
        return not self.load_caption  # whose files are others than those of the rows

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve, failed, counted = Sieve(rows.frame.copy()), None, 0
        if self.load_caption:
            failed, counted = _load_captions(sieve.frame, self.load_caption)
        if "text" not in sieve.frame.columns and self.update_text:
            sieve.frame["text"] = tables.text_column([""] * len(sieve.frame), sieve.frame)
        tables.require(sieve.frame, "text", "the table")
        if self.update_text:
            other = tables.read([self.update_text], ("path", "text"))
            new = dict(zip(tables.text(other, "path"), tables.text(other, "text"), strict=True))
            pairs = zip(tables.text(sieve.frame, "path"), tables.text(sieve.frame, "text"), strict=True)
            _change_texts(sieve, [new.get(path, text) for path, text in pairs])
        self._drop(sieve)
        self._change(sieve)
        if self.remove_empty_caption:
            _keep_texts(sieve, _is_filled, "text: empty")
        outcome = sieve.outcome()
        outcome.failed, outcome.failed_rows = failed, counted
        return outcome

    def _drop(self, sieve: Sieve) -> None:
        language = self.lang or ""
        if self.lang and language not in captions.languages():
            raise CallError(f"--lang {language}: one of {' '.join(captions.languages())}")
        for wanted, keeps, reason in (
            (self.remove_url, lambda text: not captions.URL.search(text), "text: holds a URL"),
            (
                self.text_filter_substr,
                lambda text: str(self.text_filter_substr) not in text,
                "text: holds a text",
            ),
            (self.lang, lambda text: captions.is_language(text, language), f"text: not {language}"),
            (self.remove_empty_caption, _is_filled, "text: empty"),
            (self.filter_too_verbose, lambda text: not captions.is_too_verbose(text), "text: too verbose"),
            (self.filter_human, captions.is_about_people, "text: no person"),
        ):
            if wanted:
                _keep_texts(sieve, keeps, reason)

    def _change(self, sieve: Sieve) -> None:
        for wanted, change in (
            (self.refine_llm_caption, captions.without_prefix),
            (self.text_image2video, captions.image_to_video),
            (self.text_refine_sentences, captions.without_negations),
            (self.append_text, lambda text: f"{text}{self.append_text}" if text else text),
            (self.text_undo_score2text, captions.without_scores),
            (self.clean_caption, captions.clean),
        ):
            if wanted:
                _change_texts(sieve, [change(text) for text in tables.text(sieve.frame, "text")])
        if self.merge_cmotion:
            tables.require(sieve.frame, "cmotion", "--merge_cmotion")
            motions = [label.replace("_", " ").strip() for label in tables.text(sieve.frame, "cmotion")]
            pairs = zip(tables.text(sieve.frame, "text"), motions, strict=True)
            _change_texts(
                sieve, [f"{text} Camera motion: {m}." if m and text.strip() else text for text, m in pairs]
            )
        if self.score_to_text:
            known = [sieve.column(c)[0] if c in sieve.frame.columns else np.full(len(sieve.frame), np.nan)
                     for c in ("aes", "flow")]  # fmt: skip
            rows = zip(tables.text(sieve.frame, "text"), *known, strict=True)
            _change_texts(
                sieve,
                [captions.with_scores(t, *(None if np.isnan(v) else float(v) for v in s)) for t, *s in rows],
            )


def _is_filled(text: str) -> bool:
    return bool(text.strip())


def _keep_texts(sieve: Sieve, keeps: Callable[[str], object], reason: str) -> None:
    dropped = np.array([not keeps(text) for text in tables.text(sieve.frame, "text")], bool)
    reasons = np.full(len(dropped), reason, object)
    if "error" in sieve.frame.columns:
        errors = tables.text(sieve.frame, "error")
        for row in np.flatnonzero(dropped):
            code = tables.parse_errors(errors.iat[row]).get("caption")
            reasons[row] = f"text: {code}" if code else reason
    sieve.drop(dropped, reasons, reason)


def _change_texts(sieve: Sieve, texts: list[str]) -> None:
    sieve.frame["text"] = tables.text_column(texts, sieve.frame)


def _load_captions(frame: pd.DataFrame, ending: str) -> tuple[pd.DataFrame | None, int]:
    """Set `text` to the captions beside the files; a caption that cannot be read is a failure of its row.

    Returns:
        The failed rows, and how many of them did not fail before.
    """
    paths = tables.text(frame, "path")
    texts, errors = [""] * len(paths), dict[int, MediaError]()
    for row, path in enumerate(paths):
        try:
            texts[row] = caption_beside(path, ending)
        except MediaError as error:
            errors[row] = error
    frame["text"] = tables.text_column(texts, frame)
    if not errors and "error" not in frame.columns:
        return None, 0
    codes = np.array([errors[row].code if row in errors else "" for row in range(len(frame))], object)
    tables.set_errors(frame, {"caption": codes})
    told = tables.text(frame, "error")
    new = [row for row in errors if "info" not in tables.parse_errors(told.iat[row])]
    return failures(frame, "caption", errors), len(new)


@dataclass(frozen=True)
class CaptionsLeft(VerbGroup):
    """The verbs that look at the captions of what filters have left."""

    remove_text_duplication: bool = option(False, "keep the first row of each caption")
    count_num_token: str | None = option(None, "add `text_len`, tokens by this tokenizer's folder")

    @property
    def rowwise(self) -> bool:
        return not self.remove_text_duplication

    @property
    def repeatable(self) -> bool:
        return not self.count_num_token  # by a tokenizer that may be another by then

    def carry_out(self, rows: Rows, desk: Desk) -> Outcome:
        sieve = Sieve(rows.frame.copy())
        tables.require(sieve.frame, "text", "the table")
        if self.remove_text_duplication:
            texts = tables.text(sieve.frame, "text")
            again = (texts.duplicated() & (texts.str.strip() != "")).to_numpy(bool)
            sieve.drop(again, "text: listed before", "text listed before")
        if self.count_num_token:
            try:
                count = captions.token_counter(self.count_num_token)
            except (OSError, ValueError) as error:
                raise CallError(
                    f"--count_num_token {self.count_num_token}: {one_line(str(error))}"
                ) from error
            lengths = [str(count(text)) if text else "0" for text in tables.text(sieve.frame, "text")]
            sieve.frame["text_len"] = tables.text_column(lengths, sieve.frame)
        return sieve.outcome()
