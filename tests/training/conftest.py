"""Recipes so small that a run takes a moment."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from dromaius.data.samples import Sample, write_samples
from dromaius.models.emu3.config import (
    Emu3Config,
    ImageSettings,
    VisionTokenizerConfig,
    VocabularyConfig,
)
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.tokenizers.convert import train_bpe
from dromaius.tokenizers.tiktoken import FIXED_NAMES, vision_names

VISION = {
    "codebook_size": 8, "embed_dim": 2, "z_channels": 2, "ch": 4, "ch_mult": [1, 1, 1, 2],
    "num_res_blocks": 1, "attn_resolutions": [3], "norm_num_groups": 2,
}  # fmt: skip
LANGUAGE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
    "attention_dropout": 0.1,
}  # fmt: skip


def loop(out: Path, **changes: Any) -> dict[str, Any]:
    shared = {"out": str(out), "steps": 8, "seed": 3, "log_every": 1, "checkpoint_every": 3}
    return shared | {"device": "cpu"} | changes


OPTIMIZER = {"muon_lr": 2e-3, "adamw_lr": 2e-3, "warmup": 2}


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of 16x16 pixels, four of them held out."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 4), np.uint8)
    np.save(folder / "pictures.npy", pictures)
    lines = [json.dumps({"held": index < 4}) for index in range(20)]
    (folder / "pictures.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def ids_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder without a language model, and 24 samples of each kind."""
    folder = tmp_path_factory.mktemp("ids")
    tokenizer = train_bpe(["red apple"], 256, [*FIXED_NAMES, *vision_names(8)])
    tokenizer.save(folder)
    first = 256 + len(FIXED_NAMES) + 3
    roles = {"pad": 256, "bos": 257, "eos": 258, "image_token": 259, "image_start": 260,
             "image_end": 261, "end_of_line": 262, "end_of_frame": 263}  # fmt: skip
    config = Emu3Config(
        language_model=None,
        vision_tokenizer=VisionTokenizerConfig.from_dict(VISION, "vision_tokenizer"),
        vocabulary=VocabularyConfig(**roles, visual_start=first, codebook_size=8),
        image=ImageSettings(min_pixels=64, max_pixels=4096, image_area=24 * 24),
    )
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    assert config.vision_tokenizer is not None
    vision = VisionTokenizer(config.vision_tokenizer)
    tensors = {f"vision_tokenizer.{k}": v for k, v in vision.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    draw = torch.Generator().manual_seed(0)

    def sample(branches: int) -> Sample:
        sizes = torch.randint(3, 9, (branches + 1,), generator=draw).tolist()
        segments = [number for number, size in enumerate(sizes) for _ in range(size)]
        ids = torch.randint(0, first + 8, (len(segments),), generator=draw).tolist()
        return Sample(ids, segments, [i > 1 for i in range(len(ids))])

    write_samples(folder / "t2i.safetensors", [sample(0) for _ in range(24)])
    write_samples(folder / "answers.safetensors", [sample(2) for _ in range(24)])
    return folder


PARTS = {
    "encoder": {
        "model_type": "vit", "image_size": [16, 32], "patch_size": [16, 4], "hidden_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
    },
    "decoder": {
        "model_type": "gpt2", "n_positions": 8, "n_embd": 24, "n_layer": 1, "n_head": 2,
    },
}  # fmt: skip
CARDS = ["7", "13", "204", "4 1", "99", "50", "318", "62", "11", "8 6", "27", "40"]


@pytest.fixture(scope="session")
def card_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve numbers, each a picture of 32x16 pixels, in list.jsonl."""
    folder = tmp_path_factory.mktemp("cards")
    lines = []
    for number, text in enumerate(CARDS):
        card = Image.new("RGB", (32, 16), (250, 250, 240))
        ImageDraw.Draw(card).text((3, 2), text, fill=(20, 0, 60))
        card.save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "text": text}))
    (folder / "list.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@contextmanager
def full_disk() -> Iterator[None]:
    """Meanwhile the kernel lets this process write no byte to any file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # Python ignores the signal
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def make_recipe(
    picture_folder: Path, ids_folder: Path, card_folder: Path
) -> Callable[..., dict[str, Any]]:
    """(task, folder of the result, changes of [loop]) -> a recipe."""

    def make(task: str, out: Path, **changes: Any) -> dict[str, Any]:
        shared = {"task": task, "loop": loop(out, **changes), "optimizer": dict(OPTIMIZER)}
        if task == "vision_tokenizer":
            where = {"folder": str(picture_folder)}
            data = where | {
                "drop": {"held": [True]}, "shift": 2, "shifted": 0.5, "coloured": 0.5,
                "mosaic": 0.2, "backgrounds": [[255, 255, 255], [9, 99, 199]],
            }  # fmt: skip
            return shared | {
                "model": dict(VISION),
                "objective": {"batch": 4, "patience": 2},
                "data": data,
                "heldout": where | {"keep": {"held": [True]}},
            }
        if task == "vision_encoder_decoder":
            file = {"file": str(card_folder / "list.jsonl")}
            return shared | {
                "model": {name: dict(part) for name, part in PARTS.items()},
                "objective": {"batch": 4, "ctc": 0.5},
                "data": file | {"limit": 10},
                "heldout": dict(file),
                "augmentation": {"shift": 1.0, "blur": 0.5, "noise": 0.05},
            }
        files = [str(ids_folder / f"{name}.safetensors") for name in ("t2i", "answers")]
        return shared | {
            "model": dict(LANGUAGE),
            "data": [{"file": files[0], "batch": 4}, {"file": files[1], "batch": 2, "weight": 0.5}],
            "heldout": [{"file": files[1]}],
            "export": {"base": str(ids_folder), "dtype": "float32"},
        }

    return make
