"""transformers' decoders read as `DecoderLayers`: GPT2, the BERT family, the BART family.

Nothing is copied: matrices are the modules' own tensors, read anew for every text, so that they are
never out of date. The families differ in where their norms stand and in what modules are called;
embeddings and heads are small and stay the modules they are.

Legend: B images, n tokens, C channels, O outputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dromaius.models.vision_encoder_decoder.decoding.layers import DecoderLayers, Layer, Matrix
from dromaius.nn.quantized import Packed

BERT_HEADS: dict[str, str] = {
    "bert": "cls.predictions.transform",
    "ernie": "cls.predictions.transform",
    "roberta": "lm_head",
    "xlm-roberta": "lm_head",
    "camembert": "lm_head",
    "data2vec-text": "lm_head",
    "electra": "generator_predictions",
    "bert-generation": "",
}
"""Kind -> what lies between the last layer and the vocabulary."""
BART_PRE_NORM = {
    "bart": False,
    "plbart": False,
    "marian": False,
    "blenderbot-small": False,
    "trocr": False,
    "mbart": True,
    "pegasus": True,
    "blenderbot": True,
}
"""Kind -> whether a layer's norms stand before its parts."""
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
KINDS = ("gpt2", *BERT_HEADS, *BART_PRE_NORM)


def read_layers(
    decoder: Any, instead: Mapping[str, Tensor | Packed] | None = None
) -> DecoderLayers | None:
    """The layers of a decoder of one of KINDS; None if it has to be called as a module.

    That is so where a module was replaced (adapters, other quantizations), is watched by hooks or
    would drop out.

    Args:
        instead: name of a matrix -> what is used in its place.
    """
    kind = decoder.config.model_type
    if kind not in KINDS or decoder.training or not _untouched(decoder):
        return None
    reader = _Reader(instead or {})
    if kind == "gpt2":
        return _gpt2(decoder, reader)
    return _bert(decoder, reader) if kind in BERT_HEADS else _bart(decoder, reader)


def _untouched(decoder: nn.Module) -> bool:
    """Whether the modules compute what their classes say, from floating-point matrices."""
    own = type(decoder).__module__.partition(".")[0]
    for module in decoder.modules():
        if type(module).__module__.partition(".")[0] not in (own, "torch", "dromaius"):
            return False
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return False
    parameters = list(decoder.parameters())  # other libraries' numbers are types of their own
    return all(type(p) is nn.Parameter and p.dtype in _PLAIN for p in parameters)


class _Reader:
    """Makes a `Matrix` of a module's tensors, or of what is used in their place."""

    def __init__(self, instead: Mapping[str, Tensor | Packed]) -> None:
        self.instead = instead

    def linear(self, layer: Any, name: str) -> Matrix:
        module = layer.get_submodule(name.rpartition("/")[2])
        # GPT2's Conv1D holds [C,O]: `by_outputs` has laid its transpose out as rows.
        weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
        return Matrix(name, self.instead.get(name, weight), module.bias)


def by_outputs(decoder: Any) -> None:
    """Lays GPT2's matrices [C,O] out in memory by outputs, as products of few rows read them.

    Shapes, values and the parameters themselves stay what they were: only strides change, once.
    """
    for module in decoder.modules():
        if type(module).__name__ == "Conv1D" and module.weight.is_contiguous():
            module.weight.data = module.weight.data.T.contiguous().T


def _gpt2(decoder: Any, reader: _Reader) -> DecoderLayers | None:
    config, model = decoder.config, decoder.transformer
    unusual = config.reorder_and_upcast_attn or config.scale_attn_by_inverse_layer_idx
    if unusual or not config.scale_attn_weights:
        return None
    by_outputs(decoder)

    def embed(ids: Tensor, past: int) -> Tensor:
        return model.wte(ids) + model.wpe.weight[past : past + ids.shape[1]]

    def layer(index: int, block: Any) -> Layer:
        def matrix(name: str) -> Matrix:
            return reader.linear(block, f"{index}/{name}")

        return Layer(
            read=(matrix("attn.c_attn"),),
            read_out=matrix("attn.c_proj"),
            ask=matrix("crossattention.q_attn"),
            answer=(matrix("crossattention.c_attn"),),
            ask_out=matrix("crossattention.c_proj"),
            up=matrix("mlp.c_fc"),
            act=_activation(block.mlp.act),
            down=matrix("mlp.c_proj"),
            norms=(block.ln_1, block.ln_cross_attn, block.ln_2),
        )

    return DecoderLayers(
        layers=tuple(layer(index, block) for index, block in enumerate(model.h)),
        heads=config.n_head,
        pre_norm=True,
        embed=embed,
        finish=model.ln_f,
        vocabulary=reader.linear(decoder, "lm_head"),
    )


