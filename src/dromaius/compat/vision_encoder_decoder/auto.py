"""transformers' image processors and tokenizers, giving the tensors of TensorFlow and JAX too.

transformers 5 gives NumPy's and PyTorch's alone. PyTorch is not needed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dromaius.compat.vision_encoder_decoder.arrays.model import operations
from dromaius.compat.vision_encoder_decoder.processing import load_tokenizer
from dromaius.io import hub

_FRAMEWORKS = {"tf": "tensorflow", "jax": "jax"}


class WithTensors:
    """What it wraps, in every respect, but for `return_tensors="tf"` and `"jax"`."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *args: Any, return_tensors: str | None = None, **kwargs: Any) -> Any:
        """As the wrapped object's; integers are int32, as both frameworks' models want them.

        Raises ImportError naming the extra if the framework is not installed.
        """
        framework = _FRAMEWORKS.get(return_tensors or "")
        if framework is None:
            return self.inner(*args, return_tensors=return_tensors, **kwargs)
        xp = operations(framework)
        batch = self.inner(*args, return_tensors="np", **kwargs)
        for name in list(batch):
            whole = batch[name].dtype.kind in "biu"
            batch[name] = xp.asarray(batch[name], "int32" if whole else "float32")
        return batch

    def decode(self, ids: Any, **kwargs: Any) -> Any:
        """As the tokenizer's, of any framework's array."""
        return self.inner.decode(_listed(ids), **kwargs)

    def batch_decode(self, rows: Any, **kwargs: Any) -> Any:
        """As the tokenizer's, of any framework's array."""
        return self.inner.batch_decode(_listed(rows), **kwargs)

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # copied without __init__
            raise AttributeError(name)
        return getattr(self.inner, name)


def _listed(ids: Any) -> Any:
    """Arrays as lists: tokenizers know only NumPy's and PyTorch's."""
    return np.asarray(ids).tolist() if hasattr(ids, "__array__") else ids


class AutoImageProcessor:
    """Pictures -> pixel_values [B, C, H, W]."""

    @staticmethod
    def from_pretrained(source: Any, **kwargs: Any) -> WithTensors:
        """That of a folder or hub id; kwargs as for transformers' class of this name."""
        import transformers

        folder = hub.resolve_settings(source, kwargs.pop("revision", None))
        return WithTensors(transformers.AutoImageProcessor.from_pretrained(folder, **kwargs))


class AutoTokenizer:
    """Text -> input_ids [B, T]."""

    @staticmethod
    def from_pretrained(source: Any, **kwargs: Any) -> WithTensors:
        """That of a folder or hub id, also where the folder names no class."""
        return WithTensors(load_tokenizer(source, **kwargs))
