"""What quantizing costs, and quantizing with that cost written into the checkpoint.

The fixed set: eight prompts. The full model draws a picture of each, at its own size and with its
own settings, seeds 0 to 7, at most the first 64 codes. At every code the two distributions over the
visual ids are compared, given the same codes before it. Then both draw the pictures without chance,
and their codes are compared place by place: behind a first difference pictures may part for good.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.sampling import Sampler
from dromaius.io import hub
from dromaius.models.emu3 import layouts
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.convert import Progress
from dromaius.models.emu3.prompt import generation_prompt
from dromaius.models.emu3.quantization import QuantizationCost, settings
from dromaius.models.emu3.quantize import quantize_checkpoint
from dromaius.pipelines.emu3 import Emu3
from dromaius.pipelines.image import picture_grid
from dromaius.pipelines.load import load_emu3 as load

PROMPTS = (
    "a red apple on a table",
    "a blue car in a street",
    "a cat asleep on a chair",
    "two trees at a lake",
    "a yellow star in the night",
    "a white house with a green door",
    "a portrait of an old man",
    "a boat on the sea",
)
CODES = 64
"""Codes of each picture that are looked at, at most."""
WORDS = 64
"""Length of the texts drawn by seed that a model without tokenizer or pictures is measured on."""
LARGE = 10**9
"""Numbers from which on a model is measured as it is stored and not in float32."""


@dataclass(frozen=True)
class Observed:
    """What the full model says on the fixed set."""

    sequences: list[list[int]]
    first: list[int]
    """Of each sequence, the first place whose next-token distribution counts."""
    logits: list[Tensor]
    """Of each sequence, [places, ids]."""
    greedy: Tensor | None
    """Codes drawn without chance [B,N]; None for a model of text alone."""


def quantize(
    source: str | Path,
    destination: str | Path,
    weights: str,
    group: int | None = None,
    vision_tokenizer: str | Path | None = None,
    measured: bool = True,
    progress: Progress | None = None,
    on_measuring: Callable[[], None] | None = None,
) -> Path:
    """Write a quantized checkpoint (`models.emu3.quantize`) and, if `measured`, its cost into it.

    Args:
        weights: "int8", "int4" or "fp8".
        group: columns that share a scale, 32, 64 or 128, or 0 for a row; None is the mode's own.
        on_measuring: called once all is written and the two models are compared.

    Raises:
        ValueError: weights or group do not exist. Others as `quantize_checkpoint`.
    """

    def measure(folder: Path) -> QuantizationCost:
        if on_measuring is not None:
            on_measuring()
        number = _number(layouts.read_config(hub.resolve(source)))
        # one after the other: two large models need not lie side by side
        observed = observe(load(source, vision_tokenizer, dtype=number))
        return compare(observed, load(folder, dtype=number))

    return quantize_checkpoint(
        source,
        destination,
        settings(weights, group),
        vision_tokenizer,
        progress=progress,
        measure=measure if measured else None,
    )


def cost_of(folder: str | Path) -> dict[str, float]:
    """The cost that a quantized folder tells, empty where it tells none."""
    content = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return (content.get("quantization") or {}).get("cost") or {}


@torch.no_grad()
def observe(model: Emu3) -> Observed:
    """What a model says on the fixed set."""
    prompts = list(_prompts(model))
    if not model.vocabulary.codebook_size:
        return Observed(
            prompts, [0] * len(prompts), _logits(model, prompts, [0] * len(prompts)), None
        )
    some = model.config.generation
    drawn = _draw(model, prompts, Sampler(top_k=some.top_k, top_p=some.top_p))
    width, ids = picture_grid(model, None, None, None, None).width, model.vocabulary
    sequences = []
    for prompt, codes in zip(prompts, drawn.tolist(), strict=True):
        sequence = list(prompt)
        for place, code in enumerate(codes[:-1]):  # behind the last nothing is compared
            sequence.append(ids.visual_start + code)
            if place % width == width - 1:
                sequence.append(ids.end_of_line)
        sequences.append(sequence)
    first = [len(prompt) - 1 for prompt in prompts]
    logits = _logits(model, sequences, first)
    return Observed(sequences, first, logits, _draw(model, prompts, Sampler(temperature=0)))


@torch.no_grad()
def compare(full: Observed, model: Emu3) -> QuantizationCost:
    """How far a model is from what the full one said."""
    divergences, same = [], []
    for expected, found in zip(
        full.logits, _logits(model, full.sequences, full.first), strict=True
    ):
        p, q = expected.double().log_softmax(-1), found.double().log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum(-1).clamp(min=0))
        same.append(p.argmax(-1) == q.argmax(-1))
    divergence, equal = torch.cat(divergences), torch.cat(same)
    codes, share = 0, 1.0
    if full.greedy is not None:
        prompts = [s[: f + 1] for s, f in zip(full.sequences, full.first, strict=True)]
        drawn = _draw(model, prompts, Sampler(temperature=0))
        codes, share = drawn.numel(), (drawn == full.greedy).double().mean().item()
    return QuantizationCost(
        tokens=divergence.numel(),
        kl_mean=float(f"{divergence.mean().item():.4g}"),
        kl_p95=float(f"{divergence.quantile(0.95).item():.4g}"),
        top1=round(equal.double().mean().item(), 4),
        codes=codes,
        greedy=round(share, 4),
    )


def _prompts(model: Emu3) -> Iterator[list[int]]:
    """Ids of the prompts; without a tokenizer or pictures, ids of text drawn by seed."""
    ids = model.vocabulary
    if model.tokenizer is not None and ids.codebook_size:
        grid = picture_grid(model, None, None, None, None)
        for text in PROMPTS:
            yield generation_prompt(model.tokenizer, ids, text, grid.height, grid.width)
        return
    noise = torch.Generator().manual_seed(0)
    texts = min(ids.pad, model.require_language_model().config.vocab_size) or 1
    for _ in PROMPTS:
        words = torch.randint(texts, (WORDS,), generator=noise).tolist()
        pictured = [ids.image_start, ids.image_token] if ids.codebook_size else []
        yield [*words, *pictured]


def _draw(model: Emu3, prompts: list[list[int]], sampler: Sampler) -> Tensor:
    """The first codes of a picture for each prompt, [B,N]."""
    some = model.config.generation
    grid = picture_grid(model, None, None, None, None)
    unwanted = prompts[0]
    if model.tokenizer is not None:
        unwanted = generation_prompt(
            model.tokenizer, model.vocabulary, some.negative_prompt, grid.height, grid.width
        )
    requests = [
        GridRequest(prompt, grid, seed, unwanted, some.guidance, some.min_p)
        for seed, prompt in enumerate(prompts)
    ]
    count = min(CODES, grid.drawn)
    drawing = draw_grids(model.require_language_model(), requests, sampler)
    for _ in range(count):
        codes = next(drawing)
    drawing.close()  # type: ignore[attr-defined]  # a generator: its memory is freed at once
    return codes[:, :count].cpu()


def _logits(model: Emu3, sequences: list[list[int]], first: list[int]) -> list[Tensor]:
    """Of each sequence what is said at the places that count, [places, ids] float32."""
    language, ids = model.require_language_model(), model.vocabulary
    span = (ids.visual_start, ids.visual_stop) if ids.codebook_size else None
    found = []
    for sequence, start in zip(sequences, first, strict=True):
        given = torch.tensor([sequence], device=model.device)
        said = language(given, span=span)[0, start:].float().cpu()
        if ids.codebook_size:  # a line's end is known: what would follow its last code is not asked
            after = torch.tensor(sequence[start + 1 :] + [ids.visual_start])
            said = said[after != ids.end_of_line]
        found.append(said)
    return found


def _number(config: Emu3Config) -> str:
    """float32, or for a large model what it is stored in, so that its file need not be copied."""
    shape = config.language_model
    assert shape is not None
    size = shape.hidden_size * (
        2 * shape.vocab_size
        + shape.num_hidden_layers * (2 * shape.hidden_size + 3 * shape.intermediate_size)
    )
    return "float32" if size < LARGE else "bfloat16"
