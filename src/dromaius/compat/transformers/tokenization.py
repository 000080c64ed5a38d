"""transformers tokenizers from a checkpoint folder of any layout.

Unlike `model.tokenizer`, these read special tokens inside text, as upstream does.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dromaius.tokenizers.convert import hf_form
from dromaius.tokenizers.tiktoken import TiktokenTokenizer

ROLES = {
    "image_token": "<image>",
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
    if (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        for role, name in ROLES.items():
            if getattr(tokenizer, role, None) is None and name in tokenizer.get_added_vocab():
                setattr(tokenizer, role, name)
                setattr(tokenizer, f"{role}_id", tokenizer.convert_tokens_to_ids(name))
        return tokenizer  # type: ignore[no-any-return]  # untyped upstream
    return AutoTokenizer.from_pretrained(folder)  # type: ignore[no-any-return]  # untyped upstream
