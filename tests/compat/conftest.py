"""Tiny random checkpoints in the official layouts, with the real vocabulary of 184622 ids.

Every number a script can see (ids, sizes of the vocabulary, names of files and keys) is the
published one; only the networks are small, and pictures may be small too (`min_pixels`).
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

VOCAB_SIZE = 184622
TEXT_IDS = 151643

LANGUAGE_MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
MIN_PIXELS = 32 * 32
MAX_PIXELS = 128 * 128

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


@dataclass(frozen=True)
class Checkpoints:
    """Folders; the language model's and the vision tokenizer's weights are the same in both."""

    baai_lm: Path
    baai_vq: Path
    hf: Path


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2))


@pytest.fixture(scope="session")
def tokenizer_folder(
    test_data: Path,
    require_file: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """emu3.tiktoken, emu3_vision_tokens.txt, tokenizer_config.json as in BAAI/Emu3-Gen."""
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(require_file(test_data / "emu3" / "emu3.tiktoken"), folder)
    names = ["<|image token|>", "<|image start|>", "<|image end|>"]
    names += [f"<|visual token {code:06d}|>" for code in range(32768)]
    (folder / "emu3_vision_tokens.txt").write_text("".join(f"{name}\n" for name in names))
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {},
            "additional_special_tokens": [],
            "auto_map": {"AutoTokenizer": ["tokenization_emu3.Emu3Tokenizer", None]},
            "bos_token": "<|extra_203|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|extra_204|>",
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Emu3Tokenizer",
        },
    )
    return folder


@pytest.fixture(scope="session")
def hf_tokenizer_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer.json and its companions as in Emu3-community/Emu3-Gen-hf."""
    from dromaius.tokenizers.convert import to_tokenizer_json
    from dromaius.tokenizers.tiktoken import TiktokenTokenizer

    folder = tmp_path_factory.mktemp("tokenizer-hf")
    to_tokenizer_json(TiktokenTokenizer.from_folder(tokenizer_folder), folder, "published")
    return folder


