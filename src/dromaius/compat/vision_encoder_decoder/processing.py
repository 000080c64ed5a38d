"""Image processor and tokenizer of a checkpoint folder, also of old ones that name no class."""

import json
from pathlib import Path
from typing import Any

from dromaius.errors import CheckpointError
from dromaius.files import read_bytes
from dromaius.io import hub

_MAX_JSON_BYTES = 16 * 2**20
_BY_FILES = (
    (("vocab.json", "merges.txt"), "RobertaTokenizer"),
    (("sentencepiece.bpe.model",), "XLMRobertaTokenizer"),
    (("vocab.txt",), "BertTokenizer"),
)
"""Which tokenizer has which files, for folders that do not say."""


def load_processor(source: Any, revision: str | None = None) -> Any:
    """A `TrOCRProcessor` (pictures and text -> tensors) of a folder or hub id.

    It serves any pair: the image processor is the encoder's, the tokenizer the decoder's.
    Raises CheckpointError if the folder has no tokenizer.
    """
    from transformers import AutoImageProcessor, TrOCRProcessor

    folder = hub.resolve(source, revision)
    return TrOCRProcessor(AutoImageProcessor.from_pretrained(folder), load_tokenizer(folder))


def load_tokenizer(source: Any, revision: str | None = None) -> Any:
    """transformers' tokenizer of a folder or hub id.

    The first TrOCR checkpoints hold vocab.json and merges.txt and name no class, which
    transformers 5 cannot read; their class follows from the files.
    Raises CheckpointError if there is no tokenizer.
    """
    import transformers

    folder = hub.resolve(source, revision)
    if (folder / "tokenizer.json").is_file() or _json(folder / "tokenizer_config.json").get(
        "tokenizer_class"
    ):
        return transformers.AutoTokenizer.from_pretrained(folder)
    for files, name in _BY_FILES:
        if all((folder / file).is_file() for file in files):
            decoder = _json(folder / "config.json").get("decoder") or {}
            if name == "RobertaTokenizer" and decoder.get("model_type") == "gpt2":
                name = "GPT2Tokenizer"
            return getattr(transformers, name).from_pretrained(folder)
    wanted = ", ".join(" and ".join(files) for files, _ in _BY_FILES)
    raise CheckpointError(f"{folder} holds no tokenizer (tokenizer.json, {wanted})")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_bytes(path, _MAX_JSON_BYTES, CheckpointError))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON") from error
    return content if isinstance(content, dict) else {}
