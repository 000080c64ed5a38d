"""`dromaius chat`: through a pipe in this process, in a terminal as a real program."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dromaius.cli import inputs
from dromaius.cli.chat import COMMANDS, Talk
from dromaius.cli.conversation import Conversation
from dromaius.errors import ContextError, InputError
from dromaius.pipelines import presets
from tests.cli import fake
from tests.cli.conftest import Calls, Cli, Outcome, command, start
from tests.cli.test_manners import interrupt, until_drawing

Chat = Callable[..., Outcome]


@pytest.fixture
def talk(cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Chats with the fake model: flags, and what comes through the pipe."""

    def run(*arguments: str, says: str | bytes = "") -> Outcome:
        content = says.encode() if isinstance(says, str) else says
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return cli("chat", *arguments)

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """40x24 pixels: 3x5 codes of the fake model."""
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 24)).save(path)
    return path


def said(calls: Calls) -> list[str]:
    """What each turn asked."""
    return [call["messages"][-1]["content"][-1]["text"] for call in calls]


# -------------------------------------------------------------------------------- through a pipe


def test_every_line_is_a_turn_and_every_answer_a_line(talk: Chat, calls: Calls) -> None:
    done = talk(says="Hello\n\n  What is it?  \r\n//etc")
    assert done.code == 0 and done.err == ""
    assert done.out.splitlines() == [
        "1: Hello.\\x1b[2J ok",
        "3: What is it?\\x1b[2J ok",
        "5: /etc.\\x1b[2J ok",
    ]
    words = [message["content"][0]["text"] for message in calls[-1]["messages"]]
    assert words == [
        "Hello.",
        "1: Hello.\x1b[2J\nok",
        "What is it?",
        "3: What is it?\x1b[2J\nok",
        "/etc.",
    ]
    roles = [message["role"] for message in calls[-1]["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


def test_no_lines_no_answers(talk: Chat) -> None:
    done = talk()
    assert (done.code, done.out, done.err) == (0, "", "")


def test_pictures_join_the_next_question(talk: Chat, calls: Calls, photo: Path) -> None:
    Image.new("RGB", (16, 80)).save(photo.with_name("a tall one.png"))
    lines = ["One?", "Two?", "/image photo.png 'a tall one.png'", "/image photo.png", "Three?"]
    done = talk("photo.png", says="\n".join(lines))
    assert (done.code, done.err) == (0, "")
    assert [line.split("\\")[0] for line in done.out.splitlines()] == [
        "1: One? 3x5",
        "3: Two?",
        "5: Three? 3x5 10x2 3x5",
    ]
    first, *_, last = calls[-1]["messages"]
    assert [part["type"] for part in first["content"]] == ["image", "text"]
    assert [part["type"] for part in last["content"]] == ["image"] * 3 + ["text"]


def test_presets_in_both_languages(talk: Chat, calls: Calls) -> None:
    lines = ["/preset caption", "/lang zh", "/preset caption", "/category", "/style", "/name"]
    done = talk("photo.png", "--preset", "style", says="\n".join([*lines, "/lang en", "/category"]))
    assert (done.code, done.err) == (0, "")
    assert said(calls) == [
        "Which style is it?",
        "Please describe the image.",
        "请描述该图片.",
        "这是什么类别？",
        "这是什么风格？",
        "图里是什么？",
        "Which category is it?",
    ]
    assert len(done.out.splitlines()) == 7


def test_the_language_can_be_given_at_the_start(talk: Chat, calls: Calls) -> None:
    talk("photo.png", "--preset", "name", "--lang", "zh", says="/style")
    assert said(calls) == ["图里是什么？", "这是什么风格？"]


def test_json_is_one_object_a_turn(talk: Chat) -> None:
    lines = "/caption\n/image photo.png photo.png\nSame?\n/lang zh\n"
    done = talk("photo.png", "--json", says=lines)
    one, two = (json.loads(line) for line in done.out.splitlines())
    assert one.pop("seconds") >= 0 and two.pop("seconds") >= 0
    answer = "1: Please describe the image. 3x5\x1b[2J\nok"
    assert one == {
        "turn": 1,
        "answer": answer,
        "question": "Please describe the image",
        "images": ["photo.png"],
        "model": "fake",
        "tokens": len(answer),
    }
    assert (two["turn"], two["images"]) == (2, ["photo.png", "photo.png"])


def test_max_tokens_reaches_the_model(talk: Chat, calls: Calls) -> None:
    assert talk("--max-tokens", "1", says="Hi?").out == "1: Hi?\n"
    assert calls[0]["max_new_tokens"] == 1


def test_reset_forgets_words_and_pictures(talk: Chat, calls: Calls) -> None:
    done = talk("photo.png", says="One?\n/image photo.png\n/reset\nTwo?\n/caption\n")
    assert done.code == 1  # no picture is left to describe
    assert done.error == "dromaius: error: there is no picture yet; /image PATH adds one"
    [last] = calls[-1]["messages"]
    assert last["content"] == [{"type": "text", "text": "Two?"}]


def test_exit_ends_before_the_input_does(talk: Chat, calls: Calls) -> None:
    assert talk(says="One?\n/exit\nTwo?\n").code == 0
    assert said(calls) == ["One?"]


def test_help_lists_every_command_and_keeps_stdout_clean(talk: Chat) -> None:
    done = talk(says="/help\n")
    assert (done.code, done.out) == (0, "")
    for name, entry in COMMANDS.items():
        assert entry.usage.split()[0] == f"/{name}" and entry.says
        [line] = [line for line in done.err.splitlines() if f" {entry.usage} " in f"{line} "]
        assert " ".join(entry.says.split()) in line
    for wordings in presets.PRESETS.values():
        assert all(wording in done.err for wording in wordings.values())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/draw a cat", "unknown command /draw; /help lists the commands"),
        ("/", "unknown command /; /help lists the commands"),
        ("/image", "usage: /image PATH..."),
        ("/image absent.png", "cannot read absent.png: No such file or directory"),
        ("/image photo.png absent.png", "cannot read absent.png: No such file or directory"),
        ("/image text.png", "text.png is not a picture that can be read"),
        ("/image empty.png", "empty.png is empty"),
        ("/image -", "a picture cannot be -: standard input is the conversation"),
        ("/image a\0b", "/image: a path cannot hold a zero byte"),
        ("/image 'photo.png", "/image: no closing quotation"),
        ("/image ~nobody-here/a.png", "cannot read ~nobody-here/a.png: No such file or directory"),
        ("/caption", "there is no picture yet; /image PATH adds one"),
        ("/caption now", "usage: /caption"),
        ("/preset", "usage: /preset NAME"),
        ("/preset poem", "preset must be one of caption, category, style, name, got 'poem'"),
        ("/lang", "usage: /lang en|zh"),
        ("/lang de", "language must be one of en, zh, got 'de'"),
        ("/save", "usage: /save FILE"),
        ("/save a.json", "there is nothing to save yet"),
        ("/reset all", "usage: /reset"),
        ("/exit now", "usage: /exit"),
        (b"\xe7\xba", "a line is not UTF-8 (byte 0)"),
        (b"x" * 99, "a line is longer than the allowed 80 bytes"),
    ],
)
def test_a_bad_line_is_one_error_and_the_conversation_goes_on(
    talk: Chat,
    calls: Calls,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str | bytes,
    says: str,
) -> None:
    monkeypatch.setattr(inputs, "MAX_TEXT", 80)
    photo.with_name("empty.png").touch()
    photo.with_name("text.png").write_text("words")
    before = sorted(os.listdir())
    content = line.encode() if isinstance(line, str) else line
    done = talk(says=content + b"\nHi?\n")
    assert (done.code, done.out) == (1, "1: Hi?\\x1b[2J ok\n")
    assert done.error == f"dromaius: error: {says}"
    assert len(calls) == 1 and sorted(os.listdir()) == before