@pytest.fixture(scope="session")
def checkpoints(
    tokenizer_folder: Path,
    hf_tokenizer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkpoints:
    """The -hf composite as transformers itself writes it, and its twin in BAAI's two folders."""
    root = tmp_path_factory.mktemp("checkpoints")
    folders = Checkpoints(root / "Emu3-Gen", root / "Emu3-VisionTokenizer", root / "Emu3-Gen-hf")
    tensors = write_hf(folders.hf, hf_tokenizer_folder)
    write_baai_language_model(folders.baai_lm, tokenizer_folder, tensors)
    write_baai_vision_tokenizer(folders.baai_vq, tensors)
    return folders


def write_hf(folder: Path, tokenizer_folder: Path) -> dict[str, Any]:
    """Composite checkpoint with random weights; returns its tensors under their names on disk."""
    import torch
    from safetensors.torch import load_file
    from transformers import (
        AutoTokenizer,
        Emu3Config,
        Emu3ForConditionalGeneration,
        Emu3ImageProcessor,
        Emu3Processor,
        Emu3TextConfig,
        GenerationConfig,
    )

    vocabulary = json.loads((tokenizer_folder / "vocab.json").read_text())
    config = Emu3Config(
        text_config=Emu3TextConfig(**LANGUAGE_MODEL).to_dict(),
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [3],
            "hidden_size": 32,
        },
        vocabulary_map=vocabulary,
    )
    torch.manual_seed(0)
    model = Emu3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        # transformers draws the codebook wide and narrow convolutions: let pictures differ
        for name, tensor in model.named_parameters():
            if "vqmodel" in name and tensor.ndim > 2:
                tensor.normal_(0.0, 2.0 * tensor[0].numel() ** -0.5)
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=2048, max_new_tokens=50_000, pad_token_id=151643, eos_token_id=151850
    )
    images = Emu3ImageProcessor(
        image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS
    )
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    model.save_pretrained(folder)
    Emu3Processor(images, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def write_baai_language_model(
    folder: Path, tokenizer_folder: Path, tensors: dict[str, Any]
) -> None:
    """config.json, generation_config.json, weights and tokenizer as in BAAI/Emu3-Gen."""
    from safetensors.torch import save_file

    shutil.copytree(tokenizer_folder, folder)
    write_json(
        folder / "config.json",
        {
            "architectures": ["Emu3ForCausalLM"],
            "attention_dropout": 0.1,
            "auto_map": {
                "AutoConfig": "configuration_emu3.Emu3Config",
                "AutoModelForCausalLM": "modeling_emu3.Emu3ForCausalLM",
            },
            "boi_token_id": 151852,
            "bos_token_id": 151849,
            "eof_token_id": 151847,
            "eoi_token_id": 151853,
            "eol_token_id": 151846,
            "eos_token_id": 151850,
            "hidden_act": "silu",
            "image_area": 518400,
            "img_token_id": 151851,
            "max_position_embeddings": 9216,
            "model_type": "Emu3",
            "pad_token_id": 151643,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.44.0",
            "use_cache": True,
            "vocab_size": VOCAB_SIZE,
            **LANGUAGE_MODEL,
        },
    )
    ids = {"bos_token_id": 151849, "eos_token_id": 151850, "pad_token_id": 151643}
    write_json(folder / "generation_config.json", ids | {"transformers_version": "4.44.0"})
    prefix = "text_model."
    language_model = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    save_file(language_model, folder / "model.safetensors", metadata={"format": "pt"})


def write_baai_vision_tokenizer(folder: Path, tensors: dict[str, Any]) -> None:
    """config.json, preprocessor_config.json and weights as in BAAI/Emu3-VisionTokenizer."""
    from safetensors.torch import save_file

    folder.mkdir()
    write_json(
        folder / "config.json",
        {
            "architectures": ["Emu3VisionVQModel"],
            "attn_resolutions": [3],
            "auto_map": {
                "AutoConfig": "configuration_emu3visionvq.Emu3VisionVQConfig",
                "AutoModel": "modeling_emu3visionvq.Emu3VisionVQModel",
            },
            "ch": 32,
            "ch_mult": [1, 1, 1, 1],
            "codebook_size": 32768,
            "double_z": False,
            "dropout": 0.0,
            "embed_dim": 4,
            "in_channels": 3,
            "model_type": "Emu3VisionVQ",
            "num_res_blocks": 1,
            "out_channels": 3,
            "temporal_downsample_factor": 4,
            "torch_dtype": "float32",
            "transformers_version": "4.44.0",
            "z_channels": 4,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "auto_map": {
                "AutoImageProcessor": "image_processing_emu3visionvq.Emu3VisionVQImageProcessor"
            },
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "Emu3VisionVQImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "max_pixels": MAX_PIXELS,
            "min_pixels": MIN_PIXELS,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "spatial_factor": 8,
        },
    )
    prefix = "vqmodel."
    renamed = {baai_name(k[len(prefix) :]): v for k, v in tensors.items() if k.startswith(prefix)}
    convolutions = {
        k: v[:, :, None, None].contiguous() if _is_attention_weight(k) else v
        for k, v in renamed.items()
    }
    save_file(convolutions, folder / "model.safetensors", metadata={"format": "pt"})


def baai_name(hf: str) -> str:
    """Name of a vision tokenizer tensor in BAAI's file (spec section 2.6, read backwards)."""
    name = hf
    for theirs, ours in (
        (".down_block.", "."),
        (".up_block.", "."),
        (".middle_block.attn_norm.", ".mid.attn_1.norm."),
        (".middle_block.", ".mid."),
        (".q_proj.", ".q."),
        (".k_proj.", ".k."),
        (".v_proj.", ".v."),
        (".out_proj.", ".proj_out."),
    ):
        name = name.replace(theirs, ours)
    if ".attn_norms." in name:
        stage, rest = name.split(".attn_norms.")
        index, leaf = rest.split(".", 1)
        name = f"{stage}.attn.{index}.norm.{leaf}"
    return name


def _is_attention_weight(baai: str) -> bool:
    return baai.endswith((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 64x40 pixels: coloured noise, so that its codes differ from place to place."""
    import numpy as np
    from PIL import Image

    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="session")
def parts(checkpoints: Checkpoints) -> SimpleNamespace:
    """BAAI's objects over the tiny checkpoints."""
    from dromaius.compat import baai

    tokenizer = baai.AutoTokenizer.from_pretrained(checkpoints.baai_lm, padding_side="left")
    images = baai.AutoImageProcessor.from_pretrained(checkpoints.baai_vq)
    vision = baai.AutoModel.from_pretrained(checkpoints.baai_vq)
    return SimpleNamespace(
        tokenizer=tokenizer,
        images=images,
        vision=vision,
        processor=baai.Emu3Processor(images, vision, tokenizer),
        model=baai.AutoModelForCausalLM.from_pretrained(checkpoints.baai_lm),
    )


@pytest.fixture(scope="session")
def theirs(checkpoints: Checkpoints) -> Any:
    """transformers' own model of the same weights, float32."""
    import torch
    from transformers import Emu3ForConditionalGeneration

    model = Emu3ForConditionalGeneration.from_pretrained(checkpoints.hf, dtype=torch.float32)
    return model.requires_grad_(False).eval()
