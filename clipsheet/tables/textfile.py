"""Text files from elsewhere, in the encoding that their byte order mark names, else in UTF-8."""

from __future__ import annotations

import codecs
from typing import Final

#: UTF-32 first: its mark begins like that of UTF-16 (Unicode 16, 23.8).
BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def decode(data: bytes) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        ValueError: it is in another encoding, cut off, or no text: says where.
    """
    mark = next((mark for mark in BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {len(mark) + error.start}: not {encoding.upper()}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"character {text.index(chr(0))}: a NUL; this is no text in {encoding.upper()}")
    return text