def test_an_unexpected_error_ends_a_turn_and_not_the_conversation(talk: Chat, calls: Calls) -> None:
    done = talk(says="One\nThat is too much\nTwo")
    assert done.code == 1
    assert done.error == (
        "dromaius: error: out of memory: try fewer or smaller pictures, "
        "or another --dtype or --device"
    )
    assert [line[:6] for line in done.out.splitlines()] == ["1: One", "3: Two"]


def test_debug_shows_where_a_turn_failed(talk: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROMAIUS_DEBUG", "1")
    with pytest.raises(MemoryError):
        talk(says="That is too much\nTwo")


def test_a_conversation_over_the_context_says_what_to_do(
    talk: Chat, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CONTEXT", "4")
    done = talk(says="One?\nTwo?\nThree?\n/reset\nFour?\n")
    assert done.code == 1
    assert [line[:8] for line in done.out.splitlines()] == ["1: One?\\", "3: Two?\\", "1: Four?"]
    assert done.error == (
        "dromaius: error: the prompt takes 99 tokens; the model's context is 9; "
        "/reset starts a new conversation"
    )
    assert len(calls[2]["messages"]) == 5  # all of it was given: nothing is dropped in silence


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["absent.png"], 1, "cannot read absent.png: No such file or directory"),
        (["-"], 1, "a picture cannot be -: standard input is the conversation"),
        (["--preset", "caption"], 2, "--preset asks about pictures: give at least one IMAGE"),
        (["photo.png", "--preset", "poem"], 2, "'poem' is not one of 'caption', 'category'"),
        (["--lang", "de"], 2, "'de' is not one of 'en', 'zh'"),
        (["--max-tokens", "0"], 2, "--max-tokens"),
        (["-m", "absent"], 1, "no model at 'absent'"),
    ],
)
def test_what_cannot_begin(talk: Chat, arguments: list[str], code: int, says: str) -> None:
    done = talk(*arguments, says="Hello\n")
    assert (done.code, done.out) == (code, "")
    assert done.error.startswith("dromaius: error: ") and says in done.error, done.error


