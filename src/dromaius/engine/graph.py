"""Decode steps recorded once and replayed: the processor no longer launches each kernel anew.

A step of a large model is a thousand small launches. A CUDA graph holds them, with the addresses of
their tensors, so a step must find its inputs in the same place each time and must not ask the host
anything. Everything that changes from step to step is therefore a tensor that is copied into place,
but for two numbers that decide shapes: how many tokens are fed, and how many slots are looked at.
The latter is rounded up to a few sizes, and each combination is a graph of its own.

`DROMAIUS_GRAPHS=0` turns this off; what cannot be recorded runs as it would without.
Legend: R rows, T tokens, V ids.
"""

import os
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from dromaius.engine.kv_cache import SlotCache

SIZES = 8
"""Visible slots are rounded up to a multiple of an eighth of all: a sixteenth is read for nothing,
which is 1 % of a pass of the 8B model, and a picture takes eight recordings for each T."""
LEAST = 256
"""Slots below which nothing is gained by looking at fewer."""


class Forward(Protocol):
    """One forward pass at each row's place; it may read the host's memory for shapes alone."""

    def __call__(
        self, cache: SlotCache, ids: Tensor, start: Tensor, visible: int, last: Tensor | None
    ) -> Tensor: ...


Work = Callable[[], None]
Record = Callable[[Work], Work]
"""Given work that reads and writes tensors in place: something that does it again, faster."""


def recorder(device: torch.device) -> Record | None:
    """What records on this device, None where nothing can or DROMAIUS_GRAPHS=0 forbids it."""
    if device.type != "cuda" or os.environ.get("DROMAIUS_GRAPHS") == "0":
        return None
    return CudaRecorder(device)


class CudaRecorder:
    """Records CUDA graphs. They share one memory, so none may need what another has left there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            self.stream = torch.cuda.Stream()

    def __call__(self, work: Work) -> Work:
        """Raises RuntimeError if the work does what a graph cannot hold."""
        with torch.cuda.device(self.device):
            graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(
                    graph, self.pool, self.stream, capture_error_mode="thread_local"
                ):
                    work()
            finally:
                # torch leaves the side stream current if ending the recording fails.
                torch.cuda.set_stream(before)
        return graph.replay


class StepGraphs:
    """Runs `forward`, from the second time that a shape is met on as a recorded graph.

    The first time is eager: libraries set themselves up then, and a shape that never comes again
    costs no recording. Logits are valid until the next call.
    """

    def __init__(self, forward: Forward, record: Record) -> None:
        self._forward = forward
        self._record: Record | None = record
        self._steps: dict[tuple[int, int, int, bool], _Step] = {}

    def __call__(
        self, cache: SlotCache, ids: Tensor, start: Tensor, visible: int, last: Tensor | None
    ) -> Tensor:
        """ids [R,T], start [R], last [R] or None -> logits [R,1,V], or [R,T,V] without last."""
        visible = rounded(visible, cache.slots)
        key = (ids.shape[0], ids.shape[1], visible, last is None)
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = _Step(self._forward, cache, ids, start, visible, last)
            return step.run()
        step.take(ids, start, last)
        if step.replay is None and self._record is not None:
            self._prepare(step)
        return step.run()

    def _prepare(self, step: "_Step") -> None:
        """Records a step; after the first failure nothing is recorded any more."""
        assert self._record is not None
        try:
            step.replay = self._record(step.work)
        except RuntimeError as error:
            self._record = None
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"decoding without CUDA graphs: {reason}", RuntimeWarning, stacklevel=2)


class _Step:
    """The tensors that one recording reads and writes."""

    def __init__(
        self,
        forward: Forward,
        cache: SlotCache,
        ids: Tensor,
        start: Tensor,
        visible: int,
        last: Tensor | None,
    ) -> None:
        self.forward, self.cache, self.visible = forward, cache, visible
        self.ids, self.start = ids.clone(), start.clone()
        self.last = None if last is None else last.clone()
        self.logits: Tensor | None = None
        self.replay: Work | None = None

    def take(self, ids: Tensor, start: Tensor, last: Tensor | None) -> None:
        """Copies a pass's inputs into place."""
        self.ids.copy_(ids)
        self.start.copy_(start)
        if self.last is not None and last is not None:
            self.last.copy_(last)

    def run(self) -> Tensor:
        """The logits of one pass."""
        (self.replay or self.work)()
        assert self.logits is not None
        return self.logits

    def work(self) -> None:
        """One pass from and into this step's tensors."""
        logits = self.forward(self.cache, self.ids, self.start, self.visible, self.last)
        if self.logits is None:  # before any recording, outside of the memory that those share
            self.logits = torch.empty_like(logits)
        self.logits.copy_(logits)


def rounded(visible: int, slots: int) -> int:
    """Visible slots rounded up to one of at most SIZES sizes."""
    unit = max(LEAST, -(-slots // SIZES))
    unit = -(-unit // 64) * 64  # kernels go through keys in blocks
    return min(-(-visible // unit) * unit, slots)
