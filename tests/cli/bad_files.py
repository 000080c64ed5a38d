"""Files that are wrong in one way each, made by name, for `test_bad_input.py`.

`make("truncated", folder)` makes `folder/truncated`. A checkpoint is the tiny one, altered.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WEIGHTS, CONFIG = "model.safetensors", "config.json"
Maker = Callable[[Path, Path], object]
"""(the tiny checkpoint, the path to make)."""


# --------------------------------------------------------------------------------------- pictures


def noise(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes that declares a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def flipped(content: bytes) -> bytes:
    """The bytes with a run of them in the middle turned over."""
    middle = len(content) // 2
    wrong = bytes(255 - value for value in content[middle : middle + 40])
    return content[:middle] + wrong + content[middle + 40 :]


def holding(content: bytes | str) -> Maker:
    """A file with this content."""
    plain = content.encode() if isinstance(content, str) else content
    return lambda _, path: path.write_bytes(plain)


def half(content: bytes) -> Maker:
    return holding(content[: len(content) // 2])


# ------------------------------------------------------------------------------------ checkpoints


def altered(change: Callable[[Path], object]) -> Maker:
    """The tiny checkpoint, copied and then changed."""

    def make(checkpoint: Path, path: Path) -> None:
        shutil.copytree(checkpoint, path)
        change(path)

    return make


def with_config(**changes: Any) -> Maker:
    """The tiny checkpoint with other settings; a dictionary changes a table, None removes a key."""

    def change(path: Path) -> None:
        config = json.loads((path / CONFIG).read_text())
        for key, value in changes.items():
            config[key] = config[key] | value if isinstance(value, dict) else value
        kept = {key: value for key, value in config.items() if value is not None}
        (path / CONFIG).write_text(json.dumps(kept))

    return altered(change)


def language(**changes: Any) -> Maker:
    return with_config(language_model=changes)


def with_file(name: str, content: bytes | str) -> Maker:
    """The tiny checkpoint in which one file holds something else."""
    plain = content.encode() if isinstance(content, str) else content
    return altered(lambda path: (path / name).write_bytes(plain))


def with_weights(change: Callable[[dict[str, Any]], object]) -> Maker:
    """The tiny checkpoint with other tensors."""
    from safetensors.numpy import load_file, save_file

    def rewrite(path: Path) -> None:
        tensors = load_file(path / WEIGHTS)
        change(tensors)
        save_file(tensors, path / WEIGHTS)

    return altered(rewrite)


def cut_weights(path: Path) -> None:
    os.truncate(path / WEIGHTS, os.path.getsize(path / WEIGHTS) // 2)


def wrong_shape(tensors: dict[str, Any]) -> None:
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][1:])


def many_layers(path: Path) -> None:
    """Three hundred layers, so that it takes a while."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path / WEIGHTS)
    first = "language_model.model.layers.0."
    layer = {n.removeprefix(first): t for n, t in tensors.items() if n.startswith(first)}
    for i in range(300):
        tensors |= {f"language_model.model.layers.{i}.{n}": t for n, t in layer.items()}
    save_file(tensors, path / WEIGHTS)
    config = json.loads((path / CONFIG).read_text())
    config["language_model"]["num_hidden_layers"] = 300
    (path / CONFIG).write_text(json.dumps(config))


def only_language(path: Path) -> None:
    """Removes the half that sees and draws."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path / WEIGHTS)
    half = {n: tensor for n, tensor in tensors.items() if n.startswith("language_model.")}
    save_file(half, path / WEIGHTS)
    config = json.loads((path / CONFIG).read_text())
    del config["vision_tokenizer"]
    (path / CONFIG).write_text(json.dumps(config))


def index_of(weight_map: Any) -> Maker:
    """An index instead of the weights."""

    def change(path: Path) -> None:
        (path / WEIGHTS).unlink()
        content = json.dumps({"metadata": {}, "weight_map": weight_map})
        (path / f"{WEIGHTS}.index.json").write_text(content)

    return altered(change)


def far_word(path: Path) -> None:
    """A special name whose id lies behind everything that the model knows."""
    words = json.loads((path / "tokenizer.json").read_text())
    words["added_tokens"].append(words["added_tokens"][-1] | {"id": 1000, "content": "<far>"})
    (path / "tokenizer.json").write_text(json.dumps(words))


class Reducer:
    """Unpickled, it makes a folder named `pwned` in the current one."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def pickled(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Reducer()}))


def pickled_in_zip(path: Path) -> None:
    """The same in the form that torch.save writes today."""
    import torch

    (path / WEIGHTS).unlink()
    torch.save({"lm_head.weight": Reducer()}, path / "pytorch_model.bin")


def remote_code(**config: Any) -> Maker:
    """A folder whose own Python would make a folder named `pwned`."""

    def make(_: Path, path: Path) -> None:
        path.mkdir()
        (path / CONFIG).write_text(json.dumps(config))
        (path / "m.py").write_text("import os; os.mkdir('pwned')\nclass M: ...\n")

    return make


# ---------------------------------------------------------------------------------------- recipes

