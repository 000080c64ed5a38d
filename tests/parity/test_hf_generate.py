"""generate() against transformers 5.23: greedy, with pictures, with guidance, padded, in beams."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.emu3 import modeling_emu3 as upstream

from dromaius import errors
from dromaius.compat import transformers as compat
from tests import tiny
from tests.compat.transformers.pairs import (
    Pair,
    largest_difference,
    make_pair,
    picture_prompt,
    processors,
    prompts,
)

pytestmark = pytest.mark.parity
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}
SCORES = {"return_dict_in_generate": True, "output_scores": True}


@pytest.fixture(scope="module")
def pair(rng_seed: int, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("generate"), rng_seed, "sdpa")


def both(pair: Pair, **arguments: Any) -> tuple[Any, Any]:
    return tuple(model.generate(**arguments) for model in (pair.theirs, pair.ours))


def assert_same(theirs: Any, ours: Any) -> None:
    assert torch.equal(theirs.sequences, ours.sequences)
    for a, b in zip(theirs.scores, ours.scores, strict=True):
        finite = a.isfinite()
        assert torch.equal(finite, b.isfinite())
        assert largest_difference(a[finite], b[finite]) <= 1e-3


def test_greedy_with_left_padding(pair: Pair) -> None:
    ids, mask = prompts(pair, [9, 5, 7])
    assert_same(*both(pair, input_ids=ids, attention_mask=mask, **GREEDY, **SCORES))


def test_a_batch_is_its_single_prompts(pair: Pair) -> None:
    ids, mask = prompts(pair, [9, 4])
    together = pair.ours.generate(input_ids=ids, attention_mask=mask, **GREEDY)[:, 9:]
    for row in range(2):
        alone = ids[row][mask[row].bool()][None]
        single = pair.ours.generate(input_ids=alone, **GREEDY)[:, alone.shape[1] :]
        assert torch.equal(single[0], together[row, : single.shape[1]])


def test_without_a_cache_the_same(pair: Pair) -> None:
    ids, mask = prompts(pair, [6, 3])
    arguments = {"input_ids": ids, "attention_mask": mask, **GREEDY}
    assert torch.equal(
        pair.ours.generate(**arguments), pair.ours.generate(**arguments, use_cache=False)
    )


def test_pictures_are_seen(pair: Pair) -> None:
    inputs = picture_prompt(pair, [(40, 48), (48, 40)], ["what?", "and which?"])
    theirs, ours = both(pair, **inputs, **GREEDY, **SCORES)
    assert_same(theirs, ours)
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    changed = pair.ours.generate(**other, **GREEDY, **SCORES)
    assert largest_difference(changed.scores[0], ours.scores[0]) > 1e-3


def test_pictures_follow_their_prompt_into_beams_and_returned_sequences(pair: Pair) -> None:
    inputs = picture_prompt(pair, [(40, 48), (48, 40)], ["what?", "and which?"])
    theirs, ours = both(pair, **inputs, do_sample=False, max_new_tokens=4, num_beams=2)
    assert torch.equal(theirs, ours)


def test_sampling_from_the_same_random_state(pair: Pair) -> None:
    ids, mask = prompts(pair, [6, 3])
    drawn = []
    for model in (pair.theirs, pair.ours):
        torch.manual_seed(5)
        drawn.append(
            model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, top_k=20, max_new_tokens=5
            )
        )
    assert torch.equal(*drawn)


def test_static_cache(pair: Pair) -> None:
    ids, mask = prompts(pair, [6, 3])
    arguments = {"input_ids": ids, "attention_mask": mask, **GREEDY, "disable_compile": True}
    plain = pair.ours.generate(**arguments)
    assert torch.equal(plain, pair.ours.generate(**arguments, cache_implementation="static"))


def negative(pair: Pair, header: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prompt that ends with a picture's header, and the negative prompt."""
    _, processor = processors(pair.codebook)
    drawing = {"return_for_image_generation": True, "image_area": 24 * 24}
    options = {"padding": True, "return_tensors": "pt"}
    inputs = processor(text=["a red apple", "a dog"], **options, **drawing)
    inputs.pop("image_sizes")
    wrong = processor(text=["blurry", "low quality"], **options, **(drawing if header else {}))
    wrong.pop("image_sizes", None)
    return dict(inputs), {
        "negative_prompt_ids": wrong["input_ids"],
        "negative_prompt_attention_mask": wrong["attention_mask"],
    }


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    errors.warn_once.cache_clear()


def test_guidance_equals_upstreams(pair: Pair) -> None:
    inputs, wrong = negative(pair, header=True)
    arguments = {**inputs, **wrong, **GREEDY, **SCORES, "guidance_scale": 2.5}
    theirs, ours = both(pair, **arguments)
    assert_same(theirs, ours)
    plain = pair.ours.generate(**inputs, **GREEDY, **SCORES)
    assert largest_difference(plain.scores[0].log_softmax(-1), ours.scores[0]) > 1e-2


