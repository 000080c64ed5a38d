"""BAAI's text tokenizer against the ids of the specification."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dromaius.compat.baai import AutoTokenizer, Emu3Tokenizer
from dromaius.errors import CheckpointError
from tests.compat.conftest import Checkpoints
from tests.tokenizers.vectors import IMAGE, ROWS


@pytest.fixture(scope="module")
def tokenizer(parts: SimpleNamespace) -> Emu3Tokenizer:
    return parts.tokenizer


@pytest.mark.parametrize("text, ids", [row[:2] for row in ROWS])
def test_ids_of_the_specification(tokenizer: Emu3Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer(text).input_ids == tokenizer.encode(text) == ids


def test_tokens_are_bytes_and_names(tokenizer: Emu3Tokenizer) -> None:
    tokens = tokenizer.tokenize("a dog<|image start|>")
    assert tokens == [b"a", b" dog", "<|image start|>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [64, 5562, 151852]
    assert tokenizer.convert_ids_to_tokens([64, 5562, 151852]) == tokens
    assert tokenizer.convert_tokens_to_ids("<|visual token 032767|>") == 184621
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.get_vocab()) == 184622


def test_roles(tokenizer: Emu3Tokenizer) -> None:
    roles = {
        "pad": 151643,
        "bos": 151849,
        "eos": 151850,
        "img": 151851,
        "boi": 151852,
        "eoi": 151853,
        "eol": 151846,
        "eof": 151847,
    }
    for role, token_id in roles.items():
        assert getattr(tokenizer, f"{role}_token_id") == token_id
        assert tokenizer(getattr(tokenizer, f"{role}_token")).input_ids == [token_id]


def test_padding_and_tensors(checkpoints: Checkpoints) -> None:
    right = AutoTokenizer.from_pretrained(checkpoints.baai_lm, trust_remote_code=True)
    left = AutoTokenizer.from_pretrained(checkpoints.baai_lm, padding_side="left")
    texts = ["a dog", "a portrait of young girl."]
    long = [64, 33033, 315, 3908, 3743, 13]
    found = left(texts, padding="longest", return_tensors="pt")
    assert found.input_ids.tolist() == [[151643] * 4 + [64, 5562], long]
    assert found.attention_mask.tolist() == [[0] * 4 + [1] * 2, [1] * 6]
    assert found.token_type_ids.tolist() == [[0] * 6] * 2
    assert isinstance(found.input_ids, torch.Tensor)
    found = right(texts, padding="longest", return_tensors="np")
    assert isinstance(found.input_ids, np.ndarray)
    assert found.input_ids.tolist() == [[64, 5562] + [151643] * 4, long]
    assert right(texts).input_ids == [[64, 5562], long]
    assert right("a dog", padding="max_length", max_length=4).input_ids == [64, 5562, *[151643] * 2]


def test_decoding(tokenizer: Emu3Tokenizer) -> None:
    ids = tokenizer(IMAGE).input_ids
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == IMAGE
    # everything from <|endoftext|> up is skipped, the digits of the size stay
    assert tokenizer.decode(ids, skip_special_tokens=True) == "64*64"
    assert tokenizer.batch_decode(np.array([[64, 5562], [151643, 64]])) == [
        "a dog",
        "<|endoftext|>a",
    ]
    assert tokenizer.decode([149]) == "\ufffd"  # half a character
    assert tokenizer.decode(149, errors="ignore") == ""


def test_saved_and_read_again(tokenizer: Emu3Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = Emu3Tokenizer.from_pretrained(tmp_path)
    copied = pickle.loads(pickle.dumps(tokenizer))
    for other in (again, copied):
        assert other.padding_side == "left" and other.img_token_id == 151851
        assert all(other(text).input_ids == ids for text, ids, _ in ROWS)


def test_hf_folder_gives_baai_ids(checkpoints: Checkpoints) -> None:
    """The -hf files cut text by other rules; BAAI's tokenizer keeps its own."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.hf, trust_remote_code=True)
    assert all(tokenizer(text).input_ids == ids for text, ids, _ in ROWS)


def test_errors(tokenizer: Emu3Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'<new>'"):
        tokenizer.add_tokens(["<new>"])
    with pytest.raises(CheckpointError, match="emu3.tiktoken"):
        Emu3Tokenizer.from_pretrained(tmp_path)
