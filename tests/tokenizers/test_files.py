"""Reading, writing and converting the tokenizer files; damaged ones are named."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dromaius.errors import CheckpointError
from dromaius.tokenizers import load_tokenizer
from dromaius.tokenizers.bpe import BpeTokenizer
from dromaius.tokenizers.convert import (
    cuts_like_emu3,
    hf_form,
    to_tiktoken,
    to_tokenizer_json,
    train_bpe,
)
from dromaius.tokenizers.tiktoken import FIXED_NAMES, TiktokenTokenizer, vision_names

TEXT = "He'll see the (green) apple.\n\nnaïve e\u0301clair <image> <|extra_0|>"


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(small_folder, tmp_path / "copy")


def test_every_form_loads_and_saves(small_folder: Path, tmp_path: Path) -> None:
    small = load_tokenizer(small_folder)
    to_tokenizer_json(TiktokenTokenizer.from_folder(small_folder), tmp_path / "hf")
    for source in (small_folder, tmp_path / "hf"):
        tokenizer = load_tokenizer(str(source))
        tokenizer.save(tmp_path / "again")
        again = load_tokenizer(tmp_path / "again")
        assert again.encode(TEXT) == tokenizer.encode(TEXT) == small.encode(TEXT)
        assert again.special_tokens == tokenizer.special_tokens
        assert again.vocab_size == tokenizer.vocab_size == 356 + 208 + 3 + 64
        shutil.rmtree(tmp_path / "again")


def test_baai_to_hf_and_back(small_folder: Path, tmp_path: Path) -> None:
    small = TiktokenTokenizer.from_folder(small_folder)
    for variant in ("exact", "published"):
        converted = to_tokenizer_json(small, tmp_path / variant, variant)
        assert "<|extra_0|>" not in converted.special_tokens
        assert converted.special_tokens["<image>"] == small.special_tokens["<|extra_0|>"]
        to_tiktoken(BpeTokenizer(tmp_path / variant / "tokenizer.json"), tmp_path / "back")
        for file in small_folder.iterdir():
            assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_transformers_gives_our_ids(small: TiktokenTokenizer, tmp_path: Path) -> None:
    for variant in ("exact", "published"):
        ours = to_tokenizer_json(small, tmp_path / variant, variant)
        theirs = AutoTokenizer.from_pretrained(tmp_path / variant)
        assert theirs(TEXT).input_ids == ours.encode_with_special(TEXT)
        assert theirs.image_token == "<image>"
    exact = hf_form(small).encode("e\u0301clair")
    assert exact == small.encode("éclair") != hf_form(small, "published").encode("e\u0301clair")


def test_slow_files_hold_the_same_vocabulary(small: TiktokenTokenizer, tmp_path: Path) -> None:
    model = to_tokenizer_json(small, tmp_path).definition["model"]
    assert json.loads((tmp_path / "vocab.json").read_text()) == model["vocab"]
    lines = (tmp_path / "merges.txt").read_text().splitlines()
    assert lines[0] == "#version: 0.2"
    assert lines[1:] == model["merges"]
    assert len(model["merges"]) == 100


def test_a_tokenizer_json_keeps_its_ids(small: TiktokenTokenizer, tmp_path: Path) -> None:
    """Without a variant nothing but the name of the image placeholder changes."""
    published = hf_form(small, "published")
    assert not cuts_like_emu3(published)
    assert cuts_like_emu3(small)
    assert cuts_like_emu3(hf_form(small))
    kept = to_tokenizer_json(published, tmp_path / "kept")
    assert kept.definition == published.definition
    assert kept.config == published.config
    exact = to_tokenizer_json(published, tmp_path / "exact", "exact")
    assert exact.encode(TEXT) == small.encode(TEXT) != published.encode(TEXT)
    names = [*FIXED_NAMES, *vision_names(16)]
    trained = train_bpe([TEXT] * 4, 290, names)
    placed = to_tokenizer_json(trained, tmp_path / "trained")
    assert placed.encode(TEXT) == trained.encode(TEXT)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "trained")
    assert theirs.image_token_id == trained.special_tokens["<|extra_0|>"]
    assert theirs("the green").input_ids == trained.encode("the green")


def test_trained_tokenizer_has_a_baai_form(tmp_path: Path) -> None:
    names = [*FIXED_NAMES, *vision_names(16)]
    trained = train_bpe([TEXT, "the green apple"] * 4, 290, names)
    back = to_tiktoken(trained, tmp_path)
    assert load_tokenizer(tmp_path).encode(TEXT) == back.encode(TEXT) == trained.encode(TEXT)
    assert back.special_tokens == trained.special_tokens


def test_no_baai_form(small: TiktokenTokenizer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not Emu3's block"):
        to_tiktoken(train_bpe(["ab ab ab"], 258, ["<a>"]), tmp_path)
    definition = json.loads(json.dumps(hf_form(small).definition))
    merges = definition["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]
    with pytest.raises(CheckpointError, match="merges are not in the order"):
        to_tiktoken(BpeTokenizer.from_definition(definition), tmp_path)
    with pytest.raises(CheckpointError, match="cannot be written"):
        TiktokenTokenizer.from_pieces(small.pieces, ["<a>"]).save(tmp_path)
    with pytest.raises(ValueError, match="variant must be"):
        hf_form(small, "other")  # type: ignore[arg-type]


def test_neither_form(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no text tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"@@@@ 300", "line 301: not 'base64 rank'"),
        (b"YWI= three", "line 301: not 'base64 rank'"),
        (b"YWI=", "line 301: not 'base64 rank'"),
        (b"YWI= 7", "line 301: rank 7 is empty or given twice"),
        (b"YWI= -1", "without a gap"),
        (b"YWI= 9999", "without a gap"),
        (b"YQ== 300", "the same bytes have two ranks"),
    ],
)
def test_damaged_ranks(line: bytes, reason: str, folder: Path) -> None:
    path = folder / "emu3.tiktoken"
    lines = path.read_bytes().splitlines()
    lines[300] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_tokenizer(folder)
    assert "emu3.tiktoken" in str(caught.value)


def test_a_missing_byte_is_an_error(folder: Path) -> None:
    path = folder / "emu3.tiktoken"
    path.write_bytes(path.read_bytes().replace(b"YQ== 97\n", b"YWF6eg== 97\n"))
    with pytest.raises(CheckpointError, match="not every single byte has a rank"):
        load_tokenizer(folder)


def test_damaged_vision_file(folder: Path) -> None:
    path = folder / "emu3_vision_tokens.txt"
    whole = path.read_text()
    path.write_text(whole.replace("000001", "000000"))
    with pytest.raises(CheckpointError, match="line 5: .* given twice"):
        load_tokenizer(folder)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        load_tokenizer(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot read .*emu3_vision_tokens.txt"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "not a tokenizer definition"),
        ('{"model": {"type": "Unigram", "vocab": []}, "added_tokens": []}', "only BPE"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}, "added_tokens": []}',
            "not a tokenizer definition",
        ),
    ],
)
def test_damaged_tokenizer_json(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_tokenizer(tmp_path)
    assert "tokenizer.json" in str(caught.value)


def test_special_ids_may_not_overlap(small_folder: Path) -> None:
    path = small_folder / "emu3.tiktoken"
    with pytest.raises(CheckpointError, match="'<b>' cannot have id 400"):
        TiktokenTokenizer(path, {"<a>": 400, "<b>": 400})
    with pytest.raises(CheckpointError, match="'<a>' cannot have id 5"):
        TiktokenTokenizer(path, {"<a>": 5})
