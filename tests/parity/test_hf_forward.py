"""forward() of each class against transformers 5.23: every documented argument, one at a time.

A row of the table changes one argument; the change must change transformers' result, and ours
must follow it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.models.emu3 import modeling_emu3 as upstream

from dromaius.compat import transformers as compat
from tests.compat.transformers.pairs import (
    Pair,
    largest_difference,
    make_pair,
    picture_prompt,
    prompts,
)

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
FIELDS = ("loss", "logits", "last_hidden_state", "hidden_states", "attentions")


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def pair(request: Any, rng_seed: int, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    seed = rng_seed + (request.param == "sdpa")
    return make_pair(tmp_path_factory.mktemp("forward"), seed, request.param)


def real(tensor: Any, mask: Tensor | None) -> Any:
    """Values at padding are nobody's business: zero along token axes."""
    if tensor is None or mask is None:
        return tensor
    if isinstance(tensor, (tuple, list)):
        return tuple(real(t, mask) for t in tensor)
    if tensor.ndim == 4:  # attentions [B,H,T,S]
        return tensor * mask[:, None, -tensor.shape[2] :, None]
    if tensor.ndim == 3 and tensor.shape[1] <= mask.shape[1]:
        return tensor * mask[:, -tensor.shape[1] :, None]
    return tensor


def values(output: Any, mask: Tensor | None) -> dict[str, Any]:
    return {f: real(output[f], mask) for f in FIELDS if output.get(f) is not None}


@dataclass(frozen=True)
class Case:
    """Arguments before the change and the change; each is made of (model, pair)."""

    name: str
    change: Callable[[Any, Pair], dict[str, Any]]
    base: Callable[[Any, Pair], dict[str, Any]] = lambda model, pair: text(pair)
    head_only: bool = False


def text(pair: Pair, seed: int = 0, lengths: tuple[int, ...] = (7, 7)) -> dict[str, Any]:
    return {"input_ids": prompts(pair, list(lengths), seed)[0]}


def embedded(model: Any, pair: Pair, seed: int) -> dict[str, Any]:
    return {"inputs_embeds": model.get_input_embeddings()(text(pair, seed)["input_ids"]).detach()}


def cached(model: Any, pair: Pair, seed: int) -> dict[str, Any]:
    cache = DynamicCache()
    with torch.no_grad():
        model(**text(pair, seed), past_key_values=cache, use_cache=True)
    return {**text(pair, 9, (3, 3)), "past_key_values": cache}


def labels(pair: Pair, seed: int) -> Tensor:
    chosen = text(pair, seed)["input_ids"].clone()
    chosen[0, :3] = -100
    return chosen


CASES = [
    Case("input_ids", lambda m, p: text(p, 1)),
    Case("inputs_embeds", lambda m, p: embedded(m, p, 2), lambda m, p: embedded(m, p, 3)),
    Case(
        "attention_mask",
        lambda m, p: {"attention_mask": prompts(p, [7, 4])[1]},
        lambda m, p: {"input_ids": prompts(p, [7, 4])[0]},
    ),
    Case("position_ids", lambda m, p: {"position_ids": torch.tensor([[0, 1, 2, 5, 6, 9, 12]])}),
    Case("past_key_values", lambda m, p: cached(m, p, 4), lambda m, p: cached(m, p, 5)),
    Case("output_attentions", lambda m, p: {"output_attentions": True}),
    Case("output_hidden_states", lambda m, p: {"output_hidden_states": True}),
    Case("labels", lambda m, p: {"labels": labels(p, 0)}, head_only=True),
    Case(
        "labels, other ones",
        lambda m, p: {"labels": labels(p, 6)},
        lambda m, p: {**text(p), "labels": labels(p, 0)},
        head_only=True,
    ),
    Case("logits_to_keep", lambda m, p: {"logits_to_keep": 2}, head_only=True),
    Case(
        "logits_to_keep, a tensor",
        lambda m, p: {"logits_to_keep": torch.tensor([1, 4])},
        head_only=True,
    ),
]


def check(
    pair: Pair, theirs: Any, ours: Any, case: Case, rename: dict[str, str] | None = None
) -> None:
    before = values(theirs(**case.base(theirs, pair)), None)
    arguments = {**case.base(theirs, pair), **case.change(theirs, pair)}
    mine = {**case.base(ours, pair), **case.change(ours, pair)}
    mask = arguments.get("attention_mask")
    expected = values(theirs(**arguments), mask)
    got = values(ours(**{(rename or {}).get(k, k): v for k, v in mine.items()}), mask)
    if case.name == "output_attentions" and theirs.config._attn_implementation == "sdpa":
        assert (
            got.pop("attentions")[0].shape[1] == ours.config.get_text_config().num_attention_heads
        )
        expected.pop("attentions", None)  # transformers returns none of them with sdpa
        before = {}
    changed = before.keys() != expected.keys() or any(
        largest_difference(before[k], expected[k]) > 1e-3 for k in before
    )
    assert changed, f"{case.name} changes nothing in transformers"
    assert got.keys() == expected.keys()
    for field in expected:
        assert largest_difference(got[field], expected[field]) <= TOLERANCE, (case.name, field)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@torch.no_grad()
