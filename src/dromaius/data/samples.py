"""Training samples as ids on disk: written once, then read by number.

A sample is a shared beginning (segment 0) and, optionally, several continuations of it (segments
1, 2, ...), each of which sees the beginning and itself only. One file of safetensors holds
`ids` int32 [total], `segments` uint8 [total], `targets` bool [total] (ids to be predicted) and
`offsets` int64 [samples + 1]. Legend: B batch, T tokens, N samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dromaius.data.order import epoch_order, number_for
from dromaius.errors import InputError
from dromaius.files import atomic_path

IGNORED = -100
BUCKET = 16
"""Batches whose samples are sorted by length together."""


@dataclass(frozen=True)
class Sample:
    """One row of training: three sequences of equal length."""

    ids: Sequence[int]
    segments: Sequence[int]
    targets: Sequence[bool]


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right.

    `mask` is None where plain causal attention says the same; labels stand at the position before
    the id they ask for, IGNORED elsewhere.
    """

    ids: Tensor  # int64 [B,T]
    labels: Tensor  # int64 [B,T]
    positions: Tensor | None  # int64 [B,T]
    mask: Tensor | None  # bool [B,1,T,T]
    tokens: int
    """How many tokens the samples have, padding not counted."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        positions = None if self.positions is None else self.positions.to(device)
        mask = None if self.mask is None else self.mask.to(device)
        return Batch(self.ids.to(device), self.labels.to(device), positions, mask, self.tokens)


def write_samples(path: Path, samples: Iterable[Sample]) -> int:
    """Writes all samples to `path`, whole or not at all; returns how many there were."""
    parts = [
        (np.array(s.ids, np.int32), np.array(s.segments, np.uint8), np.array(s.targets, bool))
        for s in samples
    ]
    if not parts:
        raise InputError(f"there is no sample to write to {path}")
    ids, segments, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum([len(part[0]) for part in parts])])
    arrays = {"ids": ids, "segments": segments, "targets": targets, "offsets": offsets}
    with atomic_path(path) as temporary:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, temporary)
    return len(parts)


class Samples:
    """A file of samples, read into memory."""

    def __init__(self, path: Path) -> None:
        """Raises InputError naming the file when it is absent or no file of samples."""
        try:
            found = load_file(path)
            self.ids, self.segments = found["ids"].long(), found["segments"]
            self.targets, self.offsets = found["targets"], found["offsets"].tolist()
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} is not a file of samples: {error}") from error

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, index: int, size: int, seed: int) -> np.ndarray:
        """Sample numbers of batch `index`: shuffled epochs, in batches of like length.

        An epoch is a permutation, cut into groups of BUCKET batches; each group is sorted by
        length, and its batches come in random order. What does not fill a batch waits for another
        epoch's permutation.
        """
        per_epoch = len(self) // size
        if not per_epoch:
            raise InputError(f"{len(self)} samples do not fill a batch of {size}")
        epoch, place = divmod(index, per_epoch)
        order = epoch_order(len(self), epoch, seed)[: per_epoch * size]
        group, within = divmod(place, BUCKET)
        part = order[group * BUCKET * size : (group + 1) * BUCKET * size]
        lengths = np.diff(np.asarray(self.offsets))[part]
        batches = part[np.argsort(lengths, kind="stable")].reshape(-1, size)
        draw = np.random.default_rng(number_for(seed, "bucket", epoch, group))
        return batches[draw.permutation(len(batches))[within]]

    def batch(self, rows: Iterable[int], pad: int) -> Batch:
        """The samples of these numbers, padded with `pad`."""
        slices = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows]
        return collate([self.ids[s] for s in slices], [self.segments[s] for s in slices],
                       [self.targets[s] for s in slices], pad)  # fmt: skip


def collate(
    ids: Sequence[Tensor], segments: Sequence[Tensor], targets: Sequence[Tensor], pad: int
) -> Batch:
    """Samples given as tensors of equal length each -> one padded batch."""

    def padded(columns: Sequence[Tensor], fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(columns), batch_first=True, padding_value=fill)

    batch, wanted = padded(ids, pad).long(), padded(targets, 0).bool()
    labels = torch.full_like(batch, IGNORED)
    labels[:, :-1] = torch.where(wanted[:, 1:], batch[:, 1:], IGNORED)
    parts = padded(segments, 0).long()  # [B,T]
    lengths = torch.tensor([len(one) for one in ids])
    tokens = int(lengths.sum())
    if not parts.any():
        return Batch(batch, labels, None, None, tokens)
    real = torch.arange(batch.shape[1]) < lengths[:, None]
    # Padding gets a segment of its own: behind the samples, seen by nobody.
    parts = torch.where(real, parts, parts.amax() + 1)
    return Batch(batch, labels, branch_positions(parts), branch_mask(parts), tokens)


def branch_mask(segments: Tensor) -> Tensor:
    """Segments [B,T] -> bool [B,1,T,T]: a token sees, up to itself, segment 0 and its own."""
    ahead = segments[:, None, :]  # of the token looked at
    visible = (ahead == 0) | (ahead == segments[:, :, None])
    length = segments.shape[1]
    return (visible & torch.ones(length, length, dtype=torch.bool).tril())[:, None]


def branch_positions(segments: Tensor) -> Tensor:
    """Segments [B,T], ascending -> int64 [B,T]: every branch counts on from the beginning's end."""
    places = torch.arange(segments.shape[1]).expand_as(segments)
    first = torch.zeros_like(places)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    first = torch.where(starts, places, 0).cummax(dim=1).values  # where the own segment begins
    shared = (segments == 0).sum(dim=1, keepdim=True)
    return torch.where(segments == 0, places, places - first + shared)
