"""The verbs with a real model: a tiny random checkpoint in our own layout, loaded from disk."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dromaius
from tests.cli.conftest import CODES, Cli, Outcome


@pytest.fixture
def real(checkpoint: Path, in_process: Cli) -> Cli:
    """Runs a verb in this process, in an empty folder, with the tiny checkpoint."""

    def run(verb: str, *arguments: str) -> Outcome:
        model = [] if verb in ("info", "convert") else ["-m", str(checkpoint)]
        return in_process(verb, *arguments, *model)

    return run


def test_a_drawn_picture_is_what_the_library_draws(
    real: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    done = real("image", "a red apple", "--seed", "7", "-o", "a.png")
    assert done.code == 0, done.err
    expected = dromaius.load(checkpoint).generate_image("a red apple", seed=7)
    assert isinstance(expected, Image.Image)
    with Image.open(tmp_path / "a.png") as found:
        assert found.size == (32, 32) and np.array_equal(np.asarray(found), np.asarray(expected))
    real("image", "a red apple", "--seed", "7", "-o", "b.png")
    real("image", "a red apple", "--seed", "8", "-o", "c.png")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_picture_of_a_mixed_batch_is_the_same_alone(real: Cli, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a red apple", "seed": 3, "height": 24, "width": 40, "guidance": 2.0},
        {"prompt": "an image", "seed": 9, "ratio": "1:2", "negative_prompt": "red"},
        {"prompt": "what", "seed": 4},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = real("image", "--prompts", "p.jsonl", "-o", "batch", "-q")
    assert done.code == 0, done.err
    flags = [
        ["a red apple", "--seed", "3", "--size", "40x24", "--guidance", "2"],
        ["an image", "--seed", "9", "--ratio", "1:2", "--negative", "red"],
        ["what", "--seed", "4"],
    ]
    for path, alone in zip(done.out.splitlines(), flags, strict=True):
        assert real("image", *alone, "-o", "alone.png", "-q").code == 0
        assert (tmp_path / path).read_bytes() == (tmp_path / "alone.png").read_bytes()


def test_what_a_picture_says_of_itself_draws_it_again(
    real: Cli, checkpoint: Path, tmp_path: Path
) -> None:
    flags = ["--top-k", "20", "--min-p", "0.01", "--temperature", "0.9", "--ratio", "3:2"]
    flags += ["--guided", "0.2:0.8"]
    real("image", "a red apple", "-o", "a.png", *flags)
    made = json.loads(real("info", "a.png", "--json").out)
    assert made["sampler"]["guided"] == [0.2, 0.8]
    model = dromaius.load(checkpoint)
    assert (made["model"], made["model_hash"]) == (model.name, model.hash)
    keys = ("prompt", "negative_prompt", "seed", "height", "width")
    again = model.generate_image(**{key: made[key] for key in keys}, **made["sampler"])
    with Image.open(tmp_path / "a.png") as found:
        assert np.array_equal(np.asarray(found), np.asarray(again))


def test_the_answer_is_the_library_s(real: Cli, checkpoint: Path, tmp_path: Path) -> None:
    Image.effect_mandelbrot((48, 48), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "m.png")
    model = dromaius.load(checkpoint)
    expected = model.answer(Image.open(tmp_path / "m.png"), "What is it?")
    assert json.loads(real("ask", "m.png", "What is it?", "--json").out)["answer"] == expected
    streamed = real("ask", "m.png", "What is it?", "-q")
    assert (streamed.code, streamed.err) == (0, "")
    two = model.answer([tmp_path / "m.png"] * 2, "Same?", max_new_tokens=3)
    given = ["m.png", "m.png", "Same?", "--max-tokens", "3", "--json"]
    assert json.loads(real("ask", *given).out)["answer"] == two


def test_a_preset_is_its_question(real: Cli, checkpoint: Path, tmp_path: Path) -> None:
    Image.effect_mandelbrot((48, 48), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "m.png")
    model = dromaius.load(checkpoint)
    for flags, question in (
        (["--preset", "caption"], "Please describe the image"),
        (["--preset", "style", "--lang", "zh"], "这是什么风格？"),
    ):
        row = json.loads(real("ask", "m.png", *flags, "--json").out)
        assert row["question"] == question
        assert row["answer"] == model.answer(tmp_path / "m.png", question)
    assert model.caption(tmp_path / "m.png", language="zh") == model.answer(
        tmp_path / "m.png", "请描述该图片"
    )


def test_a_chat_is_the_library_s(
    real: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, what is saved, and what the context has no room for."""
    Image.effect_mandelbrot((48, 48), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "m.png")
    Image.new("RGB", (120, 10)).save(tmp_path / "long.png")
    lines = ["What is it?", "/image long.png", "/image m.png", "same", "/save c.json", "y " * 400]
    content = "\n".join(lines).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    done = real("chat", "m.png", "--json")
    assert done.code == 1
    elongated, full = done.err.splitlines()
    assert "picture of 120x10 pixels is too elongated" in elongated
    assert "tokens; the model's context is 400; /reset starts a new conversation" in full
    first, second = (json.loads(line)["answer"] for line in done.out.splitlines())
    model = dromaius.load(checkpoint)
    assert first == model.answer(tmp_path / "m.png", "What is it?")
    messages = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["messages"]
    assert messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": second}]}
    assert messages[2]["content"][-1] == {"type": "text", "text": "same."}
    assert model.chat(messages[:-1]) == second


