"""`dromaius eval nano`: tables, exit codes, and a model that has learnt nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import dromaius
from dromaius.evaluation.cases import read_set
from tests.cli.conftest import REPOSITORY, Cli, command, start
from tests.evaluation.fake import Noise, Oracle, write_set

NANO = REPOSITORY / "src" / "dromaius" / "assets" / "nano"
QUICK = NANO / "quick"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


def use(monkeypatch: pytest.MonkeyPatch, model: object) -> None:
    monkeypatch.setattr(dromaius, "load", lambda *given, **named: model)


def test_an_oracle_meets_every_must(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Oracle(folder))
    shown = cli("eval", "nano", "--data", "set", "--check")
    assert shown.code == 0, shown.err
    assert "cases in" in shown.error
    lines = shown.out.splitlines()
    assert lines[0].split()[:3] == ["row", "figure", "value"]
    assert "plain 6" in lines[-1] and "Model oracle 0" in lines[-1]
    [drawn] = [line for line in lines if "text to image, greedy, en" in line]
    assert drawn.split() == "2 text to image, greedy, en 1.00 0.9 0.98 12 0.76 to 1.00 yes".split()


def test_machines_and_markdown_get_the_same_figures(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Oracle(folder))
    rows = [json.loads(line) for line in cli("eval", "nano", "--data", "set", "--json", "-q").out
            .splitlines()]  # fmt: skip
    table = cli("eval", "nano", "--data", "set", "--markdown", "-q").out.splitlines()
    names = [line.split(" | ")[1] for line in table[2:] if line.startswith("|")]
    assert names == [row["figure"] for row in rows]
    [share] = [row for row in rows if row["figure"] == "text to image, greedy, zh"]
    assert (share["value"], share["must"], share["met"], share["cases"]) == (1, 0.85, True, 12)


def test_noise_fails_the_check_and_only_the_check(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Noise(folder))
    assert cli("eval", "nano", "--data", "set", "-q").code == 0
    checked = cli("eval", "nano", "--data", "set", "-q", "--check", "--rows", "2, 3")
    assert checked.code == 1 and checked.error.startswith("dromaius: below must: text to image")


def test_missing_data_names_the_commands_that_build_it(cli: Cli) -> None:
    missing = cli("eval", "nano")
    assert missing.code == 1 and "recipes/nano/make_evaluation.py" in missing.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["emu3"], "'emu3'"),
        (["nano", "--quick", "--data", "x"], "--quick or --data"),
        (["nano", "--json", "--markdown"], "--json or --markdown"),
        (["nano", "--quick", "--rows", "2,12"], "'12'"),
        (["nano", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    wrong = cli("eval", *arguments)
    assert wrong.code == 2 and said in wrong.error


# --- the set in the package ------------------------------------------------------------------


def test_the_quick_set_is_small_and_permissive() -> None:
    cases = read_set(QUICK)
    assert sum(path.stat().st_size for path in QUICK.iterdir()) <= 1_500_000
    assert set(cases.styles) <= {"noto", "noto-v1", "fluent-flat", "fluent-color", "fluent-3d"}
    assert all(len(cases.galleries[style].pictures) >= 40 for style in cases.styles)
    yes_or_no = [one.answer for one in cases.questions if one.kind == "presence"]
    assert abs(sum(one in ("yes", "有") for one in yes_or_no) / len(yes_or_no) - 0.5) < 0.05


def random_nano(folder: Path) -> Path:
    """Nano's configuration and tokenizer with weights that mean nothing."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(NANO / name, folder / name)
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Any] = {}
    for path in NANO.glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                one = file.get_tensor(key)
                if one.is_floating_point():
                    noise = torch.randn(one.shape, generator=generator) * 0.05
                    one = (noise.abs() + 1 if one.ndim == 1 else noise).to(one.dtype)
                tensors[key] = one
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_random_weights_are_at_chance(tmp_path: Path) -> None:
    random_nano(tmp_path / "random")
    arguments = ["eval", "nano", "--quick", "--model", "random", "--limit", "3", "--json", "-q"]
    process = start(command(*arguments, "--check", "--rows", "1,2,3,4,6", model="real"), tmp_path)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1 and b"below must: " in err, err.decode()
    rows = [json.loads(line) for line in out.splitlines()]
    asked = [row for row in rows if row["must"] is not None]
    drawn = [row for row in asked if row["figure"].startswith("text to image")]
    named = [row for row in asked if row["row"] in "36" or "name exact" in row["figure"]]
    assert (len(drawn), len(named)) == (4, 2 + 6 + 1)
    # one of a hundred by luck for each of the twelve drawings; a name or a word never
    assert sum(row["value"] * row["cases"] for row in drawn) < 2, drawn
    assert all(row["value"] == 0 for row in named), named
    assert rows[0]["figure"].endswith("PSNR in dB") and rows[0]["value"] < 15


def test_reader_and_captioner_have_their_own_flags(cli: Cli) -> None:
    for arguments, said in (
        (["reader", "--rows", "2"], "--rows are nano's"),
        (["reader", "--beside", "nano"], "--beside is for the captioner"),
        (["reader", "--data", "absent"], "absent"),
        (["captioner", "--quick", "-m", "nano"], "is no VisionEncoderDecoder"),
    ):
        refused = cli("eval", *arguments)
        assert refused.code in (1, 2) and said in refused.error, arguments


def test_the_reader_is_measured_by_one_command(in_process: Cli) -> None:
    shown = in_process("eval", "reader", "--limit", "8", "--json", "-q")
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert shown.code == 0, shown.err
    assert {row["cases"] for row in rows} == {8}
    assert rows[0]["must"] == 0.02 and rows[0]["value"] < 0.2
