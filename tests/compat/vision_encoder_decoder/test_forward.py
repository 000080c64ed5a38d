"""Values against transformers 5.23 with the same weights, where that works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
from dromaius.errors import InputError
from tests.compat.vision_encoder_decoder.pairs import DECODERS, labels, model, pixels

PAIRS = [("vit", "gpt2"), ("swin", "bert"), ("deit", "trocr")]


@pytest.fixture(scope="module", params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(encoder's name, ours, transformers' model of the same weights)."""
    encoder, decoder = request.param
    folder = tmp_path_factory.mktemp("model")
    ours = model(encoder, decoder)
    ours.save_pretrained(folder)
    theirs = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    return encoder, ours, theirs


def test_logits_loss_and_gradients(pair: Any) -> None:
    encoder, ours, theirs = pair
    images, targets = pixels(encoder), labels()
    results = []
    for subject in (ours, theirs):
        subject.zero_grad()
        out = subject(pixel_values=images, labels=targets)
        out.loss.backward()
        results.append(out)
    mine, upstream = results
    torch.testing.assert_close(mine.logits, upstream.logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mine.loss, upstream.loss, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mine.encoder_last_hidden_state, upstream.encoder_last_hidden_state)
    theirs_by_name = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, theirs_by_name[name].grad, atol=1e-6, rtol=1e-4, msg=name
        )


def test_the_tuple_and_its_order(pair: Any) -> None:
    encoder, ours, theirs = pair
    wishes = {"output_hidden_states": True, "return_dict": False, "use_cache": False}
    with torch.no_grad():
        mine = ours(pixels(encoder), labels=labels(), **wishes)
        upstream = theirs(pixels(encoder), labels=labels(), **wishes)
    assert len(mine) <= len(upstream)  # upstream's may hold the pooler's output, Swin's maps
    torch.testing.assert_close(mine[0], upstream[0])
    torch.testing.assert_close(mine[1], upstream[1])
    torch.testing.assert_close(mine[2][-1], upstream[2][-1])  # the decoder's hidden states
    torch.testing.assert_close(mine[3], upstream[3])  # the encoder's last
    states = [t[-1] for t in upstream if isinstance(t, tuple) and t[-1].ndim == 3]
    torch.testing.assert_close(mine[-1][-1], states[-1])  # the encoder's hidden states


def test_generated_ids(pair: Any) -> None:
    encoder, ours, theirs = pair
    images = pixels(encoder)
    for settings in ({}, {"num_beams": 3}, {"max_length": 9}, {"bad_words_ids": [[5]]}):
        options = {"decoder_start_token_id": 1, "min_new_tokens": 4, **settings}
        assert torch.equal(ours.generate(images, **options), theirs.generate(images, **options))
    prompt = torch.tensor([[7, 8], [9, 10]])
    options = {"decoder_start_token_id": 1, "decoder_input_ids": prompt, "max_new_tokens": 4}
    mine = ours.generate(pixel_values=images, **options)
    assert torch.equal(mine, theirs.generate(pixel_values=images, **options))


def test_beam_scores_and_attentions(pair: Any) -> None:
    encoder, ours, theirs = pair
    theirs.set_attn_implementation("eager")  # with SDPA it returns empty tuples
    options = {
        "num_beams": 2,
        "max_new_tokens": 3,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_attentions": True,
    }
    mine = ours.generate(pixels(encoder), **options)
    upstream = theirs.generate(pixels(encoder), **options)
    torch.testing.assert_close(mine.sequences_scores, upstream.sequences_scores)
    torch.testing.assert_close(mine.cross_attentions[0][-1], upstream.cross_attentions[0][-1])
    torch.testing.assert_close(mine.encoder_attentions[-1], upstream.encoder_attentions[-1])


def test_attentions_are_returned_with_sdpa() -> None:
    ours = model("vit", "gpt2")
    assert ours.encoder.config._attn_implementation == "sdpa"
    with torch.no_grad():
        plain = ours(pixels("vit"), labels=labels())
        out = ours(pixels("vit"), labels=labels(), output_attentions=True)
    assert [len(a) for a in (out.encoder_attentions, out.decoder_attentions)] == [2, 2]
    assert out.cross_attentions[0].shape == (2, 2, 6, 5)  # rows, heads, tokens, image tokens
    torch.testing.assert_close(out.cross_attentions[0].sum(-1), torch.ones(2, 2, 6))
    torch.testing.assert_close(out.logits, plain.logits, atol=1e-5, rtol=1e-4)
    assert ours.encoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("decoder", ["gpt2", "bert", "trocr", "bart"])
