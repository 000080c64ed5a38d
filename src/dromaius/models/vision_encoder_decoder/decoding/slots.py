"""Where the keys and values of a beam search lie: a tree of tokens for every image.

Each token is written once, into a slot of its image, and stays there; a row (a beam) is the list of
the slots that lead to it. When beams are reordered only these lists are, and the slots of tokens
that no row descends from any more are used again. All rows of an image then are queries over the
same slots, of which each sees its own ancestors (tree attention; SpecInfer, arXiv 2305.09781,
section 4.2, for the mask).

Legend: B images, K rows of each, P tokens of the prompts, L of a row so far, S slots, H heads,
D head dim.
"""

import torch
from torch import Tensor

from dromaius.nn import few_tokens


class Slots:
    """Which slot holds which token.

    Args:
        images: B.
        rows: K.
        prompt_mask: [B,P], zero for tokens of the prompts that are padding.
    """

    def __init__(
        self, images: int, rows: int, device: torch.device, prompt_mask: Tensor | None = None
    ) -> None:
        self.images, self.rows, self.device = images, rows, device
        self.path = torch.empty(images, rows, 0, dtype=torch.long, device=device)
        """[B,K,L]: the slots of each row's tokens, the first token's first."""
        self.past = 0
        """Tokens of a row before those of the current pass."""
        self.count = 0
        """S: slots that are in use or have been."""
        self.prompt_mask = None if prompt_mask is None else prompt_mask.bool()

    def prompt(self, tokens: int) -> Tensor:
        """Slots [B,P] for the prompts, which all rows of an image share."""
        slots = torch.arange(tokens, device=self.device).expand(self.images, tokens)
        self.path = slots[:, None].expand(-1, self.rows, -1)
        self.count = tokens
        return slots

    def advance(self, parents: Tensor | None) -> Tensor:
        """Slots [B,K] for the next token of every row.

        parents: [R], the row among all that each continues; None: itself.
        """
        if parents is not None:
            parent = parents.view(self.images, self.rows, 1) % self.rows
            self.path = self.path.take_along_dim(parent, 1)
        self.past = self.path.shape[2]
        if self.rows == 1:  # nothing is ever abandoned
            slots = torch.full((self.images, 1), self.count, device=self.device)
            self.count += 1
        else:
            held = self._marked(self.path.flatten(1), self.count + self.rows)
            slots = held.to(torch.uint8).argsort(dim=1, stable=True)[:, : self.rows]
            self.count = max(self.count, int(slots.max()) + 1)
        self.path = torch.cat((self.path, slots[..., None]), dim=2)
        return slots

    def prompt_sight(self) -> Tensor:
        """bool [B or 1,1,P,P]: what each token of the prompts sees."""
        tokens = self.path.shape[2]
        seen = torch.ones(tokens, tokens, dtype=torch.bool, device=self.device).tril()[None, None]
        if self.prompt_mask is None:
            return seen
        # A row that saw nothing would be NaN: padding in front sees itself.
        itself = torch.eye(tokens, dtype=torch.bool, device=self.device)
        return seen & (self.prompt_mask[:, None, None] | itself)

    def sight(self) -> Tensor:
        """bool [B,1,K,S]: the slots that each row sees, its newest token's included."""
        seen = self._marked(self.path, self.count)
        if self.prompt_mask is not None:
            seen[..., : self.prompt_mask.shape[1]] &= self.prompt_mask[:, None]
        return seen[:, None]

    def _marked(self, slots: Tensor, count: int) -> Tensor:
        """Slots [...,n] -> bool [...,count], True at them."""
        marked = torch.zeros(*slots.shape[:-1], count, dtype=torch.bool, device=self.device)
        return marked.scatter_(-1, slots, True)


class Store:
    """One layer's keys and values, [B,H,S,D] each, in memory that doubles when it is full."""

    FIRST = 64
    """Slots to begin with."""

    def __init__(self) -> None:
        self.keys = self.values = torch.empty(0)

    def put(self, keys: Tensor, values: Tensor, slots: Tensor, count: int) -> None:
        """Writes [B,H,n,D] to slots [B,n]; `count` slots are in use."""
        if self.keys.ndim == 1 or count > self.keys.shape[2]:
            self._grow(keys, max(self.FIRST, 2 * count))
        if few_tokens.applies(keys, values, self.keys, self.values):
            few_tokens.keep(keys, self.keys, slots)
            few_tokens.keep(values, self.values, slots)
            return
        images = torch.arange(len(slots), device=slots.device)[:, None]
        self.keys[images, :, slots] = keys.transpose(1, 2)  # [B,n,H,D]
        self.values[images, :, slots] = values.transpose(1, 2)

    def _grow(self, like: Tensor, slots: int) -> None:
        images, heads, _, dim = like.shape
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros, not garbage: a masked slot still meets a zero weight, and 0 * NaN is NaN.
            new = like.new_zeros(images, heads, slots, dim)
            if old.ndim > 1:
                new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Slots 0..count-1, [B,H,count,D] each."""
        return self.keys[:, :, :count], self.values[:, :, :count]

    def of_rows(self, path: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of each row in order: path [B,K,L] -> [B*K,H,L,D] each."""
        if path.shape[1] == 1:  # one row: its slots are its tokens
            return self.first(path.shape[2])
        images = torch.arange(len(path), device=path.device)[:, None, None]
        keys = self.keys[images, :, path]  # [B,K,L,H,D]
        values = self.values[images, :, path]
        return keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1).transpose(1, 2)
