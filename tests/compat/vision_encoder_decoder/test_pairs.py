"""Every encoder and every decoder: the image matters, a cache changes nothing, files keep all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
from tests.compat.vision_encoder_decoder.pairs import (
    DECODERS,
    ENCODERS,
    labels,
    model,
    pixels,
)

PAIRS = [*((name, "gpt2") for name in ENCODERS), *(("vit", name) for name in DECODERS)]

UNUSED = {
    "dinov2": "encoder.embeddings.mask_token",  # for pretraining
    "dinov2-with-registers": "encoder.embeddings.mask_token",
    "dinov3-vit": "encoder.embeddings.mask_token",
    "clip": "encoder.post_layernorm",  # of the pooled output
    "siglip": "encoder.head",  # of the pooled output
    "convnext": "encoder.layernorm",  # of the pooled output
    "marian": "decoder.model.decoder.embed_positions",  # a fixed table
    "roformer": "decoder.roformer.encoder.embed_positions",
    "pegasus": "decoder.model.decoder.embed_positions",
}
"""Parameters of transformers' models that no text depends on."""


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_pair(encoder: str, decoder: str, tmp_path: Path) -> None:
    ours, images, targets = model(encoder, decoder), pixels(encoder), labels()
    with torch.no_grad():
        out = ours(images, labels=targets)
        other = ours(pixels(encoder, seed=5), labels=targets)
        assert (out.logits - other.logits).abs().max() > 1e-3, "the image is ignored"
        alone = ours(images[1:], labels=targets[1:])
        torch.testing.assert_close(alone.logits, out.logits[1:], atol=1e-4, rtol=1e-4)

    settings = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
    cached = ours.generate(images, use_cache=True, **settings)
    assert torch.equal(cached, ours.generate(images, use_cache=False, **settings))

    ours.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    assert not again.training
    with torch.no_grad():
        torch.testing.assert_close(again(images, labels=targets).logits, out.logits)

    again.train()
    again(images, labels=targets).loss.backward()
    lost = [name for name, p in again.named_parameters() if p.requires_grad and p.grad is None]
    unused = tuple(UNUSED[part] for part in (encoder, decoder) if part in UNUSED)
    assert [name for name in lost if not name.startswith(unused)] == []
