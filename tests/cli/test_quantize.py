"""`dromaius quantize` as a person types it, on nano."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dromaius.cli import main


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, with the real `dromaius.load`."""
    done = CliRunner().invoke(main.make_app(), list(arguments))
    return done.exit_code, done.stdout, str(done.exception or "")


def test_writes_prints_and_is_told_by_info(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    code, out, error = run("quantize", "nano", "-o", str(folder), "--weights", "int4", "--json")
    assert code == 0, error
    told = json.loads(out)
    config = json.loads((folder / "config.json").read_text())["quantization"]
    assert told["cost"] == config["cost"] and told["weights"] == "int4"
    assert told["bytes"] == (folder / "model.safetensors").stat().st_size
    assert config["layers"] == {"kind": "int4", "group": 64}
    code, out, _ = run("info", str(folder))
    assert code == 0
    assert f"kl mean: {config['cost']['kl_mean']}" in out and "kind: int4" in out
    code, _, error = run("quantize", "nano", "-o", str(folder))
    assert code == 1 and error == f"{folder} exists already"
    code, _, error = run("convert", str(folder), str(tmp_path / "hf"), "--to", "hf")
    assert code == 1 and "quantized weights (int4, groups of 64), which cannot" in error
    assert sorted(tmp_path.iterdir()) == [folder]


def test_without_cost_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    arguments = ("--weights", "int8", "--group", "128", "--no-cost", "-q")
    code, out, _ = run("quantize", "nano", "-o", str(folder), *arguments)
    assert (code, out) == (0, f"{folder}\n")
    config = json.loads((folder / "config.json").read_text())["quantization"]
    assert config["cost"] is None and config["layers"] == {"kind": "int8", "group": 128}


@pytest.mark.parametrize("wrong", [("--weights", "int3"), ("--group", "48")])
def test_other_forms_are_wrong_usage(wrong: tuple[str, str], tmp_path: Path) -> None:
    code, _, _ = run("quantize", "nano", "-o", str(tmp_path / "few"), *wrong)
    assert code == 2 and not list(tmp_path.iterdir())
