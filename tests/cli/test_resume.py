"""`dromaius image --state`: stopped anywhere and given again, it leaves the same pictures."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dromaius.cli import output
from dromaius.pipelines.state import StateFile
from tests.cli.conftest import Cli, Outcome, command, start


@pytest.fixture
def real(checkpoint: Path, in_process: Cli) -> Cli:
    """Runs `dromaius image` in this process, in an empty folder, with the tiny checkpoint."""

    def run(*arguments: str) -> Outcome:
        return in_process("image", *arguments, "-m", str(checkpoint), "-q")

    return run


class Killed(BaseException):
    """Stands for the end of the process: nobody handles it."""


@pytest.fixture
def killed(real: Cli, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command that is killed at its so many-th write of a state or of a picture."""

    def run(writes: int, *arguments: str) -> None:
        left = [writes]

        def counted(plain: Any) -> Any:
            def write(*given: Any) -> None:
                if left[0] <= 0:
                    raise Killed
                left[0] -= 1
                plain(*given)

            return write

        with monkeypatch.context() as patch:
            patch.setattr(StateFile, "write", counted(StateFile.write))
            patch.setattr(output, "write_picture", counted(output.write_picture))
            with pytest.raises(Killed):
                real(*arguments)

    return run


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


COMMAND = ["a red apple", "what", "-n", "2", "--seed", "5", "--batch-size", "2"]
"""Two batches of two pictures of 4 rows; each writes its state 5 times."""


@pytest.mark.parametrize("writes", [1, 3, 5, 6, 7, 8, 10, 13])
def test_killed_anywhere_and_given_again(
    real: Cli, killed: Any, tmp_path: Path, writes: int
) -> None:
    """In the first batch, between its pictures, between the batches, in the second batch."""
    real(*COMMAND, "-o", "whole")
    killed(writes, *COMMAND, "-o", "out", "--state", "s")
    done = real(*COMMAND, "-o", "out", "--state", "s")
    assert done.code == 0, done.err
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["out", "whole"]
    printed = [Path(line).name for line in done.out.splitlines()]
    assert printed == sorted(os.listdir(tmp_path / "out"))[0 if writes <= 7 else 2 :]


def test_a_seed_that_was_drawn_is_kept(real: Cli, killed: Any, tmp_path: Path) -> None:
    """Killed in the second batch, before its first row."""
    flags = ["x", "-n", "2", "--batch-size", "1", "-o", "out"]
    killed(7, *flags, "--state", "s")
    made = json.loads(real(*flags, "--state", "s", "--json").out)
    assert made["path"] == "out/2-x.png"
    real("x", "-n", "2", "-o", "whole", "--seed", str(made["seed"] - 1))
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")


def test_prompts_of_a_file_with_their_own_sizes(real: Cli, killed: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a red apple", "seed": 3, "height": 24, "width": 40, "guidance": 2.0},
        {"prompt": "an image", "seed": 9, "ratio": "1:2", "negative_prompt": "red"},
        {"prompt": "what", "seed": 4},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--prompts", "p.jsonl", "--guided", "0:0.7"]
    real(*flags, "-o", "whole")
    killed(3, *flags, "-o", "out", "--state", "s")
    assert real(*flags, "-o", "out", "--state", "s").code == 0
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (["a pear"], "its picture 1 has prompt 'a red apple', not 'a pear'"),
        (["a red apple", "--seed", "6"], "its picture 1 has seed 5, not 6"),
        (["a red apple", "--top-k", "3"], "its picture 1 has top_k 2048, not 3"),
        (["a red apple", "--guided", "0:0.5"], "has guided [0.0, 1.0], not (0.0, 0.5)"),
        (["a red apple", "-n", "2"], "number, batch size or settings differ"),
    ],
)
def test_another_command_is_refused(
    real: Cli, killed: Any, tmp_path: Path, other: list[str], says: str
) -> None:
    killed(2, "a red apple", "--seed", "5", "-o", "a.png", "--state", "s")
    kept = (tmp_path / "s").read_bytes()
    done = real("--seed", "5", "-o", "a.png", "--state", "s", *other)
    assert done.code == 1 and done.out == ""
    assert done.error.startswith("dromaius: error: s is of another command (")
    assert says in done.error and "remove it to begin anew" in done.error
    assert (tmp_path / "s").read_bytes() == kept and not (tmp_path / "a.png").exists()


def test_places_that_cannot_be_used(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not a state")
    for flags, says in (
        (["--state", "x"], "x is damaged, or does not hold a drawing"),
        (["--state", "."], "cannot write .: it is a folder"),
        (["--state", "/proc/s"], "cannot write /proc/s"),
        (["--state", "out.png"], "out.png is to hold a picture"),
        (["--preview", "./out.png"], "out.png is to hold a picture"),
        (["--preview", "."], "out.png is to hold a picture"),
        (["--preview", "p.jpg"], "previews are written as PNG: p.jpg must end in .png"),
        (["--guided", "0.5"], "a part of a picture must look like 0:0.5, got '0.5'"),
        (["--guided", "0.5:nan"], "a part of a picture must look like 0:0.5"),
    ):
        done = cli("image", "a", "-o", "out.png", *flags)
        assert (done.code, done.out) == (1, "") and says in done.error, flags
    assert cli("image", "a", "--preview-every", "2").code == 2
    assert os.listdir(tmp_path) == ["x"]


# -------------------------------------------------------------------------------- the real program


def test_sigkill_in_the_middle_and_the_same_command_again(program: Cli, tmp_path: Path) -> None:
    """nano, 16x16 codes: killed once a row is drawn; the same bytes as without a kill."""
    flags = ["a red apple", "--size", "128x128", "--seed", "7", "--batch-size", "1", "-q"]
    whole = program("image", *flags, "-o", "whole.png", model="real")
    assert whole.code == 0, whole.err
    again = ["image", *flags, "-o", "out.png", "--state", "s.safetensors"]
    process = start(command(*again, model="real"), tmp_path)
    file, deadline = StateFile(tmp_path / "s.safetensors"), time.monotonic() + 120
    while (state := file.read()) is None or (state.codes >= 0).sum() < 16:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    state = file.read()
    assert state is not None and not state.finished
    assert not (tmp_path / "out.png").exists()
    done = program(*again, model="real")
    assert (done.code, done.out) == (0, "out.png\n"), done.err
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["out.png", "whole.png"]


def test_ctrl_c_keeps_the_state(program: Cli, tmp_path: Path) -> None:
    flags = ["image", "a fox", "--size", "128x128", "--seed", "7", "-o", "out.png", "--state", "s"]
    process = start(command(*flags, model="real"), tmp_path)
    file, deadline = StateFile(tmp_path / "s"), time.monotonic() + 120
    while (state := file.read()) is None or (state.codes >= 0).sum() < 16:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == b"dromaius: interrupted; kept out.partial.png, s\n"
    assert sorted(os.listdir(tmp_path)) == ["out.partial.png", "s"]
    state = file.read()
    assert state is not None and 16 <= (state.codes >= 0).sum() < 256