def test_guidance_equals_the_formula(pair: Pair) -> None:
    """g (s - u) + u over the full vocabulary, each step from scratch and without any cache."""
    inputs, wrong = negative(pair, header=True)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    other, other_mask = wrong["negative_prompt_ids"], wrong["negative_prompt_attention_mask"]
    one = torch.ones(2, 1, dtype=torch.long)
    chosen = []
    for _ in range(4):
        with torch.no_grad():
            s = pair.theirs(input_ids=ids, attention_mask=mask).logits[:, -1].log_softmax(-1)
            u = pair.theirs(input_ids=other, attention_mask=other_mask).logits[:, -1]
        u = u.log_softmax(-1)
        best = (3.0 * (s - u) + u).argmax(-1, keepdim=True)
        chosen.append(best)
        ids, other = torch.cat((ids, best), 1), torch.cat((other, best), 1)
        mask, other_mask = torch.cat((mask, one), 1), torch.cat((other_mask, one), 1)
    settings = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None}
    got = pair.ours.generate(**inputs, **wrong, **settings, guidance_scale=3.0)
    assert torch.equal(got[:, -4:], torch.cat(chosen, 1))


def test_a_negative_prompt_alone_means_guidance_3(pair: Pair) -> None:
    """transformers ignores it: its output does not change at all."""
    inputs, wrong = negative(pair, header=True)
    ignored = pair.theirs.generate(**inputs, **wrong, **GREEDY, **SCORES)
    assert_same(ignored, pair.theirs.generate(**inputs, **GREEDY, **SCORES))
    with pytest.warns(UserWarning, match="guidance 3.0") as caught:
        got = pair.ours.generate(**inputs, **wrong, **GREEDY, **SCORES)
        pair.ours.generate(**inputs, **wrong, **GREEDY)
    assert len([w for w in caught if "guidance" in str(w.message)]) == 1
    assert_same(pair.ours.generate(**inputs, **wrong, **GREEDY, **SCORES, guidance_scale=3.0), got)
    off = pair.ours.generate(**inputs, **wrong, **GREEDY, guidance_scale=1.0)
    assert torch.equal(off, pair.ours.generate(**inputs, **GREEDY))


def test_a_negative_prompt_gets_the_pictures_header(pair: Pair) -> None:
    inputs, bare = negative(pair, header=False)
    _, whole = negative(pair, header=True)
    guided = {**GREEDY, **SCORES, "guidance_scale": 3.0}
    with pytest.warns(UserWarning, match="header") as caught:
        completed = pair.ours.generate(**inputs, **bare, **guided)
    assert len([w for w in caught if "header" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        expected = pair.ours.generate(**inputs, **whole, **guided)
    assert_same(expected, completed)
    upstreams = pair.theirs.generate(**inputs, **bare, **guided)
    assert largest_difference(upstreams.scores[0], completed.scores[0]) > 1e-3
    text_only, _ = prompts(pair, [6, 6])  # no header to give
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pair.ours.generate(input_ids=text_only, **bare, **guided)


def test_several_pictures_a_prompt(pair: Pair) -> None:
    """transformers fails where guidance meets num_return_sequences; ours repeats the negative."""
    inputs, wrong = negative(pair, header=True)
    several = {"do_sample": True, "max_new_tokens": 3, "num_return_sequences": 2}
    settings = {**several, "guidance_scale": 3.0, "top_k": 1}
    with pytest.raises(RuntimeError):
        pair.theirs.generate(**inputs, **wrong, **settings)
    got = pair.ours.generate(**inputs, **wrong, **settings)
    single = pair.ours.generate(
        **inputs, **wrong, **GREEDY | {"max_new_tokens": 3}, guidance_scale=3.0
    )
    assert torch.equal(got, single.repeat_interleave(2, dim=0))
    one = {name: tensor[:1] for name, tensor in wrong.items()}
    with pytest.raises(ValueError, match="1 negative prompts for 2 prompts"):
        pair.ours.generate(**inputs, **one, **GREEDY, guidance_scale=3.0)


def test_both_branches_are_float32_in_a_bfloat16_model(pair: Pair) -> None:
    """transformers takes the unconditional softmax in bfloat16 (spec section 0, fact 7)."""
    inputs, wrong = negative(pair, header=True)
    ours = compat.Emu3ForConditionalGeneration.from_pretrained(pair.folder, dtype="bfloat16")
    theirs = upstream.Emu3ForConditionalGeneration.from_pretrained(pair.folder, dtype="bfloat16")
    with torch.no_grad():
        s = ours(**inputs).logits[:, -1].float().log_softmax(-1)
        u = ours(
            input_ids=wrong["negative_prompt_ids"],
            attention_mask=wrong["negative_prompt_attention_mask"],
        ).logits[:, -1]
    exact = 3.0 * (s - u.float().log_softmax(-1)) + u.float().log_softmax(-1)
    arguments = {**inputs, **wrong, **SCORES, "do_sample": False, "max_new_tokens": 1}
    got = ours.generate(**arguments, guidance_scale=3.0)
    # the first prompt has no padding: `generate` counts the other's positions differently
    # numbers near 8: float32 rounds them at 1e-6, bfloat16 at 3e-2
    assert largest_difference(got.scores[0][0], exact[0]) <= 1e-4
    coarse = theirs.generate(**arguments, guidance_scale=3.0)
    assert largest_difference(coarse.scores[0][0], exact[0]) > 1e-3


def test_causal_model(rng_seed: int) -> None:
    import random

    theirs = tiny.make_language_model(tiny.random_text_config(random.Random(rng_seed)), rng_seed)
    ours = compat.Emu3ForCausalLM(compat.Emu3TextConfig(**theirs.config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    ids: Tensor = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(rng_seed))
    arguments = {"input_ids": ids, **GREEDY, **SCORES, "guidance_scale": 2.0}
    arguments["negative_prompt_ids"] = ids.flip(0)[:, :4]
    assert_same(theirs.generate(**arguments), ours.generate(**arguments))
