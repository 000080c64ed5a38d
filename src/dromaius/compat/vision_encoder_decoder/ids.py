"""Start, end and padding ids of a model: what is set anywhere counts, the latest first."""

from typing import Any

from dromaius.compat.vision_encoder_decoder.configuration import (
    TOKEN_IDS,
    VisionEncoderDecoderConfig,
)
from dromaius.errors import InputError


class TokenIds:
    """The part of a model that knows where texts start and end, in every framework.

    An id comes from what was last assigned to `model.config` or `model.generation_config`, else
    from generation_config.json, else from the decoder's configuration.
    """

    config: VisionEncoderDecoderConfig
    generation_config: Any

    def vocabulary_size(self) -> int:
        """Tokens that the decoder has embeddings for."""
        raise NotImplementedError

    def note_ids(self) -> None:
        """Remembers the configuration's ids: what differs later was assigned since."""
        self._noted = {name: getattr(self.config, name, None) for name in TOKEN_IDS}

    def read_config(self) -> None:
        """Takes over what was assigned to `model.config` since the last time."""
        for name in TOKEN_IDS:
            value = getattr(self.config, name, None)
            if value != self._noted[name]:
                setattr(self.generation_config, name, value)
        self.note_ids()
        if isinstance(self.config, VisionEncoderDecoderConfig):  # it may have been replaced
            self.generation_config.update(**self.config.take_decoding())

    def use_tokenizer(self, tokenizer: Any) -> None:
        """Takes start, end and padding from a tokenizer.

        Start is its `cls` or else `bos` token, end `sep` or else `eos`, padding `pad` or else end.
        TrOCR's decoders start with the end token: its configuration says so and is kept.
        Raises InputError if the tokenizer has more tokens than the decoder.
        """
        size = self.vocabulary_size()
        if len(tokenizer) > size:
            raise InputError(
                f"the tokenizer has {len(tokenizer)} tokens, the decoder {size}: they do not belong"
                " together (or call model.resize_token_embeddings(len(tokenizer)))"
            )
        end = _either(tokenizer.sep_token_id, tokenizer.eos_token_id)
        start = getattr(self.config.decoder, "decoder_start_token_id", None)
        if start is None:
            start = _either(tokenizer.cls_token_id, tokenizer.bos_token_id)
        self.config.decoder_start_token_id = start
        self.config.eos_token_id = end
        self.config.pad_token_id = _either(tokenizer.pad_token_id, end)
        self.read_config()

    def all_ids(self) -> dict[str, Any]:
        """The ids under their names in the configuration, wherever they are set; or None."""
        self.read_config()
        sources = (self.generation_config, self.config, self.config.decoder)
        return {
            name: next((i for s in sources if (i := getattr(s, name, None)) is not None), None)
            for name in TOKEN_IDS
        }

    def start_and_pad(self) -> tuple[int, int]:
        """Ids for shifting labels. Raises ValueError if no start id is set anywhere."""
        ids = self.all_ids()
        start = _one(_either(ids["decoder_start_token_id"], ids["bos_token_id"]))
        pad = _one(_either(ids["pad_token_id"], ids["eos_token_id"]))
        if start is None:
            raise ValueError("set model.config.decoder_start_token_id: labels begin after it")
        if pad is None:
            raise ValueError("set model.config.pad_token_id: ignored labels are read as it")
        return start, pad


def _either(first: Any, second: Any) -> Any:
    return second if first is None else first


def _one(ids: Any) -> int | None:
    """Several ids may end a text; the first stands for them."""
    return ids[0] if isinstance(ids, (list, tuple)) else ids
