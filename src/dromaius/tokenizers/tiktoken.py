"""Emu3's text tokenizer in the form of the BAAI repositories (spec: emu3.md, section 3).

Two files: `emu3.tiktoken` holds one line "base64(bytes) rank" per ordinary id, and
`emu3_vision_tokens.txt` one special name per line. The special block starts at the number of
ranks: 208 fixed names, then the lines of the second file.
"""

import base64
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import tiktoken

from dromaius.errors import CheckpointError
from dromaius.files import read_bytes, write_bytes, write_text
from dromaius.tokenizers.text import checked_text, unknown_id

RANKS_FILE = "emu3.tiktoken"
VISION_FILE = "emu3_vision_tokens.txt"
MAX_FILE_BYTES = 64 * 2**20

# How Emu3 cuts text before byte pairs are merged: single digits, words with at most one leading
# non-letter, punctuation with the line ends after it, runs of white space.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FIXED_NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>") + tuple(
    f"<|extra_{index}|>" for index in range(205)
)


def vision_names(codebook_size: int) -> list[str]:
    """The lines of `emu3_vision_tokens.txt` for a codebook of that size."""
    visual = [f"<|visual token {code:06d}|>" for code in range(codebook_size)]
    return ["<|image token|>", "<|image start|>", "<|image end|>", *visual]


class TiktokenTokenizer:
    """Byte-pair encoding over the ranks of a .tiktoken file; text is NFC-normalised first.

    Reading is cheap: the encoder is built at the first `encode`. Safe to share between threads.
    """

    def __init__(self, path: Path, special_tokens: Mapping[str, int]) -> None:
        """Reads the ranks at `path`; `special_tokens` gives the ids of names above them.

        Raises CheckpointError naming file and line for a damaged file, or the name of a special
        token whose id is taken.
        """
        self._setup(read_ranks(Path(path)), special_tokens)

    @classmethod
    def from_folder(cls, folder: Path) -> "TiktokenTokenizer":
        """Reads the one *.tiktoken file of the folder and the vision token file beside it."""
        found = sorted(Path(folder).glob("*.tiktoken"))
        if len(found) != 1:
            raise CheckpointError(f"{folder} holds {len(found)} .tiktoken files instead of one")
        names = read_names(Path(folder) / VISION_FILE)
        return cls.from_pieces(read_ranks(found[0]), [*FIXED_NAMES, *names])

    @classmethod
    def from_pieces(cls, pieces: list[bytes], names: list[str]) -> "TiktokenTokenizer":
        """Makes a tokenizer of the bytes of each rank and the special names that follow them."""
        tokenizer = cls.__new__(cls)
        tokenizer._setup(pieces, {name: len(pieces) + i for i, name in enumerate(names)})
        return tokenizer

    def _setup(self, pieces: list[bytes], special_tokens: Mapping[str, int]) -> None:
        self._pieces = pieces
        taken: dict[int, str] = {}
        for name, token_id in special_tokens.items():
            if not name or token_id < len(pieces) or token_id in taken:
                raise CheckpointError(f"special token {name!r} cannot have id {token_id}")
            taken[token_id] = name
        self._names = dict(sorted(taken.items()))
        self.special_tokens: dict[str, int] = {name: i for i, name in self._names.items()}

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, specials included."""
        return max(self._names, default=len(self._pieces) - 1) + 1

    @property
    def pieces(self) -> list[bytes]:
        """The bytes of every ordinary id; the index is the id."""
        return self._pieces

    @cached_property
    def _ordinary(self) -> tiktoken.Encoding:
        return self._encoding({})  # knows no special token, so no text can reach one

    @cached_property
    def _with_special(self) -> tiktoken.Encoding:
        return self._encoding(self.special_tokens)

    def _encoding(self, special_tokens: dict[str, int]) -> tiktoken.Encoding:
        ranks = {piece: rank for rank, piece in enumerate(self._pieces)}
        return tiktoken.Encoding(
            "emu3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special_tokens
        )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of ordinary text; a special token's name in it is ordinary text too."""
        return self._ordinary.encode_ordinary(unicodedata.normalize("NFC", checked_text(text)))

    def encode_with_special(self, text: str) -> list[int]:
        """Returns the ids with special names parsed, as upstream does. Not for user text."""
        text = unicodedata.normalize("NFC", checked_text(text))
        return self._with_special.encode(text, allowed_special="all")

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Joins the bytes of the ids; see `TextTokenizer.decode`."""
        parts: list[bytes] = []
        for token_id in map(int, ids):
            if 0 <= token_id < len(self._pieces):
                parts.append(self._pieces[token_id])
            elif not skip_special_tokens:
                if token_id not in self._names:
                    raise unknown_id(token_id, self.vocab_size)
                parts.append(self._names[token_id].encode("utf-8"))
        return b"".join(parts).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Writes both files into `folder`.

        Raises CheckpointError when the special tokens are not the block that the form implies.
        """
        names = list(self.special_tokens)
        last = len(self._pieces) + len(names)
        block = list(self._names) == list(range(len(self._pieces), last))
        if not block or tuple(names[: len(FIXED_NAMES)]) != FIXED_NAMES:
            raise CheckpointError(f"these special tokens cannot be written to {VISION_FILE}")
        write_ranks(Path(folder) / RANKS_FILE, self._pieces)
        write_names(Path(folder) / VISION_FILE, names[len(FIXED_NAMES) :])


def read_ranks(path: Path) -> list[bytes]:
    """Returns the bytes of every rank of a .tiktoken file, checked to be a whole vocabulary."""
    by_rank: dict[int, bytes] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            continue
        try:
            encoded, rank_text = line.split()
            piece, rank = base64.b64decode(encoded, validate=True), int(rank_text)
        except ValueError as error:
            raise CheckpointError(f"{path}, line {number}: not 'base64 rank'") from error
        if rank in by_rank or not piece:
            raise CheckpointError(f"{path}, line {number}: rank {rank} is empty or given twice")
        by_rank[rank] = piece
    # pieces in the order of their ranks: 0, 1, 2 ... without a gap
    pieces = [by_rank[rank] for rank in sorted(by_rank)]
    if not pieces or min(by_rank) != 0 or max(by_rank) != len(pieces) - 1:
        raise CheckpointError(f"{path}: the ranks are not 0, 1, 2 ... without a gap")
    distinct = set(pieces)
    if len(distinct) != len(pieces):
        raise CheckpointError(f"{path}: the same bytes have two ranks")
    if any(bytes([value]) not in distinct for value in range(256)):
        raise CheckpointError(f"{path}: not every single byte has a rank")
    return pieces


def read_names(path: Path) -> list[str]:
    """Returns the lines of the vision token file; blank or repeated lines are errors."""
    try:
        names = [line.decode("utf-8") for line in _lines(path)]
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text") from error
    seen = set(FIXED_NAMES)
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            raise CheckpointError(f"{path}, line {number}: {name!r} is empty or given twice")
        seen.add(name)
    return names


def write_ranks(path: Path, pieces: list[bytes]) -> None:
    """Writes a .tiktoken file; `pieces[rank]` are the bytes of a rank."""
    lines = (b"%s %d\n" % (base64.b64encode(piece), rank) for rank, piece in enumerate(pieces))
    write_bytes(path, b"".join(lines))


def write_names(path: Path, names: list[str]) -> None:
    """Writes the vision token file, one name per line."""
    write_text(path, "".join(name + "\n" for name in names))


def _lines(path: Path) -> list[bytes]:
    return read_bytes(path, MAX_FILE_BYTES, CheckpointError).splitlines()
