"""The tokenizer of a new model: characters, or pieces of words, of the training texts."""

from collections.abc import Iterable, Sequence
from typing import Any

from dromaius.errors import ConfigError

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = (PAD, START, END, UNKNOWN)
"""Their ids are 0, 1, 2 and 3."""


def character_tokenizer(texts: Iterable[str], longest: int) -> Any:
    """A transformers tokenizer with one token for each character of the texts, in code order."""
    from tokenizers import Tokenizer, decoders, models

    characters = sorted(set().union(*map(set, texts)))
    vocabulary = {token: place for place, token in enumerate((*SPECIAL, *characters))}
    # byte-pair encoding without a single merge: the characters themselves
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer, longest)


def piece_tokenizer(texts: Sequence[str], size: int, longest: int) -> Any:
    """A transformers tokenizer of at most `size` pieces of words, learnt from the texts.

    Raises ConfigError if the texts' characters alone are more.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    characters = sorted(set().union(*map(set, texts)))
    if size < len(characters) + len(SPECIAL) + 1:
        raise ConfigError(f"model.vocabulary {size} is too small for {len(characters)} characters")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(space, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(space, prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer, longest)


def _wrapped(tokenizer: Any, longest: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without start and end; "</s>" in a text is four characters, no end."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        return [one.ids for one in backend.encode_batch(list(texts), add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before
