"""The language model gives transformers' logits, losses and greedy tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Emu3TextConfig, LlamaConfig, LlamaForCausalLM

from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.nn.attention import attention_probabilities
from dromaius.nn.rope import ROPE_TYPES
from tests.tiny import (
    fill,
    make_language_model,
    our_language_model,
    padding_mask,
    random_rope,
    random_text_config,
)

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@torch.no_grad()
def greedy(model: LanguageModel, ids: Tensor, keep: Tensor, count: int) -> Tensor:
    """The plainest generation: a whole forward for every token. keep [B,T] is 0 at padding."""
    for _ in range(count):
        lengths = keep.sum(-1).tolist()
        _, positions, mask = padding_mask(lengths, ids.shape[1])
        chosen = model(ids, positions, mask)[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat((ids, chosen), 1)
        keep = torch.cat((keep, torch.ones_like(chosen)), 1)
    return ids[:, -count:]


# ------------------------------------------------------ golden vectors (spec section 8, V2)


@pytest.fixture(scope="module")
def golden() -> LanguageModel:
    config = Emu3TextConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return our_language_model(make_language_model(config, 1))


@pytest.fixture(scope="module")
def golden_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids [2,16] with five pads before row 0, attention mask, positions, our mask."""
    ids = torch.randint(3, 256, (2, 16), generator=torch.Generator().manual_seed(200))
    ids[0, :5] = 0
    return ids, *padding_mask([11, 16], 16)


