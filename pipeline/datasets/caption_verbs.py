"""Verbs on captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from clipsheet import tables
from clipsheet.errors import CallError, MediaError, one_line
from clipsheet.outcome import Status
from pipeline.datasets import captions
from pipeline.datasets.caption_files import caption_beside
from pipeline.datasets.sieve import Sieve
from pipeline.datasets.verbs import CAPTION_VERBS, Verbs


def carry_out_on_captions(sieve: Sieve, verbs: Verbs, status: Status) -> None:
    """The verbs that look at `text`, and those that change it."""
    if not any(getattr(verbs, verb) for verb in CAPTION_VERBS):
        return
    if verbs.load_caption:
        _load_captions(sieve, verbs.load_caption, status)
    if "text" not in sieve.frame.columns and verbs.update_text:
        sieve.frame["text"] = tables.text_column([""] * len(sieve.frame), sieve.frame)
    tables.require(sieve.frame, "text", "the table")
    if verbs.update_text:
        other = tables.read([verbs.update_text], ("path", "text"))
        new = dict(zip(tables.text(other, "path"), tables.text(other, "text"), strict=True))
        pairs = zip(tables.text(sieve.frame, "path"), tables.text(sieve.frame, "text"), strict=True)
        _change_texts(sieve, [new.get(path, text) for path, text in pairs])
    language = verbs.lang or ""
    if verbs.lang and language not in captions.languages():
        raise CallError(f"--lang {language}: one of {' '.join(captions.languages())}")
    for wanted, keeps, reason in (
        (verbs.remove_url, lambda text: not captions.URL.search(text), "text: holds a URL"),
        (
            verbs.text_filter_substr,
            lambda text: str(verbs.text_filter_substr) not in text,
            "text: holds a text",
        ),
        (verbs.lang, lambda text: captions.is_language(text, language), f"text: not {language}"),
        (verbs.remove_empty_caption, _is_filled, "text: empty"),
        (verbs.filter_too_verbose, lambda text: not captions.is_too_verbose(text), "text: too verbose"),
        (verbs.filter_human, captions.is_about_people, "text: no person"),
    ):
        if wanted:
            _keep_texts(sieve, keeps, reason)
    for wanted, change in (
        (verbs.refine_llm_caption, captions.without_prefix),
        (verbs.text_image2video, captions.image_to_video),
        (verbs.text_refine_sentences, captions.without_negations),
        (verbs.append_text, lambda text: f"{text}{verbs.append_text}" if text else text),
        (verbs.text_undo_score2text, captions.without_scores),
        (verbs.clean_caption, captions.clean),
    ):
        if wanted:
            _change_texts(sieve, [change(text) for text in tables.text(sieve.frame, "text")])
    if verbs.merge_cmotion:
        tables.require(sieve.frame, "cmotion", "--merge_cmotion")
        motions = [label.replace("_", " ").strip() for label in tables.text(sieve.frame, "cmotion")]
        pairs = zip(tables.text(sieve.frame, "text"), motions, strict=True)
        _change_texts(
            sieve, [f"{text} Camera motion: {m}." if m and text.strip() else text for text, m in pairs]
        )
    if verbs.score_to_text:
        known = [sieve.column(c)[0] if c in sieve.frame.columns else np.full(len(sieve.frame), np.nan)
                 for c in ("aes", "flow")]  # fmt: skip
        rows = zip(tables.text(sieve.frame, "text"), *known, strict=True)
        _change_texts(
            sieve,
            [captions.with_scores(t, *(None if np.isnan(v) else float(v) for v in s)) for t, *s in rows],
        )
    if verbs.remove_empty_caption:
        _keep_texts(sieve, _is_filled, "text: empty")


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


def _load_captions(sieve: Sieve, ending: str, status: Status) -> None:
    """Set `text` to the captions beside the files; a caption that cannot be read is a failure of its row."""
    paths = tables.text(sieve.frame, "path")
    texts, codes, details = [""] * len(paths), [""] * len(paths), [""] * len(paths)
    for row, path in enumerate(paths):
        try:
            texts[row] = caption_beside(path, ending)
        except MediaError as error:
            codes[row], details[row] = error.code, error.detail
    sieve.frame["text"] = tables.text_column(texts, sieve.frame)
    failed = np.array(codes, object) != ""
    if not failed.any() and "error" not in sieve.frame.columns:
        return
    tables.set_errors(sieve.frame, {"caption": np.array(codes, object)})
    entries = {"scorer": "caption", "code": np.array(codes)[failed], "detail": np.array(details)[failed]}
    sieve.failures.append(sieve.frame[failed].assign(**entries))
    counted = [
        bool(status.failed) and "info" in tables.parse_errors(e)
        for e in tables.text(sieve.frame, "error")[failed]
    ]
    status.failed_rows += len(counted) - sum(counted)  # those that --info has counted are no further rows
    for code, count in Counter(code for code in codes if code).items():
        status.failed[f"caption: {code}"] = count


def after_filters(sieve: Sieve, verbs: Verbs) -> None:
    """The verbs that look at the captions of what is left."""
    if verbs.remove_text_duplication:
        tables.require(sieve.frame, "text", "the table")
        texts = tables.text(sieve.frame, "text")
        again = (texts.duplicated() & (texts.str.strip() != "")).to_numpy(bool)
        sieve.drop(again, "text: listed before", "text listed before")
    if verbs.count_num_token:
        tables.require(sieve.frame, "text", "the table")
        try:
            count = captions.token_counter(verbs.count_num_token)
        except (OSError, ValueError) as error:
            raise CallError(f"--count_num_token {verbs.count_num_token}: {one_line(str(error))}") from error
        lengths = [str(count(text)) if text else "0" for text in tables.text(sieve.frame, "text")]
        sieve.frame["text_len"] = tables.text_column(lengths, sieve.frame)
