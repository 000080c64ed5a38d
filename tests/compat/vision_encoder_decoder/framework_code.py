"""What the process without torch does with a checkpoint of PyTorch, in JAX and in TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from dromaius.compat.vision_encoder_decoder import (
    FlaxVisionEncoderDecoderModel,
    TFVisionEncoderDecoderModel,
)
from dromaius.compat.vision_encoder_decoder.arrays.flax_tree import flat

FIELDS = (
    "encoder_hidden_states",
    "encoder_attentions",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
)
WISHES = {"output_attentions": True, "output_hidden_states": True}
Found = dict[str, Any]


def run_flax(folder: Path, inputs: Found, length: int) -> Found:
    """Values under the names of `framework_pairs.write`; the model is saved into flax/."""
    model = FlaxVisionEncoderDecoderModel.from_pretrained(folder, from_pt=True)
    pixels, labels, ids = inputs["pixels"], inputs["labels"], inputs["ids"]
    shifted = np.concatenate([np.full_like(ids[:, :1], 1), labels[:, :-1]], axis=1)
    shifted = np.where(shifted < 0, 0, shifted)
    out = model(pixels, shifted, **WISHES)
    found = {"logits": out.logits} | layers(out)

    def loss(params: Found) -> jax.Array:
        logits = model(pixels, shifted, params=params, train=True).logits
        chances = jnp.take_along_axis(
            jax.nn.log_softmax(logits), np.maximum(labels, 0)[..., None], axis=-1
        )[..., 0]
        return -jnp.sum(chances * (labels >= 0)) / np.sum(labels >= 0)

    value, grads = jax.value_and_grad(loss)(model.params)
    found["loss"] = value
    found |= {f"grad {name}": leaf for name, leaf in flat(grads).items()}
    found["masked"] = model(pixels, ids, decoder_attention_mask=(labels >= 0).astype(int))[0]
    found["stepwise"] = stepwise(model, pixels, shifted)
    found["greedy"] = model.generate(pixels, max_length=length).sequences
    found["beams"] = model.generate(pixels, max_length=length, num_beams=3).sequences
    model.save_pretrained(folder / "flax")
    again = FlaxVisionEncoderDecoderModel.from_pretrained(folder / "flax")
    found["again"] = jax.jit(lambda params: again(pixels, shifted, params=params))(again.params)[0]
    return found


def stepwise(model: FlaxVisionEncoderDecoderModel, pixels: Any, ids: Any) -> Any:
    """Logits of one token at a time, by the cache."""
    encoded = model.encode(pixels)
    cache = model.init_cache(len(ids), ids.shape[1], encoded)
    steps = []
    for i in range(ids.shape[1]):
        out = model.decode(ids[:, i : i + 1], encoded, past_key_values=cache)
        cache = out["past_key_values"]
        steps.append(out.logits)
    return jnp.concatenate(steps, axis=1)


def run_tensorflow(folder: Path, inputs: Found, words: np.ndarray, length: int) -> Found:
    """The same of TensorFlow; the model is saved into tf/ and, as safetensors, into tf-safe/."""
    model = TFVisionEncoderDecoderModel.from_pretrained(folder)
    pixels, labels, ids = inputs["pixels"], inputs["labels"], inputs["ids"]
    with tf.GradientTape() as tape:
        out = model(pixels, labels=labels, **WISHES)
    names = {variable.ref(): name for name, variable in model.params.items()}
    variables = model.trainable_variables
    found = {"logits": out.logits, "loss": out.loss[0]} | layers(out)
    for variable, grad in zip(variables, tape.gradient(out.loss, variables), strict=True):
        found[f"grad {names[variable.ref()]}"] = tf.convert_to_tensor(grad)
    found["masked"] = model(pixels, ids, (labels >= 0).astype(int)).logits
    found["embedded"] = model(pixels, decoder_inputs_embeds=words).logits
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    first = model({"pixel_values": pixels, "decoder_input_ids": shifted[:, :2]})
    rest = model(
        None, shifted[:, 2:], encoder_outputs=(first.encoder_last_hidden_state,),
        past_key_values=first.past_key_values, return_dict=False,
    )  # fmt: skip
    found["stepwise"] = tf.concat([first.logits, rest[0]], axis=1)
    found["greedy"] = model.generate(pixels, max_length=length)
    found["beams"] = model.generate(pixels, max_length=length, num_beams=3)
    model.save_pretrained(folder / "tf")
    model.save_pretrained(folder / "tf-safe", safe_serialization=True)
    again = TFVisionEncoderDecoderModel.from_pretrained(folder / "tf-safe")
    call = tf.function(lambda pixels: again(pixels, labels=labels))
    found["again"] = call(tf.constant(pixels)).logits
    return found


def layers(out: Any) -> Found:
    """States and attentions of each layer."""
    return {f"{f} {i}": value for f in FIELDS for i, value in enumerate(out[f])}
