"""Tensor names of the three layouts, and modules filled from any of them.

Our names are BAAI's behind a prefix: `language_model.` + LLaMA names, `vision_tokenizer.` + MoVQ
names. The -hf dialect of the vision tokenizer renames its blocks and stores the 1x1 convolutions of
attention as matrices; everything else is a prefix (spec sections 1.3 and 2.6).
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from dromaius.errors import CheckpointError
from dromaius.io import checkpoint
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import Layout, detect, read_config
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.nn.host import HostEmbedding, HostHead
from dromaius.nn.quantized import Packed, quantize

LANGUAGE, VISION = "language_model.", "vision_tokenizer."
TABLES = ("model.embed_tokens.", "lm_head.")
"""What the language model has a row of for each id."""

_TO_HF = (  # our vision tokenizer name -> -hf name, in this order
    (r"\.down\.(\d+)\.", r".down_block.down.\1."),
    (r"\.up\.(\d+)\.", r".up_block.up.\1."),
    (r"\.mid\.attn_1\.norm\.", r".middle_block.attn_norm."),
    (r"\.mid\.", r".middle_block."),
    (r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1."),
    (r"\.(attn_1|attn\.\d+)\.([qkv])\.", r".\1.\2_proj."),
    (r"\.(attn_1|attn\.\d+)\.proj_out\.", r".\1.out_proj."),
)
_FROM_HF = (
    (r"\.down_block\.down\.(\d+)\.", r".down.\1."),
    (r"\.up_block\.up\.(\d+)\.", r".up.\1."),
    (r"\.middle_block\.attn_norm\.", r".mid.attn_1.norm."),
    (r"\.middle_block\.", r".mid."),
    (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
    (r"\.(attn_1|attn\.\d+)\.([qkv])_proj\.", r".\1.\2."),
    (r"\.(attn_1|attn\.\d+)\.out_proj\.", r".\1.proj_out."),
)
_ATTENTION_MATRIX = re.compile(r"\.(attn_1|attn\.\d+)\.([qkv]|proj_out)\.weight$")


def our_name(name: str, layout: Layout) -> str:
    """A checkpoint's tensor name -> ours, prefix included."""
    match layout:
        case "dromaius":
            return name
        case "baai" | "hf-text":
            return LANGUAGE + name
        case "baai-vision":
            return VISION + name
        case "hf-vision":
            return _substitute(VISION + name, _FROM_HF)
    # -hf files written at different times differ in prefixes (spec section 1.3).
    name = name.removeprefix("model.") if "text_model." in name or "vqmodel." in name else name
    if name.startswith("vqmodel."):
        return _substitute(VISION + name.removeprefix("vqmodel."), _FROM_HF)
    rest = name.removeprefix("text_model.")
    if rest == name and name != "lm_head.weight":
        return name  # left as it is: reported as unexpected
    return LANGUAGE + (rest if rest.startswith(("model.", "lm_head.")) else f"model.{rest}")


def their_name(name: str, layout: Layout) -> str | None:
    """Our tensor name -> the layout's on-disk name, or None if the layout has no place for it."""
    if layout == "dromaius":
        return name
    half, _, rest = name.partition(".")
    if half + "." == LANGUAGE:
        return {"baai": rest, "hf-text": rest, "hf": f"text_model.{rest}"}.get(layout)
    prefix = {"baai-vision": "", "hf": "vqmodel.", "hf-vision": ""}.get(layout)
    if prefix is None:
        return None
    return prefix + (rest if layout == "baai-vision" else _substitute(f".{rest}", _TO_HF)[1:])


def our_tensor(name: str, tensor: Tensor) -> Tensor:
    """Shape a tensor as ours: attention matrices of the vision tokenizer are 1x1 convolutions."""
    if tensor.ndim == 2 and name.startswith(VISION) and _ATTENTION_MATRIX.search(name):
        return tensor[:, :, None, None]
    return tensor


