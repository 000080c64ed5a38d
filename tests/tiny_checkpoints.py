"""Folders with tiny random Emu3 checkpoints: the -hf layout written by transformers, BAAI's twin.

BAAI's files are written here from the spec alone (sections 1.1, 1.3, 2.1 and 2.6).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import Emu3Config, Emu3ForConditionalGeneration

from tests.tiny import baai_vision_state, fill

TEXT_PIECES = 30
CODEBOOK = 64
BLOCK = TEXT_PIECES  # where special ids begin: as in the real vocabulary, right behind the text
IDS = {
    "pad_token_id": BLOCK,
    "eol_token_id": BLOCK + 203,
    "eof_token_id": BLOCK + 204,
    "bos_token_id": BLOCK + 206,
    "eos_token_id": BLOCK + 207,
    "img_token_id": BLOCK + 208,
    "boi_token_id": BLOCK + 209,
    "eoi_token_id": BLOCK + 210,
}
VISUAL_START = BLOCK + 211
VOCAB_SIZE = VISUAL_START + CODEBOOK

TEXT = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 100,
}
VISION = {
    "codebook_size": CODEBOOK,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [2, 3],
    "hidden_size": 64,
}
PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "min_pixels": 1024,
    "max_pixels": 16384,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "spatial_factor": 8,
}


def vocabulary_map() -> dict[str, int]:
    """Token -> id, named as in the -hf checkpoints."""
    names = [f"piece{i}" for i in range(TEXT_PIECES)]
    names += ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
    names += [f"<|extra_{i}|>" for i in range(1, 205)]
    names += ["<|image token|>", "<|image start|>", "<|image end|>"]
    names += [f"<|visual token {code:06d}|>" for code in range(CODEBOOK)]
    assert len(names) == VOCAB_SIZE
    return {name: token_id for token_id, name in enumerate(names)}


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    data = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in data.items() if value is not None})


def make_composite(seed: int, **text: Any) -> Any:
    """transformers' whole Emu3, language model and vision tokenizer, with `fill`ed weights."""
    ids = {name: IDS[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    tie = text.get("tie_word_embeddings", False)
    config = Emu3Config(
        vq_config=dict(VISION),
        text_config=TEXT | ids | text,
        vocabulary_map=vocabulary_map(),
        tie_word_embeddings=tie,
    )
    model = fill(Emu3ForConditionalGeneration(config), seed, 2.0)
    model.tie_weights()
    return model


def write_hf(folder: Path, model: Any, shard: str = "100KB") -> Path:
    """What transformers saves, in shards, with the image settings beside it."""
    model.save_pretrained(folder, max_shard_size=shard)
    settings = {"image_processor_type": "Emu3ImageProcessor", **PREPROCESSOR}
    write_json(folder / "processor_config.json", {"image_processor": settings})
    return folder


def write_baai(folder: Path, model: Any, **changes: Any) -> tuple[Path, Path]:
    """The same weights as BAAI stores them: language model and vision tokenizer apart."""
    language, vision = folder / "language", folder / "vision"
    for part in (language, vision):
        part.mkdir(parents=True)
    rope = dict(model.config.text_config.rope_parameters)
    values = {
        "architectures": ["Emu3ForCausalLM"],
        "model_type": "Emu3",
        "auto_map": {
            "AutoConfig": "configuration_emu3.Emu3Config",
            "AutoModelForCausalLM": "modeling_emu3.Emu3ForCausalLM",
        },
        "attention_dropout": 0.1,
        "hidden_act": "silu",
        "image_area": 4096,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.44.0",
        "use_cache": True,
    }
    write_json(language / "config.json", {**TEXT, **IDS, **values, **changes})
    state = model.state_dict()
    part = {n.replace("text_model.", "model."): t for n, t in _under(state, "model.").items()}
    part = {n: t for n, t in part.items() if not n.startswith("vqmodel.")}
    save_file(_own({**part, "lm_head.weight": state["lm_head.weight"]}), language / WEIGHTS)
    values = {
        "architectures": ["Emu3VisionVQModel"],
        "model_type": "Emu3VisionVQ",
        "auto_map": {
            "AutoConfig": "configuration_emu3visionvq.Emu3VisionVQConfig",
            "AutoModel": "modeling_emu3visionvq.Emu3VisionVQModel",
        },
        "attn_resolutions": VISION["attn_resolutions"],
        "ch": VISION["base_channels"],
        "ch_mult": VISION["channel_multiplier"],
        "codebook_size": CODEBOOK,
        "double_z": False,
        "dropout": 0.0,
        "embed_dim": 4,
        "in_channels": 3,
        "num_res_blocks": VISION["num_res_blocks"],
        "out_channels": 3,
        "temporal_downsample_factor": 4,
        "torch_dtype": "float32",
        "transformers_version": "4.44.0",
        "z_channels": 4,
    }
    write_json(vision / "config.json", values)
    settings = {"image_processor_type": "Emu3VisionVQImageProcessor", **PREPROCESSOR}
    write_json(vision / "preprocessor_config.json", settings)
    save_file(_own(baai_vision_state(_under(state, "model.vqmodel."))), vision / WEIGHTS)
    return language, vision


WEIGHTS = "model.safetensors"


def _under(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _own(state: dict[str, Any]) -> dict[str, Any]:
    """Every tensor with memory of its own, as a file stores them."""
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}
