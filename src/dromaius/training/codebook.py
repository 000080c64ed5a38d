"""A codebook learnt as running means of what falls to each entry (VQ-VAE, appendix A.1).

Legend: K entries, E size of an entry, N vectors.
"""

import torch
from torch import Tensor, nn


class RunningCodebook(nn.Module):
    """Keeps `weight` [K,E] at the running mean of the vectors each entry stood for.

    The mean's memory grows with the number of updates up to `decay`. An entry that nothing fell
    to in `patience` updates is moved to a vector that is badly represented.
    """

    counts: Tensor
    sums: Tensor
    idle: Tensor
    updates: Tensor

    def __init__(self, weight: Tensor, decay: float = 0.99, patience: int = 20) -> None:
        super().__init__()
        self.decay, self.patience = decay, patience
        self._weight = [weight]  # in a list: the parameter stays the vision tokenizer's alone
        self.register_buffer("counts", torch.zeros(weight.shape[0]))
        self.register_buffer("sums", torch.zeros_like(weight))
        self.register_buffer("idle", torch.zeros(weight.shape[0], dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

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
        weight = self._weight[0]
        done = int(self.updates.add_(1))
        gain = 1.0 - min(self.decay, (1 + done) / (10 + done))
        counts = torch.zeros_like(self.counts).index_add_(0, codes, vectors.new_ones(len(codes)))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        self.counts.lerp_(counts, gain)
        self.sums.lerp_(sums, gain)
        weight.copy_(self.sums / self.counts.clamp_min(1e-6)[:, None])
        self.idle.add_(1).masked_fill_(counts > 0, 0)
        dead = (self.idle >= self.patience).nonzero()[:, 0]
        if len(dead):
            errors = (vectors - weight[codes]).norm(dim=1)
            weight[dead] = vectors[_draw(errors, len(dead), generator)]
            self.counts[dead] = len(codes) / len(counts)  # the mean use of an entry
            self.sums[dead] = weight[dead] * self.counts[dead, None]
            self.idle[dead] = 0
        return len(dead)


def _draw(distances: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Indices of vectors, the worse represented the likelier. Drawn on the CPU."""
    chances = distances.float().cpu().pow(2) + 1e-12
    drawn = torch.multinomial(chances, number, replacement=True, generator=generator)
    return drawn.to(distances.device)
