"""`caption`, `read` and their models: bad input gives one clear line that says what to do.

A row is (command line, exit code, words of the line on stderr). Pictures are those of `bad_files`;
a word that `MODELS` knows is a folder that is wrong in one way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.cli import bad_files
from tests.cli.conftest import Cli
from tests.pipelines.reading import folders

WEIGHTS, CONFIG = "model.safetensors", "config.json"
Change = Callable[[Path], object]


def tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def instead(name: str, content: str | bytes) -> Change:
    plain = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(plain)


def decoder(**changes: object) -> Change:
    def apply(folder: Path) -> None:
        data = json.loads((folder / CONFIG).read_text())
        data["decoder"] |= changes
        (folder / CONFIG).write_text(json.dumps(data))

    return apply


def only(name: str, content: bytes) -> Change:
    def apply(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(content)

    return apply


def no_encoder(held: dict[str, Any]) -> None:
    for name in [name for name in held if name.startswith("encoder.")]:
        del held[name]


def shorter_projection(held: dict[str, Any]) -> None:
    held["enc_to_dec_proj.bias"] = held["enc_to_dec_proj.bias"][1:].clone()


MODELS: dict[str, Change] = {
    "whole": lambda folder: None,
    "wordy": lambda folder: folders.tokenizer(folder, folders.WORDS + 5),
    "mute": without("tokenizer.json", "tokenizer_config.json"),
    "garbled": instead("tokenizer.json", '{"model": {"type": "BPE"'),
    "sizeless": without("preprocessor_config.json"),
    "nougat": instead(
        "preprocessor_config.json", '{"image_processor_type": "NougatImageProcessor"}'
    ),
    "blind": decoder(model_type="opt"),
    "unheard": decoder(model_type="emu9"),
    "wide": decoder(n_embd=10**7),
    "weightless": without(WEIGHTS),
    "lacking": tensors(lambda held: held.pop("decoder.transformer.ln_f.weight")),
    "shape": tensors(shorter_projection),
    "headless": tensors(no_encoder),
    "cut": lambda folder: bad_files.cut_weights(folder),
    "tf1": only("model.ckpt.index", b""),
    "h5": only("tf_model.h5", b"\x89HDF\r\n\x1a\n nothing more"),
    "flax": only("flax_model.msgpack", b"\xff\xff\xff"),
    "pickle": only("pytorch_model.bin", b"\x80\x04cos\nsystem\n."),
    "part": instead(
        CONFIG, '{"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit"}}'
    ),
    "list": instead(CONFIG, "[]"),
}

Row = tuple[str, int, str]
USAGE: list[Row] = [
    ("caption", 2, "Missing argument 'IMAGE...'"),
    ("read good.png --beams 0", 2, "--beams"),
    ("read good.png --batch 0", 2, "--batch"),
    ("read good.png --layout table", 2, "'table' is not one of 'auto', 'line', 'page'"),
    ("caption good.png --seed 3", 2, "--seed is for --temperature above 0"),
    ("caption good.png --temperature 1 --beams 2", 2, "--temperature draws texts, --beams search"),
    ("caption good.png -o out.jsonl --json", 2, "-o writes JSON already: leave out --json"),
]
PICTURES: list[Row] = [
    ("caption absent.png", 1, "cannot read absent.png: No such file or directory"),
    ("read absent.pdf", 1, "cannot read absent.pdf: No such file or directory"),
    ("caption empty.png", 1, "empty.png is empty"),
    ("read text.png", 1, "text.png is not a picture that can be read"),
    ("read shapes.svg", 1, "shapes.svg is not a picture that can be read"),
    ("caption cut.png", 1, "cut.png is damaged"),
    ("read cut.jpg", 1, "cut.jpg is damaged"),
    ("caption flipped.png", 1, "flipped.png is damaged"),
    ("read bomb.png", 1, "bomb.png is larger than 67108864 pixels"),
    ("caption huge.png", 1, "huge.png is 8200x8200, larger than 67108864 pixels"),
    ("caption bare", 1, "the folder bare holds no pictures"),
    ("read 'none-*.png'", 1, "no file is called none-*.png"),
    ("caption - -", 1, "only one argument can be -"),
    (
        "caption good.png -o out.txt",
        1,
        "texts are written as JSON lines: out.txt must end in .jsonl",
    ),
    ("caption good.png -o good.png/out.jsonl", 1, "cannot write good.png/out.jsonl"),
]
FOLDERS: list[Row] = [
    ("caption good.png -m nanu", 1, "no model at 'nanu'"),
    ("read good.png -m nano", 1, "nano is an Emu3 model, which is asked: dromaius ask IMAGE"),
    ("caption good.png -m nano --beams 2", 1, "describes without --beams"),
    ("caption good.png -m wordy", 1, "the tokenizer has 65 tokens, the decoder 60"),
    ("caption good.png -m mute", 1, "mute holds no tokenizer (tokenizer.json, vocab.json and"),
    ("caption good.png -m garbled", 1, "garbled: its tokenizer cannot be read"),
    ("read good.png -m sizeless", 1, "no preprocessor_config.json"),
    (
        "read good.png -m nougat",
        1,
        "'NougatImageProcessor' is not supported (known processors: vit",
    ),
    ("caption good.png -m blind", 1, "opt cannot be the decoder: it has no cross-attention"),
    ("caption good.png -m unheard", 1, "transformers knows no model_type 'emu9' (decoder)"),
    ("info weightless", 1, "weightless holds no weights"),
    ("read good.png -m weightless", 1, "weightless holds no weights"),
    ("read good.png -m lacking", 1, "1 tensors are missing and would be random: transformer.ln_f"),
    ("read good.png -m shape", 1, "enc_to_dec_proj.bias is (47,) and should be (48,)"),
    ("read good.png -m headless", 1, "headless holds no tensors of the encoder"),
    ("read good.png -m cut", 1, "cut/model.safetensors is damaged or cut short"),
    (
        "read good.png -m tf1",
        1,
        "holds a TensorFlow 1 checkpoint, which is not read; write it once",
    ),
    ("read good.png -m h5", 1, "h5/tf_model.h5 is damaged or cut short"),
    ("read good.png -m flax", 1, "flax/flax_model.msgpack is damaged or cut short"),
    ("read good.png -m pickle", 1, "pickle/pytorch_model.bin is not a plain file of tensors"),
    ("read good.png -m part", 1, "part/config.json has no decoder"),
    ("read good.png -m list", 1, "list/config.json does not hold a JSON object"),
    ("caption good.png -m whole --prompt ''", 1, "the prompt '' holds no tokens"),
    ("caption good.png -m whole --device toaster", 1, "device 'toaster' cannot be used"),
    ("convert whole out", 1, "whole is a VisionEncoderDecoder: it goes --to hf or --to onnx"),
    ("convert whole out --to onnx --dtype float16", 1, "graphs are written in float32"),
    ("convert nano out --to onnx", 1, "nano is an Emu3 model; only a VisionEncoderDecoder goes"),
    ("convert lacking out --to hf", 1, "1 tensors are missing and would be random"),
    ("convert whole whole --to hf", 1, "whole exists already"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("models") / "ved")


@pytest.mark.parametrize(
    ("line", "code", "says"), [*USAGE, *PICTURES, *FOLDERS], ids=lambda value: str(value)[:40]
)
def test_one_clear_line(
    line: str, code: int, says: str, whole: Path, in_process: Cli, tmp_path: Path
) -> None:
    import shlex

    words = shlex.split(line)
    (tmp_path / "bare").mkdir()
    for name in {word.partition("/")[0] for word in words}:
        if name in bad_files.FILES and name not in MODELS:
            bad_files.make(name, whole, tmp_path)
        elif name in MODELS:
            MODELS[name](Path(shutil.copytree(whole, tmp_path / name)))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    found = in_process(*words)
    assert found.error.startswith("dromaius: error: ") and says in found.error, found.err
    assert "DROMAIUS_DEBUG" not in found.error
    assert (found.code, found.out) == (code, "")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
