"""TOML to frozen dataclasses and back; each room states its own settings.

An unknown key is an error that names the nearest known one. Sections are nested as the TOML is.
"""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Container
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar

from aladin.errors import ConfigError
from aladin.old_names import MOVED, SETTINGS, VALUES

Section = TypeVar("Section")
IF_CHANGED = {"written": "if changed"}  # metadata of a setting that is written only where it is not its default
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a ConfigError with the position when it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}; give the path of a TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}; correct it and try again") from None


def from_table(section: type[Section], table: dict[str, Any], name: str = "the top level") -> Section:
    """`table` as a value of the dataclass `section`; keys left out keep their defaults."""
    known = {f.name: f for f in dataclasses.fields(section)}  # type: ignore[arg-type]
    table = _moved(table, known, name)
    hints = typing.get_type_hints(section)
    values: dict[str, Any] = {}
    for written, value in table.items():
        key = written if written in known else SETTINGS.get(written, written)
        if key in values:
            old = next(other for other in table if SETTINGS.get(other) == key)
            raise ConfigError(f"{name} has {old!r} and {key!r}, the old and the new name of one setting; leave one out")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown setting {key!r} in {name}; {hint}")
        values[key] = _typed(hints[key], value, key, name)
    try:
        return section(**values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def to_table(section: Any) -> dict[str, Any]:
    """The settings of a section as plain values, for writing to TOML or JSON."""
    return {f.name: _plain(getattr(section, f.name)) for f in dataclasses.fields(section) if _is_written(f, section)}


def stated_settings(section: type[Any], table: dict[str, Any]) -> tuple[str, ...]:
    """The names of the settings that a table states for the dataclass `section`, such as "heads.pooling"; present names."""
    known = {f.name for f in dataclasses.fields(section)}
    hints = typing.get_type_hints(section)
    found: list[str] = []
    for written, value in _moved(table, known, "the top level").items():
        key = written if written in known else SETTINGS.get(written, written)
        if dataclasses.is_dataclass(hints.get(key)) and isinstance(value, dict):
            found += [f"{key}.{name}" for name in stated_settings(typing.cast(type, hints[key]), value)]
        elif key in known:
            found.append(key)
    return tuple(found)


def _moved(table: dict[str, Any], known: Container[str], name: str) -> dict[str, Any]:
    """The table with its settings where they stand today."""
    for (before, key), now in MOVED.items():
        inner = table.get(before)
        if now not in known or not isinstance(inner, dict) or key not in inner:
            continue
        if key in table.get(now, {}):
            raise ConfigError(f"{name} has {key!r} in [{before}], its old place, and in [{now}]; leave the old one out")
        table = table | {before: {k: v for k, v in inner.items() if k != key}, now: table.get(now, {}) | {key: inner[key]}}
    return table


def _is_written(setting: "dataclasses.Field[Any]", section: Any) -> bool:
    written = setting.metadata.get("written", True)
    if written != "if changed":
        return bool(written)
    default = setting.default if setting.default_factory is dataclasses.MISSING else setting.default_factory()
    return bool(getattr(section, setting.name) != default)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_table(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _typed(hint: Any, value: Any, key: str, section: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} in {section} is {value!r}; expected a table [{key}]")
        return from_table(typing.cast(type, hint), value, _nested(section, key))
    if isinstance(hint, types.UnionType):
        return _of_kind(typing.get_args(hint), value, key, section)
    if typing.get_origin(hint) is Literal:
        value = VALUES.get(value, value) if isinstance(value, str) and value not in typing.get_args(hint) else value
        if value not in typing.get_args(hint):
            choices = ", ".join(map(repr, typing.get_args(hint)))
            raise ConfigError(f"{key} in {section} is {value!r}; expected one of {choices}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{key} in {section} is {value!r}; expected a list")
        return tuple(_typed(typing.get_args(hint)[0], item, f"item {n} of {key}", section) for n, item in enumerate(value, 1))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key} in {section} is {value!r}; expected {KINDS[hint]}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{key} in {section} is {value}; expected a finite number")
    return value


def _of_kind(sections: tuple[type, ...], value: Any, key: str, section: str) -> Any:
    """A table that may be any of several sections, which it names by its `kind`."""
    by_kind = {each.kind: each for each in sections}  # type: ignore[attr-defined]
    kinds = ", ".join(map(repr, by_kind))
    if not isinstance(value, dict):
        raise ConfigError(f"{key} in {section} is {value!r}; expected a table with a kind, one of {kinds}")
    if value.get("kind") not in by_kind:
        raise ConfigError(f"kind of {key} in {section} is {value.get('kind')!r}; expected one of {kinds}")
    return from_table(by_kind[value["kind"]], value, f"{key} in {section}")


def _nested(section: str, key: str) -> str:
    """The name of table `key` inside `section`: [loss] of recipe.toml, [model.heads] of recipe.toml."""
    if section.startswith("["):
        return section.replace("]", f".{key}]", 1)
    return f"[{key}] of {section}"


def at_least(least: int, section: Any, *names: str) -> None:
    """ConfigError unless these settings of a section have at least that value."""
    for name in names:
        if not getattr(section, name) >= least:  # as of NaN, which no comparison finds
            raise ConfigError(f"{name} is {getattr(section, name)}; expected at least {least}")


def shares(section: Any, *names: str) -> None:
    """ConfigError unless these settings of a section are at least 0 and less than 1."""
    for name in names:
        if not 0 <= getattr(section, name) < 1:
            raise ConfigError(f"{name} is {getattr(section, name)}; expected at least 0 and less than 1")


def above_zero(section: Any, *names: str) -> None:
    """ConfigError unless these settings of a section are above 0."""
    for name in names:
        if not getattr(section, name) > 0:
            raise ConfigError(f"{name} is {getattr(section, name)}; expected more than 0")


def finite(section: Any, *names: str) -> None:
    """ConfigError unless these settings of a section are finite numbers."""
    for name in names:
        if not is_finite(getattr(section, name)):
            raise ConfigError(f"{name} is {getattr(section, name)!r}; expected a finite number")


def is_finite(value: object) -> bool:
    """Whether a value is a number, and neither NaN nor infinite."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_whole_number(name: str, value: object, least: int, most: int | None = None) -> None:
    """ConfigError unless the argument `name` of a function is a whole number of at least `least`, and at most `most`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} is {value!r}; expected a whole number {bound}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """ConfigError unless the argument `name` of a function is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")
