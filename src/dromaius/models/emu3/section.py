"""A table of settings in a file: read strictly, by type and within bounds.

An unknown key is an error that names it.
"""

import math
from dataclasses import asdict, fields
from types import UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from dromaius.errors import ConfigError

MAX_WIDTH, MAX_DEPTH, MAX_PIXELS = 2**24, 2**12, 2**26
"""Bounds on what a file may ask for, far above any model: checked before memory is taken."""


class Section:
    """A part of the configuration that reads and writes plain dictionaries."""

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Self:
        """Raises ConfigError for an unknown key, a wrong value or a missing one."""
        if not isinstance(values, dict):
            raise ConfigError(f"{where} must be a table of settings, got {type(values).__name__}")
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # subclasses are dataclasses
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                f"unknown key {where}.{unknown[0]} (known: {', '.join(sorted(known))})"
            )
        for name, kind in get_type_hints(cls).items():
            if name in values and not _fits(values[name], kind):
                raise ConfigError(
                    f"{where}: {name} must be {_words(kind)}, got {values[name]!r:.80}"
                )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of a JSON or TOML file is what an annotation says."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in (tuple, list):
        return isinstance(value, (tuple, list)) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict)
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, (int, float)) and is_finite(value)
    if kind is int:
        return is_whole(value)
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    """An annotation as a person says it."""
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
    if get_origin(kind) in (tuple, list):
        return "a list"
    return words.get(kind, "a table")


def is_finite(value: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def require_positive(section: object, *names: str, most: int = MAX_WIDTH) -> None:
    for name in names:
        if not is_whole(value := getattr(section, name)) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")


def require_shares(section: object, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
