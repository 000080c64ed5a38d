"""Image processor and tokenizer of a checkpoint folder, also of old ones that name no class."""

from typing import Any

from dromaius.io import hub
from dromaius.pipelines.reading import tokenizer


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
    return tokenizer.load_tokenizer(hub.resolve(source, revision))
