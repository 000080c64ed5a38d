"""Writes the golden files beside it with the TensorFlow and Flax classes of transformers 4.48.

Those classes are gone from transformers 5, so it runs in an environment of its own, once:

    python3.11 -m venv oracle
    oracle/bin/pip install transformers==4.48.3 flax==0.8.5 jax==0.4.35 jaxlib==0.4.35 \
        tensorflow-cpu==2.18.1 tf-keras==2.18.0
    TF_USE_LEGACY_KERAS=1 oracle/bin/python make.py

Each folder is a checkpoint as such a model saves it, and the logits that it computed.
"""

from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
IDS = np.array([[1, 5, 6], [1, 7, 8]], dtype="int32")


def pixels() -> np.ndarray:
    """Noise [2, 3, 8, 8]."""
    return np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")


def configurations() -> dict[str, Any]:
    """ViT with GPT2 (wider: a projection) and with BERT."""
    from transformers import BertConfig, GPT2Config, VisionEncoderDecoderConfig, ViTConfig

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8, "initializer_range": 0.3}
    vit = ViTConfig(**sizes, image_size=8, patch_size=4)
    gpt2 = {"n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 8, "initializer_range": 0.3}
    decoders = {
        "gpt2": GPT2Config(vocab_size=10, **gpt2),
        "bert": BertConfig(vocab_size=10, max_position_embeddings=8, **sizes),
    }
    join = VisionEncoderDecoderConfig.from_encoder_decoder_configs
    ids = {"decoder_start_token_id": 1, "pad_token_id": 0}
    return {name: join(vit, decoder, **ids) for name, decoder in decoders.items()}


def main() -> None:
    import tensorflow as tf
    from transformers import FlaxVisionEncoderDecoderModel, TFVisionEncoderDecoderModel

    for name, config in configurations().items():
        flax = FlaxVisionEncoderDecoderModel(config, seed=3)
        folder = HERE / f"{name}-flax"
        flax.save_pretrained(folder)
        np.save(folder / "logits.npy", np.asarray(flax(pixels(), decoder_input_ids=IDS).logits))

        tf.random.set_seed(0)
        model = TFVisionEncoderDecoderModel(config=config)
        inputs = {"pixel_values": tf.constant(pixels()), "decoder_input_ids": tf.constant(IDS)}
        logits = model(**inputs).logits.numpy()
        for safe, kind in ((False, "h5"), (True, "safetensors")):
            folder = HERE / f"{name}-tf-{kind}"
            model.save_pretrained(folder, safe_serialization=safe)
            np.save(folder / "logits.npy", logits)


if __name__ == "__main__":
    main()
