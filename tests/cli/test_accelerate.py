"""`dromaius image --accelerate`: the same file in fewer passes, and what is said about it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

import dromaius
from dromaius.cli import main
from dromaius.pipelines.state import StateFile
from tests.cli.conftest import Cli, Outcome, command, start


@pytest.fixture
def nano(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    """Runs `dromaius image` in this process, in an empty folder, with the embedded model."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        capfdbinary.readouterr()
        code = main.run(["image", *arguments])
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode())

    return run


def test_the_same_file_in_fewer_passes(nano: Cli, tmp_path: Path) -> None:
    flags = ["a red apple", "--seed", "7", "--json"]
    found = {}
    for mode in ("off", "seed-exact", "auto", "coupled"):
        done = nano(*flags, "-o", f"{mode}.png", "--accelerate", mode)
        assert done.code == 0, done.err
        row = found[mode] = json.loads(done.out)
        *said, summary = done.err.splitlines()
        assert f"64 tokens in {row['passes']} passes" in summary
        assert row["tokens"] == 64
        if mode == "auto":
            [line] = said
            assert line.startswith(f"dromaius: auto chose {row['accelerate']}: ")
            assert line.count("codes/s") == 2 and row["accelerate"] in ("off", "seed-exact")
        else:
            assert said == [] and row["accelerate"] == mode
    files = {mode: (tmp_path / f"{mode}.png").read_bytes() for mode in found}
    assert files["off"] == files["seed-exact"] == files["auto"] != files["coupled"]
    assert found["off"]["passes"] == 64 > found["seed-exact"]["passes"]
    assert found["coupled"]["passes"] < 64
    assert "accelerate" not in found["seed-exact"]["sampler"]
    sampler = found["coupled"]["sampler"]
    assert (sampler["accelerate"], sampler["window"]) == ("coupled", 16)


def test_auto_chooses_once_and_quietly_says_nothing(nano: Cli) -> None:
    flags = ["a", "-n", "2", "--batch-size", "1", "--accelerate", "auto", "--size", "48x48"]
    done = nano(*flags, "-o", "x.png", "--seed", "1")
    lines = done.err.splitlines()
    assert done.code == 0 and len(lines) == 2 and lines[0].startswith("dromaius: auto chose ")
    assert nano(*flags, "-o", "y.png", "--seed", "1", "-q").err == ""


def test_flags_that_do_not_go_together(cli: Cli) -> None:
    done = cli("image", "a", "--window", "4")
    assert done.code == 2 and "give both" in done.err
    assert cli("image", "a", "--accelerate", "fast").code == 2
    assert cli("image", "a", "--accelerate", "auto", "--window", "0").code == 2


def test_what_is_asked_reaches_the_model(cli: Cli, calls: list[dict[str, object]]) -> None:
    cli("image", "a", "-o", "a.png", "--accelerate", "seed-exact", "--window", "9")
    cli("image", "a", "-o", "b.png")
    given = [(call["accelerate"], call.get("window")) for call in calls]
    assert given == [("seed-exact", 9), ("off", None)]


# ------------------------------------------------------------------------------------------- killed


@pytest.mark.parametrize(
    ("first", "then"), [("coupled", "coupled"), ("seed-exact", "off"), ("off", "seed-exact")]
)
def test_sigkill_and_the_same_command_again(
    nano: Cli, tmp_path: Path, first: str, then: str
) -> None:
    """16x16 codes, killed behind some rows; exact forms go on from each other's states."""
    flags = ["a red apple", "--size", "128x128", "--seed", "7", "-q"]
    state = ["-o", "out.png", "--state", "s.safetensors"]
    process = start(command("image", *flags, *state, "--accelerate", first, model="real"), tmp_path)
    file, deadline = StateFile(tmp_path / "s.safetensors"), time.monotonic() + 300
    while (kept := file.read()) is None or (kept.codes >= 0).sum() < 16:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = file.read()
    assert kept is not None and not kept.finished and not (tmp_path / "out.png").exists()
    assert (kept.last_pass is not None) == (first == "coupled")
    done = nano(*flags, *state, "--accelerate", then)
    assert (done.code, done.out) == (0, "out.png\n"), done.err
    assert nano(*flags, "-o", "whole.png", "--accelerate", first).code == 0
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out.png", "whole.png"]


def test_a_state_of_the_other_form_is_refused(nano: Cli, tmp_path: Path) -> None:
    flags = ["a", "--size", "64x64", "--seed", "1", "-o", "a.png", "--state", "s", "-q"]
    drawings = dromaius.load("nano").stream_image(
        "a", height=64, width=64, seed=1, accelerate="coupled", state=tmp_path / "s"
    )
    for _ in range(3):
        next(drawings)
    drawings.close()
    done = nano(*flags)
    assert done.code == 1 and "s is of another command" in done.error
    assert "its picture 1 has accelerate 'coupled', not None" in done.error
