"""The label shift and the loss, against values worked out by hand and torch's own formula."""

import pytest
import torch
import transformers
from torch import nn

from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.model import (
    VisionEncoderDecoder,
    shift_right,
    text_loss,
)


def test_labels_are_shifted_behind_the_start() -> None:
    labels = torch.tensor([[5, 6, 7, -100], [-100, 8, -100, 9]])
    shifted = shift_right(labels, start=1, pad=0)
    assert shifted.tolist() == [[1, 5, 6, 7], [1, 0, 8, 0]]
    assert labels.tolist() == [[5, 6, 7, -100], [-100, 8, -100, 9]]


def test_loss_is_the_mean_over_targets() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = torch.log(torch.tensor(5.0))  # probability 5/8 for 2, 1/8 for the others
    labels = torch.tensor([[2, -100, 3]])
    expected = -(torch.log(torch.tensor(5 / 8)) + torch.log(torch.tensor(1 / 4))) / 2
    assert text_loss(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    assert text_loss(logits, labels, 4).item() == pytest.approx(expected.item() / 2, abs=1e-6)
    assert text_loss(logits, labels, torch.tensor(4)).item() == pytest.approx(
        expected.item() / 2, abs=1e-6
    )


def test_loss_of_half_precision_is_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 1000, generator=generator).mul(8).bfloat16()
    labels = torch.randint(0, 1000, (2, 5), generator=generator)
    loss = text_loss(logits, labels)
    exact = nn.functional.cross_entropy(logits.double().flatten(0, 1), labels.flatten())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


def test_the_plain_module_is_the_chain_of_its_parts() -> None:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    encoder_config = parts.encoder_config(
        transformers.ViTConfig(hidden_size=32, image_size=16, patch_size=8, **sizes)
    )
    decoder_config = parts.decoder_config(
        transformers.BertConfig(hidden_size=48, vocab_size=30, **sizes)
    )
    encoder, decoder = parts.build_encoder(encoder_config), parts.build_decoder(decoder_config)
    joined = VisionEncoderDecoder(encoder, decoder).eval()
    pixels, ids = torch.randn(2, 3, 16, 16), torch.randint(0, 30, (2, 5))
    with torch.no_grad():
        seen = joined.enc_to_dec_proj(encoder(pixels).last_hidden_state)
        expected = decoder(ids, encoder_hidden_states=seen).logits
        torch.testing.assert_close(joined(pixels, ids), expected)
    kinds = {name.split(".")[0] for name in joined.state_dict()}
    assert kinds == {"encoder", "decoder", "enc_to_dec_proj"}