@torch.no_grad()
def test_golden_logits_and_loss(
    golden: LanguageModel,
    golden_inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sum(p.numel() for p in golden.parameters()) == 156_096
    ids, keep, positions, mask = golden_inputs
    logits = golden(ids, positions, mask)
    expected = [
        [0.48548, -0.22958, -0.80221, 0.20057, 0.98186, -1.07134],
        [-1.10414, 0.66288, -0.90198, -0.23426, -0.04372, -2.13521],
    ]
    close(logits[:, -1, :6], torch.tensor(expected))
    # The published loss counts the first real token of row 0 too, predicted by a pad that sees
    # nothing: eager attention spreads such a row evenly. So the plain softmax is used here.
    for layer in golden.model.layers:
        plain = partial(_with_plain_softmax, layer.self_attn.forward)
        monkeypatch.setattr(layer.self_attn, "forward", plain)
    logits = golden(ids, positions, mask)
    close(logits[:, -1, :6], torch.tensor(expected))
    labels = ids.masked_fill(keep == 0, -100)[:, 1:]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert loss.item() == pytest.approx(6.036544, abs=TOLERANCE)


def _with_plain_softmax(
    forward: Callable[..., Tensor], x: Tensor, rope: Any, mask: Tensor, cache: None, _: Any
) -> Tensor:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        groups = q.shape[1] // v.shape[1]
        return attention_probabilities(q, k, mask) @ v.repeat_interleave(groups, 1)

    return forward(x, rope, mask, cache, attend)


def test_golden_greedy_tokens(
    golden: LanguageModel, golden_inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    ids, keep, _, _ = golden_inputs
    assert greedy(golden, ids, keep, 8).tolist() == [
        [134, 201, 41, 113, 209, 100, 155, 141],
        [233, 190, 205, 20, 47, 158, 78, 178],
    ]


# -------------------------------------------------------------------- random configurations

DRAWS = 3


@pytest.fixture(scope="module", params=[(kind, n) for kind in ROPE_TYPES for n in range(DRAWS)])
def pair(request: pytest.FixtureRequest, rng_seed: int) -> tuple[Any, LanguageModel]:
    """A random configuration, in transformers' code and in ours."""
    rope_type, draw = request.param
    rng = random.Random(f"{rng_seed} {rope_type} {draw}")
    config = random_text_config(rng, rope_type)
    attention = rng.choice(["eager", "sdpa"])
    reference = make_language_model(config, rng.randrange(2**32), attention)
    return reference, our_language_model(reference)


def draw_ids(model: LanguageModel, seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, model.config.vocab_size, shape, generator=generator)


def stretches(model: LanguageModel) -> bool:
    """Whether the longest row of a batch sets the frequencies of all, as in transformers."""
    return model.config.rope.rope_type in ("dynamic", "longrope")


@torch.no_grad()
def test_logits(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    """Half of the configured context, then half more than it (the scaled types change there)."""
    reference, ours = pair
    context = ours.config.max_position_embeddings
    for length in (context // 2, context * 3 // 2):
        ids = draw_ids(ours, rng_seed, 2, length)
        reference_logits = reference(ids).logits
        assert reference_logits.std() > 0.05  # a comparison of zeros would prove nothing
        close(ours(ids), reference_logits)


@torch.no_grad()
def test_in_float64(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    """Nothing hides behind the tolerance: what remains is the float32 of norms and rotations."""
    reference, ours = (model.double() for model in pair)
    try:
        ids = draw_ids(ours, rng_seed, 1, 12)
        close(ours(ids), reference(ids).logits, 2e-6)
    finally:
        reference.float()
        ours.float()


@torch.no_grad()
def test_left_padding(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    """Real tokens of a padded row: equal to transformers', and to the row alone."""
    reference, ours = pair
    lengths = [12, 5, 9]
    ids = draw_ids(ours, rng_seed, 3, 12)
    keep, positions, mask = padding_mask(lengths, 12)
    ids = ids.masked_fill(keep == 0, 0)
    logits = ours(ids, positions, mask)
    expected = reference(ids, attention_mask=keep, position_ids=positions).logits
    close(logits[keep.bool()], expected[keep.bool()])
    assert logits.isfinite().all()
    if not stretches(ours):
        for row, length in enumerate(lengths):
            close(logits[row, -length:], ours(ids[row : row + 1, -length:])[0])
    unmasked = ours(ids, positions)
    assert (unmasked[1, -5:] - logits[1, -5:]).abs().max() > 1e-3


class ListCache:
    """The keys and values of one layer, joined as they come."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((keys, values))
        joined = [torch.cat(parts, dim=2) for parts in zip(*self.seen, strict=True)]
        return joined[0], joined[1]


@torch.no_grad()
def test_a_cache_changes_nothing(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    """A left-padded batch fed in pieces: the logits of one forward by transformers."""
    reference, ours = pair
    if stretches(ours):
        pytest.skip("keys of a cache keep the frequencies of the length at which they were made")
    ids = draw_ids(ours, rng_seed, 2, 12)
    keep, positions, mask = padding_mask([12, 7], 12)
    expected = reference(ids, attention_mask=keep, position_ids=positions).logits
    caches = [ListCache() for _ in range(ours.config.num_hidden_layers)]
    parts = [
        ours(ids[:, a:b], positions[:, a:b], mask[:, :, a:b, :b], caches)
        for a, b in ((0, 6), (6, 7), (7, 8), (8, 12))
    ]
    close(torch.cat(parts, 1)[keep.bool()], expected[keep.bool()])


@torch.no_grad()
def test_positions_reach_the_rotation(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    reference, ours = pair
    ids = draw_ids(ours, rng_seed, 2, 6)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 2, 3, 7, 8, 9]])
    logits = ours(ids, positions)
    close(logits, reference(ids, position_ids=positions).logits)
    if not stretches(ours):
        close(logits[0], ours(ids)[0])
    if ours.config.num_hidden_layers > 1:  # one layer can be blind to a shift of the last tokens
        assert (logits[1] - ours(ids)[1]).abs().max() > 1e-4


@torch.no_grad()
def test_embeddings_in_place_of_ids(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    reference, ours = pair
    generator = torch.Generator().manual_seed(rng_seed)
    x = torch.randn(2, 5, ours.config.hidden_size, generator=generator)
    close(ours(x), reference(inputs_embeds=x).logits)


@torch.no_grad()
def test_parts_of_the_logits(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    """One token a row, a range of ids, or both: cut from the whole."""
    ours = pair[1]
    ids = draw_ids(ours, rng_seed, 2, 5)
    whole, last = ours(ids), torch.tensor([3, 1])
    close(ours(ids, span=(7, 40)), whole[..., 7:40], 1e-5)
    chosen = torch.stack((whole[0, 3], whole[1, 1]))[:, None]
    close(ours(ids, last=last), chosen, 1e-5)
    close(ours(ids, last=last, span=(7, 40)), chosen[..., 7:40], 1e-5)


def test_greedy_tokens(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    """A left-padded batch, against transformers' generate with its cache."""
    reference, ours = pair
    context = ours.config.max_position_embeddings
    # Where frequencies change with length, transformers' cache keeps keys of the old ones: stay
    # on one side of the change (the configured context, or the original one of longrope).
    types = {"dynamic": [context - 8, 3], "longrope": [context // 2 + 2, 3]}
    lengths = types.get(ours.config.rope.rope_type, [9, 4])
    ids = draw_ids(ours, rng_seed, 2, lengths[0])
    keep, _, _ = padding_mask(lengths, lengths[0])
    ids = ids.masked_fill(keep == 0, 0)
    with torch.no_grad():
        expected = reference.generate(
            ids, attention_mask=keep, max_new_tokens=4, do_sample=False, eos_token_id=None
        )
    assert torch.equal(greedy(ours, ids, keep, 4), expected[:, -4:])


@pytest.mark.parametrize("rope_type", ROPE_TYPES)
@torch.no_grad()
def test_against_llama(rope_type: str, rng_seed: int) -> None:
    """Llama's configuration documents head_dim and both biases; its code is another's."""
    for draw in range(DRAWS):
        rng = random.Random(f"{rng_seed} llama {rope_type} {draw}")
        heads, dim = rng.choice([(2, 16), (4, 8), (6, 8)])
        config = LlamaConfig(
            vocab_size=90,
            hidden_size=heads * 8,
            intermediate_size=50,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=dim,
            hidden_act=rng.choice(["silu", "gelu"]),
            max_position_embeddings=24,
            attention_bias=bool(draw % 2),
            mlp_bias=rng.random() < 0.5,
            tie_word_embeddings=rng.random() < 0.5,
            rope_parameters=random_rope(rng, rope_type, dim, 24),
        )
        reference = fill(LlamaForCausalLM(config), rng.randrange(2**32))
        ours = our_language_model(reference)
        ids = draw_ids(ours, rng_seed, 2, 30)
        close(ours(ids), reference(ids).logits)


@torch.no_grad()
def test_bfloat16(pair: tuple[Any, LanguageModel], rng_seed: int) -> None:
    """As close to float32 as transformers' own bfloat16 is."""
    reference, ours = pair
    ids = draw_ids(ours, rng_seed, 2, 10)
    exact = ours(ids)
    try:
        their_error = (reference.bfloat16()(ids).logits.float() - exact).pow(2).mean().sqrt()
        logits = ours.bfloat16()(ids)
        our_error = (logits.float() - exact).pow(2).mean().sqrt()
        assert logits.dtype == torch.bfloat16
        assert our_error < 1.5 * their_error + 1e-3
    finally:
        state = our_language_model(reference.float()).state_dict()
        ours.float().load_state_dict(state)


# -------------------------------------------------------------------------------------- dropout


def dropout_config(**changes: Any) -> LanguageModelConfig:
    return LanguageModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **changes,
    )


def record_dropouts(
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[str, tuple[int, ...], float]]:
    """Watch torch's own dropout and attention: (site, shape, probability) of each use."""
    used: list[tuple[str, tuple[int, ...], float]] = []
    dropout, attention = F.dropout, F.scaled_dot_product_attention

    def watch_dropout(x: Tensor, p: float = 0.5, training: bool = True, *rest: Any) -> Tensor:
        if training and p > 0:
            used.append(("dropout", tuple(x.shape), p))
        return dropout(x, p, training, *rest)

    def watch_attention(*args: Any, **named: Any) -> Tensor:
        if named.get("dropout_p", 0.0) > 0:
            used.append(("attention", tuple(args[0].shape), named["dropout_p"]))
        return attention(*args, **named)

    monkeypatch.setattr(F, "dropout", watch_dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watch_attention)
    return used


@torch.no_grad()
def test_dropout_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings (BAAI alone), attention probabilities, attention output, MLP output."""
    used = record_dropouts(monkeypatch)
    model = LanguageModel(dropout_config(attention_dropout=0.25, embedding_dropout=0.125))
    ids = draw_ids(model, 0, 2, 6)
    model.eval()
    model(ids)
    assert used == []
    model.train()
    model(ids)
    assert used == [
        ("dropout", (2, 6, 32), 0.125),
        ("attention", (2, 4, 6, 8), 0.25),
        ("dropout", (2, 6, 32), 0.25),
        ("dropout", (2, 6, 32), 0.25),
    ]


@torch.no_grad()
def test_dropout_is_only_where_it_is_asked_for(rng_seed: int) -> None:
    """By numbers: in training each probability alone disturbs the logits, zero does not."""
    generator = torch.Generator().manual_seed(rng_seed)
    weights: dict[str, Tensor] | None = None
    for changes, disturbed in (
        ({"attention_dropout": 0.0}, False),
        ({"attention_dropout": 0.2}, True),
        ({"attention_dropout": 0.0, "embedding_dropout": 0.2}, True),
    ):
        model = LanguageModel(dropout_config(**changes))
        if weights is None:
            model.init_weights(generator)
            weights = model.state_dict()
        model.load_state_dict(weights)
        ids = draw_ids(model, rng_seed, 2, 8)
        still = model.eval()(ids)
        torch.manual_seed(rng_seed)
        moving = model.train()(ids)
        assert torch.allclose(still, moving, atol=1e-6) != disturbed
        assert torch.equal(model.eval()(ids), still)


def test_upstream_drops_out_at_the_same_three_sites(rng_seed: int) -> None:
    """Where transformers has dropout its mean effect is ours: same sites, same probability.

    The random numbers differ, so the variance of the logits over many draws is compared.
    """
    text = random_text_config(random.Random("dropout"))
    text.attention_dropout, text.tie_word_embeddings = 0.3, False
    reference = make_language_model(text, 5)
    ours = our_language_model(reference)
    ids = draw_ids(ours, 1, 1, 6).repeat(256, 1)

    def spread(forward: Callable[[Tensor], Tensor]) -> Tensor:
        torch.manual_seed(rng_seed)
        with torch.no_grad():
            return torch.cat([forward(ids) for _ in range(4)]).var(0).mean(-1)  # [T]

    ratio = spread(ours.train()) / spread(lambda x: reference.train()(x).logits)
    assert ((ratio > 0.85) & (ratio < 1.18)).all(), ratio


# ---------------------------------------------------------------------------- weights at rest


def test_full_size_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = LanguageModel(LanguageModelConfig())
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 8_492_011_520
    assert len(state) == 291
    layer = {name: t for name, t in state.items() if name.startswith("model.layers.31.")}
    assert sum(t.numel() for t in layer.values()) == 218_112_000
    shapes = {
        "model.embed_tokens.weight": (184622, 4096),
        "lm_head.weight": (184622, 4096),
        "model.norm.weight": (4096,),
        "model.layers.0.self_attn.q_proj.weight": (4096, 4096),
        "model.layers.0.self_attn.k_proj.weight": (1024, 4096),
        "model.layers.0.self_attn.v_proj.weight": (1024, 4096),
        "model.layers.0.self_attn.o_proj.weight": (4096, 4096),
        "model.layers.0.mlp.gate_proj.weight": (14336, 4096),
        "model.layers.0.mlp.up_proj.weight": (14336, 4096),
        "model.layers.0.mlp.down_proj.weight": (4096, 14336),
        "model.layers.0.input_layernorm.weight": (4096,),
        "model.layers.0.post_attention_layernorm.weight": (4096,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_tied_head_is_one_tensor() -> None:
    model = LanguageModel(dropout_config(tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(list(model.parameters())) == len(model.state_dict()) - 1
    assert LanguageModel(dropout_config()).lm_head.weight is not model.lm_head.weight


def test_fresh_weights() -> None:
    model = LanguageModel(
        dropout_config(attention_bias=True, mlp_bias=True, initializer_range=0.05)
    )
    model.init_weights(torch.Generator().manual_seed(3))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert weight.abs().max() == 0, name
        elif "norm" in name:
            assert (weight == 1).all(), name
        else:
            assert weight.std().item() == pytest.approx(0.05, rel=0.12), name
            assert abs(weight.mean().item()) < 0.01, name
    again = LanguageModel(model.config)
    again.init_weights(torch.Generator().manual_seed(3))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
