"""The text tokenizer of the BAAI repositories as a transformers tokenizer.

As upstream, and unlike `dromaius.load(...).tokenizer`, it parses the names of special tokens inside
any text: the processor writes pictures as text. Do not feed it text of people you do not trust.
"""

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken
from transformers import PreTrainedTokenizer

from dromaius.errors import CheckpointError
from dromaius.io import hub
from dromaius.tokenizers import tiktoken as files
from dromaius.tokenizers.bpe import DEFINITION_FILE, BpeTokenizer
from dromaius.tokenizers.convert import baai_form
from dromaius.tokenizers.text import checked_text

Token = str | bytes
"""A special token's name, or the bytes of an ordinary one."""


class Emu3Tokenizer(PreTrainedTokenizer):
    """Text <-> ids; tokens are bytes, special tokens are their names (spec section 3)."""

    vocab_files_names = {
        "vocab_file": files.RANKS_FILE,
        "special_tokens_file": files.VISION_FILE,
    }
    # transformers 4's default, which the repositories' tokenizer has; the types are all 0
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str | Path,
        special_tokens_file: str | Path | None = None,
        errors: str = "replace",
        bos_token: str = "<|extra_203|>",
        eos_token: str = "<|extra_204|>",
        pad_token: str = "<|endoftext|>",
        img_token: str = "<|image token|>",
        boi_token: str = "<|image start|>",
        eoi_token: str = "<|image end|>",
        eol_token: str = "<|extra_200|>",
        eof_token: str = "<|extra_201|>",
        **kwargs: Any,
    ) -> None:
        """Read emu3.tiktoken and emu3_vision_tokens.txt, or a tokenizer.json of an -hf checkpoint.

        Raises CheckpointError naming the file when one is absent or damaged.
        """
        pieces, names = _read(vocab_file, special_tokens_file)
        self.errors = errors
        self.mergeable_ranks = {piece: rank for rank, piece in enumerate(pieces)}
        self.special_tokens = {name: len(pieces) + i for i, name in enumerate(names)}
        self.decoder: dict[int, Token] = dict(enumerate([*pieces, *names]))
        self.eod_id = self.special_tokens["<|endoftext|>"]
        super().__init__(
            errors=errors,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            model_specific_special_tokens={
                "img_token": img_token,
                "boi_token": boi_token,
                "eoi_token": eoi_token,
                "eol_token": eol_token,
                "eof_token": eof_token,
                **kwargs.pop("model_specific_special_tokens", {}),
            },
            **kwargs,
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer arguments: nothing is run or fetched
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "Emu3Tokenizer":
        """Read a BAAI folder, an -hf or an own one (folder, hub id, or "nano").

        `trust_remote_code` is accepted and runs nothing. Text is always cut by BAAI's rules (NFC,
        Emu3's regex), also where the folder's tokenizer.json has others.
        """
        kwargs.pop("trust_remote_code", None)
        folder = hub.resolve(pretrained_model_name_or_path, kwargs.pop("revision", None))
        if not any(folder.glob("*.tiktoken")) and (folder / DEFINITION_FILE).is_file():
            return cls(folder / DEFINITION_FILE, name_or_path=str(folder), **kwargs)
        return super().from_pretrained(str(folder), **kwargs)

    @cached_property
    def tokenizer(self) -> tiktoken.Encoding:
        """tiktoken's encoder, made at the first use."""
        return tiktoken.Encoding(
            "Emu3",
            pat_str=files.PATTERN,
            mergeable_ranks=self.mergeable_ranks,
            special_tokens=self.special_tokens,
        )

    @property
    def vocab_size(self) -> int:
        """Every id, special ones included."""
        return len(self.decoder)

    def __len__(self) -> int:
        return self.vocab_size

    def get_vocab(self) -> dict[Any, int]:
        """Token -> id; ordinary tokens are bytes."""
        return {**self.mergeable_ranks, **self.special_tokens}

    # --- text -> ids -----------------------------------------------------------------------------

    def tokenize(  # type: ignore[override]  # tokens are bytes, as upstream
        self,
        text: str,
        allowed_special: Any = "all",
        disallowed_special: Any = (),
        **kwargs: Any,
    ) -> list[Token]:
        """Cut text into tokens; NFC first."""
        text = unicodedata.normalize("NFC", checked_text(text))
        ids = self.tokenizer.encode(
            text, allowed_special=allowed_special, disallowed_special=disallowed_special
        )
        return [self.decoder[token_id] for token_id in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """One token -> id, several -> list of ids; None for an unknown token."""
        if isinstance(tokens, (str, bytes)):
            return self._convert_token_to_id(tokens)
        return [self._convert_token_to_id(token) for token in tokens]

    def _convert_token_to_id(self, token: Token) -> int | None:
        if isinstance(token, bytes):
            return self.mergeable_ranks.get(token)
        found = self.special_tokens.get(token)
        return self.mergeable_ranks.get(token.encode("utf-8")) if found is None else found

    # --- ids -> text -----------------------------------------------------------------------------

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """One id -> token, several -> list; skipping drops every id from <|endoftext|> up."""
        if isinstance(ids, int):
            return self.decoder[ids]
        kept = (int(i) for i in ids)
        return [self.decoder[i] for i in kept if not (skip_special_tokens and i >= self.eod_id)]

    def convert_tokens_to_string(self, tokens: Sequence[Token]) -> str:
        """Join the bytes; what is not UTF-8 becomes U+FFFD (or as `errors` says)."""
        joined = b"".join(t.encode("utf-8") if isinstance(t, str) else t for t in tokens)
        return joined.decode("utf-8", errors=self.errors)

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        errors: str | None = None,
        **kwargs: Any,
    ) -> str:
        # Cleaning up spaces has no effect upstream either, whatever the configuration says.
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        tokens = self.convert_ids_to_tokens(ids, skip_special_tokens)
        joined = b"".join(t.encode("utf-8") if isinstance(t, str) else t for t in tokens)
        return joined.decode("utf-8", errors=errors or self.errors)

    # --- files -----------------------------------------------------------------------------------

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """The vocabulary is closed: known special tokens are accepted, others are an error."""
        for token in map(str, new_tokens or ()):
            if token not in self.special_tokens:
                raise ValueError(f"cannot add {token!r}: the vocabulary of Emu3 is closed")
        return 0

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write emu3.tiktoken and emu3_vision_tokens.txt; returns their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        ranks = Path(save_directory) / (prefix + files.RANKS_FILE)
        names = Path(save_directory) / (prefix + files.VISION_FILE)
        files.write_ranks(ranks, list(self.mergeable_ranks))
        files.write_names(names, list(self.special_tokens)[len(files.FIXED_NAMES) :])
        return str(ranks), str(names)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "tokenizer"}  # rebuilt when needed


def _read(
    vocab_file: str | Path, special_tokens_file: str | Path | None
) -> tuple[list[bytes], list[str]]:
    """Bytes of every rank, and the special names that follow them."""
    if vocab_file is None:
        raise CheckpointError(f"the folder holds no {files.RANKS_FILE}")
    vocab_file = Path(vocab_file)
    if vocab_file.suffix == ".json":
        converted = baai_form(BpeTokenizer(vocab_file))
        return converted.pieces, list(converted.special_tokens)
    names_file = Path(special_tokens_file or vocab_file.with_name(files.VISION_FILE))
    return files.read_ranks(vocab_file), [*files.FIXED_NAMES, *files.read_names(names_file)]
