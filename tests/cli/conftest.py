"""Two ways to run the command line: in this process (fast), and as a real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import dromaius
from dromaius.cli import main
from tests.cli import fake

FAKE = Path(fake.__file__)
REPOSITORY = FAKE.parents[2]

SPECIAL = ["<pad>", "<bos>", "<eos>", "<img>", "<boi>", "<eoi>", "<eol>", "<eof>"]
CODES = 64
"""Codebook of the tiny checkpoint."""


class Outcome:
    """What a command left: exit code, stdout (bytes or text), lines of stderr."""

    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code, self.raw, self.err = code, out, err

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def error(self) -> str:
        """The one line on stderr. Fails if there is another, or a traceback."""
        [line] = self.err.splitlines()
        return line


Calls = list[dict[str, Any]]
Cli = Callable[..., Outcome]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Makes `dromaius.load` give the fake model; holds the arguments of its calls."""
    made: Calls = []

    def load(source: str, *given: Any, **named: Any) -> fake.FakeModel:
        fake.load(source)
        return fake.FakeModel(made)

    monkeypatch.setattr(dromaius, "load", load)
    return made


@pytest.fixture
def in_process(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        capfdbinary.readouterr()
        code = main.run(arguments)
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Outcome(code, out, err.decode())

    return run


@pytest.fixture
def cli(calls: Calls, in_process: Cli) -> Cli:
    """Runs a command line in this process, in an empty folder, with the fake model."""
    return in_process


def command(*arguments: str, model: str = "fake") -> list[str]:
    """The program's command line: with the fake model, or (model="real") with real ones."""
    program = [str(FAKE)] if model == "fake" else ["-m", "dromaius.cli.main"]
    return [sys.executable, *program, *arguments]


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": path, **extra}


def start(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, **settings: Any
) -> subprocess.Popen[bytes]:
    """Starts a command line of `command`; SIGINT does what it does in a terminal."""
    for name in ("stdout", "stderr"):
        settings.setdefault(name, subprocess.PIPE)
    settings.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        arguments,
        cwd=cwd,
        env=environment(**env or {}),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


@pytest.fixture
def program(tmp_path: Path) -> Cli:
    """Runs the real program in an empty folder, with the fake model unless told otherwise."""

    def run(
        *arguments: str, input: bytes | None = None, model: str = "fake", **settings: Any
    ) -> Outcome:
        if input is not None:
            settings["stdin"] = subprocess.PIPE
        process = start(command(*arguments, model=model), tmp_path, **settings)
        out, err = process.communicate(input, timeout=120)
        return Outcome(process.returncode, out or b"", err.decode())

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, pictures of 32x32 pixels in 4x4 codes; it answers with random words."""
    import torch

    from dromaius.io.shards import save_sharded
    from dromaius.models.emu3 import config as emu3
    from dromaius.models.emu3.language_model import LanguageModel
    from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
    from dromaius.tokenizers.convert import train_bpe

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = train_bpe(["a red apple", "What is in the image?"] * 4, 300, SPECIAL)
    tokenizer.save(folder)
    ids = [tokenizer.special_tokens[name] for name in SPECIAL]
    start_of_codes = tokenizer.vocab_size
    config = emu3.Emu3Config(
        language_model=emu3.LanguageModelConfig(
            vocab_size=start_of_codes + CODES,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=400,
        ),
        vision_tokenizer=emu3.VisionTokenizerConfig(
            codebook_size=CODES, ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1
        ),
        vocabulary=emu3.VocabularyConfig(*ids[:6], *ids[6:], start_of_codes, CODES),
        image=emu3.ImageSettings(min_pixels=32 * 32, max_pixels=64 * 64, image_area=32 * 32),
        generation=emu3.GenerationSettings(max_new_tokens=12),
    )
    torch.manual_seed(1)
    assert config.language_model is not None and config.vision_tokenizer is not None
    halves = {
        "language_model": LanguageModel(config.language_model),
        "vision_tokenizer": VisionTokenizer(config.vision_tokenizer),
    }
    tensors = {
        f"{half}.{name}": tensor
        for half, module in halves.items()
        for name, tensor in module.state_dict().items()
    }
    save_sharded(tensors, folder)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    return folder
