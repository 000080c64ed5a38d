"""Parameters as Flax keeps them: a tree {"encoder", "decoder", "enc_to_dec_proj"} of its names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from dromaius.compat.vision_encoder_decoder.arrays.outputs import OUTPUTS
from dromaius.models.vision_encoder_decoder import arrays
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array
from dromaius.models.vision_encoder_decoder.foreign import flax_tensor, to_flax

Tree = dict[str, Any]
"""Kernels are [in, out], as Flax orients them; JAX differentiates in it."""


@functools.cache
def register_outputs() -> None:
    """Jitted functions may return our outputs."""
    import jax

    for kind in OUTPUTS:
        names = [field.name for field in dataclasses.fields(kind)]
        jax.tree_util.register_dataclass(kind, data_fields=names, meta_fields=[])


def tree_of(weights: Mapping[str, Array]) -> Tree:
    """PyTorch's flat names -> Flax's tree."""
    pairs = (to_flax(name, value) for name, value in weights.items())
    return arrays.tree({".".join(path): value for path, value in pairs})


def flat(tree: Mapping[str, Any]) -> dict[str, Array]:
    """Flax's tree -> PyTorch's flat names."""
    leaves = arrays.flat(tree)
    return dict(flax_tensor(name.split("."), value) for name, value in leaves.items())


def plain(tree: Mapping[str, Any]) -> Tree:
    """Dicts all the way down: a tree may be frozen."""
    return {n: plain(v) if isinstance(v, Mapping) else v for n, v in tree.items()}


def cast(params: Mapping[str, Any], dtype: str, mask: Any) -> Tree:
    """The floating leaves in another dtype; where a leaf of `mask` is False, as they were."""
    import jax
    import jax.numpy

    def one(leaf: Array, wanted: Any = True) -> Array:
        floating = jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
        return leaf.astype(dtype) if wanted and floating else leaf

    tree = plain(params)
    if mask is None:
        return jax.tree_util.tree_map(one, tree)
    return jax.tree_util.tree_map(one, tree, plain(mask))
