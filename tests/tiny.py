"""Tiny random reference models made by transformers' own Emu3 classes, and our twins of them.

The twins are built here by the rename table of spec section 2.6, written down a second time, so
that tests of the package's own loaders have something to disagree with.
"""

from __future__ import annotations

import random
import re
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import Emu3TextConfig, Emu3VQVAEConfig
from transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM, Emu3VQVAE

from dromaius.models.emu3.config import LanguageModelConfig, VisionTokenizerConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer

AnyModule = TypeVar("AnyModule", bound=nn.Module)

# ------------------------------------------------------------------------------------------ weights


def fill(model: AnyModule, seed: int, scale: float = 1.0) -> AnyModule:
    """Deterministic weights: the rule of spec section 8, on which its golden numbers rest."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    filled = {}
    for name in sorted(state):
        old = state[name]
        if name.endswith("num_batches_tracked"):
            filled[name] = torch.zeros_like(old)
            continue
        noise = torch.randn(old.shape, generator=generator)
        if name.endswith("running_var"):
            noise = noise.abs() * 0.5 + 0.5
        elif name.endswith("running_mean"):
            noise = noise * 0.1
        elif "norm" in name and name.endswith("weight") and old.ndim == 1:
            noise = 1 + 0.1 * noise
        elif old.ndim == 1:
            noise = noise * 0.1
        elif "embed_tokens" in name:
            noise = noise * 0.5
        elif "embedding.weight" not in name:
            noise = noise * (old[0].numel() ** -0.5) * scale
        filled[name] = noise
    model.load_state_dict(filled)
    return model.eval()


# --------------------------------------------------------------------------- random configurations


def random_rope(rng: random.Random, rope_type: str, dim: int, context: int) -> dict[str, Any]:
    """A `rope_parameters` table of one of the six types; optional keys come and go.

    `context` is max_position_embeddings; where the method knows an original context it is smaller.
    """

    def sometimes(**values: Any) -> dict[str, Any]:
        return values if rng.random() < 0.5 else {}

    table: dict[str, Any] = {"rope_type": rope_type}
    table["rope_theta"] = rng.choice([10_000.0, 500_000.0, 1_000_000.0])
    if rope_type in ("linear", "dynamic", "llama3", "yarn"):
        table["factor"] = round(rng.uniform(1.5, 8.0), 3)
    original = max(4, context // rng.choice([2, 4]))
    if rope_type == "yarn":
        table |= sometimes(original_max_position_embeddings=original)
        table |= sometimes(attention_factor=rng.uniform(0.5, 2.0))
        table |= sometimes(mscale=0.7, mscale_all_dim=1.1)
        table |= sometimes(beta_fast=24.0, beta_slow=2.0)
        table |= sometimes(truncate=False)
    if rope_type == "longrope":
        table["short_factor"] = [rng.uniform(1.0, 1.5) for _ in range(dim // 2)]
        table["long_factor"] = [rng.uniform(1.5, 8.0) for _ in range(dim // 2)]
        table["original_max_position_embeddings"] = original
        table |= sometimes(factor=3.0)
        table |= sometimes(attention_factor=rng.uniform(0.5, 2.0))
    if rope_type == "llama3":
        table |= {"low_freq_factor": 1.0, "high_freq_factor": rng.choice([2.0, 4.0])}
        table["original_max_position_embeddings"] = original
    return table


def random_text_config(rng: random.Random, rope_type: str = "default") -> Emu3TextConfig:
    """A tiny decoder: any grouping of heads, biases or none, any activation, tied or not."""
    heads = rng.choice([2, 4, 6])
    key_value_heads = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    head_dim = rng.choice([8, 16])
    hidden = heads * head_dim
    context = rng.choice([16, 24, 32])
    config = Emu3TextConfig(
        vocab_size=rng.randrange(60, 130),
        hidden_size=hidden,
        intermediate_size=rng.randrange(30, 100),
        num_hidden_layers=rng.randrange(1, 4),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        hidden_act=rng.choice(["silu", "gelu", "gelu_pytorch_tanh", "relu"]),
        max_position_embeddings=context,
        rms_norm_eps=rng.choice([1e-6, 1e-5, 1e-3]),
        rope_parameters=random_rope(rng, rope_type, head_dim, context),
        attention_dropout=0.1,
        tie_word_embeddings=rng.random() < 0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    if rng.random() < 0.4:
        config.head_dim = 2 * head_dim if rope_type != "longrope" else head_dim
    config.attention_bias = rng.random() < 0.5
    config.mlp_bias = rng.random() < 0.5
    return config


def random_vision_config(rng: random.Random) -> Emu3VQVAEConfig:
    """A tiny autoencoder: 2-4 stages, attention in stages as wide as the last, any time factor."""
    levels = rng.randrange(2, 5)
    multiplier = [rng.choice([1, 2]) for _ in range(levels)]
    wide = [level for level in range(levels) if multiplier[level] == multiplier[-1]]
    latent = rng.choice([2, 4, 6])
    return Emu3VQVAEConfig(
        codebook_size=rng.choice([64, 100, 512]),
        embed_dim=latent,
        latent_channels=latent,
        temporal_downsample_factor=rng.choice([2, 4]),
        base_channels=32,
        channel_multiplier=multiplier,
        num_res_blocks=rng.randrange(1, 3),
        attn_resolutions=sorted(rng.sample(wide, rng.randrange(len(wide) + 1))),
        hidden_size=32 * multiplier[-1],
        num_attention_heads=rng.choice([1, 2]),
    )


# -------------------------------------------------------------------------------------- references


def make_language_model(config: Emu3TextConfig, seed: int, attention: str = "eager") -> Any:
    """transformers' Emu3ForCausalLM in float32 and evaluation mode, with `fill`ed weights."""
    config._attn_implementation = attention
    model = fill(Emu3ForCausalLM(config), seed)
    model.tie_weights()
    return model


