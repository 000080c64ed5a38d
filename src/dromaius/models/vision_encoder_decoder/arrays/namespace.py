"""The operations that a forward and a search are made of, in NumPy.

`backends/` has the same for JAX and TensorFlow. Arrays otherwise know `+ - * /`, comparisons, `&`,
`|`, `~` and basic slicing alone; integers are int32 throughout, so that no framework has to mix.
Shapes are always known: under `tf.function` give inputs of full static shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy

Array = Any
"""An array of the namespace's framework."""
State = Any
"""A tuple, perhaps nested, of arrays."""


class Namespace:
    """NumPy's operations. What a method does not say of its own is what NumPy's function does."""

    name = "numpy"
    module: Any = numpy
    """Where functions of NumPy's names are: NumPy itself or `jax.numpy`."""

    # ------------------------------------------------------------------------- making, reshaping

    def asarray(self, value: Any, dtype: str | None = None) -> Array:
        """`value` as an array of the framework; dtype: "float32", "int32", "bool"."""
        return self.module.asarray(value, dtype=dtype)

    def cast(self, x: Array, dtype: str) -> Array:
        """The same values in another dtype."""
        return x.astype(dtype)

    def arange(self, count: int) -> Array:
        """0 .. count - 1."""
        return self.module.arange(count, dtype="int32")

    def full(self, shape: Sequence[int], value: float | bool, dtype: str) -> Array:
        """One value everywhere."""
        return self.module.full(tuple(shape), value, dtype=dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        """The shape as integers of Python."""
        return tuple(x.shape)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """At most one size may be -1."""
        return self.module.reshape(x, tuple(shape))

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        """Axes in another order."""
        return self.module.transpose(x, tuple(axes))

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        """Parts behind each other."""
        return self.module.concatenate(list(parts), axis=axis)

    def broadcast(self, x: Array, shape: Sequence[int]) -> Array:
        """Repeats axes of size 1."""
        return self.module.broadcast_to(x, tuple(shape))

    def repeat(self, x: Array, count: int) -> Array:
        """Each row `count` times, copies side by side."""
        return self.module.repeat(x, count, axis=0)

    def pad(self, x: Array, widths: Sequence[tuple[int, int]]) -> Array:
        """Zeros before and after, for each axis."""
        return self.module.pad(x, tuple(widths))

    def roll(self, x: Array, shifts: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        """Values that leave an axis at one end enter it at the other."""
        return self.module.roll(x, shifts, axis=axes)

    def note(self, x: Array) -> Array:
        """`x`: for who wants to see the states before the first layer, behind each, and normed."""
        return x

    # --------------------------------------------------------------------- looking up, writing

    def take(self, x: Array, rows: Array) -> Array:
        """x [N, ...], rows of any shape -> [*rows.shape, ...]."""
        return self.module.take(x, rows, axis=0)

    def pick(self, x: Array, columns: Array) -> Array:
        """x [B, N, ...], columns [B, M] -> [B, M, ...]: of each row its own columns."""
        columns = columns.reshape(columns.shape + (1,) * (x.ndim - 2))
        return self.module.take_along_axis(x, columns, axis=1)

    def write(self, x: Array, piece: Array, start: Array) -> Array:
        """x [.., L, D] with `piece` [.., T, D] in place of start .. start + T of the last but one.

        The first argument is used up: NumPy writes into it.
        """
        start = int(start)
        x[..., start : start + piece.shape[-2], :] = piece
        return x

    # ---------------------------------------------------------------------------- computing

    def matmul(self, x: Array, y: Array, transpose: bool = False) -> Array:
        """x [.., M, K] times y [.., K, N]; with `transpose`, y is [.., N, K]."""
        return self.module.matmul(x, self.module.swapaxes(y, -1, -2) if transpose else y)

    def where(self, condition: Array, x: Any, y: Any) -> Array:
        """x where the condition holds, else y."""
        return self.module.where(condition, x, y)

    def maximum(self, x: Array, y: Any) -> Array:
        """The greater of the two."""
        return self.module.maximum(x, y)

    def power(self, x: Array, exponent: float) -> Array:
        """x > 0 to a power."""
        return self.module.power(x, exponent)

    def sqrt(self, x: Array) -> Array:
        """Square root."""
        return self.module.sqrt(x)

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""
        return self.module.tanh(x)

    def exp(self, x: Array) -> Array:
        """e to the power of x."""
        return self.module.exp(x)

    def erf(self, x: Array) -> Array:
        """The error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26): NumPy has none."""
        t = 1.0 / (1.0 + 0.3275911 * numpy.abs(x))
        terms = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
        series = numpy.zeros_like(t)
        for factor in terms:
            series = (series + factor) * t
        return numpy.sign(x) * (1.0 - series * numpy.exp(-x * x))

    def mean(self, x: Array) -> Array:
        """Over the last axis, which stays with size 1."""
        return self.module.mean(x, axis=-1, keepdims=True)

    def sum(self, x: Array) -> Array:
        """Over all."""
        return self.module.sum(x)

    def cumsum(self, x: Array) -> Array:
        """Over the last axis."""
        return self.module.cumsum(x, axis=-1, dtype=x.dtype)

    def softmax(self, x: Array) -> Array:
        """Over the last axis."""
        raised = numpy.exp(x - x.max(axis=-1, keepdims=True))
        return raised / raised.sum(axis=-1, keepdims=True)

    def log_softmax(self, x: Array) -> Array:
        """Over the last axis."""
        x = x - x.max(axis=-1, keepdims=True)
        return x - numpy.log(numpy.exp(x).sum(axis=-1, keepdims=True))

    # ------------------------------------------------------------------------------ searching

    def argmax(self, x: Array) -> Array:
        """Over the last axis."""
        return self.module.argmax(x, axis=-1).astype("int32")

    def top_k(self, x: Array, count: int) -> tuple[Array, Array]:
        """The greatest of the last axis, falling, and where they are."""
        found = numpy.argpartition(-x, min(count, x.shape[-1] - 1), axis=-1)[..., :count]
        found.sort(axis=-1)  # equal values: the first one first
        order = numpy.argsort(-numpy.take_along_axis(x, found, axis=-1), axis=-1, kind="stable")
        found = numpy.take_along_axis(found, order, axis=-1)
        return numpy.take_along_axis(x, found, axis=-1), found.astype("int32")

    def least(self, x: Array) -> Array:
        """The smallest of the last axis, which stays with size 1."""
        return self.module.min(x, axis=-1, keepdims=True)

    def all(self, x: Array) -> Array:
        """Whether all hold, over the last axis, which stays with size 1."""
        return self.module.all(x, axis=-1, keepdims=True)

    def loop(
        self, condition: Callable[[State], Array], body: Callable[[State], State], state: State
    ) -> State:
        """`state = body(state)` while `condition(state)` [] holds."""
        while condition(state):
            state = body(state)
        return state

    def compiled(self, function: Callable[..., State]) -> Callable[..., State]:
        """The function, compiled for arrays of the shapes it is called with where that is done."""
        return function


@functools.cache
def namespace(name: str) -> Namespace:
    """The operations of "numpy", "jax" or "tensorflow".

    Raises ImportError naming the extra if the framework is not installed, ValueError for another
    name.
    """
    try:
        if name == "numpy":
            return Namespace()
        if name == "jax":
            from dromaius.models.vision_encoder_decoder.arrays.backends.jax import Jax

            return Jax()
        if name == "tensorflow":
            from dromaius.models.vision_encoder_decoder.arrays.backends.tensorflow import TensorFlow

            return TensorFlow()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise ImportError(
            f"{name} is not installed: pip install 'dromaius[{name}]'", name=name
        ) from error
    raise ValueError(f"there is no namespace {name!r}: numpy, jax or tensorflow")
