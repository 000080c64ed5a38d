"""TensorFlow's and Flax's tensors under PyTorch's names; neither framework is needed.

Flax keeps a tree (`decoder/transformer/h/0/...`), TensorFlow paths (`.../h_._0/.../kernel:0`).
Both store linear kernels [in, out] and convolutions [kh, kw, in, out].
"""

from collections.abc import Iterable

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
