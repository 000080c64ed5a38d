"""What a benchmark says of the machine it ran on, and how fast that machine reads memory."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

READ_BYTES = 2**30
"""How much a measurement of bandwidth reads: far more than any cache holds."""


def processor() -> str:
    """The processor's name as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def facts(device: torch.device) -> dict[str, Any]:
    """Device, threads, load, versions: what belongs beside every figure."""
    found: dict[str, Any] = {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"device": card.name, "memory": card.total_memory, "cuda": torch.version.cuda}
    return found


def show(results: list[dict[str, Any]], table: str, json_only: bool) -> None:
    """Prints what a benchmark found: the table, unless only JSON is wanted, and a line for each."""
    if not json_only:
        print(table, end="\n\n")
    for result in results:
        print(json.dumps(result))


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one run, waited for."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def read_bandwidth(device: torch.device, size: int = READ_BYTES, repeats: int = 3) -> float:
    """Bytes a second at which all threads together (or the GPU) read memory: the best of some."""
    block = torch.ones(size // 4, device=device)
    block.sum()
    return size / min(seconds(block.sum, device) for _ in range(repeats))


def copy_bandwidth(device: torch.device, size: int = READ_BYTES, repeats: int = 3) -> float:
    """Bytes a second of a copy, read and written both counted: the best of some."""
    block = torch.ones(size // 4, device=device)
    target = torch.empty_like(block)
    target.copy_(block)
    return 2 * size / min(seconds(lambda: target.copy_(block), device) for _ in range(repeats))


def held_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers; what is shared counts once."""
    tensors = (*module.parameters(), *module.buffers())
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values())


def pass_bytes(model: Any, span: tuple[int, int], rows: int, visible: float) -> int:
    """What a pass over `rows` tokens must read: the layers' matrices, the rows of the head that
    are asked for, the keys and values of `visible` slots a row.

    Args:
        model: a language model, its matrices in whatever form.
        span: (first id, the id behind the last) of those that are scored.
    """
    decoder, config = model.model, model.config
    body = sum(held_bytes(part) for part in (*decoder.layers, decoder.norm))
    head = held_bytes(model.lm_head) * (span[1] - span[0]) / config.vocab_size
    # A norm's dtype is that of keys and values, even where matrices are stored in few bits.
    size = decoder.norm.weight.element_size()
    slot = 2 * config.num_hidden_layers * config.key_value_heads * config.head_size * size
    return round(body + head + rows * visible * slot)
