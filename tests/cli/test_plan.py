"""`dromaius plan`: what it prints, and what it says of what it cannot plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from dromaius.pipelines.planning import cards

    monkeypatch.setattr(cards, "_read_speed", lambda: 1e10)


def test_a_table_of_modes_and_one_of_speeds(cli: Cli) -> None:
    outcome = cli("plan", "nano", "--device", "RTX 4090", "--batch", "2")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "nano, image: 2 pictures of 64x64 pixels, guidance on, bfloat16"
    assert lines[1] == "on RTX 4090: 24.00 GB, 1,008.0 GB/s (data sheet)"
    [resident] = [line for line in lines if line.startswith("resident")]
    assert resident.split()[-6:] == ["yes"] * 6
    bounds = lines[lines.index("at best, memory being read at full speed:") + 2 :]
    assert [line.split()[:2] for line in bounds] == [
        [weights, guidance]
        for weights in ("bfloat16", "int8", "int4")
        for guidance in ("on", "off")
    ]


def test_json_holds_the_numbers(cli: Cli) -> None:
    outcome = cli("plan", "nano", "--device", "cpu", "--guidance", "off", "--json")
    facts = json.loads(outcome.out)
    assert facts["device"] == "cpu" and facts["dtype"] == "float32"
    assert facts["bandwidth"] == 1e10 and facts["bandwidth_source"].startswith("measured")
    assert facts["guidance"] is False
    assert {mode["fits"]["8"] for mode in facts["modes"]} == {"yes"}
    assert facts["parameters"]["language_model"] == 4_578_304


def test_no_weights_are_needed(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    outcome = cli("plan", str(bare), "--device", "T4", "--task", "reconstruct")
    assert outcome.code == 0 and "codes to pixels" in outcome.out


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["nowhere"], 1, "no model at 'nowhere'"),
        (["nano", "--device", "GTX 1"], 1, "unknown device 'GTX 1' (known: cpu, cuda, RTX 3060"),
        (["nano", "--height", "100", "--width", "64"], 1, "height must be a multiple of 8"),
        (["nano", "--height", "64"], 1, "give both height and width"),
        (["nano", "--ratio", "wide"], 1, "ratio must look like 16:9"),
        (["nano", "--task", "drive"], 2, "drive"),
        (["nano", "--height", "64", "--width", "64", "--area", "99"], 2, "--height and --width"),
        (["nano", "--dtype", "float99"], 1, "dtype 'float99'"),
    ],
)
def test_a_slip_is_one_line(cli: Cli, arguments: list[str], code: int, said: str) -> None:
    outcome = cli("plan", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.error