def make_vision_tokenizer(
    config: Emu3VQVAEConfig, seed: int, scale: float = 2.0, attention: str = "eager"
) -> Any:
    """transformers' Emu3VQVAE in float32 and evaluation mode, with `fill`ed weights.

    At scale 2 the codes are many and the pixels large: rounding grows to 1e-3 and more.
    """
    config._attn_implementation = attention
    return fill(Emu3VQVAE(config), seed, scale)


# ------------------------------------------------------------------------------------------- twins


def our_language_config(config: Emu3TextConfig) -> LanguageModelConfig:
    rope = dict(config.rope_parameters)
    return LanguageModelConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None),
        hidden_act=config.hidden_act,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=rope.pop("rope_theta"),
        rope_scaling=rope,
        attention_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        attention_dropout=config.attention_dropout,
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_word_embeddings,
    )


def our_vision_config(config: Emu3VQVAEConfig) -> VisionTokenizerConfig:
    return VisionTokenizerConfig(
        codebook_size=config.codebook_size,
        embed_dim=config.embed_dim,
        z_channels=config.latent_channels,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        temporal_downsample_factor=config.temporal_downsample_factor,
        ch=config.base_channels,
        ch_mult=tuple(config.channel_multiplier),
        num_res_blocks=config.num_res_blocks,
        attn_resolutions=tuple(config.attn_resolutions),
        num_attention_heads=config.num_attention_heads,
    )


RENAMES = (
    (r"\.down_block\.down\.", ".down."),
    (r"\.up_block\.up\.", ".up."),
    (r"\.middle_block\.attn_norm\.", ".middle_block.attn_1.norm."),
    (r"\.middle_block\.", ".mid."),
    (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
    (r"\.([qkv])_proj\.", r".\1."),
    (r"\.out_proj\.", ".proj_out."),
)
"""Names of Emu3VQVAE in transformers -> names of the BAAI checkpoint (spec section 2.6)."""


def baai_vision_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An Emu3VQVAE state dictionary under BAAI's names and shapes (1x1 convolutions are 4-D)."""
    renamed = {}
    for name, tensor in state.items():
        is_projection = re.search(r"\.([qkv]|out)_proj\.weight$", name)
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor[:, :, None, None] if is_projection else tensor
    return renamed


def our_language_model(reference: Any) -> LanguageModel:
    """Our model with the weights of an Emu3ForCausalLM, in evaluation mode."""
    model = LanguageModel(our_language_config(reference.config))
    model.load_state_dict(reference.state_dict(), strict=True)
    model.tie_weights()
    return model.eval()


def our_vision_tokenizer(reference: Any) -> VisionTokenizer:
    """Our vision tokenizer with the weights of an Emu3VQVAE."""
    model = VisionTokenizer(our_vision_config(reference.config))
    model.load_state_dict(baai_vision_state(reference.state_dict()), strict=True)
    return model


# ------------------------------------------------------------------------------------- comparisons


def padding_mask(lengths: list[int], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left padding for rows of these lengths.

    Returns attention_mask int64 [B,T] as transformers takes it, positions [B,T] counted over the
    real tokens, and the mask bool [B,1,T,T] that our models take.
    """
    keep = torch.tensor([[0] * (size - n) + [1] * n for n in lengths])
    positions = (keep.cumsum(-1) - 1).masked_fill(keep == 0, 1)
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    return keep, positions, causal & keep.bool()[:, None, None, :]


def assert_same_codes(ours: Tensor, theirs: Tensor, vectors: Tensor, codebook: Tensor) -> None:
    """Equal codes; where they differ, both entries must be equally near (a tie within rounding).

    ours, theirs int64 [...]; vectors [...,E] are what was quantized; codebook [N,E].
    """
    assert ours.dtype == torch.int64 and ours.shape == theirs.shape
    different = ours != theirs
    assert different.float().mean() <= 0.01, f"{int(different.sum())} codes differ"
    point = vectors[different].double()
    first, second = (codebook.double()[c[different]] for c in (ours, theirs))
    gap = ((point - first) ** 2).sum(-1) - ((point - second) ** 2).sum(-1)
    assert (gap.abs() < 1e-4).all(), f"codes differ by {gap.abs().max()} in squared distance"
