"""transformers tokenizers from a checkpoint folder of any layout.

Unlike `model.tokenizer`, these read special tokens inside text, as upstream does.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dromaius.errors import CheckpointError
from dromaius.models.emu3.layouts import read_json
from dromaius.models.emu3.vocabulary import Vocabulary
from dromaius.tokenizers.bpe import BpeTokenizer
from dromaius.tokenizers.convert import IMAGE_PLACEHOLDER, REPLACED_NAME, hf_form
from dromaius.tokenizers.tiktoken import TiktokenTokenizer

ROLES = {
    "image_token": IMAGE_PLACEHOLDER,
    "boi_token": "<|image start|>",
    "eoi_token": "<|image end|>",
    "image_wrapper_token": "<|image token|>",
    "eof_token": "<|extra_201|>",
}
"""Special tokens of the -hf tokenizer that have a name of their own (spec section 3.2)."""


def load_transformers_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an -hf, BAAI or Dromaius folder.

    BAAI's own files give BAAI's ids (NFC and its regular expression); the published -hf files give
    theirs, which differ for some text (spec section 3.3).
    """
    if not (folder / "tokenizer.json").exists() and any(folder.glob("*.tiktoken")):
        form = hf_form(TiktokenTokenizer.from_folder(folder), "exact")
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(form.definition)),
            **{k: v for k, v in (form.config or {}).items() if k != "tokenizer_class"},
        )
    if not (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    if not (settings.exists() and "padding_side" in read_json(settings)):
        # tokenizer.json keeps the side of the last call before it was saved: nobody's choice
        tokenizer.init_kwargs.pop("padding_side", None)
    if getattr(tokenizer, "image_token", None) is not None:
        return tokenizer
    # A file of our own: the placeholder has its BAAI name, and the roles are not written down.
    return _with_roles(BpeTokenizer(folder / "tokenizer.json").definition)


def _with_roles(definition: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer.json with the names of an -hf one. Raises CheckpointError where one lacks."""
    names = {entry["content"] for entry in definition["added_tokens"]}
    for entry in definition["added_tokens"]:
        if IMAGE_PLACEHOLDER not in names and entry["content"] == REPLACED_NAME:
            entry["content"] = IMAGE_PLACEHOLDER
    vocab = definition["model"]["vocab"]
    if IMAGE_PLACEHOLDER not in vocab and REPLACED_NAME in vocab:
        vocab[IMAGE_PLACEHOLDER] = vocab.pop(REPLACED_NAME)
    names = {entry["content"] for entry in definition["added_tokens"]}
    roles = {"bos_token": "<|extra_203|>", "eos_token": "<|extra_204|>"}
    roles["pad_token"] = "<|endoftext|>"
    if absent := sorted({*roles.values(), *ROLES.values()} - names):
        raise CheckpointError(f"the tokenizer has no {absent[0]}, so it writes no Emu3 prompts")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(definition)),
        extra_special_tokens=ROLES,
        clean_up_tokenization_spaces=False,
        **roles,
    )


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The ids with a role, by their names; ValueError if visual ids do not count on from code 0."""
    ids = tokenizer.get_vocab()
    codes = sum(name.startswith("<|visual token ") for name in ids)
    visual = [ids.get(f"<|visual token {code:06d}|>") for code in range(codes)]
    roles = {
        "pad": tokenizer.pad_token_id,
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "image_token": ids.get("<|image token|>"),
        "image_start": ids.get("<|image start|>"),
        "image_end": ids.get("<|image end|>"),
        "end_of_line": ids.get("<|extra_200|>"),
        "end_of_frame": ids.get("<|extra_201|>"),
        "visual_start": visual[0] if visual else None,
    }
    if absent := [role for role, token in roles.items() if token is None]:
        raise ValueError(f"the tokenizer has no id for {', '.join(absent)}")
    start = roles["visual_start"]
    if visual != list(range(start, start + codes)):
        raise ValueError("the tokenizer's visual ids do not count on from code 0")
    return Vocabulary(codebook_size=codes, **roles)
