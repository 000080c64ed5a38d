"""A small vocabulary made on the spot, and the real one where its file is present."""

import base64
import heapq
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from dromaius.tokenizers.bpe import BpeTokenizer
from dromaius.tokenizers.convert import to_tokenizer_json
from dromaius.tokenizers.tiktoken import FIXED_NAMES, TiktokenTokenizer, vision_names

SAMPLE = (
    "the red apple and the green apple are in the image. You are a helpful assistant. "
    "He'll say we've done it, DON'T we? foo.bar_baz/qux (hello) [world] naïve café éclair "
    "请描述该图片 苹果 line1\n\nline2\r\n\tx  two  spaces  <image> <|image start|> 2024 3.14% "
) * 3


def learn_pieces(text: str, count: int) -> list[bytes]:
    """Plain byte-pair learning, independent of every tokenizer library: 256 bytes + `count`."""
    words = [[bytes([b]) for b in word.encode()] for word in text.replace(" ", "\0 ").split("\0")]
    pieces = [bytes([value]) for value in range(256)]
    while len(pieces) < 256 + count:
        seen = Counter(pair for word in words for pair in pairwise(word))
        (left, right), _ = heapq.nsmallest(1, seen.items(), key=lambda x: (-x[1], x[0]))[0]
        if left + right not in pieces:
            pieces.append(left + right)
        for word in words:
            for index in range(len(word) - 2, -1, -1):
                if index + 1 < len(word) and word[index : index + 2] == [left, right]:
                    word[index : index + 2] = [left + right]
    return pieces


def write_baai(folder: Path, pieces: list[bytes], codebook_size: int) -> Path:
    folder.mkdir(parents=True)
    lines = [f"{base64.b64encode(p).decode()} {rank}\n" for rank, p in enumerate(pieces)]
    (folder / "emu3.tiktoken").write_text("".join(lines))
    names = ["<|image token|>", "<|image start|>", "<|image end|>"]
    names += [f"<|visual token {code:06d}|>" for code in range(codebook_size)]
    (folder / "emu3_vision_tokens.txt").write_text("".join(name + "\n" for name in names))
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BAAI form with 356 ranks and 64 visual tokens."""
    folder = tmp_path_factory.mktemp("small") / "baai"
    return write_baai(folder, learn_pieces(SAMPLE, 100), 64)


@pytest.fixture(scope="session")
def small(small_folder: Path) -> TiktokenTokenizer:
    return TiktokenTokenizer.from_folder(small_folder)


@pytest.fixture(scope="session")
def real_ranks(test_data: Path, require_file: Callable[[Path], Path]) -> Path:
    return require_file(test_data / "emu3" / "emu3.tiktoken")


@pytest.fixture(scope="session")
def real(real_ranks: Path) -> TiktokenTokenizer:
    names = [*FIXED_NAMES, *vision_names(32768)]
    return TiktokenTokenizer(real_ranks, {name: 151643 + i for i, name in enumerate(names)})


@pytest.fixture(scope="session")
def real_exact(real: TiktokenTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the exact tokenizer.json of the real vocabulary."""
    folder = tmp_path_factory.mktemp("exact")
    to_tokenizer_json(real, folder)
    return folder


@pytest.fixture(scope="session")
def real_published(real: TiktokenTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the published tokenizer.json of the real vocabulary."""
    folder = tmp_path_factory.mktemp("published")
    to_tokenizer_json(real, folder, "published")
    return folder


@pytest.fixture(scope="session")
def exact(real_exact: Path) -> BpeTokenizer:
    return BpeTokenizer(real_exact / "tokenizer.json")


@pytest.fixture(scope="session")
def published(real_published: Path) -> BpeTokenizer:
    return BpeTokenizer(real_published / "tokenizer.json")
