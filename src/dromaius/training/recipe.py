"""Recipes: TOML files, every key of which must be known.

A recipe names its task; the tables below it are the dataclasses of that task.
"""

import tomllib
from pathlib import Path
from typing import Any

from dromaius.errors import ConfigError
from dromaius.files import read_bytes
from dromaius.models.emu3.config import Section

MAX_BYTES = 2**24


def read_recipe(path: Path) -> dict[str, Any]:
    """A TOML file as plain data. Raises ConfigError naming the file when it is not TOML."""
    content = read_bytes(path, MAX_BYTES)
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def read_sections(
    recipe: dict[str, Any],
    kinds: dict[str, type[Section]],
    lists: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The recipe's tables as dataclasses; `lists` are arrays of tables, `optional` may be absent.

    Raises ConfigError naming an unknown key, a missing table or a wrong value.
    """
    known = {"task", *kinds}
    if unknown := sorted(set(recipe) - known):
        raise ConfigError(
            f"unknown key {unknown[0]} in the recipe (known: {', '.join(sorted(known))})"
        )
    parts: dict[str, Any] = {}
    for name, kind in kinds.items():
        if name not in recipe and name in optional:
            continue
        if name not in recipe:
            raise ConfigError(f"the recipe has no table [{name}]")
        if name in lists:
            if not isinstance(recipe[name], list):
                raise ConfigError(f"{name} must be an array of tables, each under [[{name}]]")
            parts[name] = [
                kind.from_dict(one, f"{name}[{i}]") for i, one in enumerate(recipe[name])
            ]
        else:
            parts[name] = kind.from_dict(recipe[name], name)
    return parts
