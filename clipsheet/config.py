"""Options: declared once as dataclass fields, read from YAML, JSON or the command line, checked here.

Nothing else in the project parses or validates anything that a user wrote.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic.fields import FieldInfo

from clipsheet.errors import ConfigError, one_line

T = TypeVar("T")
MAX_ALIASES = 100
MAX_SIZE = 1 << 18  # values and letters of a config with everything filled in
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
#: Octal, or base 60, to YAML 1.1 only.
_ODD_NUMBER = re.compile(r"[-+]?0[\d_]*\d$|.*:")
#: A number to every reader but YAML 1.1, which wants a dot and a signed exponent.
_LOOKS_LIKE_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def option(
    default: Any, help: str, *, choices: Iterable[Any] = (), names: Sequence[str] = (), **limits: Any
) -> Any:
    """A dataclass field that is a flag and a config key.

    Args:
        help: one line with the unit.
        choices: the values allowed, where they are few.
        names: of the values of a list that always has so many; the flag is then given once.
        limits: ge, gt, le, lt: bounds of a number.
    """
    metadata = {"help": help, "choices": tuple(choices), "names": tuple(names), "limits": limits}
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of a dataclass from what a user wrote; what is missing or null has its default.

    Args:
        where: dotted place of `values` in the config, for messages.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of bounds; names the key.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {key: value for key, value in values.items() if value is not None or key not in fields}
    check_keys(values, fields, where)
    hints = typing.get_type_hints(cls)
    prepared = {k: tuple(v) if _is_tuple(hints[k]) and isinstance(v, list) else v for k, v in values.items()}
    try:
        checked = _model(typing.cast(typing.Hashable, cls))(**prepared)
    except pydantic.ValidationError as error:
        raise _config_error(error, where) from None
    for name, value in checked:
        choices = fields[name].metadata.get("choices")
        given = value if isinstance(value, tuple) else (value,)
        if choices and value is not None and not set(given) <= set(choices):
            allowed = ", ".join(map(str, choices))
            raise ConfigError(f"{_place(where, name)}: {value!r} is none of {allowed}")
    return cls(**dict(checked))


def check_keys(values: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    """Raise a ConfigError for the first key that is not known, with the nearest one that is."""
    names = list(known)
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(names)}"
            raise ConfigError(f"{_place(where, str(key))}: unknown; {hint}")


def _place(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


@cache
def _model(cls: Any) -> type[pydantic.BaseModel]:
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        limits = dict(field.metadata.get("limits", {}))
        if "float" in str(hints[field.name]):
            limits["allow_inf_nan"] = False
        info: FieldInfo = pydantic.Field(field.default, **limits)
        fields[field.name] = (hints[field.name], info)
    settings = pydantic.ConfigDict(strict=True, extra="forbid")
    return pydantic.create_model(cls.__name__, __config__=settings, **fields)


def _config_error(error: pydantic.ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    place = _place(where, ".".join(str(part) for part in first["loc"]))
    given = first["input"]
    message = first["msg"].lower()
    if isinstance(given, str) and _LOOKS_LIKE_FLOAT.fullmatch(given):
        message += f"; YAML reads {given} as text, write {_yaml_float(given)}"
    return ConfigError(f"{place}: {one_line(repr(given), 60)}: {message}")


def _yaml_float(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    sign = "" if exponent[0] in "+-" else "+"
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{sign}{exponent}"


# --- files -------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML or JSON config with its `${a.b}` filled in. It is data: nothing in it is executed.

    `$(pwd)` is the current folder.

    Args:
        changes: `key.key=value`, put over what the file says before anything is filled in.

    Raises:
        ConfigError: no such file, a syntax error, a key given twice, or a reference to nothing.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(f"{path}: a config ends in .yaml, .yml or .json")
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start}: not UTF-8") from error
    try:
        if path.suffix == ".json":
            raw = json.loads(text, object_pairs_hook=_unique_pairs)
        else:
            raw = yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError, ConfigError, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values")
    for change in changes:
        _change(raw, change)
    try:
        return typing.cast(dict[str, Any], _Filling(raw).fill(raw))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError as error:
        raise ConfigError(f"{path}: a value refers to itself") from error


def _change(config: dict[str, Any], change: str) -> None:
    place, sign, text = change.partition("=")
    if not sign or not all(place.split(".")):
        raise ConfigError(f"{one_line(change)}: write it as key.key=value")
    *sections, key = place.split(".")
    for section in sections:
        if config.get(section) is None:
            config[section] = {}
        config = config[section]
        if not isinstance(config, dict):
            raise ConfigError(f"{one_line(change)}: {section} holds no keys")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ConfigError, RecursionError):
        value = text
    if isinstance(value, bool | int | float) and _wants_text(config, key, sections):
        value = text
    config[key] = value if isinstance(value, bool | int | float | list | None) else text


def _wants_text(section: Mapping[str, Any], key: str, place: Sequence[str]) -> bool:
    """Whether a key holds a text now, or is a folder: one may well be called 2024."""
    if key not in section:
        return list(place) == ["paths"]
    now = section[key]
    return isinstance(now, str) and not _REFERENCE.fullmatch(now)  # a reference may stand for a number


class _Filling:
    """Fills in `${a.b}`, and `$(pwd)`, the ancestor's name of the current folder.

    What is referred to may refer on, and YAML's aliases share what they name, so a few lines could
    stand for billions of values: what is filled in is counted.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._size = 0
        self._open: list[str] = []

    def fill(self, value: Any, place: str = "") -> Any:
        """`value` with everything filled in; `place` is its dotted name, for messages."""
        self._size += 1 + (len(value) if isinstance(value, str) else 0)
        if self._size > MAX_SIZE:
            raise ConfigError(f"`{place}`: filled in, the config has more than {MAX_SIZE} values and letters")
        if isinstance(value, dict):
            return {key: self.fill(inner, _place(place, str(key))) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.fill(inner, _place(place, str(n))) for n, inner in enumerate(value)]
        if isinstance(value, str) and "$" in value:
            return self._text(value, place)
        return value

    def _text(self, text: str, place: str) -> Any:
        plain = _REFERENCE.sub("", text).replace("$(pwd)", "")
        if "$(" in plain or "${" in plain:
            raise ConfigError(
                f"`{place}`: {one_line(text)}: only $(pwd) and ${{key.key}} are filled in, nothing is run"
            )
        if whole := _REFERENCE.fullmatch(text):
            return self._referred(whole[1].strip(), place)
        parts = _REFERENCE.split(text)  # text, name, text, name, ..., text
        for at, part in enumerate(parts):
            if at % 2 == 0:
                parts[at] = part.replace("$(pwd)", os.getcwd())
                continue
            value = self._referred(part.strip(), place)
            if value is None or isinstance(value, dict | list):
                raise ConfigError(f"`{place}`: ${{{part}}} is no text or number to put into {one_line(text)}")
            parts[at] = str(value)
        return "".join(parts)

    def _referred(self, name: str, place: str) -> Any:
        if name in self._open:
            raise ConfigError(f"`{place}`: ${{{name}}} refers to itself")
        self._open.append(name)
        value: Any = self._config
        for part in name.split("."):
            if isinstance(value, str):  # that refers to a section
                value = self.fill(value, place)
            if not isinstance(value, dict) or part not in value:
                near = difflib.get_close_matches(part, value, 1) if isinstance(value, dict) else []
                hint = f"; did you mean `{near[0]}` for `{part}`?" if near else ""
                raise ConfigError(f"`{place}`: ${{{name}}} refers to nothing{hint}")
            value = value[part]
        value = self.fill(value, name)
        self._open.pop()
        return value


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"key `{next(n for n in names if names.count(n) > 1)}` is given twice")
    return mapping


class _Loader(yaml.SafeLoader):
    """Plain data only; a key given twice and a flood of aliases are errors."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise ConfigError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
            # Month 13, 5000 digits: PyYAML leaves it to Python's own types to refuse them.
            given = one_line(str(node.value), 60)
            raise ConfigError(f"line {node.start_mark.line + 1}: {given}: {error}") from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key!r} is no text; put it in quotes")
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: key `{key}` is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _plain_number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    """A number as people write it: `010` would be 8 and `12:30:45` 45045."""
    number = (
        loader.construct_yaml_int(node) if node.tag.endswith(":int") else loader.construct_yaml_float(node)
    )
    plain = str(number)  # refuses what no message could show, such as a thousand hexadecimal digits
    if _ODD_NUMBER.match(node.value):
        line = node.start_mark.line + 1
        raise ConfigError(
            f"line {line}: YAML reads {node.value} as {plain}; put it in quotes or write {plain}"
        )
    return number


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _plain_number)


def optional_type(hint: Any) -> Any:
    """`int` for `int | None`; every other hint as it is."""
    if isinstance(hint, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return inner[0] if len(inner) == 1 else hint
    return hint
