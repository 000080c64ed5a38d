"""The program as a Unix tool: exit codes, real signals, devices, pipes, nothing half-written."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Cli, Outcome, command, start
from tests.cli.fake import picture


def interrupt(process: subprocess.Popen[bytes], after: float) -> Outcome:
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err.decode())


def until_drawing(process: subprocess.Popen[bytes], marker: Path) -> None:
    """Waits for the fake model to say, by a file, that it is at work."""
    deadline = time.monotonic() + 120
    while not marker.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


SLOW = {"FAKE_DELAY": "0.5", "FAKE_MARKER": "at-work"}


def test_ctrl_c_keeps_what_is_drawn(tmp_path: Path) -> None:
    arguments = ["image", "an apple", "a pear", "--seed", "7", "-o", "out.png"]
    process = start(command(*arguments), tmp_path, env=SLOW)
    until_drawing(process, tmp_path / "at-work")
    done = interrupt(process, after=1.2)
    assert (done.code, done.out) == (130, "")
    partials = ["out-1.partial.png", "out-2.partial.png"]
    assert done.error == f"dromaius: interrupted; kept {', '.join(partials)}"
    assert sorted(os.listdir(tmp_path)) == ["at-work", *partials]
    whole = picture({"prompt": "an apple", "seed": 7, "height": 64, "width": 64}, 1.0)
    with Image.open(tmp_path / partials[0]) as kept:
        assert kept.getpixel((0, 0)) == whole.getpixel((0, 0))
        assert kept.getpixel((0, 63)) == (128, 128, 128)
        assert json.loads(kept.text["dromaius"])["seed"] == 7


def test_sigterm_keeps_what_is_drawn_too(tmp_path: Path) -> None:
    process = start(command("image", "an apple", "-o", "out.png"), tmp_path, env=SLOW)
    until_drawing(process, tmp_path / "at-work")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, b"")
    assert b"kept out.partial.png" in err
    assert sorted(os.listdir(tmp_path)) == ["at-work", "out.partial.png"]


def test_ctrl_c_keeps_the_pictures_that_are_done(tmp_path: Path) -> None:
    arguments = ["image", "x", "-n", "9", "--batch-size", "1", "-o", "out.png"]
    process = start(command(*arguments), tmp_path, env={"FAKE_DELAY": "0.05"})
    until_drawing(process, tmp_path / "out-1.png")
    done = interrupt(process, after=0.1)
    assert done.code == 130
    finished = done.out.split()
    assert finished and "out-9.png" not in finished
    assert {name for name in os.listdir(tmp_path) if ".partial" not in name} == set(finished)


def test_ctrl_c_while_answering_ends_the_line(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    process = start(command("ask", "a.png", "What?"), tmp_path, env={"FAKE_DELAY": "1"})
    assert process.stdout is not None
    assert process.stdout.read(3) == b"You"  # it streams: the first word comes before the last
    done = interrupt(process, after=0)
    assert (done.code, done.out, done.err) == (130, "\n", "")


# ---------------------------------------------------------------------------- cannot be written


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/proc/out.png", "No such file or directory"),
        ("file.txt/out.png", "Not a directory"),
        ("folder.png", None),  # a folder: the picture is put inside
        ("n" * 300 + ".png", "File name too long"),
    ],
)
def test_unwritable_output_is_seen_before_any_work(
    program: Cli, tmp_path: Path, target: str, reason: str | None
) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder.png").mkdir()
    done = program("image", "x", "-o", target, env={"FAKE_MARKER": "at-work"})
    if reason is None:
        assert done.out == "folder.png/x.png\n"
        return
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith("dromaius: error: ") and done.error.count(reason) == 1
    assert not (tmp_path / "at-work").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(program: Cli, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = program("image", "x", "-o", "locked/out.png")
    assert done.error == "dromaius: error: cannot write locked/out.png: Permission denied"


def test_a_missing_vision_tokenizer_is_seen_before_any_work(program: Cli, tmp_path: Path) -> None:
    done = program("image", "x", env={"FAKE_MARKER": "at-work", "FAKE_BLIND": "1"})
    assert done.error == "dromaius: error: fake holds no vision tokenizer"
    assert os.listdir(tmp_path) == []


def test_no_space_on_the_device(program: Cli) -> None:
    done = program("image", "x", "-o", "/dev/full")
    assert (done.code, done.out) == (1, "")
    assert done.error == "dromaius: error: cannot write /dev/full: No space left on device"
    assert Path("/dev/full").is_char_device()  # written to, not replaced


@pytest.mark.parametrize("arguments", [["image", "x", "-o", "-"], ["--version"]])
def test_no_space_on_stdout(program: Cli, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = program(*arguments, stdout=full)
    assert done.code == 1
    assert done.error == "dromaius: error: No space left on device"


def test_a_reader_that_goes_away_ends_it_silently(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start(command("--version"), tmp_path, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, b"")


def test_a_closed_stdout(program: Cli) -> None:
    shell = ["bash", "-c", 'exec "$@" >&-', "bash", *command("--version")]
    process = start(shell, Path.cwd())
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err == b"dromaius: error: standard output is closed\n"


def test_words_beyond_the_locale_s_are_escaped(program: Cli, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    done = program("ask", "a.png", "红?", env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.out) == (0, "You asked \\u7ea2? about 32x32.\\x1b[2J\n")


# --------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("InputError", "the prompt has 9 tokens, too many"),
        ("MemoryError", "out of memory: try fewer or smaller pictures"),
        ("KeyError", "KeyError: 'the prompt has 9 tokens,\\ntoo many' (DROMAIUS_DEBUG=1 shows"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(
    program: Cli, tmp_path: Path, fails: str, says: str
) -> None:
    done = program("image", "x", env={"FAKE_FAILS": fails})
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith("dromaius: error: ") and says in done.error
    assert os.listdir(tmp_path) == []


def test_debug_shows_where(program: Cli) -> None:
    done = program("image", "x", env={"FAKE_FAILS": "KeyError", "DROMAIUS_DEBUG": "1"})
    assert done.code == 1 and "Traceback" in done.err and "KeyError" in done.err


def test_quiet_is_silent(program: Cli) -> None:
    done = program("image", "x", "--quiet")
    assert (done.code, done.out, done.err) == (0, "x.png\n", "")


def test_many_pictures_leave_few_lines_on_a_stderr_that_is_a_file(program: Cli) -> None:
    done = program("image", "x", "-n", "20", "--batch-size", "1")
    assert len(done.out.splitlines()) == 20
    assert len(done.err.splitlines()) == 1


def test_a_terminal_sees_progress_and_stdout_stays_clean(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = command("image", "x", "--seed", "7", "--json")
    process = start(arguments, tmp_path, {"FAKE_DELAY": "0.1", "TERM": "xterm"}, stderr=theirs)
    os.close(theirs)
    shown = io.BytesIO()
    while chunk := _read(ours):
        shown.write(chunk)
    os.close(ours)
    out, _ = process.communicate(timeout=120)
    text = shown.getvalue().decode()
    assert json.loads(out or text)["seed"] == 7, text
    assert "drawing" in text and "tokens/s" in text and "%" in text
    assert "seed 7" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""
