"""What every text tokenizer offers, and the checks that user text passes before it is encoded."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from dromaius.errors import InputError

MAX_CHARACTERS = 4_000_000
MAX_SPACE_RUN = 100_000  # tiktoken's regex engine overflows its stack on a run of a million spaces
_LONG_SPACE_RUN = re.compile(rf"\s{{{MAX_SPACE_RUN + 1}}}")


class TextTokenizer(Protocol):
    """Text <-> ids. User text never becomes a special token."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that the files define, specials included."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Special token name -> id, in the order of the ids."""

    def encode(self, text: str) -> list[int]:
        """Returns the ids of ordinary text; a special token's name in it is ordinary text too."""

    def encode_with_special(self, text: str) -> list[int]:
        """Returns the ids, with the special tokens' names parsed, as the published tokenizers do.

        Only for templates that we wrote, and for `compat`: in user text this lets a user forge
        image tokens.
        """

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Joins the bytes of the ids; bytes that are not UTF-8 become U+FFFD.

        Ids without text (special or unknown) are dropped. With `skip_special_tokens=False` special
        ids are written by name and an unknown id is an InputError.
        """

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files into `folder`, from which `load_tokenizer` reads them."""


def checked_text(text: str) -> str:
    """Returns `text` with lone surrogates replaced by U+FFFD.

    Raises InputError when it is not a str, or is too long for the tokenizers to read safely.
    """
    if not isinstance(text, str):
        raise InputError(f"text must be a str, not {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"text has {len(text)} characters; at most {MAX_CHARACTERS} are allowed")
    if _LONG_SPACE_RUN.search(text):
        raise InputError(f"text has a run of more than {MAX_SPACE_RUN} spaces")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def unknown_id(token_id: int, vocab_size: int) -> InputError:
    """The error for an id that has neither text nor a name."""
    return InputError(f"id {token_id} is not in the tokenizer's vocabulary of {vocab_size} ids")
