"""Visual ids by their names in a `vocabulary_map`, for transformers' users.

Our own arithmetic is `models.emu3.vocabulary`; here the ids may be any, since a map names each.
Legend: h/w grid of codes.
"""

from functools import cached_property

import torch
from torch import Tensor

from dromaius.compat.transformers.configuration import (
    IMAGE_PLACEHOLDER,
    PUBLISHED_VOCAB_SIZE,
    Emu3Config,
    vocabulary_map,
)
from dromaius.models.emu3.config import VocabularyConfig

_VISUAL_PREFIX = "<|visual token"


class Emu3ImageVocabularyMapping:
    """Codes of the vision tokenizer ("img") <-> ids of the language model ("bpe")."""

    def __init__(self, vocab_map: dict[str, int] | None) -> None:
        self.vocab_map = vocab_map or {}
        self.eol_token_id = self.vocab_map.get("<|extra_200|>")
        self.image_token_id = self.vocab_map.get(IMAGE_PLACEHOLDER)

    @classmethod
    def from_config(cls, config: Emu3Config) -> "Emu3ImageVocabularyMapping":
        """A configuration without a map has the published ids, if it has their number."""
        if config.vocabulary_map is None and config.text.vocab_size == PUBLISHED_VOCAB_SIZE:
            return cls(vocabulary_map(VocabularyConfig()))
        return cls(config.vocabulary_map)

    @cached_property
    def image_tokens(self) -> list[int]:
        """All visual ids, ascending."""
        return sorted(self.bpe2img)

    @cached_property
    def image_tokens_str(self) -> list[str]:
        """Names of all visual ids, ascending."""
        return sorted(name for name in self.vocab_map if name.startswith(_VISUAL_PREFIX))

    @cached_property
    def img2bpe(self) -> dict[int, int]:
        """Code -> id; the code is the six digits of the name."""
        return {int(name[-8:-2]): self.vocab_map[name] for name in self.image_tokens_str}

    @cached_property
    def bpe2img(self) -> dict[int, int]:
        """Id -> code."""
        return {token: code for code, token in self.img2bpe.items()}

    @cached_property
    def img2bpe_mapping_tensor(self) -> Tensor:
        """int32 [codes]: the id of each code."""
        return _table(self.img2bpe)

    @cached_property
    def bpe2img_mapping_tensor(self) -> Tensor:
        """int32 [largest visual id + 1]: the code of each id; 0 for ids that are not visual."""
        return _table(self.bpe2img)

    def convert_img2bpe(self, img_batch: Tensor) -> Tensor:
        """Codes [...,h,w] -> ids int32 [...,h,w+1], each row closed by the end-of-line id."""
        self._require_map()
        ids = self.img2bpe_mapping_tensor[img_batch.to("cpu", torch.long)]
        line_ends = ids.new_full((*ids.shape[:-1], 1), int(self.eol_token_id or 0))
        return torch.cat((ids, line_ends), dim=-1).to(img_batch.device)

    def convert_bpe2img(self, img_batch: Tensor) -> Tensor:
        """Ids [...,h,w+1] -> codes int32 [...,h,w]; an id that is not visual becomes code 0."""
        self._require_map()
        table, ids = self.bpe2img_mapping_tensor, img_batch[..., :-1].to("cpu", torch.long)
        known = (ids >= 0) & (ids < len(table))
        return table[ids.where(known, torch.zeros(()).long())].where(known, 0).to(img_batch.device)

    def _require_map(self) -> None:
        if not self.img2bpe or self.eol_token_id is None:
            raise ValueError(
                "the configuration's vocabulary_map names no visual ids and line end, "
                "so pictures have no ids"
            )


def _table(mapping: dict[int, int]) -> Tensor:
    table = torch.zeros(max(mapping, default=-1) + 1, dtype=torch.int)
    if mapping:
        table[torch.tensor(list(mapping))] = torch.tensor(list(mapping.values()), dtype=torch.int)
    return table
