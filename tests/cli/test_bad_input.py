"""Bad input gives one clear line: each case is one run of the real program on real files.

A row is (command line, exit code, words of the line on stderr). A word of the command line that
`bad_files.FILES` knows is made in the empty folder where the program runs. Afterwards that folder
holds what it held before: nothing half-written, no temporary file.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli import bad_files
from tests.cli.conftest import command, start

Row = tuple[str, int, str]

USAGE: list[Row] = [
    ("paint x", 2, "No such command 'paint'"),
    ("image", 2, "give a PROMPT or --prompts FILE"),
    ("image x --sede 7", 2, "No such option: --sede"),
    ("image x --seed seven", 2, "--seed"),
    ("image x --seed 18446744073709551616", 2, "--seed"),
    ("image x --temperature -1", 2, "--temperature"),
    ("image x --temperature nan", 2, "--temperature"),
    ("image x --top-p 1.5", 2, "--top-p"),
    ("image x --top-k -5", 2, "--top-k"),
    ("image x --min-p -0.1", 2, "--min-p"),
    ("image x --guidance nan", 2, "--guidance"),
    ("image x --guidance inf", 2, "--guidance"),
    ("image x -n 0", 2, "--number"),
    ("image x -n 999999999", 2, "--number"),
    ("image x --area 0", 2, "--area"),
    ("image x --batch-size 0", 2, "--batch-size"),
    ("image x --size 64x64 --ratio 1:1", 2, "--size leaves nothing for --ratio"),
    ("image x -o - --json", 2, "-o - and --json cannot share stdout"),
    ("ask good.png", 2, "give at least one IMAGE, then the QUESTION"),
    ("ask good.png What? --max-tokens 0", 2, "--max-tokens"),
    ("info", 2, "Missing argument 'SOURCE'"),
    ("convert tiny", 2, "Missing argument 'DEST'"),
    ("convert tiny out --to gguf", 2, "'gguf' is not one of 'dromaius', 'baai', 'hf', 'onnx'"),
    ("convert tiny out --dtype int3", 2, "'int3' is not one of"),
    ("convert tiny out --shard-size 5QB", 2, "--shard-size must look like 5GB or 500MB, got '5QB'"),
    ("train", 2, "Missing argument 'RECIPE'"),
]

TEXT_AND_NAMES: list[Row] = [
    ("image ''", 1, "the text is empty"),
    ("image ' \t'", 1, "the text is empty"),
    ("ask good.png ''", 1, "the text is empty"),
    ("image - -", 1, "only one argument can be -"),
    ("image x --size 64", 1, "size must look like 768x512 (width x height), got '64'"),
    ("image x --prompts absent.txt", 1, "cannot read absent.txt: No such file or directory"),
    ("image --prompts empty.txt", 1, "empty.txt holds no prompts"),
    ("image --prompts latin.txt", 1, "latin.txt is not UTF-8 (byte 3)"),
    ("image --prompts blank.jsonl", 1, 'blank.jsonl, object 1: "prompt" is empty'),
    ("image --prompts half.jsonl", 1, "half.jsonl, object 1: give both height and width"),
    ("image --prompts key.jsonl", 1, "key.jsonl, object 1: unknown key 'sede'"),
    ("image --prompts cut.jsonl", 1, "cut.jsonl, line 2: not valid JSON"),
    ("image --prompts list.jsonl", 1, "list.jsonl, line 1: not a JSON object"),
    ("image x -m nanu", 1, "no model at 'nanu'"),
    ("image x -m ''", 1, "the name is empty"),
    ("image x -m good.png", 1, "good.png is a file; a model is a folder"),
    ("image x -m some/model", 1, "no model at 'some/model'"),
    ("image x --vision-tokenizer nanu", 1, "no model at 'nanu'"),
    ("info nanu", 1, "no model at 'nanu'"),
    ("convert nanu out", 1, "no model at 'nanu'"),
]

OUTPUT: list[Row] = [
    ("image x -o x.jpg", 1, "pictures are written as PNG: x.jpg must end in .png"),
    ("image x y -o -", 1, "-o - takes one picture, not 2"),
    ("image x -o good.png/out.png", 1, "cannot write good.png/out.png: Not a directory"),
    ("image x -o /proc/none/out.png", 1, "cannot write /proc/none/out.png: No such file"),
    ("reconstruct good.png -o good.png/out.png", 1, "cannot write good.png/out.png"),
    ("convert tiny tiny", 1, "tiny exists already"),
    ("convert tiny good.png/out", 1, "cannot write good.png/out: Not a directory"),
    ("convert tiny /proc/out", 1, "cannot write /proc/out: No such file or directory"),
    ("image x -o /dev/full -m tiny", 1, "cannot write /dev/full: No space left on device"),
]

PICTURES: list[Row] = [
    ("reconstruct absent.png", 1, "cannot read absent.png: No such file or directory"),
    ("reconstruct folder.png", 1, "cannot read folder.png: Is a directory"),
    ("reconstruct empty.png", 1, "empty.png is empty"),
    ("reconstruct text.png", 1, "text.png is not a picture that can be read"),
    ("reconstruct shapes.svg", 1, "shapes.svg is not a picture that can be read"),
    ("reconstruct page.eps", 1, "page.eps is not a picture that can be read"),
    ("reconstruct cut.png", 1, "cut.png is damaged"),
    ("reconstruct cut.jpg", 1, "cut.jpg is damaged"),
    ("reconstruct cut.webp", 1, "cut.webp is not a picture that can be read"),
    ("reconstruct flipped.png", 1, "flipped.png is damaged"),
    ("reconstruct bomb.png", 1, "bomb.png is larger than 67108864 pixels"),
    ("reconstruct nearly.png", 1, "nearly.png is damaged"),
    ("reconstruct huge.png", 1, "huge.png is 8200x8200, larger than 67108864 pixels"),
    ("reconstruct 'two\nlines.png'", 1, "two lines.png is empty"),
    ("ask cut.jpg What?", 1, "cut.jpg is damaged"),
    ("ask good.png empty.png Same?", 1, "empty.png is empty"),
    ("info text.png", 1, "text.png is not a picture that can be read"),
    ("info good.png", 1, "good.png does not say how it was made"),
    ("info bomb.png", 1, "bomb.png is larger than 67108864 pixels"),
    ("reconstruct long.png -m tiny", 1, "picture of 120x16 pixels is too elongated"),
    ("ask tall.png What? -m tiny", 1, "picture of 16x120 pixels is too elongated"),
    ("reconstruct speck.png -m tiny", 1, "picture of 7x7 pixels: both sides must be at least 8"),
]

REQUESTS: list[Row] = [
    (f"image '{'x ' * 500}' -m tiny", 1, "tokens; the model's context is 400"),
    (f"ask good.png '{'x ' * 500}' -m tiny", 1, "tokens; the model's context is 400"),
    ("image x --size 30x32 -m tiny", 1, "width must be a multiple of 8 pixels, got 30"),
    ("image x --size 16x32 -m tiny", 1, "16x32 pixels is too small: each side needs at least 24"),
    ("image x --ratio 100:1 -m tiny", 1, "too small: each side needs at least 24"),
    ("image x --size 80000x80000 -m tiny", 1, "80000x80000 pixels is too large"),
    ("image x --ratio wide -m tiny", 1, "ratio must look like 16:9, got 'wide'"),
    ("image x --device toaster -m tiny", 1, "device 'toaster' cannot be used"),
    ("image x --dtype int3 -m tiny", 1, "dtype 'int3' is not a floating-point type"),
]

CHECKPOINTS: list[Row] = [
    ("info nothing", 1, "nothing/config.json is missing"),
    ("info truncated", 1, "truncated/model.safetensors is damaged or cut short"),
    ("convert truncated out", 1, "truncated/model.safetensors is damaged or cut short"),
    ("info boast", 1, "boast/model.safetensors is damaged or cut short"),
    ("info words", 1, "words/model.safetensors is damaged or cut short"),
    ("image x -m shape", 1, "model.layers.0.mlp.up_proj.weight is (47, 32), not (48, 32)"),
    ("convert shape out", 1, "model.layers.0.mlp.up_proj.weight is (47, 32), not (48, 32)"),
    ("image x -m lacking", 1, "1 missing tensors: model.norm.weight"),
    ("image x -m extra", 1, "unexpected tensors: spam"),
    ("info unlinked", 1, "points to a missing file: model-00001-of-00002.safetensors"),
    ("info outside", 1, "points outside of its folder: '../elsewhere.safetensors'"),
    ("info weightless", 1, "weightless holds no weights"),
    ("info pickle", 1, "pickle/pytorch_model.bin is not a plain file of tensors"),
    ("info zip", 1, "zip/pytorch_model.bin is not a plain file of tensors"),
    ("image x -m blind", 1, "blind holds no vision tokenizer"),
    ("convert blind out --to hf", 1, "there is no vision tokenizer to write"),
    ("image x -m mute", 1, "mute holds no text tokenizer"),
    ("image x -m garbled", 1, "garbled/tokenizer.json"),
    ("image x -m wordy", 1, "wordy: the tokenizer has 1001 ids, the language model only"),
]

CONFIGS: list[Row] = [
    ("info remote", 1, "'emu9' is not supported (it asks for remote code, which is never run)"),
    ("info trusting", 1, "'emu9' is not supported (it asks for remote code, which is never run)"),
    ("info unparsed", 1, "unparsed/config.json is not valid JSON"),
    ("info list", 1, "list/config.json does not hold a JSON object"),
    ("info large", 1, "large/config.json is larger than the allowed 67108864 bytes"),
    ("info future", 1, "format_version is 2, expected 1"),
    ("info unknown", 1, "unknown key language_model.hiden_size"),
    ("info typed", 1, "language_model: hidden_size must be a whole number, got '32'"),
    ("info infinite", 1, "language_model: rms_norm_eps must be a finite number, got inf"),
    ("info wide", 1, "language_model: hidden_size must be at most"),
    ("info layered", 1, "language_model: num_hidden_layers must be at most"),
    ("info area", 1, "image: min_pixels must be at most"),
]

RECIPES: list[Row] = [
    ("train nowhere.toml", 1, "cannot read nowhere.toml: No such file or directory"),
    ("train broken.toml", 1, "broken.toml is not valid TOML"),
    ("train key.toml", 1, "unknown key objective.bach"),
    (
        "train task.toml",
        1,
        "vision_encoder_decoder, got 'speech'",
    ),
    ("train kind.toml", 1, "loop: steps must be a whole number, got 'many'"),
    ("train absent.toml", 1, "cannot read nowhere/pictures.npy: No such file or directory"),
    ("train export.toml", 1, "export must be a table of settings, got int"),
    ("train device.toml", 1, "loop: device must be one of auto, cpu, cuda, got 'toaster'"),
]

ROWS = [
    *USAGE, *TEXT_AND_NAMES, *OUTPUT, *PICTURES, *REQUESTS, *CHECKPOINTS, *CONFIGS, *RECIPES,
]  # fmt: skip
PATIENCE = 300  # seconds, for a busy machine
LINE = re.compile(r"dromaius: error: (.+)\n")


def contents(folder: Path) -> dict[str, int]:
    """Everything below a folder, with its size."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*"))}


