"""Rotary embeddings of all six types give transformers' tables, within and beyond the context."""

import math
import random
from typing import Any

import pytest
import torch
from transformers import Emu3TextConfig
from transformers.models.emu3.modeling_emu3 import Emu3RotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dromaius.nn.rope import ROPE_TYPES, RopeParameters, RotaryEmbedding, rotate
from tests.tiny import random_rope

DRAWS = 8


def reference_tables(
    table: dict[str, Any], dim: int, context: int, positions: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of transformers; a new module each time, because its own keeps state."""
    config = Emu3TextConfig(
        hidden_size=2 * dim,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        rope_parameters=dict(table),
    )
    return Emu3RotaryEmbedding(config)(torch.zeros(1, dtype=dtype), positions)


def ours(table: dict[str, Any], dim: int, context: int) -> RotaryEmbedding:
    # theta inside the table wins over the argument, as in transformers
    return RotaryEmbedding(
        RopeParameters.from_config(dict(table), dim=dim, max_positions=context, theta=-1.0)
    )


def draws(rng_seed: int, rope_type: str) -> list[tuple[dict[str, Any], int, int]]:
    rng = random.Random(f"{rng_seed} {rope_type}")
    out = []
    for _ in range(DRAWS):
        dim, context = rng.choice([8, 16, 64, 128]), rng.choice([16, 64, 100])
        out.append((random_rope(rng, rope_type, dim, context), dim, context))
    return out


@pytest.mark.parametrize("reach", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("rope_type", ROPE_TYPES)
def test_tables_equal_transformers(rope_type: str, reach: float, rng_seed: int) -> None:
    """Positions up to `reach` times the configured context; the smallest stays in the original."""
    for table, dim, context in draws(rng_seed, rope_type):
        positions = torch.arange(max(2, int(context * reach)))[None]
        expected = reference_tables(table, dim, context, positions, torch.float32)
        found = ours(table, dim, context)(positions, torch.float32)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.shape == (1, positions.shape[1], dim)
            torch.testing.assert_close(
                mine, theirs, rtol=0, atol=5e-5, msg=lambda m, t=table: f"{t}: {m}"
            )


@pytest.mark.parametrize("rope_type", ROPE_TYPES)
def test_tables_are_computed_in_float32_then_cast(rope_type: str, rng_seed: int) -> None:
    for table, dim, context in draws(rng_seed, rope_type):
        positions = torch.arange(2 * context)[None]
        rope = ours(table, dim, context)
        for half, full in zip(
            rope(positions, torch.bfloat16), rope(positions, torch.float32), strict=True
        ):
            assert half.dtype == torch.bfloat16
            assert torch.equal(half, full.bfloat16())


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_no_memory_of_longer_sequences(rope_type: str, rng_seed: int) -> None:
    """transformers' dynamic table stays stretched after a long call; ours depends on the call."""
    for table, dim, context in draws(rng_seed, rope_type):
        rope = ours(table, dim, context)
        short, long = torch.arange(4)[None], torch.arange(4 * context)[None]
        before = rope(short, torch.float32)[0]
        stretched = rope(long, torch.float32)[0]
        assert not torch.allclose(stretched[:, 1:4], before[:, 1:4], atol=1e-4)
        assert torch.equal(rope(short, torch.float32)[0], before)


def test_plain_table_by_hand() -> None:
    rope = RotaryEmbedding(RopeParameters(dim=4, max_position_embeddings=8, rope_theta=100.0))
    cos, sin = rope(torch.tensor([[3]]), torch.float32)
    angles = [3.0, 0.3, 3.0, 0.3]  # theta ** (-2i / 4) is 1 and 0.1; both halves hold them
    torch.testing.assert_close(cos[0, 0], torch.tensor([math.cos(a) for a in angles]))
    torch.testing.assert_close(sin[0, 0], torch.tensor([math.sin(a) for a in angles]))


def test_rotate_equals_llama(rng_seed: int) -> None:
    generator = torch.Generator().manual_seed(rng_seed)
    q, k = (torch.randn(2, h, 5, 16, generator=generator) for h in (4, 2))
    cos, sin = RotaryEmbedding(RopeParameters(16, 32))(torch.randint(0, 32, (2, 5)), torch.float32)
    for mine, theirs in zip(
        (rotate(q, cos, sin), rotate(k, cos, sin)),
        apply_rotary_pos_emb(q, k, cos, sin),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_scores_depend_on_the_distance_alone(rng_seed: int) -> None:
    generator = torch.Generator().manual_seed(rng_seed)
    q, k = torch.randn(2, 1, 1, 1, 32, generator=generator)
    rope = RotaryEmbedding(RopeParameters(32, 64, rope_theta=10_000.0))

    def score(i: int, j: int) -> float:
        turned = (rotate(x, *rope(torch.tensor([[p]]), torch.float32)) for x, p in ((q, i), (k, j)))
        return float((next(turned) * next(turned)).sum())

    assert score(10, 3) == pytest.approx(score(47, 40), abs=1e-4)
    assert score(10, 3) != pytest.approx(score(10, 4), abs=1e-4)


# ------------------------------------------------------------------------------ what is refused


def read(table: dict[str, Any] | None, dim: int = 8) -> RopeParameters:
    return RopeParameters.from_config(table, dim=dim, max_positions=32, theta=5.0)


def test_none_is_the_plain_method() -> None:
    assert read(None) == read({}) == read({"rope_type": "default"}) == read({"type": "default"})
    assert read(None).rope_theta == 5.0


def test_old_spelling_of_the_type() -> None:
    assert read({"type": "linear", "factor": 2.0}).rope_type == "linear"
    both = {"type": "default", "rope_type": "linear", "factor": 2.0}
    assert read(both).rope_type == "linear"


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"rope_type": "mrope"}, "mrope"),
        ({"rope_type": "default", "fctor": 2.0}, "fctor"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "dynamic"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4}, "long_factor"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 4}, "4 values"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_unknown_or_missing_is_named(table: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read(table)