def test_a_closed_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = cli("chat")
    assert (done.code, done.error) == (1, "dromaius: error: standard input is closed")


def test_ctrl_c_ends_a_chat_through_a_pipe(tmp_path: Path) -> None:
    read, write = os.pipe()
    env = {"FAKE_MARKER": "at-work"}
    process = start(command("chat"), tmp_path, env=env, stdin=read)
    os.write(write, b"Hi?\nslowly\n")
    assert process.stdout is not None and process.stdout.readline() == b"1: Hi?\\x1b[2J ok\n"
    until_drawing(process, tmp_path / "at-work")
    done = interrupt(process, after=0.2)
    os.close(read)
    os.close(write)
    assert (done.code, done.out, done.err) == (130, "", "")


# ------------------------------------------------------------------------------------------ /save


def test_a_saved_conversation_can_go_on_in_python(talk: Chat, calls: Calls, photo: Path) -> None:
    Path("chat.json").write_text("older")
    done = talk("photo.png", says="/caption\n红的?\n/save 'chat.json'\nMore?")
    assert (done.code, done.err) == (0, "")
    saved = json.loads(Path("chat.json").read_text(encoding="utf-8"))
    assert (saved["model"], saved["model_hash"]) == ("fake", "0123abcd")
    given = calls[-1]["messages"][:-1]  # what the model was given with "More?"
    assert saved["messages"][1:] == given[1:]
    assert saved["messages"][0]["content"] == [
        {"type": "image", "image": "photo.png"},
        {"type": "text", "text": "Please describe the image."},
    ]
    assert "红的?" in Path("chat.json").read_text(encoding="utf-8")
    assert sorted(os.listdir()) == ["chat.json", "photo.png"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (".", "cannot write .: it is a folder"),
        ("/dev/null", "cannot write /dev/null: it is not a file"),
        ("photo.png/chat.json", "cannot write photo.png/chat.json: "),
        ("n" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_saved(talk: Chat, path: str, says: str) -> None:
    done = talk(says=f"Hi?\n/save {path}\nHi?\n")
    assert done.code == 1 and len(done.out.splitlines()) == 2
    assert done.error.startswith("dromaius: error: ") and says in done.error, done.error
    assert os.listdir() == ["photo.png"] and Path("/dev/null").is_char_device()


def test_a_path_that_is_no_text_is_saved_as_it_is(tmp_path: Path) -> None:
    conversation = Conversation(fake.FakeModel([]))  # type: ignore[arg-type]  # the stand-in
    name = os.fsdecode(b"\xff.png")
    conversation.add([(name, Image.new("RGB", (24, 24)))])
    conversation.ask("Hi?")
    conversation.save(tmp_path / "chat.json")
    saved = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert saved["messages"][0]["content"][0]["image"] == name


# -------------------------------------------------------------------------------- turns that fail


class Failing(fake.FakeModel):
    """Says one word, then raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__([])
        self.error = error

    def stream_chat(self, messages: Any, max_new_tokens: int | None = None) -> Iterator[str]:
        yield "Well"
        raise self.error


@pytest.mark.parametrize("error", [InputError("no"), ContextError("too long"), RuntimeError("bug")])
def test_a_turn_that_fails_changes_nothing(error: Exception) -> None:
    conversation = Conversation(Failing(error))  # type: ignore[arg-type]  # the stand-in
    conversation.add([("a.png", Image.new("RGB", (24, 24)))])
    waiting = list(conversation.waiting)
    with pytest.raises(type(error)):
        conversation.ask("Hi?")
    assert (conversation.messages, conversation.waiting) == ([], waiting)


def test_a_question_too_long_by_itself_is_not_sent_to_reset() -> None:
    conversation = Conversation(Failing(ContextError("too long")))  # type: ignore[arg-type]  # same
    with pytest.raises(ContextError, match="^too long$"):
        conversation.ask("Hi?")


@pytest.mark.parametrize("interactive", [True, False])
def test_the_first_question_can_be_stopped_too(interactive: bool) -> None:
    conversation = Conversation(Failing(KeyboardInterrupt()))  # type: ignore[arg-type]  # same
    conversation.add([("a.png", Image.new("RGB", (24, 24)))])
    chat = Talk(conversation, ended=True)
    chat.interactive = interactive
    with contextlib.nullcontext() if interactive else pytest.raises(KeyboardInterrupt):
        chat.run("caption")
    assert conversation.messages[-1]["content"] == [{"type": "text", "text": "Well"}]
    assert conversation.waiting == []


# ---------------------------------------------------------------------------------- in a terminal

CONTROLLED = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, sys.argv[1:])
"""


class Terminal:
    """The program with a terminal of its own, where Ctrl-C is typed and the kernel sends SIGINT."""

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self.ours, theirs = os.openpty()
        program = [sys.executable, "-c", CONTROLLED, *command("chat", *arguments)]
        ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        plain = {"TERM": "dumb", "INPUTRC": "/dev/null", "PYTHONUTF8": "1"}
        self.process = start(program, folder, env=plain | env, **ends)
        os.close(theirs)
        self.shown = ""
        self.bytes = codecs.getincrementaldecoder("utf-8")()  # a read may end inside a character

    def until(self, text: str, seconds: float = 120) -> str:
        """Waits for the text; returns what was shown up to its end since the last call."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self.ours], [], [], 0.5)[0]:
                try:
                    chunk = os.read(self.ours, 4096)
                except OSError:  # the program has ended
                    chunk = b""
                assert chunk, f"ended before {text!r}: {self.shown!r}"
                self.shown += self.bytes.decode(chunk)
        before, _, self.shown = self.shown.partition(text)
        return before.replace("\r\n", "\n") + text

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def ends_with(self) -> int:
        return self.process.wait(timeout=120)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*arguments: str, **env: str) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments, **env))
        return opened[-1]

    yield open_terminal
    for one in opened:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGKILL)
            one.process.wait()
        os.close(one.ours)


def test_a_conversation_in_a_terminal(
    terminal: Callable[..., Terminal], photo: Path, tmp_path: Path
) -> None:
    """Streamed; Ctrl-C stops an answer, what was said stays; Ctrl-D ends."""
    screen = terminal("photo.png", "--preset", "caption", FAKE_MARKER="at-work")
    shown = screen.until("ok\n".replace("\n", "\r\n"))
    assert "talking with fake; /help lists the commands" in shown
    assert "> Please describe the image\n1: Please describe the image. 3x5\\x1b[2J\nok" in shown
    screen.until("> ")
    screen.type("slowly\n")
    screen.until("3:")  # the first word is there, and the rest will never come
    screen.type("\x03")
    assert "dromaius: stopped; the conversation goes on" in screen.until("> ")
    (tmp_path / "at-work").unlink()
    screen.type("silently\n")
    until_drawing(screen.process, tmp_path / "at-work")
    screen.type("\x03")
    assert "stopped" in screen.until("> ")
    screen.type("/image absent.png\n")
    assert "dromaius: error: cannot read absent.png" in screen.until("> ")
    screen.type("And 这个?\n")
    assert "5: And 这个?" in screen.until(
        "ok"
    )  # the stopped answer counts, the silent one does not
    screen.type("/save chat.json\n")
    screen.until("saved chat.json")
    screen.until("> ")
    screen.type("\x04")
    assert screen.ends_with() == 0
    saved = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))["messages"]
    texts = [message["content"][-1]["text"] for message in saved]
    assert texts[2:4] == ["slowly.", "3:"] and texts[4] == "And 这个?" and len(texts) == 6


def test_ctrl_c_at_the_prompt_ends_with_130(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("-q")
    screen.until("> ")
    time.sleep(0.5)  # a signal between prompt and waiting is seen with the next key only
    screen.type("\x03")
    assert screen.ends_with() == 130
    shown = screen.shown + os.read(screen.ours, 4096).decode()
    assert "Traceback" not in shown and shown.replace("^C", "").strip() == ""


def test_sigterm_ends_a_conversation(terminal: Callable[..., Terminal]) -> None:
    """Unlike Ctrl-C, also in the middle of an answer."""
    screen = terminal("-q")
    screen.until("> ")
    screen.type("slowly\n")
    screen.until("1:")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.ends_with() == 143


def test_commands_answer_on_the_screen(terminal: Callable[..., Terminal], photo: Path) -> None:
    screen = terminal()
    screen.until("> ")
    screen.type("/help\n")
    assert "/image PATH...  add pictures to the next question" in screen.until("// at its start")
    screen.until("> ")
    screen.type("/image photo.png\n")
    screen.until("added photo.png to the next question")
    screen.until("> ")
    screen.type("/category\n")
    screen.until("> Which category is it?")
    screen.until("1: Which category is it? 3x5")
    screen.until("> ")
    screen.type("/reset\n")
    screen.until("a new conversation, without pictures")
    screen.until("> ")
    screen.type("/exit\n")
    assert screen.ends_with() == 0
