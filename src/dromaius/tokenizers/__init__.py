"""Text <-> ids. User text never becomes a special token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dromaius.tokenizers.text import TextTokenizer

__all__ = ["find_tokenizer", "load_tokenizer"]


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """Reads the text tokenizer of a checkpoint folder.

    tokenizer.json, or one *.tiktoken file with emu3_vision_tokens.txt. Raises CheckpointError when
    the folder has neither, or when the files are damaged.
    """
    # imported here: each form needs only its own library
    from dromaius.errors import CheckpointError

    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        from dromaius.tokenizers.bpe import BpeTokenizer

        return BpeTokenizer(folder / "tokenizer.json")
    if any(folder.glob("*.tiktoken")):
        from dromaius.tokenizers.tiktoken import TiktokenTokenizer

        return TiktokenTokenizer.from_folder(folder)
    raise CheckpointError(f"{folder} holds no text tokenizer (tokenizer.json or *.tiktoken)")


def find_tokenizer(folder: Path) -> TextTokenizer | None:
    """As `load_tokenizer`; None for a folder without the files of either form.

    Of such a model codes and ids still work, text does not.
    """
    present = (folder / "tokenizer.json").exists() or any(folder.glob("*.tiktoken"))
    return load_tokenizer(folder) if present else None
