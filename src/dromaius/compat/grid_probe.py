"""What grid does somebody's prefix function describe? Asked of the function itself.

Scripts for transformers write the rule of a picture's grid as a function of their own (seed 000).
Such a function is asked about a few prompts that might come up, which tells the size; after the
picture is drawn it is asked about every prefix of what came up. If each answer is the grid's,
transformers' loop would have allowed exactly the same at every step. All this is fair only with a
function whose calls leave nothing behind, so its code is read first.
Legend: T tokens.
"""

import dis
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from dromaius.engine.token_grid import TokenGrid

PrefixFunction = Callable[[int, Tensor], Any]
"""(row of the batch, its ids so far [T]) -> the ids that may follow, in one of many forms."""

MOST_SIDE = 4096
"""Codes; a longer line or more lines are no picture."""
_ATTRIBUTES = {"tensor", "nonzero", "shape", "device", "tokenizer", "encode"}
_BUILTINS = (len, range, int)
_HARMLESS = (int, Tensor, range, ProcessorMixin, PreTrainedTokenizerBase, PreTrainedModel)


def leaves_nothing_behind(rule: Any) -> bool:
    """Whether a function only reads: numbers, tensors, tokenizers and models, and their ids.

    It may store to local names, call what is listed here, and that is all. A function that counts
    its calls, prints, or asks a method that is not listed here does not pass.
    """
    if not isinstance(rule, FunctionType) or rule.__code__.co_flags & inspect.CO_GENERATOR:
        return False
    code = rule.__code__
    outside = [*inspect.getclosurevars(rule).nonlocals.values(), *(rule.__defaults__ or ())]
    for step in dis.get_instructions(code):
        name = step.opname
        if name == "LOAD_GLOBAL":
            outside.append(rule.__globals__.get(step.argval, _builtin(rule, step.argval)))
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            if step.argval not in _ATTRIBUTES and not step.argval.endswith("_token_id"):
                return False
        elif name.startswith(("STORE_", "DELETE_", "IMPORT_")) and "FAST" not in name:
            return False
        elif name == "BINARY_OP" and step.argrepr.endswith("="):
            return False  # in place: the left side may be a list of the caller's
    nested = any(isinstance(constant, CodeType) for constant in code.co_consts)
    return not nested and all(_harmless(value) for value in outside)


def _builtin(rule: FunctionType, name: str) -> Any:
    builtins = rule.__globals__.get("__builtins__", {})
    table = builtins if isinstance(builtins, dict) else vars(builtins)
    return table.get(name)


def _harmless(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, int) for item in value)
    return isinstance(value, _HARMLESS) or value is torch or value in _BUILTINS


def probe(rule: PrefixFunction, row: int, ids: Tensor) -> TokenGrid | None:
    """The grid that begins behind ids [T], judged by few questions; None if it looks like none."""

    def allowed(more: Sequence[int] = ()) -> list[int]:
        return _ids(rule(row, torch.cat((ids, ids.new_tensor(list(more))))))

    visual = allowed()
    start, stop = visual[0], visual[-1] + 1
    if len(visual) < 2 or len(visual) != stop - start:
        return None
    line: list[int] = []
    while len(answer := allowed(line)) > 1:
        line.append(start)
        if len(line) > MOST_SIDE:
            return None
    line.append(answer[0])
    height = _first(lambda rows: len(allowed(line * rows)) == 1)
    if height is None:
        return None
    picture = line * height
    for _ in range(3):
        picture.append(allowed(picture)[0])
    return TokenGrid(height, len(line) - 1, start, stop, line[-1], *picture[-3:])


def _first(holds: Callable[[int], bool]) -> int | None:
    """The least number from 1 to MOST_SIDE from which on something holds."""
    beyond = 1
    while not holds(beyond):
        beyond *= 2
        if beyond > MOST_SIDE:
            return None
    low = beyond // 2  # does not hold, or is 0
    while beyond - low > 1:
        middle = (low + beyond) // 2
        low, beyond = (low, middle) if holds(middle) else (middle, beyond)
    return beyond


def follows(rule: PrefixFunction, row: int, grid: TokenGrid, ids: Tensor, first: int) -> bool:
    """Whether the function allows just what the grid allows at every token from `first` on.

    ids [T] are prompt and picture, perhaps cut off.
    """
    visual = None  # the answer that was found to be all visual ids: functions give it again
    for offset in range(min(grid.length, len(ids) - first)):
        answer = rule(row, ids[: first + offset])
        if grid.forced(offset) is None and answer is visual:
            continue
        if _ids(answer) != list(grid.allowed(offset)):
            return False
        if grid.forced(offset) is None:
            visual = answer
    return True


def _ids(answer: Iterable[Any] | Tensor) -> list[int]:
    """The ids of an answer, ascending: a tensor, or a collection of numbers or tensors."""
    if isinstance(answer, Tensor):
        return sorted(answer.flatten().tolist())
    found: list[int] = []
    for item in answer:
        found.extend(item.flatten().tolist() if isinstance(item, Tensor) else [int(item)])
    return sorted(found)
