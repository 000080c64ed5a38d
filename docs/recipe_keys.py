"""Writes the tables of docs/training.md from the recipes' own dataclasses.

    python docs/recipe_keys.py

A table stands between `<!-- keys TASK.TABLE -->` and `<!-- /keys -->`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "training.md"
SLOT = re.compile(r"(<!-- keys (\w+)\.(\w+) -->\n).*?(<!-- /keys -->\n)", re.DOTALL)
WORDS = (
    (r"tuple\[str, \.\.\.\]", "list of texts"),
    (r"tuple\[int, \.\.\.\]", "list of whole numbers"),
    (r"tuple\[tuple\[int, int, int\], \.\.\.\]", "list of [red, green, blue]"),
    (r"tuple\[float, float\]", "two numbers"),
    (r"dict\[str, list\[Any\]\]", "table of lists"),
    (r"dict\[str, Any\]", "table"),
    (r" \| None", ""),
    (r"\bstr\b", "text"),
    (r"\bint\b", "whole number"),
    (r"\bfloat\b", "number"),
    (r"\bbool\b", "true or false"),
)
"""Python's name of a type -> what a reader calls it."""


def fill(text: str) -> str:
    """The page with every table made anew. Raises KeyError for an unknown task or table."""
    from dromaius.training.tasks import TABLES

    return SLOT.sub(lambda s: f"{s[1]}\n{table(TABLES[s[2]][s[3]])}\n{s[4]}", text)


def table(kind: type) -> str:
    """The keys of a dataclass, one row each."""
    meanings = comments(kind)
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for one in dataclasses.fields(kind):
        cells = [f"`{one.name}`", words(str(one.type)), default(one), meanings.get(one.name, "")]
        rows.append("| " + " | ".join(cells).rstrip() + " |")
    return "\n".join(rows) + "\n"


def comments(kind: type) -> dict[str, str]:
    """Each field's docstring: the text that stands below it in the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def words(annotation: str) -> str:
    annotation = re.sub(r"<class '(\w+)'>", r"\1", annotation).replace("typing.", "")
    for pattern, said in WORDS:
        annotation = re.sub(pattern, said, annotation)
    return annotation


def default(field: dataclasses.Field[Any]) -> str:
    """A default as a recipe writes it; "required" and "none" where there is none to write."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    return "none" if value is None else f"`{toml(value)}`"


def toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
