"""What captioners ask: named prompts, those of the user, and the cells of a row that they speak of."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from clipsheet import config
from clipsheet.config import check_keys
from clipsheet.errors import ConfigError, MediaError
from clipsheet.scorer import Row

OWN = Path(__file__).with_name("prompts.yaml")
#: What models take for the beginning of a turn, a picture and the like; in a cell it is only text.
_SPECIAL = re.compile(r"<(?=[/|\uff5c\w<])|\[(?=/?INST\])")
_LINES = re.compile(r"-{4,}")  # between which the prompts of enhance have what is to be rewritten


def named(name: str, file: str = "") -> str:
    """A prompt by its name.

    Args:
        file: YAML or JSON of further prompts, which come before those that there are.

    Raises:
        ConfigError: there is none of that name, or the file holds something else.
    """
    prompts = {**_read(OWN), **(_read(Path(file)) if file else {})}
    if name not in prompts:
        name = name.replace("-", "_")
    check_keys({name: ""}, prompts, "--prompt")
    return prompts[name]


@cache
def _read(path: Path) -> Mapping[str, str]:
    found = config.load(path)
    for name, text in found.items():
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{path}: {name}: a prompt is text")
        fields(text)
    return found


def fields(prompt: str) -> tuple[str, ...]:
    """The columns that a prompt speaks of, `{fps}`.

    Raises:
        ConfigError: its braces are something else.
    """
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise ConfigError(f"prompt {prompt!r}: {error}; write {{{{ and }}}} for braces") from error
    names = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if not name or form or conversion or not re.fullmatch(r"[^\W\d]\w*", name):
            raise ConfigError(
                f"prompt {prompt!r}: {{{name}}} names no column; write {{{{ and }}}} for braces"
            )
        names.append(name)
    return tuple(dict.fromkeys(names))


def fill(prompt: str, row: Row) -> str:
    """The prompt with the cells of a row.

    Raises:
        MediaError: bad_value, where such a cell is empty.
    """
    cells = {}
    for name in fields(prompt):
        if not row[name].strip():
            raise MediaError("bad_value", f"`{name}` is empty, and the prompt speaks of it")
        cells[name] = _LINES.sub("---", _SPECIAL.sub(lambda found: f"{found[0]} ", row[name]))
    return prompt.format_map(cells)
