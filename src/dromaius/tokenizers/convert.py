"""The two file forms of Emu3's text tokenizer, one made from the other; and a small one trained.

BAAI form: emu3.tiktoken + emu3_vision_tokens.txt. HF form: tokenizer.json and its companions, as
in the published -hf checkpoints (spec: emu3.md, sections 3.1-3.2).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from dromaius.errors import CheckpointError
from dromaius.files import write_text
from dromaius.tokenizers.bpe import CONFIG_FILE, BpeTokenizer, json_text, merge_pair
from dromaius.tokenizers.text import TextTokenizer, checked_text
from dromaius.tokenizers.tiktoken import FIXED_NAMES, PATTERN, TiktokenTokenizer

Variant = Literal["exact", "published"]

# The HF form has no <|extra_0|>: its id carries the placeholder that HF processors expand.
IMAGE_PLACEHOLDER = "<image>"
REPLACED_NAME = "<|extra_0|>"

_ROLES = {
    "bos_token": "<|extra_203|>",
    "eos_token": "<|extra_204|>",
    "pad_token": "<|endoftext|>",
}
# what BAAI's own tokenizer class reads beside the two files
_BAAI_CONFIG = {
    "tokenizer_class": "Emu3Tokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_emu3.Emu3Tokenizer", None]},
    **_ROLES,
    "clean_up_tokenization_spaces": True,
    "model_max_length": 10**30,
}
_EXTRA_ROLES = {
    "image_token": IMAGE_PLACEHOLDER,
    "boi_token": "<|image start|>",
    "eoi_token": "<|image end|>",
    "image_wrapper_token": "<|image token|>",
    "eof_token": "<|extra_201|>",
}


def to_tokenizer_json(
    tokenizer: TextTokenizer, folder: Path, variant: Variant | None = None
) -> BpeTokenizer:
    """Writes the HF form: tokenizer.json, tokenizer_config.json, vocab.json and merges.txt.

    `exact` keeps every id of the BAAI form (NFC and Emu3's own regex), also through transformers'
    AutoTokenizer. `published` is what the -hf repositories hold: GPT-2's regex and no NFC, which
    gives other ids for line breaks before text, brackets before letters, and the like. None gives
    the ids that `tokenizer` gives: `exact` from the BAAI form, and a tokenizer.json as it is.
    """
    if isinstance(tokenizer, BpeTokenizer) and variant is None:
        converted = _with_placeholder(tokenizer)
    else:
        converted = hf_form(baai_form(tokenizer), variant or "exact")
    converted.save(folder)
    model = converted.definition["model"]
    merges = "\n".join(" ".join(merge_pair(merge)) for merge in model["merges"])
    # transformers' own file names for the same vocabulary; older versions read these two
    write_text(Path(folder) / "vocab.json", json_text(model["vocab"]))
    write_text(Path(folder) / "merges.txt", f"#version: 0.2\n{merges}\n")
    return converted


def hf_form(tokenizer: TiktokenTokenizer, variant: Variant = "exact") -> BpeTokenizer:
    """The same vocabulary as a BpeTokenizer; see `to_tokenizer_json` for the variants."""
    if variant not in ("exact", "published"):
        raise ValueError(f"variant must be 'exact' or 'published', not {variant!r}")
    if IMAGE_PLACEHOLDER in tokenizer.special_tokens:
        raise CheckpointError(f"the special tokens already hold {IMAGE_PLACEHOLDER}")
    ranks = {piece: rank for rank, piece in enumerate(tokenizer.pieces)}
    merges = [
        " ".join(map(_to_letters, split_piece(piece, ranks)))
        for piece in tokenizer.pieces
        if len(piece) > 1
    ]
    special = {
        (IMAGE_PLACEHOLDER if name == REPLACED_NAME else name): token_id
        for name, token_id in tokenizer.special_tokens.items()
    }
    vocab = {_to_letters(piece): rank for piece, rank in ranks.items()} | special
    definition = _definition(vocab, merges, special, variant)
    return BpeTokenizer.from_definition(definition, _transformers_config(special, variant))


def to_tiktoken(tokenizer: TextTokenizer, folder: Path) -> TiktokenTokenizer:
    """Writes the BAAI form; every rank is recovered exactly and <|extra_0|> gets its name back.

    Where `cuts_like_emu3` is false (the published tokenizer.json) ids of text change: the BAAI form
    always cuts with Emu3's regex after NFC. Raises CheckpointError when the vocabulary cannot be
    written in this form.
    """
    converted = baai_form(tokenizer)
    converted.save(folder)
    write_text(Path(folder) / CONFIG_FILE, json_text(_BAAI_CONFIG))
    return converted


def cuts_like_emu3(tokenizer: TextTokenizer) -> bool:
    """Whether text is normalised and cut as in the BAAI form, so that a conversion keeps ids."""
    if not isinstance(tokenizer, BpeTokenizer):
        return isinstance(tokenizer, TiktokenTokenizer)
    exact = _definition({}, [], {}, "exact")
    return all(tokenizer.definition.get(k) == exact[k] for k in ("normalizer", "pre_tokenizer"))


def baai_form(tokenizer: TextTokenizer) -> TiktokenTokenizer:
    """The same vocabulary as a TiktokenTokenizer; see `to_tiktoken`."""
    if isinstance(tokenizer, TiktokenTokenizer):
        return tokenizer
    if not isinstance(tokenizer, BpeTokenizer):
        raise CheckpointError(f"a {type(tokenizer).__name__} has no BAAI form")
    special = tokenizer.special_tokens
    vocab = tokenizer.definition["model"]["vocab"]
    ordinary = {i: token for token, i in vocab.items() if token not in special}
    if sorted(ordinary) != list(range(len(ordinary))):
        raise CheckpointError("no BAAI form: the ids of ordinary tokens are not 0, 1, 2 ...")
    pieces = [_to_bytes(ordinary[rank]) for rank in range(len(ordinary))]
    names = [REPLACED_NAME if name == IMAGE_PLACEHOLDER else name for name in special]
    wanted = list(range(len(pieces), len(pieces) + len(names)))
    if list(special.values()) != wanted or tuple(names[: len(FIXED_NAMES)]) != FIXED_NAMES:
        raise CheckpointError("no BAAI form: the special tokens are not Emu3's block of names")
    # a .tiktoken file implies the merges: the canonical split of each piece, in the order of ranks
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    implied = [split_piece(piece, ranks) for piece in pieces if len(piece) > 1]
    merges = [merge_pair(merge) for merge in tokenizer.definition["model"]["merges"]]
    if merges != [(_to_letters(left), _to_letters(right)) for left, right in implied]:
        raise CheckpointError("no BAAI form: the merges are not in the order of the ids")
    return TiktokenTokenizer.from_pieces(pieces, names)


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> BpeTokenizer:
    """Learns a byte-level BPE with NFC and Emu3's regex; any text encodes and decodes.

    `vocab_size` counts the ordinary ids (256 bytes + merges; fewer when the texts have fewer pairs
    seen twice); `special_tokens` get the ids that follow. The same texts give the same tokenizer.
    With `[*FIXED_NAMES, *vision_names(n)]` as special tokens it has a BAAI form.
    """
    from tokenizers import Tokenizer, models, trainers

    if vocab_size < 256:
        raise ValueError(f"vocab_size must be at least 256, one id per byte, not {vocab_size}")
    if len(set(special_tokens)) != len(special_tokens) or not all(special_tokens):
        raise ValueError("special_tokens must be distinct and not empty")
    shape = json.loads(Tokenizer(models.BPE()).to_str())
    shape |= {key: _definition({}, [], {}, "exact")[key] for key in ("normalizer", "pre_tokenizer")}
    learner = Tokenizer.from_str(json.dumps(shape))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=_LETTERS, show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator((checked_text(text) for text in texts), trainer)
    model = json.loads(learner.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = [" ".join(merge_pair(merge)) for merge in model["merges"]]
    special = {name: len(vocab) + index for index, name in enumerate(special_tokens)}
    if set(special) & set(vocab):
        raise ValueError("a special token has the same name as an ordinary one")
    definition = _definition(vocab | special, merges, special, "exact")
    return BpeTokenizer.from_definition(definition, _transformers_config(special, "exact"))


def split_piece(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two pieces whose merge makes `piece`: byte-pair merging stopped below its own rank."""
    limit = ranks[piece]
    parts = [bytes([value]) for value in piece]
    pairs = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
    while len(parts) > 2:
        best = pairs.index(min(pairs))  # the first of the lowest rank
        if pairs[best] >= limit:
            raise CheckpointError(f"no sequence of merges makes {piece!r} (rank {limit})")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
        del pairs[best]
        for index in range(max(best - 1, 0), min(best + 1, len(pairs))):  # the merge's neighbours
            pairs[index] = ranks.get(parts[index] + parts[index + 1], limit)
    return parts[0], parts[1]


def _with_placeholder(tokenizer: BpeTokenizer) -> BpeTokenizer:
    """The same tokenizer with <|extra_0|> named <image>, which HF processors look for."""
    if REPLACED_NAME not in tokenizer.special_tokens:
        return tokenizer
    definition = dict(tokenizer.definition)
    names = {REPLACED_NAME: IMAGE_PLACEHOLDER}
    added = definition["added_tokens"]
    definition["added_tokens"] = [
        token | {"content": names.get(token["content"], token["content"])} for token in added
    ]
    vocab = definition["model"]["vocab"]
    renamed = {names.get(token, token): token_id for token, token_id in vocab.items()}
    definition["model"] = definition["model"] | {"vocab": renamed}
    special = {names.get(name, name): i for name, i in tokenizer.special_tokens.items()}
    config = (tokenizer.config or {}) | _transformers_config(special, "exact")
    return BpeTokenizer.from_definition(definition, config)


def _definition(
    vocab: dict[str, int], merges: list[str], special: dict[str, int], variant: Variant
) -> dict[str, Any]:
    """A tokenizer.json. ByteLevel writes each byte as one printable letter."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    normalizer: dict[str, Any] | None = None
    cut: dict[str, Any] = byte_level | {"use_regex": True}
    if variant == "exact":
        normalizer = {"type": "NFC"}
        split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated"}
        steps = [split | {"invert": False}, byte_level | {"use_regex": False}]
        cut = {"type": "Sequence", "pretokenizers": steps}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": name} | flags | {"special": True} for name, i in special.items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _transformers_config(special: dict[str, int], variant: Variant) -> dict[str, Any]:
    """tokenizer_config.json, naming the roles whose tokens exist.

    transformers 5 rebuilds the pre-tokenizer of a GPT2Tokenizer from vocabulary and merges;
    PreTrainedTokenizerFast keeps the one in tokenizer.json.
    """
    extra = {role: name for role, name in _EXTRA_ROLES.items() if name in special}
    return {
        "add_prefix_space": False,
        **{role: name for role, name in _ROLES.items() if name in special},
        "clean_up_tokenization_spaces": False,
        **({"extra_special_tokens": extra} if extra else {}),
        "tokenizer_class": "GPT2Tokenizer" if variant == "published" else "PreTrainedTokenizerFast",
    }


def _byte_letters() -> Iterator[str]:
    """GPT-2's letters of the bytes 0..255: printable ones stand for themselves."""
    substitute = 256
    for value in range(256):
        if 33 <= value <= 126 or 161 <= value <= 172 or 174 <= value <= 255:
            yield chr(value)
        else:
            yield chr(substitute)
            substitute += 1


_LETTERS = list(_byte_letters())
_BYTES = {letter: value for value, letter in enumerate(_LETTERS)}


def _to_letters(piece: bytes) -> str:
    return "".join(_LETTERS[value] for value in piece)


def _to_bytes(letters: str) -> bytes:
    try:
        return bytes(_BYTES[letter] for letter in letters)
    except KeyError as error:
        raise CheckpointError(f"no BAAI form: {letters!r} is not a byte-level token") from error
