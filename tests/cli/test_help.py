"""Help comes fast, and for every verb."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from dromaius.cli import main
from tests.cli.conftest import REPOSITORY, Cli

VERBS = main.VERBS

HELP = """
import sys
from dromaius.cli import main
code = main.run({arguments})
heavy = sorted({{"torch", "transformers", "numpy", "PIL", "huggingface_hub"}} & set(sys.modules))
print("HEAVY", code, heavy)
"""


def seconds_of_help() -> float:
    """Processor time, which other work on the machine does not lengthen."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "dromaius.cli.main", "--help"],
        env={"PYTHONPATH": str(REPOSITORY / "src")},
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_comes_within_half_a_second() -> None:
    assert min(seconds_of_help() for _ in range(3)) < 0.5


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_imports_nothing_heavy(verb: str | None) -> None:
    arguments = ["--help"] if verb is None else [verb, "--help"]
    result = subprocess.run(
        [sys.executable, "-c", HELP.format(arguments=arguments)],
        env={"PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
    )
    assert "HEAVY 0 []" in result.stdout, result.stdout[-200:] + result.stderr


def test_help_names_every_verb_and_says_what_it_does(cli: Cli) -> None:
    shown = cli("--help").out
    assert cli().out == shown
    for verb in VERBS:
        [line] = [row for row in shown.splitlines() if row.startswith(f"│ {verb} ")]
        assert len(line.split(verb, 1)[1].strip(" │")) > 20


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_explains_every_flag(verb: str) -> None:
    import typer

    command = typer.main.get_command(main.make_app()).commands[verb]
    assert command.help
    for parameter in command.params if verb != "train" else []:
        assert parameter.help, f"{verb} {parameter.name} has no help"


def test_flags_that_verbs_share_are_the_same_everywhere() -> None:
    import typer

    commands = typer.main.get_command(main.make_app()).commands
    shared = {"model", "vision_tokenizer", "device", "as_json", "quiet"}
    for name in shared:
        found = {
            (tuple(p.opts), p.help, str(p.default))
            for verb in VERBS
            if verb != "train"
            for p in commands[verb].params
            if p.name == name
        }
        assert len(found) == 1, found


def test_version(cli: Cli) -> None:
    import dromaius

    assert cli("--version").out == f"dromaius {dromaius.__version__}\n"
