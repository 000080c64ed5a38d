"""What a search needs to know: ids, lengths, beams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dromaius.errors import ContextError, InputError
from dromaius.models.vision_encoder_decoder.arrays import configuration

_NEW_TOKENS = 20
"""transformers' length when none is given: so many tokens after the prompt."""
_WITHOUT_EFFECT: dict[str, Any] = {
    "do_sample": False,
    "num_beam_groups": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "min_length": 0,
    "min_new_tokens": None,
    "forced_bos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "assistant_model": None,
}
"""Settings of transformers that change the text, and their values that do not."""


@dataclass(frozen=True)
class Settings:
    """Of greedy search (one beam) or beam search."""

    start: int
    """Every text begins with it."""
    pad: int | None
    """Fills texts behind their end."""
    eos: tuple[int, ...]
    """Each ends a text."""
    max_length: int
    """Tokens at most, prompt included."""
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    """Scores are divided by the number of new tokens to this power."""
    early_stopping: bool | str = False
    """True: stop once `num_beams` texts are finished. False: when none is likely to get better.
    "never": when none can get better."""
    forced_eos: tuple[int, ...] = ()
    """The last token of a text that is as long as it may be."""

    @staticmethod
    def of(
        config: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
        prompt_length: int = 1,
        **given: Any,
    ) -> Settings:
        """From the names of transformers' `generate`.

        A setting comes from `given`, else from `generation` (generation_config.json), else from the
        configuration of the whole, else, ids alone, from that of the decoder. A length is cut to
        the decoder's positions.

        Raises ValueError if no start id is set anywhere, InputError for a setting that is not
        supported here, ContextError for a prompt that leaves no room.
        """
        _check(given, generation or {})
        sources = [given, generation or {}, config]
        everywhere = [*sources, configuration.decoder(config)]
        eos = _ids(_first(everywhere, "eos_token_id"))
        pad = _first(everywhere, "pad_token_id")
        return Settings(
            start=start_id(config, generation, given),
            pad=pad if pad is not None else (eos[0] if eos else None),
            eos=eos,
            max_length=_max_length(config, sources[:2], prompt_length),
            forced_eos=_ids(_first(everywhere, "forced_eos_token_id")),
            **_search(sources),
        )


def start_id(
    config: Mapping[str, Any],
    generation: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> int:
    """The token that every text begins with. Raises ValueError if it is set nowhere."""
    places = [given or {}, generation or {}, config, configuration.decoder(config)]
    start = _first(places, "decoder_start_token_id")
    start = _first(places, "bos_token_id") if start is None else start
    if start is None:
        raise ValueError("set decoder_start_token_id (or bos_token_id): a text begins with it")
    return _ids(start)[0]


def _first(sources: Sequence[Mapping[str, Any]], name: str) -> Any:
    """The first value that is set."""
    return next((s[name] for s in sources if s.get(name) is not None), None)


def _search(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("num_beams", "num_return_sequences", "length_penalty", "early_stopping")
    values = {name: _first(sources, name) for name in names}
    chosen = {name: value for name, value in values.items() if value is not None}
    beams, wanted = chosen.get("num_beams", 1), chosen.get("num_return_sequences", 1)
    if beams < 1 or not 1 <= wanted <= beams:
        raise InputError(
            f"num_return_sequences is {wanted}, num_beams {beams}: it must lie between 1 and that"
        )
    return chosen


def _max_length(
    config: Mapping[str, Any], sources: Sequence[Mapping[str, Any]], prompt_length: int
) -> int:
    longest = prompt_length + _NEW_TOKENS
    for source in sources:
        if source.get("max_new_tokens") is not None:
            longest = prompt_length + int(source["max_new_tokens"])
            break
        if source.get("max_length") is not None:
            longest = int(source["max_length"])
            break
    limit = configuration.positions(config)
    longest = longest if limit is None else min(longest, limit)
    if prompt_length >= longest:
        raise ContextError(f"a prompt of {prompt_length} tokens leaves no room in {longest}")
    return longest


def _check(given: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
    known = {f.name for f in fields(Settings)} | {"max_new_tokens", "decoder_start_token_id"}
    known |= {"bos_token_id", "eos_token_id", "pad_token_id", "forced_eos_token_id"}
    for name, value in (dict(generation) | dict(given)).items():
        if name in _WITHOUT_EFFECT and value not in (_WITHOUT_EFFECT[name], None):
            raise InputError(f"{name}={value!r} is for PyTorch only; here are greedy and beams")
        if name in given and name not in known and name not in _WITHOUT_EFFECT:
            raise InputError(f"generate knows no setting {name!r}")


def _ids(value: Any) -> tuple[int, ...]:
    """One id, several or none."""
    if value is None:
        return ()
    return tuple(int(i) for i in value) if isinstance(value, (list, tuple)) else (int(value),)