def their_tensor(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    """Shape our tensor `name` as the layout stores it."""
    is_matrix = name.startswith(VISION) and _ATTENTION_MATRIX.search(name)
    return tensor.flatten(1) if layout in ("hf", "hf-vision") and is_matrix else tensor


def load_language_model(
    folder: Path,
    config: Emu3Config | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = torch.float32,
    tables_on_host: bool = False,
) -> LanguageModel:
    """The language model of a folder in any layout, in evaluation mode.

    What is quantized stays as it is stored; `dtype` is that of the rest and of the computation.
    With `tables_on_host` embedding and head stay mapped files, of which rows are fetched and cast
    as they are needed (`dromaius.nn.host`); the numbers are the same.
    Raises CheckpointError naming missing, unexpected or misshapen tensors.
    """
    config = config or read_config(folder)
    if config.language_model is None:
        raise CheckpointError(f"{folder} holds no language model")
    model = empty_language_model(config)
    _fill(model, folder, LANGUAGE, device, dtype, TABLES if tables_on_host else ())
    norm = model.model.norm.weight
    for module in model.modules():
        if isinstance(module, Packed):
            module.dtype = norm.dtype
    model.eval().requires_grad_(False)
    if tables_on_host:
        embedding = HostEmbedding(model.model.embed_tokens, norm.dtype)
        model.model.register_module("embed_tokens", embedding)
        model.register_module(
            "lm_head", HostHead(model.lm_head, torch.device(device or "cpu"), norm.dtype)
        )
    return model


def empty_language_model(config: Emu3Config) -> LanguageModel:
    """The language model without memory, with places for what its checkpoint holds."""
    assert config.language_model is not None
    with checkpoint.without_memory():
        model = LanguageModel(config.language_model)
        if config.quantization is not None:
            quantize(model, config.quantization.plan(config.language_model))
    return model


def load_vision_tokenizer(
    folder: Path, config: Emu3Config | None = None, device: torch.device | str | None = None
) -> VisionTokenizer:
    """The vision tokenizer of a folder in any layout, float32 and frozen.

    Raises CheckpointError naming missing, unexpected or misshapen tensors.
    """
    config = config or read_config(folder)
    if config.vision_tokenizer is None:
        raise CheckpointError(f"{folder} holds no vision tokenizer")
    with checkpoint.without_memory():
        model = VisionTokenizer(config.vision_tokenizer)
    _fill(model, folder, VISION, device, torch.float32)
    model.freeze()
    return model


def _fill(
    module: nn.Module,
    folder: Path,
    half: str,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    as_stored: tuple[str, ...] = (),
) -> None:
    """Give a module built on the meta device its tensors from the folder's `half`.

    What begins with a name of `as_stored` stays on the CPU and in the file's dtype.
    """
    layout = detect(folder)
    other = VISION if half == LANGUAGE else LANGUAGE

    def rename(name: str) -> str | None:
        ours = our_name(name, layout)
        if ours.startswith(other) or ours.endswith("rotary_emb.inv_freq"):
            return None  # the other half's, or a table that is computed
        return ours.removeprefix(half)

    packed = {
        f"{name}.{part}": buffer.dtype
        for name, matrix in module.named_modules(remove_duplicate=False)
        if isinstance(matrix, Packed)
        for part, buffer in matrix.named_buffers()
    }

    def shaped(name: str, tensor: Tensor) -> Tensor:
        if name in packed and tensor.dtype != packed[name]:
            raise CheckpointError(f"{folder}: {name} is {tensor.dtype}, not {packed[name]}")
        return our_tensor(half + name, tensor)

    checkpoint.load_into(
        module,
        folder,
        rename=rename,
        device=lambda name: "cpu" if name.startswith(as_stored) else device or "cpu",
        dtype=lambda name: None if name in packed or name.startswith(as_stored) else dtype,
        transform=shaped,
    )


def _substitute(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
