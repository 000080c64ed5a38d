"""Devices that a plan can be made for: how much they hold, and how fast they read it."""

import os
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from dromaius.errors import InputError

SHEET = "data sheet"


@dataclass(frozen=True)
class Card:
    """A device by name."""

    name: str
    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes a second that memory delivers."""
    source: str
    """Where the bandwidth comes from."""
    kind: str = "cuda"
    """The device's type as torch names it."""


def _card(name: str, gigabytes: int, gigabytes_a_second: float, source: str = SHEET) -> Card:
    return Card(name, gigabytes * 10**9, gigabytes_a_second * 1e9, source)


CARDS = (
    _card("RTX 3060", 12, 360),
    _card("RTX 3090", 24, 936),
    _card("RTX 4080", 16, 717),
    _card("RTX 4090", 24, 1008),
    _card("RTX 5090", 32, 1792),
    _card("T4", 16, 320),
    _card("L4", 24, 300),
    _card("A6000", 48, 768),
    _card("L40S", 48, 864),
    _card("A100-40", 40, 1555),
    _card("A100-80", 80, 2039),
    _card("H100", 80, 3350),
    _card("H200", 141, 4300, "a copy on the card; its data sheet says 4800 GB/s"),
)
"""NVIDIA's published memory bandwidths (A100 and H100: the SXM cards)."""

READ_BYTES = 2**28
"""How much a measurement of bandwidth reads, far more than any cache holds."""
REPEATS = 3


def find_card(device: str | None) -> Card:
    """The device of a plan: "cpu" or a GPU that is here, both measured, or a card by its name.

    None is the GPU, where there is one, else the CPU. Raises InputError that lists what is known.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return Card("cpu", _host_memory(), _read_speed(), "measured: a read of 256 MiB", "cpu")
    if device == "cuda" or device.startswith("cuda:"):
        return _present(device)
    plain = _plain(device)
    for card in CARDS:
        if _plain(card.name) == plain:
            return card
    names = ", ".join(card.name for card in CARDS)
    raise InputError(f"unknown device {device!r} (known: cpu, cuda, {names})")


def _plain(name: str) -> str:
    """A card's name without what people write in different ways: "NVIDIA RTX 4090", "rtx4090"."""
    words = name.lower().replace("nvidia", "").replace("geforce", "").removesuffix("gb")
    return "".join(c for c in words if c.isalnum())


def free_memory(device: torch.device) -> int:
    """Bytes that a model may take there: what is free on a GPU, else what the host has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _host_memory()


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _present(device: str) -> Card:
    try:
        found = torch.cuda.get_device_properties(torch.device(device))
    except (RuntimeError, AssertionError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device {device!r} cannot be used: {first}") from None
    return Card(
        found.name, found.total_memory, _copy_speed(device), "measured: a copy of 256 MiB", "cuda"
    )


def _read_speed() -> float:
    """Bytes a second at which all threads together read memory; the best of three."""
    block = torch.ones(READ_BYTES // 4)
    return READ_BYTES / min(_seconds_to_read(block) for _ in range(REPEATS))


def _seconds_to_read(block: Tensor) -> float:
    start = time.perf_counter()
    block.sum()
    return time.perf_counter() - start


def _copy_speed(device: str) -> float:
    """Bytes a second of a copy on a GPU, read and written both counted; the best of three."""
    source = torch.ones(READ_BYTES // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = float("inf")
    for _ in range(REPEATS):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * READ_BYTES / best
