"""The shipped nano meets each "must" of its table within its interval, on the quick set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import command, start


@pytest.mark.slow
def test_the_shipped_nano_meets_every_must(tmp_path: Path) -> None:
    arguments = command("eval", "nano", "--quick", "--check", "--json", "-q", model="real")
    process = start(arguments, tmp_path)
    out, err = process.communicate(timeout=900)
    rows = [json.loads(line) for line in out.splitlines()]
    asked = [row for row in rows if row["must"] is not None]
    assert len(asked) >= 2 + 4 + 2 + 5 + 6 + 1 + 2
    assert all(row["cases"] >= 20 for row in asked if row["row"] != "8")
    assert process.returncode == 0, err.decode()
