"""How many bytes a computation holds at once, counted tensor by tensor.

On the meta device nothing is computed and nothing is held, yet every tensor has its size: running a
model there is a plan of its memory that follows the model's own code.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are made inside and are still alive.

    peak: the most bytes at one time. What an operator holds only while it runs is not seen.
    where: the module (see `named`) and the operator that ran at that time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.where = ""
        self._path: list[str] = []
        self._known: set[int] = set()

    def __enter__(self) -> Self:
        super().__enter__()
        self._fused = _FusedAttention()
        self._fused.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._fused.__exit__(kind, error, traceback)
        super().__exit__(kind, error, traceback)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._count(leaf, outside=True)  # else a view of it would pass for a new one
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        if self.live > self.peak:
            self.peak = self.live
            place = self._path[-1] if self._path else ""
            self.where = f"{place} ({function.overloadpacket.__name__})".strip()
        return made

    def _count(self, tensor: Tensor, outside: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = 0 if outside else storage.nbytes()
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    @contextmanager
    def named(self, module: nn.Module) -> Iterator[None]:
        """Inside, `where` names the submodules of `module`."""

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: self._path.append(name)

        def leave(*_: Any) -> None:
            self._path.pop()

        hooks = []
        for name, part in module.named_modules():
            hooks.append(part.register_forward_pre_hook(enter(name)))
            hooks.append(part.register_forward_hook(leave))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _FusedAttention(TorchFunctionMode):
    """On the meta device torch writes all attention scores out; CPUs and GPUs do not.

    The fused kernels hold the result, and a mask of bools as numbers of the queries' type.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention or args[0].device.type != "meta":
            return function(*args, **kwargs)
        query, _, value = args[:3]
        mask = kwargs.get("attn_mask")
        bias = None if mask is None else torch.empty_like(mask, dtype=query.dtype)
        batch, heads, new, _ = query.shape
        sums = query.new_empty(batch, heads, new, dtype=torch.float32)
        result = query.new_empty(batch, new, heads, value.shape[-1]).transpose(1, 2)
        del bias, sums
        return result
