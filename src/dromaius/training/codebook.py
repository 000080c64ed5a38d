"""A codebook learnt as running means of what falls to each entry (VQ-VAE, appendix A.1).

Legend: K entries, E size of an entry, N vectors.
"""

import torch
from torch import Tensor, nn


class RunningCodebook(nn.Module):
    """Keeps `weight` [K,E] at the running mean of the vectors each entry stood for.

    Entries that hardly anything falls to are moved to vectors that are badly represented.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, weight: nn.Parameter, decay: float = 0.99, dead: float = 0.05) -> None:
        super().__init__()
        self.decay, self.dead = decay, dead
        self._weight = [weight]  # in a list: the parameter stays the vision tokenizer's alone
        self.register_buffer("counts", torch.zeros(weight.shape[0]))
        self.register_buffer("sums", torch.zeros_like(weight))

    @torch.no_grad()
    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Entries become vectors [N,E] drawn from the data, spread out as in k-means++."""
        weight = self._weight[0]
        weight.copy_(vectors[:1])
        for chunk in torch.arange(1, weight.shape[0]).split(32):
            distances = torch.cdist(vectors, weight[: chunk[0]]).amin(1)
            weight[chunk] = vectors[_draw(distances, len(chunk), generator)]
        self.counts.fill_(1.0)
        self.sums.copy_(weight)

    @torch.no_grad()
    def update(self, vectors: Tensor, codes: Tensor, generator: torch.Generator) -> int:
        """Take in vectors [N,E] and the entries [N] they fell to; returns how many were revived."""
        weight, size = self._weight[0], self.counts.shape[0]
        counts = torch.zeros_like(self.counts).index_add_(0, codes, vectors.new_ones(len(codes)))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        self.counts.lerp_(counts, 1.0 - self.decay)
        self.sums.lerp_(sums, 1.0 - self.decay)
        weight.copy_(self.sums / self.counts.clamp_min(1e-6)[:, None])
        dead = (self.counts < self.dead * len(codes) / size).nonzero()[:, 0]
        if len(dead):  # a vector may serve several dead entries; they part within a few steps
            errors = (vectors - weight[codes]).norm(dim=1)
            weight[dead] = vectors[_draw(errors, len(dead), generator)]
            self.counts[dead] = len(codes) / size
            self.sums[dead] = weight[dead] * self.counts[dead, None]
        return len(dead)


def _draw(distances: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Indices of vectors, the worse represented the likelier."""
    chances = distances.float().pow(2) + 1e-12
    return torch.multinomial(chances, number, replacement=True, generator=generator)