def arguments_of(line: str, checkpoint: Path, folder: Path) -> list[str]:
    """The words of a command line; the files that they name are made in `folder`."""
    words = shlex.split(line)
    for name in {word.partition("/")[0] for word in words} & set(bad_files.FILES):
        bad_files.make(name, checkpoint, folder)
    return words


@pytest.mark.parametrize(("line", "code", "says"), ROWS, ids=[row[0][:40] for row in ROWS])
def test_one_clear_line(line: str, code: int, says: str, checkpoint: Path, tmp_path: Path) -> None:
    words = arguments_of(line, checkpoint, tmp_path)
    before = contents(tmp_path)
    process = start(command(*words, model="real"), tmp_path)
    out, err = process.communicate(timeout=PATIENCE)
    found = LINE.fullmatch(err.decode())
    assert found, err.decode()
    assert says in found[1] and "DROMAIUS_DEBUG" not in found[1], found[1]
    assert (process.returncode, out) == (code, b"")
    assert contents(tmp_path) == before


def test_the_pickle_of_the_table_is_a_real_attack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(bad_files.Reducer()))
    assert os.listdir(tmp_path) == ["pwned"]


# ------------------------------------------------------------------------------------ a full disk


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("image x -o out.png -m tiny", "cannot write out.png: File too large"),
        ("reconstruct good.png -o out.png -m tiny", "cannot write out.png: File too large"),
        ("convert tiny out", "cannot write out/tokenizer.json: File too large"),
    ],
)
def test_no_space_for_a_file(line: str, says: str, checkpoint: Path, tmp_path: Path) -> None:
    """The kernel refuses to write a single byte to any file, as a full disk would."""
    words = arguments_of(line, checkpoint, tmp_path)
    before = contents(tmp_path)
    limit = ["bash", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "bash"]
    process = start([*limit, *command(*words, model="real")], tmp_path)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.decode()) == (1, b"", f"dromaius: error: {says}\n")
    assert contents(tmp_path) == before


