"""What transformers has prepared for a decoding method, read for the engine.

Each function here returns None (or False) where it does not understand something to the last item.
Legend: B rows of the batch, T tokens.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from dromaius.compat.grid_probe import leaves_nothing_behind, probe
from dromaius.compat.grid_rule import GridRule
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid

Guidance = UnbatchedClassifierFreeGuidanceLogitsProcessor
Constraint = PrefixConstrainedLogitsProcessor

CHAIN = (
    Guidance,
    Constraint,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
"""The processors that the engine knows, in the order in which it does the same."""

_UNDERSTOOD = {"attention_mask", "position_ids", "past_key_values"}
_WITHOUT_EFFECT = {"use_cache", "logits_to_keep", "image_sizes"}
"""Arguments of the model that do not change which ids are drawn, pictures not being given."""


def chain(processors: Iterable[Any]) -> dict[type, Any] | None:
    """The processors by class, if each is known, comes once, and they stand in order."""
    found = list(processors)
    kinds = [type(processor) for processor in found]
    if kinds != [kind for kind in CHAIN if kind in kinds]:
        return None
    return dict(zip(kinds, found, strict=True))


def stop(criteria: Iterable[Any]) -> tuple[int, set[int]] | None:
    """Length of prompt and result at most, and the ids that end a row, if nothing else stops."""
    found = {type(criterion): criterion for criterion in criteria}
    if found.keys() != {MaxLengthCriteria, EosTokenCriteria}:
        return None
    eos = found[EosTokenCriteria].eos_token_id
    return found[MaxLengthCriteria].max_length, set(eos.flatten().tolist())


def plain(model: Any) -> bool:
    """Whether running the model's parts is running the model: nobody has put anything around it."""
    forward = inspect.unwrap(model.forward)
    # Where angles depend on how far the farthest row has come, a row's own positions will not do.
    relative = model._decoder()[0].rotary.rope.rope_type not in ("dynamic", "longrope")
    return (
        relative
        and not model.training
        and "forward" not in vars(model)
        and forward.__module__.startswith("dromaius.")
        and not model._forward_hooks
        and not model._forward_pre_hooks
        and isinstance(model.lm_head, nn.Linear)
        and model.lm_head.bias is None
        and not model.lm_head._forward_hooks
        and not model.lm_head._forward_pre_hooks
    )


def only_ids(config: Any) -> bool:
    """Whether ids are all that is wanted of the loop."""
    if getattr(config, "is_assistant", False):
        return False
    extras = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    return not (config.return_dict_in_generate and any(getattr(config, name) for name in extras))


def prompts(model: Any, input_ids: Tensor, kwargs: dict[str, Any]) -> list[list[int]] | None:
    """The ids of each row, if ids are all that the model is to see, from an empty cache."""
    # transformers puts in an empty dictionary where no picture has been encoded.
    given = {n for n, value in kwargs.items() if value is not None and not _is_empty(value)}
    if given - _UNDERSTOOD - _WITHOUT_EFFECT:
        return None
    cache = kwargs.get("past_key_values")
    if cache is not None and (
        type(cache) is not DynamicCache
        or getattr(cache, "is_the_callers", False)
        or cache.get_seq_length()
    ):
        return None
    mask = model._seen(input_ids, kwargs.get("attention_mask"))
    prompts = _unpadded(input_ids, mask)
    positions = kwargs.get("position_ids")
    if prompts is not None and positions is not None:
        for prompt, row in zip(prompts, positions.expand_as(input_ids), strict=True):
            if row[-len(prompt) :].tolist() != list(range(len(prompt))):
                return None
    return prompts


def _is_empty(value: Any) -> bool:
    return isinstance(value, Mapping) and not value


def _unpadded(input_ids: Tensor, mask: Tensor | None) -> list[list[int]] | None:
    """Rows without their padding, if that stands at the left and leaves something."""
    if mask is None:
        return input_ids.tolist()
    kept = mask.bool()
    if kept.shape != input_ids.shape or not kept[:, -1].all():
        return None
    if (kept[:, :-1] & ~kept[:, 1:]).any():  # a hole
        return None
    return [row[keep].tolist() for row, keep in zip(input_ids, kept, strict=True)]


def sampler(chain: dict[type, Any], sampling: bool) -> Sampler | None:
    temperature, top_k, top_p = (chain.get(kind) for kind in CHAIN[2:])
    if Constraint not in chain:
        return None
    if not sampling:
        return None if temperature or top_k or top_p else Sampler(temperature=0)
    for warper in (top_k, top_p):
        if warper is not None and warper.filter_value != -torch.inf:
            return None
    if top_p is not None and top_p.min_tokens_to_keep != 1:
        return None
    return Sampler(
        temperature.temperature if temperature else 1.0,
        top_k.top_k if top_k else None,
        top_p.top_p if top_p else None,
    )


def grids(
    constraint: Constraint,
    prompts: Sequence[Sequence[int]],
    input_ids: Tensor,
) -> list[TokenGrid] | None:
    """Each row's grid, if its prompt ends where the picture begins."""
    rule = constraint._prefix_allowed_tokens_fn
    if constraint._num_beams != 1:
        return None
    if isinstance(rule, GridRule):
        if len(rule.heights) not in (1, len(prompts)):
            return None
        if any(prompt[-1] != rule.vocabulary.image_token for prompt in prompts):
            return None
        return [rule.grid(row) for row in range(len(prompts))]
    if not leaves_nothing_behind(rule):
        return None
    try:
        found = [probe(rule, row, ids) for row, ids in enumerate(input_ids)]
    except Exception:  # a function for something else; the loop shows what is wrong, if anything
        return None
    grids = [grid for grid in found if grid is not None]
    spans = {(grid.visual_start, grid.visual_stop, grid.end_of_line) for grid in grids}
    return grids if len(grids) == len(found) and len(spans) == 1 else None


def negatives(
    guidance: Any, model: Any, prompts: Sequence[Sequence[int]]
) -> list[Sequence[int]] | None:
    """The unwanted prompt of each row; without one upstream takes the prompt's last id."""
    if guidance is None:
        return [()] * len(prompts)
    context = guidance.unconditional_context
    if getattr(guidance.model, "model_behind", guidance.model) is not model:
        return None
    if not context["first_pass"]:
        return None
    ids = context["input_ids"]
    if ids is None:
        return [prompt[-1:] for prompt in prompts]
    if len(ids) != len(prompts):
        return None
    mask = model._seen(ids, context["attention_mask"])
    return _unpadded(ids, mask)  # type: ignore[return-value]  # lists are sequences


def ends(grid: TokenGrid, eos: set[int]) -> bool:
    """Whether a row ends with its picture and not before."""
    visual = range(grid.visual_start, grid.visual_stop)
    early = {grid.end_of_line, grid.end_of_frame, grid.image_end}
    return grid.eos in eos and not early & eos and not any(token in visual for token in eos)
