"""Muon for the weight matrices of the blocks, AdamW for everything else, and their rates.

Muon (K. Jordan 2024, https://kellerjordan.github.io/posts/muon; scale of arXiv 2502.16982): the
momentum of a matrix is replaced by the nearest matrix with orthogonal rows or columns.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dromaius.models.emu3.config import Section

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values end in 0.7..1.2


@dataclass(frozen=True)
class OptimizerSettings(Section):
    """Rates, decays and their course."""

    muon_lr: float
    """Peak rate of the weight matrices and convolutions of the blocks."""
    adamw_lr: float
    """Peak rate of everything else."""
    muon_weight_decay: float = 0.0
    """Share of itself that a weight loses in a step, times the rate."""
    adamw_weight_decay: float = 0.01
    """Likewise."""
    momentum: float = 0.95
    """Muon's, Nesterov's kind."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's memory of gradients and of their squares."""
    warmup: int = 60
    """Steps in which the rates rise from near zero to their peak."""
    hold: float = 0.0
    """Share of the steps behind the warm-up that stay at the peak, before the rates fall."""
    final: float = 0.02
    """The last step's rate as a share of the peak; a half cosine leads there."""


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearly orthogonal matrices of the same row and column spaces: [N,R,C] -> bfloat16 [N,R,C].

    Newton-Schulz iteration in bfloat16; the singular values come out between about 0.7 and 1.2.
    """
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled by 0.2 * sqrt(max(rows, columns)).

    A convolution's weight [out,in,...] counts as the matrix [out, in*...]. Matrices of one shape
    go through the iteration together.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # torch's stub returns the closure's loss
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for (rows, columns), params in shapes.items():
                updates = [self._momentum(p, group["momentum"]).flatten(1) for p in params]
                steps = orthogonalise(torch.stack(updates))
                scale = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
                for p, update in zip(params, steps, strict=True):
                    p.mul_(1.0 - group["lr"] * group["weight_decay"])
                    p.add_(update.reshape(p.shape).to(p.dtype), alpha=-scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov's look ahead of the running average of gradients."""
        gradient, state = p.grad, self.state[p]
        assert gradient is not None  # step() looks at no others
        if not state:
            state["momentum"] = torch.zeros_like(p)
        average: Tensor = state["momentum"].lerp_(gradient, 1.0 - momentum)
        return gradient.lerp(average, momentum)


_HEADS = ("lm_head", "output_projection", "predictions.decoder")
"""Ends of the names of output heads, often tied to the embeddings."""


def is_matrix(name: str, module: nn.Module) -> bool:
    """Whether a module's weight is Muon's: linear and convolution layers, not the output head.

    transformers' Conv1D (GPT2) is a linear layer whose weight lies the other way round.
    """
    linear = isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))
    return (linear or type(module).__name__ == "Conv1D") and not name.endswith(_HEADS)


def build_optimizers(model: nn.Module, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """[Muon over matrices and convolutions, AdamW over embeddings, head, norms and biases]."""
    matrices = {id(m.weight) for name, m in model.named_modules() if is_matrix(name, m)}
    trained = [p for p in model.parameters() if p.requires_grad]
    s = settings
    muon = Muon(
        [p for p in trained if id(p) in matrices], s.muon_lr, s.momentum, s.muon_weight_decay
    )
    adamw = torch.optim.AdamW(
        [p for p in trained if id(p) not in matrices],
        lr=s.adamw_lr,
        betas=s.betas,
        weight_decay=s.adamw_weight_decay,
    )
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adamw]


def set_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Every group's rate becomes `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory as "parameter name/entry" -> tensor."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}/{key}": value
        for p, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def load_state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """What `state_tensors` gave, put back: on the parameters' devices, but for AdamW's counters."""
    params = dict(model.named_parameters())
    state: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        place = value.device if entry == "step" else params[name].device
        state.setdefault(name, {})[entry] = value.to(place)
    for name, entries in state.items():
        optimizer.state[params[name]] = entries


def warmup_cosine(step: int, steps: int, warmup: int, final: float, hold: float = 0.0) -> float:
    """Linear rise over `warmup` steps to 1, then a half cosine down to `final` at the last step.

    The factor stays at 1 for the share `hold` of the steps between.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = warmup + hold * (steps - warmup)
    progress = min(1.0, max(0.0, step - start) / max(1.0, steps - 1 - start))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