def test_whole_model_arguments(pair: Pair, case: Case) -> None:
    check(pair, pair.theirs, pair.ours, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@torch.no_grad()
def test_causal_model_arguments(pair: Pair, case: Case) -> None:
    theirs = upstream.Emu3ForCausalLM(pair.theirs.config.text_config).eval()
    theirs.model, theirs.lm_head = pair.theirs.model.text_model, pair.theirs.lm_head
    check(
        pair,
        theirs,
        compat.Emu3ForCausalLM.from_pretrained(
            pair.folder, attn_implementation=theirs.config._attn_implementation
        ),
        case,
    )


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.head_only], ids=lambda case: case.name
)
@torch.no_grad()
def test_text_model_arguments(pair: Pair, case: Case) -> None:
    check(pair, pair.theirs.model.text_model, pair.ours.model.text_model, case)
    check(pair, pair.theirs.model, pair.ours.model, case)


@torch.no_grad()
def test_num_logits_to_keep_is_the_older_name(pair: Pair) -> None:
    for case in CASES:
        if case.name.startswith("logits_to_keep") and "tensor" not in case.name:
            check(pair, pair.theirs, pair.ours, case, {"logits_to_keep": "num_logits_to_keep"})
    with pytest.raises(ValueError, match="one of"):
        pair.ours(**text(pair), num_logits_to_keep=1, logits_to_keep=2)


@torch.no_grad()
def test_return_dict_and_use_cache(pair: Pair) -> None:
    arguments = text(pair)
    for model in (pair.ours, pair.ours.model, pair.ours.model.text_model):
        full = model(**arguments)
        plain = model(**arguments, return_dict=False)
        assert isinstance(plain, tuple) and torch.equal(plain[0], full[0])
        assert model(**arguments, use_cache=False).past_key_values is None
        assert len(plain) == 2 and len(model(**arguments, use_cache=False, return_dict=False)) == 1
    theirs = pair.theirs(**arguments, use_cache=False, return_dict=False)
    assert len(theirs) == len(pair.ours(**arguments, use_cache=False, return_dict=False))


