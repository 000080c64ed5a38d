"""A vocabulary of the published form at a smaller scale, and the checkpoints that use it.

290 ranks of text (all bytes and some pairs), the fixed block of 208 names, the three image tokens,
64 visual tokens. The -hf folder is written by transformers; the BAAI folders hold its tensors under
BAAI's names (tests/tiny.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dromaius.tokenizers.convert import to_tokenizer_json
from dromaius.tokenizers.tiktoken import FIXED_NAMES, TiktokenTokenizer, vision_names
from tests.tiny import baai_vision_state, fill

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Renders what the published -hf checkpoints' template renders (spec section 4.1)."""

CODES = 64
PAIRS = "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le"
PIECES = [bytes([b]) for b in range(256)] + [p.encode() for p in PAIRS.split()]
PIECES += [b" a", b" t", b" th", b"ing"]
NAMES = [*FIXED_NAMES, *vision_names(CODES)]
ID = {name: len(PIECES) + index for index, name in enumerate(NAMES)}
PAD, BOS, EOS = ID["<|endoftext|>"], ID["<|extra_203|>"], ID["<|extra_204|>"]
EOL, EOF = ID["<|extra_200|>"], ID["<|extra_201|>"]
IMAGE, START, END = ID["<|image token|>"], ID["<|image start|>"], ID["<|image end|>"]
VISUAL = range(ID["<|visual token 000000|>"], ID["<|visual token 000000|>"] + CODES)
VOCABULARY = len(PIECES) + len(NAMES)
SPECIAL = set(range(len(PIECES), VOCABULARY))

MIN_PIXELS, MAX_PIXELS = 32 * 32, 64 * 64
LANGUAGE_MODEL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}


@dataclass(frozen=True)
class Folders:
    hf: Path
    language: Path
    """BAAI's language model."""
    vision: Path
    """BAAI's vision tokenizer."""


@dataclass(frozen=True)
class Reference:
    """transformers' model and processor."""

    model: Any
    processor: Any

    def codes(self, picture: Any) -> Tensor:
        """Codes [h,w] of a picture by transformers' image processor and VQ model."""
        inputs = self.processor.image_processor(picture, return_tensors="pt")
        size = inputs["image_sizes"]
        vqmodel = self.model.model.vqmodel
        with torch.no_grad():
            return vqmodel.encode(inputs["pixel_values"], size).image_tokens[0].cpu()


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2))


def make_reference(folder: Path) -> Reference:
    """Writes the -hf tokenizer into `folder`, and makes transformers' model and processor."""
    from transformers import (
        AutoTokenizer,
        Emu3Config,
        Emu3ForConditionalGeneration,
        Emu3ImageProcessor,
        Emu3Processor,
        Emu3TextConfig,
    )

    to_tokenizer_json(TiktokenTokenizer.from_pieces(PIECES, NAMES), folder, "published")
    config = Emu3Config(
        text_config=Emu3TextConfig(**LANGUAGE_MODEL).to_dict(),
        vq_config={
            "codebook_size": CODES,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [3],
            "hidden_size": 32,
        },
        vocabulary_map=json.loads((folder / "vocab.json").read_text()),
    )
    model = fill(Emu3ForConditionalGeneration(config), 5, 1.5)
    fill(model.model.vqmodel, 6, 2.5)  # wide enough that neighbouring codes differ
    images = Emu3ImageProcessor(
        image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Reference(model, Emu3Processor(images, tokenizer, chat_template=CHAT_TEMPLATE))


def write_checkpoints(reference: Reference, root: Path) -> Folders:
    found = Folders(root / "hf", root / "Emu3-Gen", root / "Emu3-VisionTokenizer")
    reference.model.save_pretrained(found.hf)
    reference.processor.save_pretrained(found.hf)
    write_json(found.hf / "generation_config.json", {"top_k": 40, "do_sample": True})
    write_baai(found, load_file(found.hf / "model.safetensors"))
    return found


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def write_baai(folders: Folders, tensors: dict[str, Tensor]) -> None:
    folders.language.mkdir()
    folders.vision.mkdir()
    ids = {"img_token_id": IMAGE, "boi_token_id": START, "eoi_token_id": END}
    ids |= {"eol_token_id": EOL, "eof_token_id": EOF}
    model_type = {"model_type": "Emu3", "architectures": ["Emu3ForCausalLM"]}
    remote = {"auto_map": {"AutoModelForCausalLM": "modeling_emu3.Emu3ForCausalLM"}}
    area = {"image_area": 40 * 40}
    write_json(folders.language / "config.json", LANGUAGE_MODEL | ids | model_type | remote | area)
    save_file(part_of(tensors, "text_model."), folders.language / "model.safetensors")
    TiktokenTokenizer.from_pieces(PIECES, NAMES).save(folders.language)
    write_json(
        folders.vision / "config.json",
        {
            "model_type": "Emu3VisionVQ",
            "architectures": ["Emu3VisionVQModel"],
            "auto_map": {"AutoModel": "modeling_emu3visionvq.Emu3VisionVQModel"},
            "codebook_size": CODES,
            "ch": 32,
            "ch_mult": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [3],
            "embed_dim": 4,
            "z_channels": 4,
            "double_z": False,
            "dropout": 0.0,
            "temporal_downsample_factor": 4,
        },
    )
    write_json(
        folders.vision / "preprocessor_config.json",
        {
            "image_processor_type": "Emu3VisionVQImageProcessor",
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "spatial_factor": 8,
            "do_resize": True,
        },
    )
    vision = baai_vision_state(part_of(tensors, "vqmodel."))
    contiguous = {name: tensor.contiguous() for name, tensor in vision.items()}
    save_file(contiguous, folders.vision / "model.safetensors")