RECIPE = """
task = "vision_tokenizer"
[loop]
out = "out"
steps = 2
[optimizer]
muon_lr = 1e-3
adamw_lr = 1e-3
[model]
codebook_size = 8
embed_dim = 2
z_channels = 2
ch = 4
ch_mult = [1, 1]
num_res_blocks = 1
norm_num_groups = 2
[objective]
batch = 2
[data]
folder = "pictures"
[heldout]
folder = "pictures"
"""


def recipe(old: str, new: str) -> Maker:
    assert old in RECIPE
    return holding(RECIPE.replace(old, new))


def pictures(_: Path, path: Path) -> None:
    """A folder of eight pictures to train on."""
    path.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 4), np.uint8)
    np.save(path / "pictures.npy", values)
    (path / "pictures.jsonl").write_text("{}\n" * 8)


FILES: dict[str, Maker] = {
    # pictures
    "good.png": holding(encoded(noise())),
    "empty.png": holding(b""),
    "cut.png": half(encoded(noise())),
    "cut.jpg": half(encoded(noise(), "JPEG")),
    "cut.webp": half(encoded(noise(), "WEBP")),
    "flipped.png": holding(flipped(encoded(noise()))),
    "text.png": holding("no picture, just words\n"),
    "shapes.svg": holding('<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>'),
    "page.eps": holding("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"),
    "folder.png": lambda _, path: path.mkdir(),
    "bomb.png": holding(bomb(100_000, 100_000)),
    "nearly.png": holding(bomb(8192, 8192)),
    "huge.png": lambda _, path: Image.new("1", (8200, 8200)).save(path),
    "long.png": holding(encoded(noise(120, 16))),
    "tall.png": holding(encoded(noise(16, 120))),
    "speck.png": holding(encoded(noise(7, 7))),
    "two\nlines.png": holding(b""),
    # prompts
    "empty.txt": holding("\n\n"),
    "latin.txt": holding(b"caf\xe9\n"),
    "blank.jsonl": holding('{"prompt": " "}\n'),
    "half.jsonl": holding('{"prompt": "x", "height": 32}\n'),
    "key.jsonl": holding('{"prompt": "x", "sede": 3}\n'),
    "cut.jsonl": holding('{"prompt": "x"}\n{"prompt": \n'),
    "list.jsonl": holding('["x"]\n'),
    # checkpoints
    "tiny": altered(lambda path: None),
    "nothing": lambda _, path: path.mkdir(),
    "truncated": altered(cut_weights),
    "boast": with_file(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"),
    "words": with_file(WEIGHTS, "not a safetensors file, only words that are long enough"),
    "shape": with_weights(wrong_shape),
    "lacking": with_weights(lambda t: t.pop("language_model.model.norm.weight")),
    "extra": with_weights(lambda t: t.update(spam=np.zeros(1))),
    "unlinked": index_of({"language_model.lm_head.weight": "model-00001-of-00002.safetensors"}),
    "outside": index_of({"language_model.lm_head.weight": "../elsewhere.safetensors"}),
    "weightless": altered(lambda path: (path / WEIGHTS).unlink()),
    "pickle": altered(pickled),
    "zip": altered(pickled_in_zip),
    "blind": altered(only_language),
    "many": altered(many_layers),
    "mute": altered(lambda path: (path / "tokenizer.json").unlink()),
    "garbled": with_file("tokenizer.json", "{"),
    "wordy": altered(far_word),
    # configurations
    "remote": remote_code(model_type="emu9", auto_map={"AutoModel": "m.M"}),
    "trusting": remote_code(model_type="emu9", trust_remote_code=True),
    "unparsed": with_file(CONFIG, "{'format': 'dromaius'}"),
    "list": with_file(CONFIG, "[1, 2]"),
    "large": altered(lambda path: os.truncate(path / CONFIG, 65 * 2**20)),
    "future": with_config(format_version=2),
    "unknown": language(hiden_size=32),
    "typed": language(hidden_size="32"),
    "infinite": language(rms_norm_eps=float("inf")),
    "wide": language(hidden_size=10**9, num_attention_heads=10**9 // 2),
    "layered": language(num_hidden_layers=10**9),
    "area": with_config(image={"min_pixels": 10**12, "max_pixels": 10**12}),
    # recipes
    "pictures": pictures,
    "broken.toml": holding("[loop"),
    "key.toml": recipe("batch = 2", "bach = 2"),
    "task.toml": recipe('"vision_tokenizer"', '"speech"'),
    "kind.toml": recipe("steps = 2", 'steps = "many"'),
    "long.toml": recipe("steps = 2", "steps = 1000000\nlog_every = 1"),
    "export.toml": holding('task = "language_model"\nexport = 3\n'),
    "device.toml": recipe("steps = 2", 'steps = 2\ndevice = "toaster"'),
    "absent.toml": recipe('folder = "pictures"', 'folder = "nowhere"'),
}


def make(name: str, checkpoint: Path, folder: Path) -> Path:
    """Makes the file or folder of that name."""
    FILES[name](checkpoint, folder / name)
    return folder / name
