"""transformers' tokenizer of a checkpoint folder, also of old ones that name no class.

Neither torch nor a model is needed; transformers is imported when a folder is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dromaius.errors import CheckpointError
from dromaius.files import read_bytes

_MAX_JSON_BYTES = 16 * 2**20
_TOKENIZERS = (
    (("vocab.json", "merges.txt"), "RobertaTokenizer"),
    (("sentencepiece.bpe.model",), "XLMRobertaTokenizer"),
    (("vocab.txt",), "BertTokenizer"),
)
"""Which tokenizer has which files, for folders that do not say."""


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a folder.

    The first TrOCR checkpoints hold vocab.json and merges.txt and name no class, which
    transformers 5 cannot read; their class follows from the files.
    Raises CheckpointError if there is none, or it cannot be read.
    """
    import transformers

    files = [("tokenizer.json",), *(files for files, _ in _TOKENIZERS)]
    settings = folder / "tokenizer_config.json"
    named = settings.is_file() and read_json(settings).get("tokenizer_class")
    try:
        if (folder / "tokenizer.json").is_file() or named:
            return transformers.AutoTokenizer.from_pretrained(folder)
        for wanted, name in _TOKENIZERS:
            if all((folder / file).is_file() for file in wanted):
                config = folder / "config.json"
                decoder = (read_json(config) if config.is_file() else {}).get("decoder") or {}
                if name == "RobertaTokenizer" and decoder.get("model_type") == "gpt2":
                    name = "GPT2Tokenizer"
                return getattr(transformers, name).from_pretrained(folder)
    except CheckpointError:
        raise
    except Exception as error:  # damaged files: transformers and tokenizers raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {reason}") from error
    wanted_files = ", ".join(" and ".join(names) for names in files)
    raise CheckpointError(f"{folder} holds no tokenizer ({wanted_files})")


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises CheckpointError naming the file."""
    try:
        data = json.loads(read_bytes(path, _MAX_JSON_BYTES, CheckpointError))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return data
