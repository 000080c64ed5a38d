"""TensorFlow's and Flax's tensors under PyTorch's names and back; neither framework is needed.

Flax keeps a tree (`decoder/transformer/h/0/...`), TensorFlow paths (`.../h_._0/.../kernel:0`).
Both store linear kernels [in, out] and convolutions [kh, kw, in, out].
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Part = str | None
"""Of which model a file is: "encoder", "decoder", or None for the whole."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
    "embedding": "weight",
    "embeddings": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_ROOTS = ("encoder", "decoder", "enc_to_dec_proj")
_TF_MAIN_LAYERS = frozenset(
    "vit deit swin beit data2vec_vision clip convnext convnextv2 resnet regnet cvt mobilevit "
    "segformer efficientformer".split()
)
"""A level of TensorFlow encoders that PyTorch's names do not have."""
_TABLES = frozenset(
    "wte wpe word_embeddings position_embeddings token_type_embeddings "
    "embed_tokens embed_positions shared".split()
)
"""Embeddings: their weights are no kernels."""
_CONV1D = frozenset("c_attn c_proj c_fc q_attn".split())
"""GPT2's products, whose weights lie [in, out] in PyTorch."""
_NUMBERED = re.compile(r"/(\d+)(/)")
_SHARED = ("shared.weight", "model.shared.weight")


def flax_tensor(path: Iterable[str], value: np.ndarray) -> tuple[str, np.ndarray]:
    """One leaf of a Flax tree as (PyTorch name, tensor)."""
    *scopes, leaf = path
    if leaf == "kernel":
        value = _kernel(value)  # also GPT2's, which Flax keeps [out, in] and PyTorch [in, out]
    return ".".join([*scopes, _LEAVES.get(leaf, leaf)]), value


def tf_tensor(path: str, value: np.ndarray, part: Part = None) -> tuple[str, np.ndarray]:
    """One TensorFlow variable as (PyTorch name, tensor).

    path: its full name, with or without the model's own scope in front.
    """
    scopes = _tf_scopes(path, part)
    leaf = scopes.pop()
    if leaf == "kernel":
        value = _kernel(value)
    elif leaf == "bias" and value.ndim == 2:
        value = value.reshape(-1)  # GPT2's are [1, n]
    # "weight" is GPT2's [in, out] or an embedding: both as in PyTorch
    leaf = "weight" if leaf == "embeddings" else _LEAVES.get(leaf, leaf)
    return ".".join([*scopes, leaf]), value


def _tf_scopes(path: str, part: Part) -> list[str]:
    scopes = path.removesuffix(":0").replace("_._", "/").split("/")
    scopes = [scope.rpartition("___")[2] for scope in scopes if scope]  # mlm___cls -> cls
    tops = [i + 1 for i, scope in enumerate(scopes) if scope.startswith("tf")]  # tf_vi_t_model
    if not tops and part is None:
        tops = [i for i, scope in enumerate(scopes) if scope in _ROOTS]
    scopes = scopes[tops[0] :] if tops else scopes
    level = {"encoder": 0, "decoder": None, None: 1 if scopes[0] == "encoder" else None}[part]
    if level is not None and len(scopes) > level + 1 and scopes[level] in _TF_MAIN_LAYERS:
        del scopes[level]
    return scopes


def _kernel(value: np.ndarray) -> np.ndarray:
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)  # [kh, kw, in, out] -> [out, in, kh, kw]
    return value.T


def to_flax(name: str, value: Any) -> tuple[tuple[str, ...], Any]:
    """A tensor of PyTorch's name as (path, leaf) of Flax's tree; the inverse of `flax_tensor`.

    value: an array of NumPy or JAX.
    """
    *scopes, leaf = name.split(".")
    if leaf == "weight" and value.ndim == 1:
        leaf = "scale"
    elif leaf == "weight" and scopes[-1] in _TABLES:
        leaf = "embedding"
    elif leaf == "weight":
        leaf, value = "kernel", _turned(value)  # GPT2's too: [out, in] here
    return (*scopes, leaf), value


def to_tf(name: str, value: np.ndarray, encoder: str, norms: frozenset[str]) -> tuple[str, Any]:
    """A tensor of PyTorch's name as TensorFlow's (path, variable); the inverse of `tf_tensor`.

    encoder: the encoder's model_type. norms: the names of layers whose weights have one axis.
    """
    *scopes, leaf = name.split(".")
    layer = scopes[-1]
    if ".".join(scopes) in norms:
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    elif leaf == "weight" and layer in _TABLES:
        leaf = "weight" if layer in ("word_embeddings", "embed_tokens") else "embeddings"
    elif layer in _CONV1D:
        value = value.reshape(1, -1) if leaf == "bias" else value
    elif leaf == "weight":
        leaf, value = "kernel", _turned(value)
    if scopes[0] == "encoder" and encoder in _TF_MAIN_LAYERS:
        scopes.insert(1, encoder)
    if scopes[:2] == ["decoder", "cls"]:
        scopes[1] = "mlm___cls"
    path = "/".join([*scopes, leaf])
    return _NUMBERED.sub(r"_._\1\2", path) + ":0", value


def norms(params: Mapping[str, Any]) -> frozenset[str]:
    """The names of all layers of normalisation: their weights have one axis."""
    names = (name for name, value in params.items() if value.ndim == 1)
    return frozenset(name.removesuffix(".weight") for name in names if name.endswith(".weight"))


def with_shared_embedding(state: Any) -> Any:
    """Sequence-to-sequence files hold the embedding once; a decoder alone looks for its own."""
    for name in _SHARED:
        if name in state:
            own = name.replace("shared", "decoder.embed_tokens")
            state.setdefault(own, state[name])
    return state


def _turned(weight: Any) -> Any:
    """The inverse of `_kernel`."""
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)  # [out, in, kh, kw] -> [kh, kw, in, out]
    return weight.T
