"""JAX: NumPy's functions from `jax.numpy`, and what differs because arrays are never changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy

from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace, State


class Jax(Namespace):
    """See Namespace."""

    name = "jax"
    module = jax.numpy

    def write(self, x: Array, piece: Array, start: Array) -> Array:
        begin: list[Array] = [0] * x.ndim
        begin[-2] = start
        return jax.lax.dynamic_update_slice(x, piece.astype(x.dtype), begin)

    def erf(self, x: Array) -> Array:
        return jax.lax.erf(x)

    def softmax(self, x: Array) -> Array:
        return jax.nn.softmax(x, axis=-1)

    def log_softmax(self, x: Array) -> Array:
        return jax.nn.log_softmax(x, axis=-1)

    def top_k(self, x: Array, count: int) -> tuple[Array, Array]:
        values, found = jax.lax.top_k(x, count)
        return values, found

    def pad(self, x: Array, widths: Sequence[tuple[int, int]]) -> Array:
        return jax.numpy.pad(x, list(widths))

    def loop(
        self, condition: Callable[[State], Array], body: Callable[[State], State], state: State
    ) -> State:
        return jax.lax.while_loop(condition, body, state)

    def compiled(self, function: Callable[..., State]) -> Callable[..., State]:
        return jax.jit(function)