# ----------------------------------------------------------------------------------------- Ctrl-C


def begin(line: str, checkpoint: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Starts the program as the head of a process group, as a shell does."""
    words = arguments_of(line, checkpoint, folder)
    return start(command(*words, model="real"), folder, start_new_session=True)


def interrupted(
    process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT
) -> tuple[str, list[str]]:
    """A signal to the whole group; what it then says on stdout, and the lines on stderr."""
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err.decode()
    return out.decode(), err.decode().splitlines()


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)


def test_ctrl_c_in_a_large_batch(checkpoint: Path, tmp_path: Path) -> None:
    """Interrupted in the second batch, of large pictures, when the first is there."""
    rows = [{"prompt": "x"}] * 2 + [{"prompt": "x", "height": 400, "width": 400}] * 2
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = "image --prompts p.jsonl -m tiny -o a.png --seed 7 --batch-size 2"
    process = begin(line, checkpoint, tmp_path)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in "12"] == [b"a-1.png\n", b"a-2.png\n"]
    spent = cpu_seconds(process)
    until(lambda: cpu_seconds(process) > spent + 0.3, process)  # at work, whatever the load
    out, (warning, said) = interrupted(process)
    assert out == "" and "the model was trained with 400" in warning
    assert said == "dromaius: interrupted; kept a-3.partial.png, a-4.partial.png"
    whole, partial = ["a-1.png", "a-2.png"], ["a-3.partial.png", "a-4.partial.png"]
    assert sorted(os.listdir(tmp_path)) == [*whole, *partial, "p.jsonl", "tiny"]
    for name in partial:
        with Image.open(tmp_path / name) as kept:
            assert kept.size == (400, 400)
            assert kept.getpixel((399, 399)) == (127, 127, 127)
            assert kept.getpixel((0, 0)) != (127, 127, 127)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_converting(number: signal.Signals, checkpoint: Path, tmp_path: Path) -> None:
    process = begin("convert many out --shard-size 1KB", checkpoint, tmp_path)
    until(lambda: any(tmp_path.glob(".out.*/.model.*")), process)
    assert interrupted(process, number) == ("", [])
    assert os.listdir(tmp_path) == ["many"]


def test_ctrl_c_while_training_and_again(checkpoint: Path, tmp_path: Path) -> None:
    """Each sitting ends with a checkpoint, from which the next goes on; SIGTERM does the same."""
    bad_files.make("pictures", checkpoint, tmp_path)
    steps: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        process = begin("train long.toml", checkpoint, tmp_path)
        assert process.stderr is not None and b"step" in process.stderr.readline()
        out, lines = interrupted(process, number)
        assert out == "" and "the same command goes on from there" in lines[-1]
        steps.append(int(re.findall(r"stopped after step (\d+) of", lines[-1])[0]))
        left = {path.name for path in (tmp_path / "out").iterdir()}
        assert "checkpoint.safetensors" in left and not [name for name in left if "tmp" in name]
    assert 0 < steps[0] < steps[1]
