"""Which ids `generate` and the loss use, and how long a text may be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from dromaius.compat.vision_encoder_decoder import (
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from dromaius.errors import ContextError, InputError
from tests.compat.vision_encoder_decoder.pairs import (
    DECODERS,
    ENCODERS,
    POSITIONS,
    labels,
    model,
    pixels,
)


def bare(decoder: str) -> VisionEncoderDecoderModel:
    """A model on whose configuration no id is set."""
    torch.manual_seed(0)
    config = VisionEncoderDecoderConfig(encoder=ENCODERS["vit"](), decoder=DECODERS[decoder]())
    return VisionEncoderDecoderModel(config=config).eval()


def test_ids_assigned_late_are_used_by_loss_and_generate() -> None:
    ours = bare("bert")
    ours.config.decoder_start_token_id = 9
    ours.config.pad_token_id = 3
    assert ours.generate(pixels("vit"), max_new_tokens=2)[:, 0].tolist() == [9, 9]
    ids = ours.prepare_decoder_input_ids_from_labels(torch.tensor([[7, -100, 8]]))
    assert ids.tolist() == [[9, 7, 3]]
    ours.config.decoder_start_token_id = 10
    assert ours.generate(pixels("vit"), max_new_tokens=2)[0, 0] == 10
    ours.generation_config.decoder_start_token_id = 11  # assigned after the configuration
    assert ours.generate(pixels("vit"), max_new_tokens=2)[0, 0] == 11
    assert ours.prepare_decoder_input_ids_from_labels(torch.tensor([[7, 8]])).tolist() == [[11, 7]]
    assert ours.generate(pixels("vit"), max_new_tokens=2, decoder_start_token_id=12)[0, 0] == 12


def test_the_end_id_ends_a_text_and_padding_fills_it() -> None:
    ours = model("vit", "gpt2")
    free = ours.generate(pixels("vit"), max_new_tokens=6, eos_token_id=None, min_new_tokens=6)
    ours.config.eos_token_id = int(free[0, 2])
    ours.config.pad_token_id = 5
    ended = ours.generate(pixels("vit"), max_new_tokens=6)
    assert ended[0, :3].tolist() == free[0, :3].tolist()
    assert set(ended[0, 3:].tolist()) <= {5}


def test_the_decoders_own_ids_are_the_last_resort() -> None:
    ours = bare("trocr")  # its configuration: start 2, pad 0
    assert ours.generate(pixels("vit"), max_new_tokens=2)[0, 0] == 2
    assert ours.prepare_decoder_input_ids_from_labels(torch.tensor([[7, -100, 8]])).tolist() == [
        [2, 7, 0]
    ]


def test_a_configuration_put_in_place_of_the_models() -> None:
    ours = bare("bert")
    ours.config = model("vit", "bert", decoder_start_token_id=13).config
    assert ours.generate(pixels("vit"), max_new_tokens=2)[0, 0] == 13


def test_no_start_id_at_all() -> None:
    ours = bare("bert")
    ours.config.decoder.bos_token_id = ours.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="set model.config.decoder_start_token_id"):
        ours(pixels("vit"), labels=labels())


class Tokenizer(SimpleNamespace):
    def __len__(self) -> int:
        return int(self.size)


def test_ids_of_a_tokenizer() -> None:
    ours = bare("bert")
    ids = {"cls_token_id": 4, "sep_token_id": 6, "pad_token_id": 0}
    ours.use_tokenizer(Tokenizer(size=60, bos_token_id=None, eos_token_id=None, **ids))
    settings = ours.generation_config
    assert (settings.decoder_start_token_id, settings.eos_token_id) == (4, 6)
    gpt2 = bare("gpt2")
    ids = {"cls_token_id": None, "sep_token_id": None, "pad_token_id": None}
    gpt2.use_tokenizer(Tokenizer(size=60, bos_token_id=8, eos_token_id=9, **ids))
    assert gpt2.start_and_pad() == (8, 9)
    with pytest.raises(InputError, match="the tokenizer has 61 tokens, the decoder 60"):
        gpt2.use_tokenizer(Tokenizer(size=61, bos_token_id=8, eos_token_id=9, **ids))


@pytest.mark.parametrize("decoder", ["gpt2", "roberta", "trocr", "trocr-sinusoidal", "bart"])
@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 99, "min_new_tokens": 99},
        {"max_length": 99, "min_length": 99, "num_beams": 2},
        {"generation_config": GenerationConfig(max_new_tokens=50, min_new_tokens=50)},
    ],
    ids=["new tokens", "length", "settings"],
)
def test_a_text_ends_with_the_decoders_positions(decoder: str, settings: dict[str, Any]) -> None:
    ours = model("vit", decoder)
    usable = POSITIONS - 1 if decoder == "roberta" else POSITIONS  # RoBERTa counts from pad + 1
    written = ours.generate(pixels("vit", 1), **settings)
    assert written.shape == (1, usable)
    assert ours(pixels("vit", 1), decoder_input_ids=written).logits.isfinite().all()


def test_lengths_within_the_positions_are_left_alone() -> None:
    ours = model("vit", "gpt2")
    options = {"min_new_tokens": 3}
    assert ours.generate(pixels("vit"), max_new_tokens=3, **options).shape[1] == 4
    assert ours.generate(pixels("vit"), max_length=5, **options).shape[1] <= 5
    ours.generation_config.eos_token_id = ours.config.eos_token_id = None
    assert ours.generate(pixels("vit")).shape[1] == 21  # start and 20 new ones, as transformers 5


def test_a_prompt_without_room() -> None:
    ours = model("vit", "gpt2")
    prompt = torch.full((1, POSITIONS), 5)
    with pytest.raises(ContextError, match="24 tokens leaves no room in the decoder's 24"):
        ours.generate(pixels("vit", 1), decoder_input_ids=prompt)
    near = ours.generate(pixels("vit", 1), decoder_input_ids=prompt[:, :20], max_new_tokens=20)
    assert near.shape[1] <= POSITIONS


def test_donut_prompts_are_not_preceded_by_a_start() -> None:
    ours = model("donut-swin", "mbart")
    prompt = torch.tensor([[7, 8]])
    options = {"decoder_input_ids": prompt, "max_new_tokens": 2}
    assert ours.generate(pixels("donut-swin", 1), **options)[0, :2].tolist() == [7, 8]
    other = model("swin", "mbart").generate(pixels("swin", 1), **options)
    assert other[0, :3].tolist() == [1, 7, 8]


def test_batch_equals_singles_and_sampling_repeats() -> None:
    ours = model("vit", "gpt2")
    images = pixels("vit", 3)
    batch = ours.generate(images, num_beams=3, max_new_tokens=6, min_new_tokens=6)
    for row, image in zip(batch, images, strict=True):
        alone = ours.generate(image[None], num_beams=3, max_new_tokens=6, min_new_tokens=6)
        assert torch.equal(alone[0], row)
    options = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 6}
    torch.manual_seed(3)
    first = ours.generate(images, **options)
    torch.manual_seed(3)
    assert torch.equal(first, ours.generate(images, **options))
    assert first.shape[0] == 6
