"""`ask`, `reconstruct`, `info` and `convert` with a model that stands in."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dromaius.cli.convert import bytes_of
from dromaius.cli.reconstruct import psnr
from tests.cli.conftest import Cli


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 24), (10, 20, 30)).save(path)
    return path


# -------------------------------------------------------------------------------------------- ask


def test_the_answer_is_on_stdout_and_cannot_drive_the_terminal(cli: Cli, photo: Path) -> None:
    done = cli("ask", "photo.png", "What is it?")
    assert (done.code, done.out) == (0, "You asked What is it? about 40x24.\\x1b[2J\n")
    assert "tokens/s" in done.error


def test_several_pictures_and_json(cli: Cli, photo: Path) -> None:
    row = json.loads(cli("ask", "photo.png", "photo.png", "Same?", "--json").out)
    assert row["answer"] == "You asked Same? about 40x24 and 40x24.\x1b[2J"
    assert (row["images"], row["question"]) == (["photo.png", "photo.png"], "Same?")


def test_max_tokens_reaches_the_model(cli: Cli, photo: Path) -> None:
    assert cli("ask", "photo.png", "Same?", "--max-tokens", "1", "-q").out == "You\n"


@pytest.mark.parametrize(
    ("flags", "question"),
    [
        (["--preset", "caption"], "Please describe the image"),
        (["--preset", "name", "--lang", "en"], "What is in the image?"),
        (["--preset", "category", "--lang", "zh"], "这是什么类别？"),
    ],
)
def test_a_preset_asks_in_place_of_a_question(
    cli: Cli, photo: Path, flags: list[str], question: str
) -> None:
    done = cli("ask", "photo.png", "photo.png", *flags, "-q")
    assert done.out == f"You asked {question} about 40x24 and 40x24.\\x1b[2J\n"
    row = json.loads(cli("ask", "photo.png", *flags, "--json", "-q").out)
    assert (row["images"], row["question"]) == (["photo.png"], question)


def test_a_picture_on_stdin(program: Cli, photo: Path) -> None:
    done = program("ask", "-", "What?", input=photo.read_bytes())
    assert done.out.startswith("You asked What? about 40x24.")


def test_a_question_on_stdin(program: Cli, photo: Path) -> None:
    done = program("ask", "photo.png", "-", input="什么?\n".encode())
    assert done.out.startswith("You asked 什么? about 40x24.")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["photo.png", "What?", "--lang", "zh"], 2, "--lang is the language of --preset"),
        (["--preset", "style"], 2, "Missing argument"),
        (["photo.png", "--preset", "poem"], 2, "'poem' is not one of 'caption', 'category'"),
        (["photo.png", "What?", "--preset", "style"], 1, "cannot read What?: No such file"),
        ([], 2, "Missing argument"),
        (["-", "-"], 1, "only one argument can be -"),
    ],
)
def test_ask_errors(cli: Cli, photo: Path, arguments: list[str], code: int, says: str) -> None:
    done = cli("ask", *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.error.startswith("dromaius: error: ") and says in done.error


# ------------------------------------------------------------------------------------ reconstruct


def test_psnr_by_hand() -> None:
    black = Image.new("RGB", (2, 2))
    one_off = Image.new("RGB", (2, 2), (1, 1, 1))
    assert psnr(black, one_off) == pytest.approx(48.1308, abs=1e-4)  # 20 log10(255)
    assert psnr(black, Image.new("RGB", (2, 2), (255, 255, 255))) == 0.0
    assert psnr(black, black) == math.inf


def test_reconstruct_tells_how_near_it_comes(cli: Cli, photo: Path, tmp_path: Path) -> None:
    done = cli("reconstruct", "photo.png", "-o", "again.png")
    assert (done.code, done.out) == (0, "again.png\n")
    assert done.error == "dromaius: 40x24 pixels, 3x5 codes, PSNR 48.13 dB"
    with Image.open(tmp_path / "again.png") as again:
        assert (np.asarray(again) == [11, 21, 31]).all()
    row = json.loads(cli("reconstruct", "photo.png", "--json", "-q").out)
    assert row["path"] == "photo-again.png" and row["psnr"] == pytest.approx(48.131)
    assert (row["rows"], row["columns"], row["width"], row["height"]) == (3, 5, 40, 24)


def test_equal_pictures_are_still_json(cli: Cli, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "white").save(tmp_path / "white.png")  # the stand-in cannot brighten
    done = cli("reconstruct", "white.png", "--json", "-q")
    assert json.loads(done.out, parse_constant=lambda name: pytest.fail(name))["psnr"] is None


# ------------------------------------------------------------------------------------------- info


def test_info_of_a_model(cli: Cli) -> None:
    assert json.loads(cli("info", "nano", "--json").out)["hash"] == "0123abcd"
    assert cli("info", "nano").out == (
        "name: fake\nparameters:\n  language model: 1,234,567\nhash: 0123abcd\ndtype:\n"
    )


# ---------------------------------------------------------------------------------------- convert


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for `models.emu3.convert`; holds the arguments it was given."""
    given: list[Any] = []

    def convert(source: str, destination: Path, layout: str, **named: Any) -> list[Path]:
        named.pop("progress")(1, 2)
        given.append((source, destination, layout, named))
        return [destination, Path("beside")]

    module = ModuleType("dromaius.models.emu3.convert")
    module.convert = convert  # type: ignore[attr-defined]  # a module made for this test
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return given


def test_convert_passes_on_what_is_said(cli: Cli, converted: list[Any]) -> None:
    flags = "--to baai --vision-dest vq --vision-tokenizer v --dtype bfloat16 --shard-size 500MB"
    done = cli("convert", "nano", "out", *flags.split())
    assert (done.code, done.out) == (0, "out\nbeside\n")
    named = {
        "vision_tokenizer": "v",
        "vision_destination": Path("vq"),
        "dtype": torch.bfloat16,
        "max_shard_size": 500_000_000,
    }
    assert converted == [("nano", Path("out"), "baai", named)]
    row = json.loads(cli("convert", "nano", "out", "--json").out)
    assert row == {"folders": ["out", "beside"], "layout": "dromaius"}


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5mb", 1_500_000), ("7", 7), ("12B", 12)]
)
def test_bytes_of(text: str, size: int) -> None:
    assert bytes_of(text) == size
