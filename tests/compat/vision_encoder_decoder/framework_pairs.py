"""Models in PyTorch's files, with what PyTorch finds for them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from dromaius.compat.vision_encoder_decoder import VisionEncoderDecoderModel
from dromaius.models.vision_encoder_decoder.array_files import read_arrays
from tests.compat.vision_encoder_decoder.pairs import configuration
from tests.compat.vision_encoder_decoder.pairs import labels as some_labels
from tests.compat.vision_encoder_decoder.pairs import pixels as some_pixels

PAIRS = {
    "vit-gpt2": ("vit", "gpt2", {"n_embd": 64}),  # twice the encoder's: a projection
    "swin-bert": ("swin", "bert", {}),
    "deit-trocr": ("deit", "trocr", {}),
}
LENGTH = 9

Found = dict[str, np.ndarray]


def write(name: str, folder: Path) -> Found:
    """Saves the pair's model into `folder` with its inputs; returns PyTorch's values."""
    encoder, decoder, changes = PAIRS[name]
    config = configuration(encoder, decoder, dropout=False)
    for attribute, value in changes.items():
        setattr(config.decoder, attribute, value)
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(config=config).eval()
    model.save_pretrained(folder)
    pixels, labels = some_pixels(encoder), some_labels()
    wishes = {"output_attentions": True, "output_hidden_states": True}
    out = model(pixel_values=pixels, labels=labels, **wishes)
    out.loss.backward()
    np.savez(folder / "inputs.npz", pixels=pixels, labels=labels, ids=labels.clamp(min=0))
    found = {"loss": out.loss, "logits": out.logits}
    for field in FIELDS:
        found |= {f"{field} {i}": value for i, value in enumerate(getattr(out, field))}
    with torch.no_grad():
        found["masked"] = model(
            pixels, labels.clamp(min=0), decoder_attention_mask=(labels >= 0).long()
        ).logits
        words = model.get_input_embeddings()(labels.clamp(min=0))
        found["embedded"] = model(pixels, decoder_inputs_embeds=words).logits
    np.save(folder / "words.npy", words)
    found["greedy"] = model.generate(pixels, max_length=LENGTH)
    found["beams"] = model.generate(pixels, max_length=LENGTH, num_beams=3)
    return {n: v.detach().numpy() for n, v in found.items()} | gradients(model, folder / "grads")


FIELDS = (
    "encoder_hidden_states",
    "encoder_attentions",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
)


def gradients(model: VisionEncoderDecoderModel, folder: Path) -> Found:
    """The parameters' gradients, under the parameters' names on disk."""
    carrier = copy.deepcopy(model)
    pairs = zip(model.parameters(), carrier.parameters(), strict=True)
    for source, target in pairs:
        target.data = torch.zeros_like(source) if source.grad is None else source.grad
    carrier.save_pretrained(folder)
    return {f"grad {name}": value for name, value in read_arrays(folder).items()}
