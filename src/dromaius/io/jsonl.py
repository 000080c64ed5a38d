"""JSON Lines: one JSON object per line."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dromaius.errors import InputError
from dromaius.files import atomic_path

MAX_LINE_BYTES = 64 * 2**20


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a file ("-": standard input) one by one; blank lines are skipped.

    Raises InputError naming the file and line for a line that is not a JSON object.
    """
    if str(path) == "-":
        yield from _rows(sys.stdin.buffer, "standard input")
        return
    try:
        file = open(path, "rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield from _rows(file, str(path))


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes the objects atomically ("-": standard output) and returns how many there were."""
    if str(path) == "-":
        count = _write(sys.stdout.buffer, rows)
        sys.stdout.buffer.flush()
        return count
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        return _write(file, rows)


def _rows(file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{name}, line {number}: longer than {MAX_LINE_BYTES} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the mark that some editors put first
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number}: not valid JSON") from error
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number}: not a JSON object")
        yield row


def _write(file: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for row in rows:
        file.write(json.dumps(dict(row), ensure_ascii=False).encode("utf-8") + b"\n")
        count += 1
    return count
