"""Where a training runs: on which device, and by how many processes, as torchrun starts them."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from dromaius.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Shard:
    """Which part of every batch this process computes."""

    rank: int = 0
    world: int = 1


def choose_device(wanted: str) -> torch.device:
    """One of DEVICES -> this process's device; "auto" is a GPU where there is one.

    Of several processes on a machine each takes the GPU of its own number. Raises ConfigError where
    there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"loop.device is {wanted!r}, but no GPU can be used here")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(
            f"process {number} of this machine has no GPU of its own, there are {count}: "
            'start as many processes, or set loop.device to "cpu"'
        )
    return torch.device("cuda", number)


@contextmanager
def shared_work(device: torch.device) -> Iterator[Shard]:
    """This process's share; joins the group that torchrun describes, if it does, and leaves it.

    A process that ends while the group's threads run may be aborted by the C++ runtime. They end
    with the last reference to the group; `torch.distributed.nn.functional` would keep one in the
    defaults of its functions, were it imported (by an optimizer's first step) after the joining.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield Shard()
        return
    importlib.import_module("torch.distributed.nn.functional")
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # nobody leaves while another still talks
    finally:
        if joined:
            dist.destroy_process_group()


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Every process gets the mean of all processes' gradients, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def anywhere(flag: bool, shard: Shard) -> bool:
    """Whether any process says so: a signal may reach one of them a step earlier."""
    if shard.world == 1:
        return flag
    told = torch.tensor(float(flag))
    dist.all_reduce(told)
    return bool(told)
