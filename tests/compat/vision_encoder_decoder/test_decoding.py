"""Our decoding loops and steps against transformers' own, on the same model.

`GenerationMixin.generate` runs transformers' loop with its cache over our `forward`, which calls
the decoder as a module: neither our loops nor our step take part in it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
from dromaius.errors import InputError
from dromaius.models.vision_encoder_decoder.decoding.families import KINDS, read_layers
from tests.compat.vision_encoder_decoder.pairs import DECODERS, model, pixels

ENDS = [2, 5, 7, 9, 11, 20, 30]
"""Many ids that end a text: the tiny models meet some."""
PROMPT = torch.tensor([[1, 4, 6], [1, 8, 3]])
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 8, "eos_token_id": ENDS, "min_new_tokens": 2},
    "beams": {"num_beams": 3, "max_new_tokens": 8, "num_return_sequences": 2},
    "short": {
        "num_beams": 3, "max_new_tokens": 10, "length_penalty": -0.5, "early_stopping": True,
        "eos_token_id": ENDS,
    },
    "long": {
        "num_beams": 3, "max_new_tokens": 10, "length_penalty": 2.0, "early_stopping": "never",
        "eos_token_id": ENDS,
    },
    "rules": {
        "num_beams": 2, "max_new_tokens": 6, "decoder_input_ids": PROMPT, "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [6, 7]], "min_new_tokens": 3,
        "forced_bos_token_id": 4, "forced_eos_token_id": 2,
    },
    "sampled": {
        "do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6, "top_k": 10,
        "top_p": 0.9, "temperature": 0.7,
    },
    "sampled beams": {"do_sample": True, "num_beams": 3, "max_new_tokens": 5},
}  # fmt: skip


def both(ours: VisionEncoderDecoderModel, *given: Any, **settings: Any) -> tuple[Any, Any]:
    """What our loop writes, and what transformers' does."""
    settings = {"return_dict_in_generate": True, "output_scores": True} | settings
    torch.manual_seed(0)
    mine = ours.generate(*given, **settings)
    torch.manual_seed(0)
    return mine, GenerationMixin.generate(ours, *given, **settings)


def assert_same(mine: Any, theirs: Any) -> None:
    assert type(mine) is type(theirs)
    assert torch.equal(mine.sequences, theirs.sequences)
    assert len(mine.scores) == len(theirs.scores)
    for a, b in zip(mine.scores, theirs.scores, strict=True):
        torch.testing.assert_close(a, b, atol=3e-4, rtol=1e-3)
    if "sequences_scores" in theirs:
        torch.testing.assert_close(mine.sequences_scores, theirs.sequences_scores)
        assert torch.equal(mine.beam_indices, theirs.beam_indices)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_writes_what_transformers_writes(decoder: str) -> None:
    ours = model("vit", decoder)
    fast = read_layers(ours.decoder) is not None
    assert fast == (ours.config.decoder.model_type in KINDS)
    for settings in SETTINGS.values():
        assert_same(*both(ours, pixels("vit"), **settings))


@pytest.mark.parametrize("name", ["beams", "sampled"])
@pytest.mark.parametrize("decoder", ["gpt2", "bert", "mbart", "xglm"])
def test_transformers_loops_are_not_called(
    decoder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("transformers' loop was called")

    for loop in ("_sample", "_beam_search", "_prefill", "_assisted_decoding"):
        monkeypatch.setattr(GenerationMixin, loop, never)
    ours = model("vit", decoder)
    if read_layers(ours.decoder) is not None:  # nor is the decoder called as a module
        monkeypatch.setattr(type(ours.decoder), "forward", never)
    for encoder_use in (pixels("vit"), None):
        given = {} if encoder_use is not None else {"encoder_outputs": encoded(ours)}
        ours.generate(encoder_use, **SETTINGS[name], **given)


def encoded(ours: VisionEncoderDecoderModel) -> Any:
    with torch.no_grad():
        return ours.encode_images(pixels("vit"))


@pytest.mark.parametrize("decoder", ["gpt2", "trocr", "roberta", "roformer"])
def test_padded_images_and_padded_prompts(decoder: str) -> None:
    ours = model("vit", decoder)
    outputs = encoded(ours)
    tokens = outputs.last_hidden_state.shape[1]
    mask = torch.ones(2, tokens, dtype=torch.long)
    mask[1, 3:] = 0
    settings = {"num_beams": 2, "max_new_tokens": 6, "min_new_tokens": 6}
    masked = ours.generate(encoder_outputs=outputs, encoder_attention_mask=mask, **settings)
    short = outputs.last_hidden_state[1:, :3]
    alone = ours.generate(encoder_outputs=(short,), **settings)
    assert torch.equal(masked[1:], alone)
    full = ours.generate(encoder_outputs=outputs, **settings)
    assert torch.equal(masked[0], full[0]) and not torch.equal(masked[1], full[1])
    prompts = {
        "decoder_input_ids": torch.tensor([[1, 0, 5], [1, 6, 5]]),
        "decoder_attention_mask": torch.tensor([[1, 0, 1], [1, 1, 1]]),
    }
    assert_same(*both(ours, pixels("vit"), **prompts, **settings))


@pytest.mark.parametrize("decoder", ["gpt2", "bart", "xlm-roberta-xl"])
def test_attentions_and_hidden_states(decoder: str) -> None:
    ours = model("vit", decoder)
    settings = {
        "num_beams": 2, "max_new_tokens": 4, "output_attentions": True, "output_logits": True,
        "output_hidden_states": True, "decoder_input_ids": PROMPT, "min_new_tokens": 4,
    }  # fmt: skip
    mine, _ = both(ours, pixels("vit"), **settings)
    ours.set_attn_implementation("eager")  # else transformers returns empty tuples
    _, theirs = both(ours, pixels("vit"), **settings)
    assert_same(mine, theirs)
    names = [
        "logits", "decoder_attentions", "cross_attentions", "decoder_hidden_states",
        "encoder_attentions", "encoder_hidden_states",
    ]  # fmt: skip
    for name in names:
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), msg=name)


