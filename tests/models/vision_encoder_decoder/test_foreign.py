"""Names and layouts of TensorFlow and Flax, one of each kind (spec section 3.3)."""

import numpy as np
import pytest

from dromaius.models.vision_encoder_decoder.foreign import flax_tensor, tf_tensor

MODEL = "tf_vision_encoder_decoder_model"
LAYER = "encoder.encoder.layer.0"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (
            "encoder/encoder/layer/0/attention/attention/query/kernel",
            f"{LAYER}.attention.attention.query.weight",
        ),
        ("encoder/layernorm/scale", "encoder.layernorm.weight"),
        ("encoder/embeddings/cls_token", "encoder.embeddings.cls_token"),
        ("decoder/transformer/wte/embedding", "decoder.transformer.wte.weight"),
        ("decoder/transformer/h/1/attn/c_attn/bias", "decoder.transformer.h.1.attn.c_attn.bias"),
        ("enc_to_dec_proj/kernel", "enc_to_dec_proj.weight"),
    ],
)
def test_flax_names(path: str, name: str) -> None:
    assert flax_tensor(path.split("/"), np.zeros(2))[0] == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (
            f"{MODEL}/encoder/vit/encoder/layer_._0/attention/attention/query/kernel:0",
            f"{LAYER}.attention.attention.query.weight",
        ),
        (f"{MODEL}/encoder/vit/layernorm/gamma:0", "encoder.layernorm.weight"),
        (f"{MODEL}/encoder/vit/embeddings/cls_token:0", "encoder.embeddings.cls_token"),
        (f"{MODEL}/decoder/transformer/wte/embeddings:0", "decoder.transformer.wte.weight"),
        (
            f"{MODEL}/decoder/transformer/h_._1/crossattention/q_attn/weight:0",
            "decoder.transformer.h.1.crossattention.q_attn.weight",
        ),
        (
            f"{MODEL}/decoder/bert/embeddings/word_embeddings/weight:0",
            "decoder.bert.embeddings.word_embeddings.weight",
        ),
        (f"{MODEL}/decoder/mlm___cls/predictions/bias:0", "decoder.cls.predictions.bias"),
        # in tf_model.h5 the layer's group comes first; in safetensors the model's scope is cut off
        (f"encoder/{MODEL}/encoder/vit/layernorm/beta:0", "encoder.layernorm.bias"),
        ("encoder/vit/layernorm/beta:0", "encoder.layernorm.bias"),
        (f"enc_to_dec_proj/{MODEL}/enc_to_dec_proj/kernel:0", "enc_to_dec_proj.weight"),
    ],
)
def test_tf_names(path: str, name: str) -> None:
    assert tf_tensor(path, np.zeros(2))[0] == name


@pytest.mark.parametrize(
    ("path", "part", "name"),
    [
        ("vit/tf_vi_t_model/vit/layernorm/gamma:0", "encoder", "layernorm.weight"),
        ("vit/layernorm/gamma:0", "encoder", "layernorm.weight"),
        (
            "transformer/tfgpt2lm_head_model/transformer/h_._0/ln_1/beta:0",
            "decoder",
            "transformer.h.0.ln_1.bias",
        ),
        ("transformer/ln_f/gamma:0", "decoder", "transformer.ln_f.weight"),
    ],
)
def test_tf_names_of_a_part(path: str, part: str, name: str) -> None:
    assert tf_tensor(path, np.zeros(2), part)[0] == name


def test_kernels_are_turned_and_gpt2_weights_are_not() -> None:
    linear = np.arange(6).reshape(2, 3)  # [in, out]
    assert flax_tensor(("decoder", "lin", "kernel"), linear)[1].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tf_tensor("decoder/lin/kernel:0", linear)[1].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tf_tensor("decoder/c_attn/weight:0", linear)[1].tolist() == linear.tolist()
    assert tf_tensor("decoder/c_attn/bias:0", np.ones((1, 3)))[1].shape == (3,)
    picture = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)  # [kh, kw, in, out]
    turned = flax_tensor(("encoder", "conv", "kernel"), picture)[1]
    assert turned.shape == (7, 5, 2, 3)
    assert turned[6, 4, 1, 2] == picture[1, 2, 4, 6]