def test_reconstruct_is_encode_and_decode(real: Cli, checkpoint: Path, tmp_path: Path) -> None:
    Image.effect_mandelbrot((48, 40), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "m.png")
    row = json.loads(real("reconstruct", "m.png", "-o", "again.png", "--json").out)
    model = dromaius.load(checkpoint)
    codes = model.encode_image(Image.open(tmp_path / "m.png"))
    again = np.asarray(model.decode_image(codes))
    with Image.open(tmp_path / "again.png") as found:
        assert np.array_equal(np.asarray(found), again)
    original = np.asarray(Image.open(tmp_path / "m.png")).astype(float)
    by_hand = 10 * np.log10(255**2 / ((original - again) ** 2).mean())
    assert row["psnr"] == pytest.approx(by_hand, abs=1e-3)
    assert (row["rows"], row["columns"]) == (5, 6)


def test_info_tells_what_lies_on_disk(real: Cli, checkpoint: Path) -> None:
    facts = json.loads(real("info", str(checkpoint), "--json").out)
    model = dromaius.load(checkpoint)
    assert (facts["family"], facts["layout"], facts["dtype"]) == ("emu3", "dromaius", "float32")
    assert facts["hash"] == model.hash and facts["codebook_size"] == CODES
    assert model.language_model is not None
    by_hand = sum(p.numel() for p in model.language_model.parameters())
    assert facts["parameters"]["language_model"] == by_hand
    assert facts["bytes"] == sum(path.stat().st_size for path in checkpoint.iterdir())
    assert f"  language model: {by_hand:,}" in real("info", str(checkpoint)).out


def test_convert_there_and_back_is_bit_for_bit(real: Cli, checkpoint: Path, tmp_path: Path) -> None:
    done = real("convert", str(checkpoint), "there", "--to", "hf", "--shard-size", "400KB")
    assert (done.code, done.out) == (0, "there\n"), done.err
    assert len(list((tmp_path / "there").glob("model-*.safetensors"))) > 2
    row = json.loads(real("convert", "there", "back", "--json", "-q").out)
    assert row == {"folders": ["back"], "layout": "dromaius"}
    folders = (checkpoint, tmp_path / "back")
    one, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    done = real("convert", "there", "back")
    assert (done.code, done.error) == (1, "dromaius: error: back exists already")