@pytest.mark.parametrize("decoder", ["gpt2", "ernie", "pegasus", "roformer"])
@pytest.mark.parametrize("name", ["greedy", "long"])
def test_uncached_and_eager_write_the_same(decoder: str, name: str) -> None:
    ours = model("vit", decoder)
    written = ours.generate(pixels("vit"), **SETTINGS[name])
    assert torch.equal(written, ours.generate(pixels("vit"), use_cache=False, **SETTINGS[name]))
    ours.set_attn_implementation("eager")
    assert torch.equal(written, ours.generate(pixels("vit"), **SETTINGS[name]))


class Favour(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Tensor:
        scores = scores.clone()
        scores[:, 7 + input_ids.shape[1]] += 50
        return scores


class Short(StoppingCriteria):
    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] >= 5)


def test_rules_of_the_callers_own() -> None:
    ours = model("vit", "gpt2")
    for beams in (1, 2):
        settings = {
            "logits_processor": LogitsProcessorList([Favour()]),
            "stopping_criteria": StoppingCriteriaList([Short()]),
            "prefix_allowed_tokens_fn": lambda row, ids: [8, 9, 10, 30 + row],
            "num_beams": beams,
        }
        mine, theirs = both(ours, pixels("vit"), max_new_tokens=9, **settings)
        assert_same(mine, theirs)
        assert mine.sequences.shape[1] == 5


class Collected(TextStreamer):
    def __init__(self) -> None:
        self.ids: list[Any] = []
        self.ended = False

    def put(self, value: Any) -> None:
        self.ids.append(value.tolist())

    def end(self) -> None:
        self.ended = True


def test_a_streamer_sees_every_id() -> None:
    ours, streamer = model("vit", "gpt2"), Collected()
    written = ours.generate(pixels("vit", 1), max_new_tokens=4, min_new_tokens=4, streamer=streamer)
    assert streamer.ended and streamer.ids[0] == [[1]]
    assert [ids for (ids,) in streamer.ids[1:]] == written[0, 1:].tolist()
    with pytest.raises(ValueError, match="set num_beams=1"):
        ours.generate(pixels("vit", 1), num_beams=2, max_new_tokens=2, streamer=streamer)


def test_what_is_left_to_transformers_still_works() -> None:
    ours = model("vit", "gpt2")
    expected = ours.generate(pixels("vit", 1), max_new_tokens=6, min_new_tokens=6)
    assistant = model("vit", "gpt2", seed=3)
    options = {"max_new_tokens": 6, "min_new_tokens": 6}
    assisted = ours.generate(pixels("vit", 1), assistant_model=assistant, **options)
    assert torch.equal(assisted, expected)


def test_a_decoder_that_was_changed_is_called_as_a_module() -> None:
    ours = model("vit", "gpt2")
    before = ours.generate(pixels("vit"), max_new_tokens=6, min_new_tokens=6)
    seen: list[int] = []
    hook = ours.decoder.transformer.h[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(before, ours.generate(pixels("vit"), max_new_tokens=6, min_new_tokens=6))
    assert len(seen) == 6
    hook.remove()
    with torch.no_grad():  # weights are read anew for every text
        ours.decoder.transformer.h[0].mlp.c_proj.weight.add_(1.0)
    assert_same(*both(ours, pixels("vit"), max_new_tokens=6, min_new_tokens=6))


def test_accelerated_texts_and_exact_ones_again() -> None:
    ours = model("vit", "gpt2")
    weights = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    settings = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 1}
    exact = ours.generate(pixels("vit", 20), num_beams=1, **settings)
    fast = ours.accelerate().generate(pixels("vit", 20), num_beams=1, **settings)
    off = (fast.logits[0] - exact.logits[0]).norm() / exact.logits[0].norm()
    assert 1e-4 < off < 0.05
    alone = ours.generate(pixels("vit", 20)[7:8], num_beams=1, **settings)
    torch.testing.assert_close(alone.logits[0], fast.logits[0][7:8])
    state = ours.state_dict()
    assert list(state) == list(weights)
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    ours.accelerate(encoder=None, decoder=None)
    again = ours.generate(pixels("vit", 20), num_beams=1, **settings)
    assert torch.equal(again.logits[0], exact.logits[0])
    for decoder in ("bert", "mbart"):
        other = model("vit", decoder).accelerate()
        assert other.generate(pixels("vit"), num_beams=2, max_new_tokens=3).shape[0] == 2
    with pytest.raises(InputError, match="decoder must be int8, int4 or fp8, got 'int2'"):
        ours.accelerate(decoder="int2")
    with pytest.raises(InputError, match="XGLMForCausalLM as this one has no form in few bits"):
        model("vit", "xglm").accelerate()
