"""The caption beside a video or picture: its .txt, or `caption` in its .json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from clipsheet.errors import MediaError
from clipsheet.media import check_path
from clipsheet.tables import textfile

MAX_BYTES: Final = 1 << 20  # a file that is larger is no caption: a book has a million characters
NOTHING_THERE: Final = ("missing", "empty_file", "bad_path")


def caption_beside(path: str, ending: str) -> str:
    """The caption in the file of the same name with another ending; empty where there is no file or nothing in it.

    Args:
        ending: "txt" or "json".

    Raises:
        MediaError: bad_text, or unreadable or not_a_file for what stands there.
    """
    try:
        beside, _ = check_path(str(Path(path).with_suffix(f".{ending}")))
    except ValueError:  # the path has no name
        return ""
    except MediaError as error:
        if error.code in NOTHING_THERE:
            return ""
        raise
    try:
        with open(beside, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MediaError("unreadable", f"{beside}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise MediaError("bad_text", f"{beside}: more than {MAX_BYTES:,} bytes")
    try:
        text = textfile.decode(data)
        return (_caption_of(text) if ending == "json" and text.strip() else text).strip()
    except (ValueError, RecursionError) as error:
        raise MediaError("bad_text", f"{beside}: {error}") from error


def _caption_of(text: str) -> str:
    """The caption in a JSON object; empty where it has none.

    Raises:
        ValueError: it is no JSON object, or its caption is no text.
        RecursionError: it is nested too deep.
    """
    found = json.loads(text)
    caption = found.get("caption", "") if isinstance(found, dict) else None
    if not isinstance(caption, str):
        raise ValueError("no object, or its `caption` is no text")
    if "\0" in caption:
        raise ValueError("a NUL in the caption")
    caption.encode("utf-8")  # \ud800 alone is no character
    return caption
