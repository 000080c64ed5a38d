"""TensorFlow, with its own operations: `tf.experimental.numpy` is not needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace, State


class TensorFlow(Namespace):
    """See Namespace. Variables may stand wherever arrays may."""

    name = "tensorflow"
    module = tf

    def asarray(self, value: Any, dtype: str | None = None) -> Array:
        x = tf.convert_to_tensor(value)
        return x if dtype is None else tf.cast(x, dtype)

    def cast(self, x: Array, dtype: str) -> Array:
        return tf.cast(x, dtype)

    def arange(self, count: int) -> Array:
        return tf.range(count, dtype="int32")

    def full(self, shape: Sequence[int], value: float | bool, dtype: str) -> Array:
        return tf.cast(tf.fill(tuple(shape), value), dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return tf.reshape(x, tuple(shape))

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return tf.transpose(x, tuple(axes))

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        return tf.concat(list(parts), axis=axis)

    def broadcast(self, x: Array, shape: Sequence[int]) -> Array:
        return tf.broadcast_to(x, tuple(shape))

    def repeat(self, x: Array, count: int) -> Array:
        repeated = tf.tile(x[:, None], (1, count, *(1,) * (len(x.shape) - 1)))
        return tf.reshape(repeated, (x.shape[0] * count, *x.shape[1:]))  # keeps the shape static

    def pad(self, x: Array, widths: Sequence[tuple[int, int]]) -> Array:
        return tf.pad(x, list(widths))

    def roll(self, x: Array, shifts: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        return tf.roll(x, shifts, axes)

    def take(self, x: Array, rows: Array) -> Array:
        return tf.gather(x, rows)

    def pick(self, x: Array, columns: Array) -> Array:
        return tf.gather(x, columns, batch_dims=1)

    def write(self, x: Array, piece: Array, start: Array) -> Array:
        end = start + piece.shape[-2]
        whole = tf.concat([x[..., :start, :], tf.cast(piece, x.dtype), x[..., end:, :]], axis=-2)
        return tf.ensure_shape(whole, x.shape)

    def matmul(self, x: Array, y: Array, transpose: bool = False) -> Array:
        return tf.matmul(x, y, transpose_b=transpose)

    def where(self, condition: Array, x: Any, y: Any) -> Array:
        return tf.where(condition, x, y)

    def maximum(self, x: Array, y: Any) -> Array:
        return tf.maximum(x, y)

    def power(self, x: Array, exponent: float) -> Array:
        return tf.pow(x, exponent)

    def sqrt(self, x: Array) -> Array:
        return tf.sqrt(x)

    def tanh(self, x: Array) -> Array:
        return tf.tanh(x)

    def exp(self, x: Array) -> Array:
        return tf.exp(x)

    def erf(self, x: Array) -> Array:
        return tf.math.erf(x)

    def mean(self, x: Array) -> Array:
        return tf.reduce_mean(x, axis=-1, keepdims=True)

    def sum(self, x: Array) -> Array:
        return tf.reduce_sum(x)

    def cumsum(self, x: Array) -> Array:
        return tf.cumsum(x, axis=-1)

    def softmax(self, x: Array) -> Array:
        return tf.nn.softmax(x)

    def log_softmax(self, x: Array) -> Array:
        return tf.nn.log_softmax(x)

    def argmax(self, x: Array) -> Array:
        return tf.argmax(x, axis=-1, output_type="int32")

    def top_k(self, x: Array, count: int) -> tuple[Array, Array]:
        values, found = tf.math.top_k(x, count)
        return values, found

    def least(self, x: Array) -> Array:
        return tf.reduce_min(x, axis=-1, keepdims=True)

    def all(self, x: Array) -> Array:
        return tf.reduce_all(x, axis=-1, keepdims=True)

    def loop(
        self, condition: Callable[[State], Array], body: Callable[[State], State], state: State
    ) -> State:
        (state,) = tf.while_loop(condition, lambda s: (body(s),), (state,))
        return state
