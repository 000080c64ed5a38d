"""Samples on disk, their order, and branches that share a beginning."""

from pathlib import Path

import pytest
import torch

from dromaius.data.samples import IGNORED, Sample, Samples, collate, write_samples
from dromaius.errors import InputError
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.models.emu3.language_model import LanguageModel


def tensors(samples: list[Sample]) -> tuple[list[torch.Tensor], ...]:
    return (
        [torch.tensor(s.ids) for s in samples],
        [torch.tensor(s.segments) for s in samples],
        [torch.tensor(s.targets) for s in samples],
    )


def test_labels_stand_before_the_ids_they_ask_for() -> None:
    one = Sample([5, 6, 7, 8], [0, 0, 0, 0], [False, False, True, True])
    two = Sample([9, 4], [0, 0], [False, True])
    batch = collate(*tensors([one, two]), pad=0)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, 7, 8, IGNORED], [4] + [IGNORED] * 3]
    assert batch.mask is None and batch.positions is None


def test_branches_by_hand() -> None:
    one = Sample([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 2], [False] * 3 + [True, False, True])
    two = Sample([7, 8], [0, 1], [False, True])
    batch = collate(*tensors([one, two]), pad=0)
    assert batch.positions is not None and batch.mask is not None
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 2, 3]
    assert batch.positions[1, :2].tolist() == [0, 1]
    assert batch.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert not batch.mask[1, 0, :2, 2:].any()  # nobody sees the padding


def test_three_branches_equal_three_samples(rng_seed: int) -> None:
    torch.manual_seed(rng_seed)
    config = LanguageModelConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, attention_dropout=0.0,
    )  # fmt: skip
    model = LanguageModel(config).eval()
    beginning = torch.randint(50, (7,)).tolist()
    branches = [torch.randint(50, (n,)).tolist() for n in (3, 5, 2)]
    ids, segments = list(beginning), [0] * 7
    for number, branch in enumerate(branches, start=1):
        ids += branch
        segments += [number] * len(branch)
    packed = Sample(ids, segments, [False] * len(ids))
    longer = Sample([*ids, 1, 2], [*segments, 3, 3], [False] * (len(ids) + 2))
    batch = collate(*tensors([packed, longer]), pad=0)  # the first is padded
    with torch.no_grad():
        together = model(batch.ids, batch.positions, batch.mask)[0]
        place = 7
        for branch in branches:
            alone = model(torch.tensor([beginning + branch]))[0]
            torch.testing.assert_close(together[:7], alone[:7], atol=1e-5, rtol=0)
            here = together[place : place + len(branch)]
            torch.testing.assert_close(here, alone[7:], atol=1e-5, rtol=0)
            place += len(branch)


def test_an_epoch_is_a_permutation_in_batches_of_like_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 40, (64,)).tolist()
    path = tmp_path / "ids.safetensors"
    made = [Sample([number] * n, [0] * n, [True] * n) for number, n in enumerate(lengths)]
    assert write_samples(path, made) == 64
    samples = Samples(path)
    epoch = [samples.rows(index, 4, seed=3).tolist() for index in range(16)]
    assert sorted(sum(epoch, [])) == list(range(64))
    spread = [max(lengths[r] for r in rows) - min(lengths[r] for r in rows) for rows in epoch]
    assert max(spread) < 12
    again = Samples(path)
    assert again.rows(5, 4, seed=3).tolist() == epoch[5]  # a function of the arguments alone
    assert [again.rows(i, 4, seed=4).tolist() for i in range(16)] != epoch
    assert [again.rows(i + 16, 4, seed=3).tolist() for i in range(16)] != epoch


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "ids.safetensors"
    write_samples(path, [Sample([3, 1], [0, 1], [False, True]), Sample([2], [0], [True])])
    samples = Samples(path)
    assert len(samples) == 2
    batch = samples.batch([1, 0], pad=9)
    assert batch.ids.tolist() == [[2, 9], [3, 1]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED], [1, IGNORED]]


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(InputError, match="none.safetensors"):
        Samples(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="none.safetensors"):
        Samples(path)
    with pytest.raises(InputError, match="no sample"):
        write_samples(path, [])
