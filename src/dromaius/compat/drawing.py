"""Pictures that `generate` is asked for, drawn by the engine.

transformers prepares everything (lengths, masks, logits processors, stopping criteria) and hands it
to a decoding method. Here that method looks at what it was handed: prompts that end with a
picture's header, a grid rule, guidance, the usual samplers and nothing else are a picture for
`engine.draw_grids`; whatever is not understood to the last item runs in transformers' own loop.
Legend: B rows of the batch, T tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin
from transformers.generation import GenerateDecoderOnlyOutput

from dromaius.compat import prepared
from dromaius.compat.grid_probe import PrefixFunction, follows
from dromaius.compat.grid_rule import GridRule
from dromaius.compat.prepared import Constraint, Guidance
from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.models.emu3.language_model import LanguageModel


class GridGenerationMixin(GenerationMixin):
    """`generate` with pictures by the engine; see `Drawing.recognise` for which."""

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As `GenerationMixin.generate`.

        Sampled pictures depend on torch's global generator (`torch.manual_seed`), but are others
        than transformers' loop would draw from the same state.
        """
        if isinstance(cache := kwargs.get("past_key_values"), Cache):
            cache.is_the_callers = True  # type: ignore[attr-defined]  # read in `prepared.prompts`
        return GenerationMixin.generate(self, *args, **kwargs)

    def _seen(self, input_ids: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which of a prompt's ids [B,T] the model looks at, None if at all."""
        return mask

    def _decoder(self) -> tuple[Any, LanguageModelConfig]:
        """What holds the decoder's modules, and its sizes."""
        raise NotImplementedError

    def _sample(
        self: Any,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        handed = logits_processor, stopping_criteria, generation_config
        drawing = None
        if not synced_gpus and (streamer is None or len(input_ids) == 1):
            drawing = Drawing.recognise(self, input_ids, *handed, model_kwargs)
        if drawing is not None and not (drawing.rule and streamer):
            new = drawing.run(language_model(self), streamer)
            sequences: Any = torch.cat((input_ids, new.to(input_ids)), dim=1)
            if drawing.keeps_to_its_rule(sequences):
                if generation_config.return_dict_in_generate:
                    return GenerateDecoderOnlyOutput(sequences=sequences)
                return sequences
        return GenerationMixin._sample(
            self, input_ids, *handed, synced_gpus, streamer, **model_kwargs
        )


@dataclass(frozen=True)
class Drawing:
    """What the engine is asked for."""

    requests: Sequence[GridRequest]
    sampler: Sampler
    limit: int
    """New tokens at most."""
    pad: int
    rule: PrefixFunction | None
    """A function of the caller's, still to be asked whether it allows what is drawn."""

    @classmethod
    def recognise(
        cls,
        model: Any,
        input_ids: Tensor,
        processors: Iterable[Any],
        criteria: Iterable[Any],
        config: Any,
        model_kwargs: dict[str, Any],
    ) -> "Drawing | None":
        """The drawing that a call of a decoding method asks for, None if there is doubt."""
        chain, stop = prepared.chain(processors), prepared.stop(criteria)
        if chain is None or stop is None:
            return None
        if not prepared.plain(model) or not prepared.only_ids(config):
            return None
        prompts = prepared.prompts(model, input_ids, model_kwargs)
        sampler = prepared.sampler(chain, config.do_sample)
        if prompts is None or sampler is None:
            return None
        grids = prepared.grids(chain[Constraint], prompts, input_ids)
        negatives = prepared.negatives(chain.get(Guidance), model, prompts)
        max_length, eos = stop
        if grids is None or negatives is None:
            return None
        if not all(prepared.ends(grid, eos) for grid in grids):
            return None
        scale = float(chain[Guidance].guidance_scale) if Guidance in chain else 1.0
        seeds = [0] * len(prompts)
        if config.do_sample:
            seeds = torch.randint(2**62, (len(prompts),)).tolist()
        requests = [
            GridRequest(prompt, grid, seed, negative, scale)
            for prompt, grid, seed, negative in zip(prompts, grids, seeds, negatives, strict=True)
        ]
        limit = max_length - input_ids.shape[1]
        rule = chain[Constraint]._prefix_allowed_tokens_fn
        rule = None if isinstance(rule, GridRule) else rule
        return cls(requests, sampler, limit, int(config._pad_token_tensor), rule)

    def run(self, model: LanguageModel, streamer: Any) -> Tensor:
        """Draw: the new ids int64 [B,T], rows padded behind their pictures."""
        grids = [request.grid for request in self.requests]
        passes, shown = max(_codes_within(grid, self.limit) for grid in grids), 0
        codes = torch.empty(0)
        for codes in islice(draw_grids(model, self.requests, self.sampler), passes):
            if streamer is not None:  # one row
                tokens = _tokens(grids[0], codes[0])[: self.limit]
                for token in tokens[shown:]:
                    streamer.put(torch.tensor([token]))
                shown = len(tokens)
        if streamer is not None:
            streamer.end()
        rows = [_tokens(g, row)[: self.limit] for g, row in zip(grids, codes, strict=True)]
        longest = max(map(len, rows))
        return torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows])

    def keeps_to_its_rule(self, sequences: Tensor) -> bool:
        """Whether the caller's function allows what was drawn, sequences [B,T], at every step."""
        if self.rule is None:
            return True
        longest = max(request.grid.length for request in self.requests)
        first = sequences.shape[1] - min(longest, self.limit)
        return all(
            follows(self.rule, row, request.grid, ids, first)
            for row, (request, ids) in enumerate(zip(self.requests, sequences, strict=True))
        )


def language_model(model: Any) -> LanguageModel:
    """A compat class's own modules as the engine takes them; nothing is copied."""
    parts, config = model._decoder()
    with torch.device("meta"):
        whole = LanguageModel(config)
    for name in ("embed_tokens", "layers", "norm", "rotary"):
        setattr(whole.model, name, getattr(parts, name))
    whole.lm_head = model.lm_head
    return whole.eval()


# ------------------------------------------------------------------------------------------ tokens


def _codes_within(grid: TokenGrid, tokens: int) -> int:
    """How many of a picture's first tokens are drawn."""
    return min(grid.drawn, tokens - tokens // (grid.width + 1))


def _tokens(grid: TokenGrid, codes: Tensor) -> list[int]:
    """Codes [most codes], -1 where none is drawn -> the ids that are known by now."""
    ids: list[int] = []
    for index, code in enumerate(codes[: grid.drawn].tolist()):
        if code < 0:
            return ids
        ids.append(grid.visual_start + code)
        if grid.closes_row(index):
            ids.append(grid.end_of_line)
    return [*ids, *grid.tail]
