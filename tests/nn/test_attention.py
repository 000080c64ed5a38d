"""Attention: grouped heads, masks that matter, caches that change nothing."""

import random

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import repeat_kv

from dromaius.nn.attention import Attention, attention_probabilities, sdpa
from dromaius.nn.rope import RopeParameters, RotaryEmbedding
from tests.tiny import fill


class ListCache:
    """The simplest cache there is: everything seen so far, joined."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((keys, values))
        joined = [torch.cat(parts, dim=2) for parts in zip(*self.seen, strict=True)]
        return joined[0], joined[1]


def naive(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The definition, one query head and one token at a time, over the visible keys only."""
    out = torch.zeros_like(q)
    groups = q.shape[1] // k.shape[1]
    for b, h, t in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        visible = mask[b, 0, t].nonzero().flatten()
        keys, values = (x[b, h // groups, visible] for x in (k, v))
        out[b, h, t] = (keys @ q[b, h, t] * q.shape[-1] ** -0.5).softmax(0) @ values
    return out


def random_qkv(seed: int, heads: int, shared: int, new: int, seen: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, heads, new, 8), (2, shared, seen, 8), (2, shared, seen, 8))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def random_mask(seed: int, new: int, seen: int) -> Tensor:
    """bool [2,1,T,S]: any pattern in which each token sees at least one."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, 1, new, seen, generator=generator) < 0.5
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (4, 2), (6, 2), (6, 1)])
def test_any_mask_and_grouping_follow_the_definition(
    heads: int, shared: int, rng_seed: int
) -> None:
    q, k, v = random_qkv(rng_seed, heads, shared, 5, 7)
    mask = random_mask(rng_seed, 5, 7)
    expected = naive(q, k, v, mask)
    torch.testing.assert_close(sdpa(q, k, v, mask), expected, rtol=0, atol=1e-5)
    shown = attention_probabilities(q, k, mask) @ repeat_kv(v, heads // shared)
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (4, 1)])
def test_no_mask_is_causal(heads: int, shared: int, rng_seed: int) -> None:
    q, k, v = random_qkv(rng_seed, heads, shared, 6, 6)
    causal = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, 6, 6)
    expected = naive(q, k, v, causal)
    torch.testing.assert_close(sdpa(q, k, v, None), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(sdpa(q, k, v, causal), expected, rtol=0, atol=1e-5)
    shown = attention_probabilities(q, k, None)
    assert (shown.sum(-1) - 1).abs().max() < 1e-5
    assert shown.triu(1).abs().max() == 0
    repeated = repeat_kv(v, heads // shared)
    torch.testing.assert_close(shown @ repeated, expected, rtol=0, atol=1e-5)


def test_hidden_keys_do_not_matter_and_visible_ones_do(rng_seed: int) -> None:
    q, k, v = random_qkv(rng_seed, 4, 2, 5, 7)
    mask = random_mask(rng_seed, 5, 7)
    mask[0, :, :, 3], mask[1, :, :, 3] = False, True
    before = sdpa(q, k, v, mask)
    k[:, :, 3] += 1
    v[:, :, 3] += 1
    after = sdpa(q, k, v, mask)
    assert torch.equal(before[0], after[0])
    assert ((before[1] - after[1]).abs().amax(-1) > 1e-3).all()


def test_a_token_that_sees_nothing_stays_finite() -> None:
    """Rows of left padding: what they hold is never read, but it must not be NaN."""
    q, k, v = random_qkv(0, 4, 2, 3, 3)
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool).tril()
    mask[0, :, :, :2] = False
    assert sdpa(q, k, v, mask).isfinite().all()
    assert attention_probabilities(q, k, mask).isfinite().all()


def test_probabilities_are_computed_in_float32(rng_seed: int) -> None:
    q, k, _ = (x.bfloat16() for x in random_qkv(rng_seed, 4, 2, 5, 5))
    shown = attention_probabilities(q, k, None)
    assert shown.dtype == torch.bfloat16
    scores = (q @ repeat_kv(k, 2).transpose(-1, -2) * 8**-0.5).masked_fill(
        torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf
    )
    assert torch.equal(shown, scores.float().softmax(-1).bfloat16())


def test_dropout_is_on_the_probabilities(rng_seed: int) -> None:
    q, k, _ = random_qkv(rng_seed, 2, 2, 64, 64)
    v = torch.ones(2, 2, 64, 8)  # each output is then the sum of the surviving probabilities
    mask = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    assert torch.allclose(sdpa(q, k, v, mask), torch.ones(()), atol=1e-5)
    torch.manual_seed(rng_seed)
    dropped = sdpa(q, k, v, mask, dropout=0.5)
    assert dropped.std() > 0.05
    assert abs(float(dropped.mean()) - 1) < 0.1  # what survives is scaled up


# ---------------------------------------------------------------------------------- the layer


def make_layer(rng_seed: int, bias: bool = True) -> tuple[Attention, RotaryEmbedding]:
    layer = fill(Attention(24, 6, 2, 8, bias, 0.0), rng_seed, 2.0)
    return layer, RotaryEmbedding(RopeParameters(8, 64, rope_theta=100.0))


@torch.no_grad()
def test_cached_equals_uncached(rng_seed: int) -> None:
    """Tokens fed in random chunks through a list of all keys give the outputs of one call."""
    layer, rotary = make_layer(rng_seed)
    x = torch.randn(2, 11, 24, generator=torch.Generator().manual_seed(rng_seed))
    positions = torch.arange(11)[None]
    whole = layer(x, rotary(positions, x.dtype))
    rng, cache, parts, start = random.Random(rng_seed), ListCache(), [], 0
    while start < 11:
        stop = min(11, start + rng.randrange(1, 5))
        mask = torch.ones(11, 11, dtype=torch.bool).tril()[None, None, start:stop, :stop]
        rope = rotary(positions[:, start:stop], x.dtype)
        parts.append(layer(x[:, start:stop], rope, mask, cache))
        start = stop
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_left_padding_equals_the_shorter_sequence(rng_seed: int) -> None:
    layer, rotary = make_layer(rng_seed)
    x = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(rng_seed))
    alone = layer(x[:, 3:], rotary(torch.arange(5)[None], x.dtype))
    positions = torch.tensor([[1, 1, 1, 0, 1, 2, 3, 4]])
    mask = torch.ones(8, 8, dtype=torch.bool).tril()[None, None].clone()
    mask[..., :3] = False
    padded = layer(x, rotary(positions, x.dtype), mask)
    torch.testing.assert_close(padded[:, 3:], alone, rtol=0, atol=1e-5)
    unmasked = layer(x, rotary(positions, x.dtype))
    assert (unmasked[:, 3:] - alone).abs().max() > 1e-2


def test_any_attention_function_may_take_the_place_of_sdpa(rng_seed: int) -> None:
    layer, rotary = make_layer(rng_seed)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(rng_seed))
    seen = []

    def attend(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0
    ) -> Tensor:
        seen.append((q.shape, k.shape, v.shape))
        return attention_probabilities(q, k, mask) @ repeat_kv(v, 3)

    rope = rotary(torch.arange(5)[None], x.dtype)
    torch.testing.assert_close(layer(x, rope, attend=attend), layer(x, rope), rtol=0, atol=1e-5)
    assert seen == [((2, 6, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8))]


def test_bias_is_present_exactly_when_asked() -> None:
    names = {name for name, _ in Attention(24, 6, 2, 8, False, 0.0).named_parameters()}
    assert names == {f"{part}_proj.weight" for part in "qkvo"}
    names |= {f"{part}_proj.bias" for part in "qkvo"}
    assert {name for name, _ in Attention(24, 6, 2, 8, True, 0.0).named_parameters()} == names


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_that_is_trained_has_torch_s_values_and_gradients(
    masked: bool, key_heads: int
) -> None:
    """The written-out form against torch's own kernel, in float64."""
    draw = torch.Generator().manual_seed(3)
    shapes = (4, key_heads, key_heads)
    inputs = [torch.randn(2, n, 7, 8, generator=draw, dtype=torch.float64) for n in shapes]
    mask = (torch.rand(2, 1, 7, 7, generator=draw) < 0.5) | torch.eye(7, dtype=torch.bool)
    target = torch.randn(2, 4, 7, 8, generator=draw, dtype=torch.float64)
    results = []
    for theirs in (True, False):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        if theirs:
            y = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask if masked else None, is_causal=not masked, enable_gqa=True
            )
        else:
            y = sdpa(q, k, v, mask if masked else None)
        (y * target).sum().backward()
        results.append((y.detach(), q.grad, k.grad, v.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
