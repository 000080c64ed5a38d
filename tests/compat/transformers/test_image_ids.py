"""Ids of generated pictures -> pixels, and the vocabulary behind it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.compat.transformers import Emu3Config
from dromaius.compat.transformers.vocabulary import Emu3ImageVocabularyMapping
from tests.compat.transformers.pairs import Pair, largest_difference

HEIGHT, WIDTH = 4, 5


def drawn(pair: Pair, seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Codes [B,h,w], and the ids that a model would have generated for them."""
    names = pair.names
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, pair.codebook, (batch, HEIGHT, WIDTH), generator=generator)
    rows = codes + names["<|visual token 000000|>"]
    line_ends = torch.full((batch, HEIGHT, 1), names["<|extra_200|>"])
    tail = torch.tensor([names[n] for n in ("<|extra_201|>", "<|image end|>", "<|extra_204|>")])
    rows = torch.cat((rows, line_ends), -1).flatten(1)
    return codes, torch.cat((rows, tail.expand(batch, 3)), 1)


def test_pixels_equal_transformers(pair: Pair) -> None:
    codes, ids = drawn(pair)
    expected = pair.theirs.decode_image_tokens(image_tokens=ids, height=HEIGHT, width=WIDTH)
    assert expected.shape == (2, 3, 8 * HEIGHT, 8 * WIDTH)
    sides = torch.tensor([HEIGHT, WIDTH])
    for got in (
        pair.ours.decode_image_tokens(ids, height=HEIGHT, width=WIDTH),
        pair.ours.decode_image_tokens(image_tokens=ids, height=sides[0], width=sides[1]),
        pair.ours.model.decode_image_tokens(ids, HEIGHT, WIDTH),
        pair.ours.vqmodel.decode(codes),
    ):
        assert got.dtype == torch.float32
        assert largest_difference(got, expected) <= 1e-3


def test_an_id_that_is_not_visual_is_code_0(pair: Pair) -> None:
    codes, ids = drawn(pair)
    codes[0, 1, 2], codes[1, 0, 0] = 0, 0
    ids[0, 1 * (WIDTH + 1) + 2], ids[1, 0] = 65, pair.names["<image>"]
    expected = pair.ours.vqmodel.decode(codes)
    assert torch.equal(pair.ours.decode_image_tokens(ids, HEIGHT, WIDTH), expected)
    theirs = pair.theirs.decode_image_tokens(image_tokens=ids, height=HEIGHT, width=WIDTH)
    assert largest_difference(theirs, expected) <= 1e-3


def test_padding_behind_the_picture_is_no_part_of_it(pair: Pair) -> None:
    _, ids = drawn(pair)
    more = torch.full((2, 4), pair.names["<|endoftext|>"])
    padded = torch.cat((ids, more), 1)
    got = pair.ours.decode_image_tokens(padded, HEIGHT, WIDTH)
    assert torch.equal(got, pair.ours.decode_image_tokens(ids, HEIGHT, WIDTH))


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_a_wrong_number_of_ids_is_an_error(pair: Pair, cut: int) -> None:
    _, ids = drawn(pair)
    for wrong in (ids[:, :-cut], torch.cat((ids, ids[:, :cut]), 1), ids[0]):
        with pytest.raises(ValueError, match="takes|batch"):
            pair.ours.decode_image_tokens(wrong, HEIGHT, WIDTH)


def test_shifted_rows_are_an_error_and_not_a_broken_picture(pair: Pair) -> None:
    """What right padding did to the second picture of the seed's batch."""
    _, ids = drawn(pair)
    ids[1] = ids[1].roll(2)
    with pytest.raises(ValueError, match="picture 1: row 1"):
        pair.ours.decode_image_tokens(ids, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="does not end"):
        pair.ours.decode_image_tokens(drawn(pair)[1], 3, 7)


def test_the_mapping_equals_transformers(pair: Pair) -> None:
    theirs, ours = pair.theirs.model.vocabulary_mapping, pair.ours.vocabulary_mapping
    for name in ("image_tokens", "image_tokens_str", "img2bpe", "bpe2img"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("eol_token_id", "image_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("img2bpe_mapping_tensor", "bpe2img_mapping_tensor"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    codes, ids = drawn(pair)
    assert torch.equal(ours.convert_img2bpe(codes[0]), theirs.convert_img2bpe(codes[0]))
    rows = ids[:, :-3].unflatten(1, (HEIGHT, WIDTH + 1))
    assert torch.equal(ours.convert_bpe2img(rows), theirs.convert_bpe2img(rows))
    assert torch.equal(ours.convert_bpe2img(rows).long(), codes)
    assert ours.convert_bpe2img(rows + 10**6).eq(0).all()
    assert torch.equal(ours.convert_img2bpe(codes)[1], ours.convert_img2bpe(codes[1]))


def test_a_vocabulary_without_names_says_so() -> None:
    text = {"vocab_size": 60, "pad_token_id": 0}
    mapping = Emu3ImageVocabularyMapping.from_config(Emu3Config(text_config=text))
    with pytest.raises(ValueError, match="vocabulary_map"):
        mapping.convert_img2bpe(torch.zeros(1, 1, dtype=torch.long))


def test_the_published_ids_stand_in_for_an_absent_map() -> None:
    mapping = Emu3ImageVocabularyMapping.from_config(Emu3Config())
    corner: Any = torch.tensor([[0, 32767]])
    assert mapping.convert_img2bpe(corner).tolist() == [[151854, 184621, 151846]]
    assert mapping.image_token_id == 151646
