"""The commands of the README with the embedded model, as a newcomer types them."""

from __future__ import annotations

import json
from pathlib import Path

import dromaius
from tests.cli.conftest import Cli


def test_a_red_apple_is_drawn_twice_alike_and_named(program: Cli, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        drawn = program("image", "a red apple", "--seed", "7", "-o", name, model="real")
        assert (drawn.code, drawn.out) == (0, f"{name}\n"), drawn.err
        assert "seed 7" in drawn.error
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    named = program("ask", "a.png", "What is in the image?", "-q", model="real")
    assert named.code == 0 and "apple" in named.out.lower(), named.out + named.err


def test_nano_describes_itself_and_its_pictures(program: Cli) -> None:
    facts = json.loads(program("info", "nano", "--json", model="real").out)
    assert (facts["name"], facts["family"], facts["layout"]) == ("nano", "emu3", "dromaius")
    program("image", "a red apple", "--seed", "7", "-o", "a.png", model="real")
    made = json.loads(program("info", "a.png", "--json", model="real").out)
    assert (made["model"], made["model_hash"], made["seed"]) == ("nano", facts["hash"], 7)


def test_nano_reads_a_picture_that_comes_through_a_pipe(program: Cli) -> None:
    drawn = program("image", "a red apple", "--seed", "7", "-o", "-", "-q", model="real")
    assert drawn.raw.startswith(b"\x89PNG") and drawn.err == ""
    again = program("reconstruct", "-", "--json", "-q", input=drawn.raw, model="real")
    assert json.loads(again.out)["psnr"] > 20


def test_nano_chats(program: Cli, tmp_path: Path) -> None:
    """The first answer of a chat is that of `ask`, in both languages; the second one comes too."""
    drawn = program("image", "a red apple", "--seed", "7", "-o", "a.png", "-q", model="real")
    assert drawn.code == 0, drawn.err
    lines = "/name\nWhich style is it?\n/reset\n/lang zh\n/image a.png\n/name\n"
    talk = program("chat", "a.png", "--json", "-q", input=lines.encode(), model="real")
    assert (talk.code, talk.err) == (0, ""), talk.err
    rows = [json.loads(line) for line in talk.out.splitlines()]
    assert [row["turn"] for row in rows] == [1, 2, 1]
    nano = dromaius.load("nano")
    picture = tmp_path / "a.png"
    assert rows[0]["answer"] == nano.answer(picture, "What is in the image?")
    assert "apple" in rows[0]["answer"].lower()
    assert rows[2]["answer"] == nano.answer(picture, "图里是什么？")
    image, first = ({"type": "image", "image": picture}, rows[0]["answer"])
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "What is in the image?"}]},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Which style is it?"},
    ]
    assert rows[1]["answer"] == nano.chat(messages)