def _bert(decoder: Any, reader: _Reader) -> DecoderLayers:
    model = decoder.base_model

    def embed(ids: Tensor, past: int) -> Tensor:
        x = model.embeddings(input_ids=ids, past_key_values_length=past)
        return model.embeddings_project(x) if hasattr(model, "embeddings_project") else x

    def layer(index: int, block: Any) -> Layer:
        def matrix(name: str) -> Matrix:
            return reader.linear(block, f"{index}/{name}")

        return Layer(
            read=tuple(matrix(f"attention.self.{part}") for part in ("query", "key", "value")),
            read_out=matrix("attention.output.dense"),
            ask=matrix("crossattention.self.query"),
            answer=tuple(matrix(f"crossattention.self.{part}") for part in ("key", "value")),
            ask_out=matrix("crossattention.output.dense"),
            up=matrix("intermediate.dense"),
            act=_activation(block.intermediate.intermediate_act_fn),
            down=matrix("output.dense"),
            norms=(
                block.attention.output.LayerNorm,
                block.crossattention.output.LayerNorm,
                block.output.LayerNorm,
            ),
        )

    return DecoderLayers(
        layers=tuple(layer(index, block) for index, block in enumerate(model.encoder.layer)),
        heads=decoder.config.num_attention_heads,
        pre_norm=False,
        embed=embed,
        finish=_bert_head(decoder, BERT_HEADS[decoder.config.model_type]),
        vocabulary=_vocabulary(decoder, reader),
    )


def _bert_head(decoder: Any, path: str) -> Callable[[Tensor], Tensor]:
    if path == "lm_head":
        head = decoder.lm_head
        return lambda x: head.layer_norm(F.gelu(head.dense(x)))
    return decoder.get_submodule(path) if path else nn.Identity()


def _bart(decoder: Any, reader: _Reader) -> DecoderLayers:
    model = decoder.model.decoder

    def embed(ids: Tensor, past: int) -> Tensor:
        x = model.embed_tokens(ids)
        if kind in ("marian", "pegasus", "blenderbot-small"):  # others scale inside of the module
            x = x * model.embed_scale
        if kind == "blenderbot-small":
            x = model.layernorm_embedding(x)
        takes_shape = kind in ("marian", "pegasus", "blenderbot", "blenderbot-small")
        x = x + model.embed_positions(ids.shape if takes_shape else ids, past)
        norm = getattr(model, "layernorm_embedding", None)
        return x if norm is None or kind == "blenderbot-small" else norm(x)

    def layer(index: int, block: Any) -> Layer:
        def matrix(name: str) -> Matrix:
            return reader.linear(block, f"{index}/{name}")

        return Layer(
            read=tuple(matrix(f"self_attn.{part}_proj") for part in "qkv"),
            read_out=matrix("self_attn.out_proj"),
            ask=matrix("encoder_attn.q_proj"),
            answer=tuple(matrix(f"encoder_attn.{part}_proj") for part in "kv"),
            ask_out=matrix("encoder_attn.out_proj"),
            up=matrix("fc1"),
            act=_activation(block.activation_fn),
            down=matrix("fc2"),
            norms=(
                block.self_attn_layer_norm,
                block.encoder_attn_layer_norm,
                block.final_layer_norm,
            ),
        )

    kind = decoder.config.model_type
    last_norm = getattr(model, "layer_norm", None)
    return DecoderLayers(
        layers=tuple(layer(index, block) for index, block in enumerate(model.layers)),
        heads=decoder.config.decoder_attention_heads,
        pre_norm=BART_PRE_NORM[kind],
        embed=embed,
        finish=nn.Identity() if last_norm is None else last_norm,
        vocabulary=_vocabulary(decoder, reader),
    )


def _vocabulary(decoder: Any, reader: _Reader) -> Matrix:
    head = decoder.get_output_embeddings()
    name = next(name for name, module in decoder.named_modules() if module is head)
    return reader.linear(decoder, name)


def _activation(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """GPT2's tanh form of GELU is one call of torch, which transformers spells out in eight."""
    if type(act).__name__ == "NewGELUActivation":
        return _gelu_tanh
    return act


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