def test_a_mask_hides_image_tokens(decoder: str) -> None:
    ours = model("vit", decoder)
    encoded = ours.encode_images(pixels("vit"))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    cut = encoded.last_hidden_state[:, :3]
    spoilt = encoded.last_hidden_state.clone()
    spoilt[0, 3:] = 100.0
    with torch.no_grad():
        masked = ours(encoder_outputs=(spoilt,), encoder_attention_mask=mask, labels=labels())
        short = ours(encoder_outputs=(cut,), labels=labels())
        whole = ours(encoder_outputs=encoded, labels=labels())
    torch.testing.assert_close(masked.logits[0], short.logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masked.logits[1], whole.logits[1], atol=1e-5, rtol=1e-4)
    options = {"max_new_tokens": 5, "num_beams": 2}
    hidden = ours.generate(encoder_outputs=(spoilt,), encoder_attention_mask=mask, **options)
    alone = ours.generate(encoder_outputs=(cut[:1],), **options)
    assert torch.equal(hidden[:1, : alone.shape[1]], alone)
    with pytest.raises(InputError, match=r"has shape \(2, 5\); the images have \(2, 3\)"):
        ours(encoder_outputs=(cut,), encoder_attention_mask=mask, labels=labels())


def test_encoder_outputs_in_every_form() -> None:
    ours = model("vit", "gpt2")
    images, targets = pixels("vit"), labels()
    with torch.no_grad():
        expected = ours(images, labels=targets).logits
        raw = ours.encoder(images)
        for given in (raw, tuple(raw.values()), raw[0], ours.encode_images(images)):
            torch.testing.assert_close(ours(encoder_outputs=given, labels=targets).logits, expected)
    before = raw[0].clone()
    ours.generate(encoder_outputs=raw, num_beams=2)
    assert torch.equal(raw[0], before)  # transformers repeats a caller's tensors for beams in place


def test_the_image_is_projected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DECODERS["gpt2"]()
    config.n_embd = 48
    ours = VisionEncoderDecoderModel(
        config=transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            model("vit", "gpt2").config.encoder, config
        )
    ).eval()
    calls = []
    ours.enc_to_dec_proj.register_forward_hook(lambda *args: calls.append(1))
    ours.generate(pixels("vit"), max_new_tokens=6, num_beams=2, decoder_start_token_id=1)
    assert len(calls) == 1


def test_arguments_reach_their_part() -> None:
    ours = model("vit", "gpt2")
    large = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        out = ours(large, labels=labels(1), interpolate_pos_encoding=True)
        assert out.encoder_last_hidden_state.shape == (1, 17, 32)
        positions = torch.arange(3, 9)[None]
        moved = ours(pixels("vit", 1), labels=labels(1), decoder_position_ids=positions)
        plain = ours(pixels("vit", 1), labels=labels(1))
    assert (moved.logits - plain.logits).abs().max() > 1e-3
    assert ours.generate(large, interpolate_pos_encoding=True).shape[0] == 1
    with pytest.raises(TypeError, match="ViTModel takes no 'colour'"):
        ours(large, labels=labels(1), colour=3)


def test_missing_and_wrong_inputs() -> None:
    ours = model("vit", "gpt2")
    with pytest.raises(ValueError, match="give pixel_values, or encoder_outputs"):
        ours(labels=labels())
    with pytest.raises(InputError, match="have 1 channels, the encoder reads 3: convert .* RGB"):
        ours(torch.zeros(2, 1, 16, 16), labels=labels())
    with pytest.raises(
        InputError, match=r"must be \(batch, channels, height, width\), not \(3, 16"
    ):
        ours.generate(torch.zeros(3, 16, 16))
    with pytest.raises(InputError, match="labels hold id 60, the decoder's vocabulary has 60"):
        ours(pixels("vit"), labels=torch.full((2, 3), 60))
    with pytest.raises(InputError, match="decoder_input_ids hold id 99"):
        ours(pixels("vit"), decoder_input_ids=torch.full((2, 3), 99))


def test_the_vocabulary_is_resized_through_the_whole() -> None:
    ours = model("vit", "bert")
    ours.config.vocab_size = 60
    ours.resize_token_embeddings(64)
    assert (ours.config.decoder.vocab_size, ours.config.vocab_size) == (64, 64)
    targets = torch.full((2, 4), 63)
    assert ours(pixels("vit"), labels=targets).logits.shape == (2, 4, 64)
    assert ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
