"""The tree of slots, against caches that are reordered by copying."""

from __future__ import annotations

import torch
from torch import Tensor

from dromaius.models.vision_encoder_decoder.decoding.slots import Slots, Store


def numbered(rows: int, step: int) -> Tensor:
    """Keys [rows,1,1,1] that tell row and step."""
    return (torch.arange(rows).float() + 100 * step).view(rows, 1, 1, 1)


def test_rows_see_what_a_copied_cache_holds() -> None:
    images, rows, steps = 3, 4, 40
    generator = torch.Generator().manual_seed(0)
    slots, store = Slots(images, rows, torch.device("cpu")), Store()
    place = slots.prompt(2)
    prompt = torch.tensor([[-1.0, -2.0]]).expand(images, 2).view(images, 1, 2, 1)
    store.put(prompt, -prompt, place, slots.count)
    copied = prompt.repeat_interleave(rows, 0)  # [R,1,L,1]
    for step in range(steps):
        parents = torch.randint(rows, (images, rows), generator=generator)
        parents = (parents + rows * torch.arange(images)[:, None]).flatten()
        new = numbered(images * rows, step + 1)
        copied = torch.cat((copied[parents], new), dim=2)
        place = slots.advance(parents)
        store.put(new.view(images, 1, rows, 1), -new.view(images, 1, rows, 1), place, slots.count)
        assert slots.past == 2 + step
        keys, values = store.of_rows(slots.path)
        assert torch.equal(keys, copied) and torch.equal(values, -copied)
        seen, held = slots.sight(), store.first(slots.count)[0].view(images, -1)
        for row in range(images * rows):
            mine = held[row // rows][seen[row // rows, 0, row % rows]]
            assert sorted(mine.tolist()) == sorted(copied[row].flatten().tolist())
    # Slots of abandoned tokens are used again: far fewer than a token each are needed.
    assert slots.count < 2 + rows * steps / 2


def test_rows_that_are_never_reordered_keep_their_own() -> None:
    slots = Slots(2, 1, torch.device("cpu"))
    assert slots.prompt(3).tolist() == [[0, 1, 2]] * 2
    assert slots.advance(None).tolist() == [[3], [3]]
    assert slots.advance(None).tolist() == [[4], [4]]
    assert slots.path.tolist() == [[[0, 1, 2, 3, 4]]] * 2
    assert slots.sight().all() and slots.count == 5


def test_padding_of_prompts_is_not_seen() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    slots = Slots(2, 2, torch.device("cpu"), mask)
    slots.prompt(3)
    assert slots.prompt_sight()[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert slots.prompt_sight()[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    slots.advance(None)
    assert slots.sight()[:, 0, 0].int().tolist() == [[0, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
