"""Texts of pictures as they come: on stdout, or in a file that a rerun goes on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dromaius.cli import console, output
from dromaius.cli.picture_list import Item
from dromaius.errors import InputError

if TYPE_CHECKING:
    from dromaius.pipelines.reading.image_to_text import Reading


class Results:
    """Where texts go: stdout, or a file of JSON lines that a rerun goes on with."""

    def __init__(self, path: str | None, as_json: bool, named: bool, model: str) -> None:
        """named: whether the picture's name stands before its text.

        Raises InputError for a file that cannot be written, or that is of another model.
        """
        self.as_json, self.named, self.model = as_json, named, model
        self.path = Path(path) if path else None
        self.held: set[tuple[str, int | None]] = set()
        if self.path is not None:
            if self.path.suffix.lower() != ".jsonl":
                raise InputError(f"texts are written as JSON lines: {path} must end in .jsonl")
            output.check_writable(self.path)
            if self.path.is_file():
                self._take_over(self.path)

    def _take_over(self, path: Path) -> None:
        """Notes which pictures the file holds; a line that an interruption cut is dropped."""
        from dromaius.io.jsonl import read_jsonl

        with open(path, "rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
        for row in read_jsonl(path):
            if row.get("model") != self.model:
                raise InputError(
                    f"{path} holds texts of {row.get('model')!r:.60}, not {self.model!r}; give "
                    "another file"
                )
            self.held.add((str(row.get("image")), row.get("page")))

    def __enter__(self) -> Self:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.path is not None:
            self._file.close()

    def add(self, item: Item, reading: Reading) -> None:
        """Writes one picture's text at once."""
        if self.path is not None:
            self._file.write(json.dumps(self._row(item, reading), ensure_ascii=False) + "\n")
            self._file.flush()
        elif self.as_json:
            console.result_json(self._row(item, reading))
        else:
            texts = [reading.text, *(other.text for other in reading.alternatives)]
            prefix = f"{item.shown}: " if self.named else ""
            lines = [line for text in texts for line in (text.splitlines() or [""])]
            for line in lines:
                console.result(prefix + line)

    def _row(self, item: Item, reading: Reading) -> dict[str, Any]:
        return {
            "image": item.name,
            **({} if item.page is None else {"page": item.page}),
            "text": reading.text,
            "score": reading.score,
            "tokens": reading.tokens,
            **_more("alternatives", reading.alternatives),
            **_more("lines", reading.lines),
            "model": self.model,
        }


def _more(name: str, readings: Sequence[Reading]) -> dict[str, Any]:
    rows = []
    for one in readings:
        row: dict[str, Any] = {"text": one.text, "score": one.score}
        if one.box is not None:
            row["box"] = [one.box.left, one.box.top, one.box.right, one.box.bottom]
        rows.append(row | _more("alternatives", one.alternatives))
    return {name: rows} if rows else {}
