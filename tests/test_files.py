"""Whole files or none."""

from pathlib import Path

import pytest

from dromaius.errors import CheckpointError, InputError
from dromaius.files import atomic_path, read_bytes, write_bytes, write_text


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old 红\n")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent
        assert path.read_bytes() == "old 红\n".encode()
        raise RuntimeError
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_unwritable_and_unreadable_places(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a" / "b", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot write .*"):
            write_bytes(path, b"y")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "folder"]
    with pytest.raises(CheckpointError, match="cannot read .*none"):
        read_bytes(tmp_path / "none", 10, CheckpointError)


def test_bounded_reading(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(InputError, match="larger than the allowed 4 bytes"):
        read_bytes(tmp_path / "a", 4)
    with pytest.raises(InputError, match="larger than"):
        read_bytes(Path("/dev/zero"), 1000)
