"""The real vocabulary gives upstream's ids, in both forms, also through transformers."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dromaius.tokenizers import load_tokenizer
from dromaius.tokenizers.bpe import BpeTokenizer
from dromaius.tokenizers.convert import to_tiktoken
from dromaius.tokenizers.tiktoken import TiktokenTokenizer
from tests.tokenizers.vectors import ROWS

BLOCK = 151643
# the -hf files give <|extra_0|>'s id to <image>: the one row that parsing makes different
HF_NAMES_IMAGE = {"<image>": [151646]}


@pytest.mark.parametrize(("text", "baai", "hf"), ROWS, ids=lambda value: repr(value)[:30])
def test_published_ids(
    text: str,
    baai: list[int],
    hf: list[int],
    real: TiktokenTokenizer,
    exact: BpeTokenizer,
    published: BpeTokenizer,
) -> None:
    assert real.encode_with_special(text) == baai
    assert exact.encode_with_special(text) == HF_NAMES_IMAGE.get(text, baai)
    assert published.encode_with_special(text) == hf
    if all(i < BLOCK for i in baai):  # rows without special names: user text has the same ids
        assert real.encode(text) == baai
        assert exact.encode(text) == baai


def test_user_text_forms_only_text_ids(
    real: TiktokenTokenizer, exact: BpeTokenizer, published: BpeTokenizer
) -> None:
    for text, _, _ in ROWS:
        for tokenizer in (real, exact, published):
            ids = tokenizer.encode(text)
            assert all(i < BLOCK for i in ids), text
            expected = text if tokenizer is published else text.replace("e\u0301", "é")
            assert tokenizer.decode(ids) == expected


def test_special_block(real: TiktokenTokenizer) -> None:
    names = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|extra_0|>": 151646,
        "<|extra_200|>": 151846,
        "<|extra_203|>": 151849,
        "<|extra_204|>": 151850,
        "<|image token|>": 151851,
        "<|image start|>": 151852,
        "<|image end|>": 151853,
        "<|visual token 000000|>": 151854,
        "<|visual token 032767|>": 184621,
    }
    assert real.vocab_size == 184622
    assert names.items() <= real.special_tokens.items()


def test_decode_writes_or_drops_special_ids(real: TiktokenTokenizer, exact: BpeTokenizer) -> None:
    ids = [151849, 9707, 151852, 21, 9, 23, 151851, 163782, 10134, 151850]
    full = "<|extra_203|>Hello<|image start|>6*8<|image token|><|visual token 011928|>World"
    for tokenizer in (real, exact):
        assert tokenizer.decode(ids) == "Hello6*8World"
        assert tokenizer.decode(ids, skip_special_tokens=False) == full + "<|extra_204|>"
        # the second half of a character may follow a special id: bytes are joined, then read
        assert tokenizer.decode([11162, 238, 151846, 243]) == " 🐕"
        assert tokenizer.decode([11162, 238]) == " \ufffd"


def test_transformers_reads_the_exact_files(real_exact: Path) -> None:
    (real_exact / "config.json").write_text('{"model_type": "emu3"}')  # as in a checkpoint folder
    theirs = AutoTokenizer.from_pretrained(real_exact)
    for text, baai, _ in ROWS:
        assert theirs(text).input_ids == HF_NAMES_IMAGE.get(text, baai), text
    assert theirs.image_token_id == 151646
    assert (theirs.boi_token_id, theirs.eoi_token_id) == (151852, 151853)
    assert (theirs.image_wrapper_token_id, theirs.eof_token_id) == (151851, 151847)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        151849,
        151850,
        151643,
    )
    assert len(theirs) == 184622


def test_transformers_reads_the_published_files(real_published: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(real_published)
    for text, _, hf in ROWS:
        assert theirs(text).input_ids == hf, text


def test_baai_files_come_back_byte_for_byte(
    published: BpeTokenizer, real_ranks: Path, tmp_path: Path
) -> None:
    back = to_tiktoken(published, tmp_path)
    assert (tmp_path / "emu3.tiktoken").read_bytes() == real_ranks.read_bytes()
    vision = (tmp_path / "emu3_vision_tokens.txt").read_bytes()
    assert len(vision) == 786478  # the size on the hub
    assert back.special_tokens["<|extra_0|>"] == 151646
    assert load_tokenizer(tmp_path).encode("hello.\n\nWorld") == [14990, 382, 10134]
