"""JSON Lines."""

import io
from pathlib import Path

import pytest

from dromaius.errors import InputError
from dromaius.io import jsonl
from dromaius.io.jsonl import read_jsonl, write_jsonl

ROWS = [{"prompt": "a red apple", "seed": 1}, {"prompt": "红\u2028苹果\n", "seed": None}, {}]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert write_jsonl(path, iter(ROWS)) == 3
    assert list(read_jsonl(path)) == ROWS
    assert path.read_bytes().count(b"\n") == 3
    assert path.read_bytes().startswith(b'{"prompt": "a red apple", "seed": 1}\n')


def test_standard_streams(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}\r\n\n \n{"a": 2}')))
    assert list(read_jsonl("-")) == [{"a": 1}, {"a": 2}]
    write_jsonl("-", [{"a": 1}])
    assert capfdbinary.readouterr().out == b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1}\n\n{"a": \n', "line 3: not valid JSON"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b'{"a": "\xff"}\n', "line 1: not valid JSON"),
        (b"[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_bad_lines(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"bad.jsonl, {reason}"):
        list(read_jsonl(path))


def test_rows_before_a_bad_line_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\noops\n')
    rows = read_jsonl(path)
    assert next(rows) == {"a": 1}
    with pytest.raises(InputError, match="line 2"):
        next(rows)


def test_long_lines_and_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "' + b"x" * 30 + b'"}\n')
    with pytest.raises(InputError, match="line 2: longer than 20 bytes"):
        list(read_jsonl(path))
    with pytest.raises(InputError, match="cannot read .*none.jsonl"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"a": 2}, {"a": object()}])
    assert list(read_jsonl(path)) == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
