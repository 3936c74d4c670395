"""What can be done to the text of captions: cleaning, prefixes, sentences, languages, tokens.

Every function takes and gives text; none knows of tables. The rules are those that the curators of the field
apply by name (Open-Sora and mindone, tools/datasets/datautil.py; the cleaning is that of DeepFloyd IF's T5
preprocessing), without their defects: an empty caption stays empty, and no last sentence is lost.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final
from urllib.parse import unquote

from clipsheet.errors import CallError

URL: Final = re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
_NEGATION: Final = re.compile(
    r"\b(?:no|not|never|none|neither|nor|without|cannot|\w+n['\u2019]t)\b", re.IGNORECASE
)
_PEOPLE: Final = re.compile(
    r"\b(?:m[ae]n|wom[ae]n|child(?:ren)?|girls?|boys?|people|persons?)\b", re.IGNORECASE
)
_SUBJECT: Final = r"(?:video|image|clip|picture|footage|photo)"
_VERB: Final = (
    r"(?:shows|captures|features|depicts|presents|portrays|showcases|displays|illustrates|appears to be|"
    r"you['\u2019]ve provided appears to be|is)"
)
_PREFIX: Final = re.compile(
    rf"^(?:(?:the|this)\s+{_SUBJECT}\s+{_VERB}\s+|in\s+(?:the|this)\s+{_SUBJECT}\s*,\s*)", re.IGNORECASE
)
_SCORES: Final = re.compile(r"\[(?:aesthetic|motion) score: [^\[\]]{1,60}\]")

#: In order; what is found becomes a space unless something else is said. Of text in lower case.
_RUBBISH: Final[tuple[tuple[str, str], ...]] = (
    (r"\s+", " "),
    (r"</?[a-z!][^<>]{0,200}>(?=[.,;:!?])", ""),  # markup
    (r"</?[a-z!][^<>]{0,200}>", " "),
    (URL.pattern, " "),
    (r"(?<!\w)@\w+", " "),  # names of accounts
    ("[\u2e80-\u2fdf\u3000-\u30ff\u3100-\u318f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+", " "),  # CJK
    ("[\u002d\u058a\u05be\u2010-\u2015\u2e3a\u2e3b\u301c\ufe58\ufe63\uff0d]+", "-"),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u201e\u00a8]", '"'),
    ("[\u2018\u2019\u201a]", "'"),
    (r"\b\d{1,3}(?:\.\d{1,3}){3}\b", " "),  # addresses of machines
    (r"\\n", " "),
    (r"#\d+\b", " "),
    (r"\b\d{6,}\b", " "),  # numbers of articles
    (r"(?<!\S)\S{1,200}\.(?:png|jpe?g|bmp|webp|gif|svg|pdf|eps|apk|mp4|mov|avi|mkv|webm)\b", " "),
    (r"['\"]{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~()\[\]{}|\\/*]+", " "),
    (r"\b(?:worldwide\s+)?free\s+shipping\b|\b(?:free\s+)?download(?:\s+free)?\b", " "),
    (r"\bclick\b\s+(?:for|on)\s+\w+", " "),
    (r"\bpage\s+\d+\b", " "),
    (r"\b(?=\w*\d)(?=\w*[a-z])\w*\d[a-z]+\d\w*\b", " "),  # serial numbers: letters between digits
    (r"\b\d+(?:\.\d+)?\s?[x\u0445\u00d7]\s?\d+(?:\.\d+)?\b", " "),  # sizes
    (r"\s+", " "),
    (r" \. ", " "),
    (r" : ", ": "),
)
_RULES: Final = tuple((re.compile(pattern), into) for pattern, into in _RUBBISH)
_EDGES: Final = " \t\n\"'_,:;-+"


def clean(text: str) -> str:
    """Lower case without markup, addresses, file names, serial numbers, CJK and special signs.

    Applied until nothing changes any more, three times at most.
    """
    import ftfy

    for _ in range(3):
        cleaned = ftfy.fix_text(html.unescape(html.unescape(unquote(text)))).lower()
        for rule, into in _RULES:
            cleaned = rule.sub(into, cleaned)
        if len(re.findall(r"[-_]", cleaned)) > 3 and " " not in cleaned.strip():
            cleaned = re.sub(r"[-_]+", " ", cleaned)  # a name of a file or of a page
        cleaned = cleaned.strip(_EDGES)
        if cleaned == text:
            break
        text = cleaned
    return text


def without_prefix(text: str) -> str:
    """Without "The video shows" and its like at the begin, on one line, with a capital first letter."""
    joined = re.sub(r"\s+", " ", text).strip()
    rest = _PREFIX.sub("", joined, count=1)
    return rest[:1].upper() + rest[1:] if rest != joined else joined


def sentences(text: str) -> list[str]:
    """Sentences with their full stops; the last one may have none."""
    return [part for part in _SENTENCE.split(text.strip()) if part]


def without_negations(text: str) -> str:
    """Without the sentences that say what is not there."""
    return " ".join(part for part in sentences(text) if not _NEGATION.search(part))


def is_too_verbose(text: str) -> bool:
    """Whether two sentences or more say what is not there."""
    return sum(bool(_NEGATION.search(part)) for part in sentences(text)) >= 2


def is_about_people(text: str) -> bool:
    """Whether the first sentence names a person."""
    return any(_PEOPLE.search(part) for part in sentences(text)[:1])


def image_to_video(text: str) -> str:
    """A caption of a picture as one of a video."""

    def video(found: re.Match[str]) -> str:
        word = "videos" if found[1] else "video"
        return word.capitalize() if found[0][0].isupper() else word

    return re.sub(r"\b(?:still\s+)?image(s?)\b", video, text, flags=re.IGNORECASE)


def with_scores(text: str, aes: float | None, flow: float | None) -> str:
    """With the scores that are known behind it, as OpenSora 1.2 trains on them."""
    if not text.strip():
        return text
    parts = [
        f"{name} score: {value:.1f}"
        for name, value in (("aesthetic", aes), ("motion", flow))
        if value is not None
    ]
    return f"{text} [{', '.join(parts)}]" if parts else text


def without_scores(text: str) -> str:
    """The opposite of with_scores()."""
    body, bracket, scores = text.rstrip().rpartition("[")
    return body.rstrip() if bracket and _SCORES.fullmatch(bracket + scores) else text


def languages() -> list[str]:
    """ISO 639-1 codes of the languages that are known.

    Raises:
        CallError: the library is not installed.
    """
    try:
        from lingua import Language
    except ImportError as error:
        raise CallError("--lang needs a library: pip install lingua-language-detector") from error
    return sorted(language.iso_code_639_1.name.lower() for language in Language.all())


@cache
def _detector() -> Any:
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()


def is_language(text: str, code: str, among: int = 5) -> bool:
    """Whether a language is among the likeliest of a text.

    Args:
        code: ISO 639-1, as "en".
    """
    likely = _detector().compute_language_confidence_values(text)[:among]
    return any(
        found.language.iso_code_639_1.name.lower() == code.lower() for found in likely if found.value > 0
    )


def token_counter(tokenizer: str) -> Callable[[str], int]:
    """Counts tokens as a tokenizer's folder or name has them.

    Raises:
        OSError, ValueError: transformers finds no tokenizer there.
    """
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return lambda text: len(found(text)["input_ids"])
