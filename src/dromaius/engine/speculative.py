"""Speculative sampling: a draft from one distribution becomes a draw from another.

Leviathan et al. 2023, Chen et al. 2023; specs/decoding.md 1.3. Legend: B pictures, K drafts, V ids.
"""

import torch
from torch import Tensor

from dromaius.engine.sampling import gumbel, uniform

_PASS = 0x5851F42D4C957F2D
"""Odd: a pass draws from noise of its own, seed + certain codes * this (it may wrap)."""


def speculate(p: Tensor, q: Tensor, drafts: Tensor, noise: "PassNoise") -> tuple[Tensor, Tensor]:
    """Which drafts hold, bool [B,K], and what stands at each place then, [B,1+K].

    A draft holds with the probability min(1, p/q); one that does not is redrawn from what p has
    more than q. Either way its place is distributed as p, and differs from the draft as seldom as
    can be.

    Args:
        p: what to draw from, probabilities [B,1+K,V]; the last place has no draft.
        q: what the drafts were drawn from [B,K,V].
        drafts: int64 [B,K].
        noise: of this pass.
    """
    drafted = drafts[..., None]
    chance = p[:, :-1].gather(-1, drafted) / q.gather(-1, drafted).clamp_min(1e-38)
    kept = noise.uniform() < chance[..., 0]  # [B,K]
    rest = (p[:, :-1] - q).clamp_min(0.0)
    empty = rest.sum(-1, keepdim=True) <= 0  # p = q up to rounding: any draw from p will do
    left = torch.cat((torch.where(empty, p[:, :-1], rest), p[:, -1:]), dim=1)
    redrawn = (left.log() + noise.gumbel(left.shape[-1])).argmax(-1)  # [B,1+K]
    held = torch.where(kept, drafts, redrawn[:, :-1])
    return kept, torch.cat((held, redrawn[:, -1:]), dim=1)


class PassNoise:
    """Of one pass over places of each picture; a pass is named by the codes certain before it.

    Every pass makes at least one more code certain, so that no two share noise; and none shares
    that of plain decoding, where nothing is added to the seed.
    """

    def __init__(self, seeds: Tensor, certain: Tensor, offsets: Tensor) -> None:
        """Of seeds [B], certain codes [B], places among each picture's tokens [B,1+K]."""
        self._seeds = (seeds + certain * _PASS)[:, None].expand_as(offsets)
        self._offsets = offsets

    def uniform(self) -> Tensor:
        """Float32 [B,K]: for every place but the last."""
        seeds, offsets = self._seeds[:, :-1], self._offsets[:, :-1]
        first = torch.zeros(1, dtype=torch.long, device=seeds.device)
        return uniform(seeds.flatten(), offsets.flatten(), first).view(seeds.shape).float()

    def gumbel(self, ids: int) -> Tensor:
        """Float32 [B,1+K,ids]."""
        every = torch.arange(1, ids + 1, device=self._seeds.device)
        noise = gumbel(self._seeds.flatten(), self._offsets.flatten(), every)
        return noise.view(*self._seeds.shape, ids)
