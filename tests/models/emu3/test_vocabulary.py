"""Codes to ids and back, against the published examples; forged grids are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dromaius.models.emu3.config import VocabularyConfig
from dromaius.models.emu3.vocabulary import Vocabulary
from dromaius.tokenizers.tiktoken import FIXED_NAMES, TiktokenTokenizer, vision_names

IDS = Vocabulary.from_config(VocabularyConfig())
EXAMPLE = [151854, 151855, 151856, 151857, 151846]  # spec section 6.1, h=3 w=4: rows close with EOL
EXAMPLE += [151858, 151859, 151860, 151861, 151846]
EXAMPLE += [151862, 151863, 151864, 151865, 151846]


def test_published_example() -> None:
    codes = torch.arange(12).view(3, 4)
    ids = IDS.codes_to_ids(codes)
    assert ids.tolist() == EXAMPLE and ids.dtype == torch.int64
    assert torch.equal(IDS.ids_to_codes(ids, 3, 4), codes)


def test_first_and_last_code() -> None:
    assert IDS.codes_to_ids(torch.tensor([[0, 32767]])).tolist() == [151854, 184621, 151846]
    assert IDS.visual_stop == 184622


def test_batches_and_clips(rng_seed: int) -> None:
    """Leading axes stay; each grid is the one it would be alone."""
    generator = torch.Generator().manual_seed(rng_seed)
    codes = torch.randint(0, 32768, (2, 3, 5, 4), generator=generator)
    ids = IDS.codes_to_ids(codes)
    assert ids.shape == (2, 3, 25)
    assert torch.equal(ids[1, 2], IDS.codes_to_ids(codes[1, 2]))
    assert torch.equal(IDS.ids_to_codes(ids, 5, 4), codes)


def test_any_integer_type_of_codes() -> None:
    for dtype in (torch.int32, torch.int16, torch.uint8):
        ids = IDS.codes_to_ids(torch.tensor([[200]], dtype=dtype))
        assert ids.tolist() == [152054, 151846]


@pytest.mark.parametrize("bad", [-1, 32768])
def test_code_outside_the_codebook(bad: int) -> None:
    with pytest.raises(ValueError, match=str(bad)):
        IDS.codes_to_ids(torch.tensor([[1, bad]]))


@pytest.mark.parametrize("length", [0, 14, 16])
def test_ragged_grid(length: int) -> None:
    ids = torch.tensor((EXAMPLE * 2)[:length], dtype=torch.int64)
    with pytest.raises(ValueError, match=f"3x4 grid takes 15 ids, got {length}"):
        IDS.ids_to_codes(ids, 3, 4)


@pytest.mark.parametrize("place", range(15))
@pytest.mark.parametrize("forged", [0, 151846, 151847, 151853, 151854, 184622])
def test_forged_grid(place: int, forged: int) -> None:
    """One wrong id anywhere; only a visual id in a visual place passes."""
    ids = torch.tensor(EXAMPLE)
    ids[place] = forged
    if ids[place] == EXAMPLE[place] or (forged == 151854 and (place + 1) % 5):
        assert IDS.ids_to_codes(ids, 3, 4).shape == (3, 4)
        return
    with pytest.raises(ValueError, match="end-of-line|not visual"):
        IDS.ids_to_codes(ids, 3, 4)


def test_right_number_of_ids_in_the_wrong_shape() -> None:
    """A 2x5 grid has as many ids as a 3x3 grid; it is none."""
    ids = IDS.codes_to_ids(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="3x3"):
        IDS.ids_to_codes(ids, 3, 3)


def test_another_vocabulary() -> None:
    small = VocabularyConfig(pad=0, bos=1, eos=2, end_of_line=7, visual_start=10, codebook_size=4)
    ids = Vocabulary.from_config(small)
    assert ids.codes_to_ids(torch.tensor([[0, 3]])).tolist() == [10, 13, 7]
    with pytest.raises(ValueError, match="0..3"):
        ids.codes_to_ids(torch.tensor([[4]]))


def test_real_names(test_data: Path, require_file: Callable[[Path], Path]) -> None:
    """The row of spec table 3.3 with a picture in it: names and arithmetic meet at the same ids."""
    ranks = require_file(test_data / "emu3" / "emu3.tiktoken")
    names = [*FIXED_NAMES, *vision_names(32768)]
    tokenizer = TiktokenTokenizer(ranks, {name: 151643 + i for i, name in enumerate(names)})
    written = tokenizer.encode_with_special(
        "<|image start|>64*64<|image token|><|visual token 000000|><|visual token 011928|>"
        "<|extra_200|><|visual token 032767|><|visual token 000001|><|extra_200|><|extra_201|>"
        "<|image end|><|extra_204|><|extra_203|><|endoftext|>"
    )
    grid = IDS.codes_to_ids(torch.tensor([[0, 11928], [32767, 1]])).tolist()
    assert grid == [151854, 163782, 151846, 184621, 151855, 151846]
    size = [21, 19, 9, 21, 19]
    assert written == [
        *(IDS.image_start, *size, IDS.image_token, *grid, IDS.end_of_frame, IDS.image_end),
        *(IDS.eos, IDS.bos, IDS.pad),
    ]