@torch.no_grad()
def test_the_cache_comes_back_in_the_format_it_was_given_in(pair: Pair) -> None:
    """Without one: tuples. Both formats hold transformers' keys and values, and continue alike."""
    ids, mask = prompts(pair, [9, 6])
    expected = pair.theirs(input_ids=ids, attention_mask=mask, past_key_values=DynamicCache())
    legacy = pair.ours(input_ids=ids[:, :6], attention_mask=mask[:, :6]).past_key_values
    assert isinstance(legacy, tuple) and isinstance(legacy[0], tuple)
    assert len(legacy) == pair.theirs.config.text_config.num_hidden_layers
    more = {"input_ids": ids[:, 6:], "attention_mask": mask}
    after_legacy = pair.ours(**more, past_key_values=legacy)
    assert isinstance(after_legacy.past_key_values, tuple)
    cache = DynamicCache()
    pair.ours(input_ids=ids[:, :6], attention_mask=mask[:, :6], past_key_values=cache)
    after_cache = pair.ours(**more, past_key_values=cache)
    assert after_cache.past_key_values is cache
    for after in (after_legacy, after_cache):
        assert largest_difference(after.logits, expected.logits[:, 6:]) <= TOLERANCE
    theirs = [(layer.keys, layer.values) for layer in expected.past_key_values.layers]
    kept = mask.bool()[:, None, :, None]
    for mine, other in zip(after_legacy.past_key_values, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert largest_difference(a * kept, b * kept) <= TOLERANCE
    with pytest.raises(ValueError, match="layers"):
        pair.ours(**more, past_key_values=legacy + legacy)


@torch.no_grad()
def test_static_cache_and_4d_mask(pair: Pair) -> None:
    ids, mask = prompts(pair, [8, 5])
    expected = pair.theirs(input_ids=ids, attention_mask=mask).logits
    static = StaticCache(config=pair.ours.config.text_config, max_cache_len=12)
    first = pair.ours(input_ids=ids[:, :5], attention_mask=mask[:, :5], past_key_values=static)
    then = pair.ours(input_ids=ids[:, 5:], attention_mask=mask, past_key_values=static)
    got = torch.cat((first.logits, then.logits), dim=1)
    assert largest_difference(real(got, mask), real(expected, mask)) <= TOLERANCE
    whole = torch.ones(8, 8).tril().bool() & mask.bool()[:, None, None]
    for given in (whole, torch.zeros(whole.shape).masked_fill(~whole, -1e9)):
        got = pair.ours(input_ids=ids, attention_mask=given).logits
        assert largest_difference(real(got, mask), real(expected, mask)) <= TOLERANCE


@torch.no_grad()
def test_cache_position_must_continue_the_cache(pair: Pair) -> None:
    cache = DynamicCache()
    pair.ours(**text(pair), past_key_values=cache, cache_position=torch.arange(7))
    more = {**text(pair, 1, (2, 2)), "past_key_values": cache}
    with pytest.raises(ValueError, match="cache_position"):
        pair.ours(**more, cache_position=torch.arange(2))
    pair.ours(**more, cache_position=torch.tensor([7, 8]))


@torch.no_grad()
def test_pixel_values_and_image_sizes(pair: Pair) -> None:
    inputs = picture_prompt(pair, [(40, 48), (48, 40)], ["what?", "and this?"])
    expected = pair.theirs(**inputs, output_hidden_states=True, use_cache=False)
    got = pair.ours(**inputs, output_hidden_states=True, use_cache=False)
    mask = inputs["attention_mask"]
    assert largest_difference(real(got.logits, mask), real(expected.logits, mask)) <= TOLERANCE
    hidden = real(got.hidden_states, mask), real(expected.hidden_states, mask)
    assert largest_difference(*hidden) <= TOLERANCE
    other = {**inputs, "pixel_values": -inputs["pixel_values"]}
    moved = real(pair.ours(**other).logits - got.logits, mask).abs().max()
    assert moved > 1e-3, "the picture does not matter"
    assert (
        largest_difference(
            real(pair.ours(**other).logits, mask), real(pair.theirs(**other).logits, mask)
        )
        <= TOLERANCE
    )
    with pytest.raises(ValueError, match="<image> ids"):
        pair.ours(**{**inputs, "image_sizes": inputs["image_sizes"] - 8})
    with pytest.raises(ValueError):
        pair.theirs(**{**inputs, "image_sizes": inputs["image_sizes"] - 8})


@torch.no_grad()
def test_pictures_beside_embeddings(pair: Pair) -> None:
    inputs = picture_prompt(pair, [(40, 48)], ["what?"])
    expected = pair.ours(**inputs).logits
    ids = inputs.pop("input_ids")
    got = pair.ours(**inputs, inputs_embeds=pair.ours.get_input_embeddings()(ids)).logits
    assert torch.equal(got, expected)


@torch.no_grad()
def test_image_tokens_and_features(pair: Pair) -> None:
    inputs = picture_prompt(pair, [(40, 48), (48, 40)], ["a", "b"])
    pixels = {k: inputs[k] for k in ("pixel_values", "image_sizes")}
    expected = pair.theirs.model.get_image_tokens(**pixels)
    assert torch.equal(pair.ours.get_image_tokens(**pixels).long(), expected.long())
    theirs, ours = (m.model.get_image_features(**pixels) for m in (pair.theirs, pair.ours))
    assert largest_difference(ours.pooler_output, theirs.pooler_output) <= TOLERANCE
    assert largest_difference(ours.last_hidden_state, theirs.last_hidden_state) <= TOLERANCE


def test_contradictions_and_unknown_arguments_are_errors(pair: Pair) -> None:
    arguments = text(pair)
    embeds = pair.ours.get_input_embeddings()(arguments["input_ids"])
    for wrong in ({}, {**arguments, "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="exactly one"):
            pair.ours(**wrong)
    with pytest.raises(TypeError, match="output_atentions"):
        pair.ours(**arguments, output_atentions=True)
    with pytest.raises(ValueError, match="attention_mask"):
        pair.ours(**arguments, attention_mask=torch.zeros(2, 9))


def test_gradients_equal(pair: Pair) -> None:
    """Training works on either, and the padding row gets no gradient."""
    arguments = {**text(pair), "labels": labels(pair, 0)}
    found = []
    for model in (pair.theirs, pair.ours):
        model.zero_grad()
        model(**arguments).loss.backward()
        layer = model.model.text_model.layers[0]
        found.append((layer.self_attn.q_proj.weight.grad, layer.mlp.down_proj.weight.grad))
        model.zero_grad()
    assert largest_difference(*found) <= TOLERANCE
    assert all(p.grad is None for p in pair.ours.vqmodel.parameters())


def test_saved_file_is_where_it_was_read_from(pair: Pair) -> None:
    assert Path(pair.ours.name_or_path) == pair.folder
