"""Text to image with guidance: this engine against transformers' `generate`, on the same weights.

    python -m benchmarks.t2i [--size 10x10] [--batch 1] [--dtype float32] [--mode full int4] [--all]

Both sides draw pictures with guidance 3 and a negative prompt over the real vocabulary of 184622
ids, and make pixels of them, with random weights shared in memory. transformers runs as seed 000
shows (prefix function, unconditional branch in a second forward), with left padding for a batch;
its prompts carry the image header on both branches, so that the results are comparable. Before
anything is timed both draw greedily in float32 and must write equal tokens, and their pixels must
be the same; otherwise the exit status is 1. Runs alternate; medians count. `--mode` adds our model
with its matrices in few bits, beside the exact one; such a model draws other tokens.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Emu3TextConfig, Emu3VQVAEConfig
from transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM, Emu3VQVAE

from benchmarks.machine import facts, show
from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.io.pages import use_large_pages
from dromaius.models.emu3 import weights
from dromaius.models.emu3.config import (
    LanguageModelConfig,
    VisionTokenizerConfig,
    VocabularyConfig,
)
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.quantization import settings
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.vocabulary import Vocabulary
from dromaius.nn.kernels import library
from dromaius.nn.quantized import quantize

IDS = Vocabulary.from_config(VocabularyConfig())
GUIDANCE, TOP_K = 3.0, 2048
# "a portrait of young girl. masterpiece, film grained, best quality." in Emu3's vocabulary
PROMPT = [64, 33033, 315, 3908, 3743, 13, 58731, 11, 4531, 1081, 2627, 11, 1850, 4271, 13]
# the Emu3 authors' negative prompt
NEGATIVE = [
    10303, 416, 11, 3873, 61590, 11, 3873, 6078, 11, 1467, 11, 1465, 11, 7402, 19225, 11, 4960,
    15723, 11, 16745, 18509, 11, 60143, 11, 11785, 4271, 11, 3347, 4271, 11, 4622, 4271, 11,
    54566, 35036, 11, 11957, 11, 88006, 11, 5934, 11, 99055, 13,
]  # fmt: skip
STAR, ZERO = 9, 15
"""Ids of "*" and "0"; the digits follow each other."""
MODES = ("full", "int8", "int4")
KERNELS = ("few_rows", "few_tokens", "draw", "quantized", "group_norm")
"""Sources in nn/kernels; which of them could be built is said beside the figures."""


def header(text: Sequence[int], height: int, width: int) -> list[int]:
    """[bos] text [image start] "height*width" [image token]."""
    size = [STAR if c == "*" else ZERO + int(c) for c in f"{height}*{width}"]
    return [IDS.bos, *text, IDS.image_start, *size, IDS.image_token]


def prompts(batch: int) -> list[list[int]]:
    """Texts of different lengths."""
    return [PROMPT[: len(PROMPT) - 2 * (i % 4)] for i in range(batch)]


def make_models(hidden: int, layers: int, seed: int) -> tuple[Any, LanguageModel]:
    """transformers' model with random weights, and ours over the same tensors."""
    shape = model_shape(hidden, layers)
    torch.manual_seed(seed)
    theirs = Emu3ForCausalLM(Emu3TextConfig(**shape)).eval()
    return theirs, make_ours(theirs, LanguageModelConfig(**shape))


def model_shape(hidden: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(1, hidden // 256),
    }


def make_ours(theirs: Any, config: LanguageModelConfig, mode: str = "full") -> LanguageModel:
    """Over transformers' own tensors; of another mode with matrices made of them."""
    with torch.device("meta"):
        ours = LanguageModel(config).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    ours.requires_grad_(False)
    use_large_pages(ours)  # as dromaius.load does; the tensors are transformers', which gains too
    if mode != "full":
        quantize(ours, settings(mode).plan(config))
    return ours


def make_vision(base: int, seed: int) -> tuple[Any, VisionTokenizer]:
    """Both vision tokenizers in float32, as ours always is."""
    torch.manual_seed(seed)
    theirs = (
        Emu3VQVAE(Emu3VQVAEConfig(base_channels=base, hidden_size=4 * base))
        .eval()
        .requires_grad_(False)
    )
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        ours = weights.our_name(f"vqmodel.{name}", "hf")
        tensors[ours.removeprefix(weights.VISION)] = weights.our_tensor(ours, tensor)
    with torch.device("meta"):
        model = VisionTokenizer(VisionTokenizerConfig(ch=base)).eval()
    model.load_state_dict(tensors, assign=True)
    return theirs, model.requires_grad_(False)


# ------------------------------------------------------------------------------------ the two sides


def prefix_rule(height: int, width: int) -> Callable[[int, Tensor], Any]:
    """Seed 000's function; what it asks the tokenizer for at each step is given here at once."""
    visual_tokens = list(range(IDS.visual_start, IDS.visual_stop))

    def allowed(batch_id: int, input_ids: Tensor) -> Any:
        image_token = torch.tensor([IDS.image_token])
        end_of_line, end_of_frame = torch.tensor([IDS.end_of_line]), torch.tensor(IDS.end_of_frame)
        image_end, eos, pad = (torch.tensor([i]) for i in (IDS.image_end, IDS.eos, IDS.pad))
        position = torch.nonzero(input_ids == image_token, as_tuple=True)[0][0]
        offset = input_ids.shape[0] - position
        if offset % (width + 1) == 0:
            return (end_of_line,)
        if offset == (width + 1) * height + 1:
            return (end_of_frame,)
        if offset == (width + 1) * height + 2:
            return (image_end,)
        if offset == (width + 1) * height + 3:
            return (eos,)
        return (pad,) if offset > (width + 1) * height + 3 else visual_tokens

    return allowed


def draw_theirs(
    model: Any, height: int, width: int, greedy: bool, seed: int, batch: int = 1
) -> list[int]:
    """The tokens behind the headers, picture after picture."""
    texts = [header(text, height, width) for text in prompts(batch)]
    longest = max(map(len, texts))
    ids = torch.tensor([[IDS.pad] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    negative = torch.tensor([header(NEGATIVE, height, width)] * batch)
    choice = {"do_sample": False} if greedy else {"do_sample": True, "top_k": TOP_K}
    torch.manual_seed(seed)
    out = model.generate(
        ids,
        attention_mask=mask,
        negative_prompt_ids=negative,
        negative_prompt_attention_mask=torch.ones_like(negative),
        guidance_scale=GUIDANCE,
        prefix_allowed_tokens_fn=prefix_rule(height, width),
        max_new_tokens=height * (width + 1) + 3,
        **choice,
    )
    return out[:, longest:].flatten().tolist()


def draw_ours(
    model: LanguageModel, height: int, width: int, greedy: bool, seed: int, batch: int = 1
) -> list[int]:
    """The tokens behind the headers, picture after picture."""
    grid = TokenGrid(
        height, width, IDS.visual_start, IDS.visual_stop,
        IDS.end_of_line, IDS.end_of_frame, IDS.image_end, IDS.eos,
    )  # fmt: skip
    negative = header(NEGATIVE, height, width)
    requests = [
        GridRequest(header(text, height, width), grid, seed + i, negative, GUIDANCE)
        for i, text in enumerate(prompts(batch))
    ]
    sampler = Sampler(temperature=0) if greedy else Sampler(top_k=TOP_K)
    *_, codes = draw_grids(model, requests, sampler)
    rows = (IDS.codes_to_ids(row.view(height, width)).tolist() for row in codes)
    return [i for row in rows for i in (*row, *grid.tail)]


@torch.no_grad()
def pixels(model: Any, tokens: Sequence[int], height: int, width: int) -> Tensor:
    """Either side's tokens as pictures [B,3,8h,8w]."""
    ids = torch.tensor(tokens).view(-1, height * (width + 1) + 3)[:, :-3]
    codes = ids.view(len(ids), height, width + 1)[..., :-1] - IDS.visual_start
    made = model.decode(codes)
    return made.view(len(ids), *made.shape[-3:])  # transformers' has an axis of one frame


# ------------------------------------------------------------------------------------- measurement


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Where two token sequences part, or None."""
    if list(ours) == list(theirs):
        return None
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    size: tuple[int, int]
    batch: int
    dtype: str


@dataclass(frozen=True)
class Side:
    """Who draws, and who makes pixels of it."""

    draw: Callable[..., list[int]]
    model: Any
    vision: Any

    def run(self, case: Case, seed: int) -> dict[str, float]:
        """Seconds of the ids and of the pixels, and of all processors together: under load the
        last is the fairer."""
        busy, start = time.process_time(), time.perf_counter()
        tokens = self.draw(self.model, *case.size, False, seed, case.batch)
        drawn = time.perf_counter()
        pixels(self.vision, tokens, *case.size)
        end = time.perf_counter()
        spent = {"ids": drawn - start, "pixels": end - drawn, "seconds": end - start}
        return spent | {"processor_seconds": time.process_time() - busy}


def check(theirs: Side, ours: Side, case: Case) -> None:
    """Raises SystemExit where greedy tokens or their pixels differ."""
    expected, found = (s.draw(s.model, *case.size, True, 0, case.batch) for s in (theirs, ours))
    place = first_difference(found, expected)
    if place is not None:
        raise SystemExit(f"t2i: the tokens differ from position {place}: nothing is timed")
    made, other = (pixels(s.vision, expected, *case.size) for s in (ours, theirs))
    far = float((made - other).abs().max())
    if far > 1e-3:
        raise SystemExit(f"t2i: pixels differ by {far:.1e}: nothing is timed")


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One result a case; first all of them must be equal."""
    theirs, ours = make_models(arguments.hidden, arguments.layers, arguments.seed)
    their_vision, our_vision = make_vision(arguments.base, arguments.seed)
    cases = [
        Case(*each) for each in itertools.product(arguments.size, arguments.batch, arguments.dtype)
    ]
    peer = Side(draw_theirs, theirs, their_vision)
    for size, batch in {(case.size, case.batch): None for case in cases}:
        check(peer, Side(draw_ours, ours, our_vision), Case(size, batch, "float32"))
    results = []
    for dtype in sorted({case.dtype for case in cases}, reverse=True):  # float32 comes first
        theirs.to(getattr(torch, dtype))
        sides = {"transformers": peer}
        for mode in arguments.mode:
            model = make_ours(theirs, ours.config, mode)
            sides["dromaius" if mode == "full" else mode] = Side(draw_ours, model, our_vision)
        results += [
            time_case(arguments, case, sides, ours.config) for case in cases if case.dtype == dtype
        ]
    return results


def time_case(
    arguments: argparse.Namespace,
    case: Case,
    sides: dict[str, Side],
    config: LanguageModelConfig,
) -> dict[str, Any]:
    """Runs in turn; medians, and how many times faster than transformers each other side is."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for repeat in range(arguments.repeats):
        for name, side in sides.items():
            runs[name].append(side.run(case, repeat))
    medians = {
        name: {part: round(statistics.median(t[part] for t in times), 4) for part in times[0]}
        for name, times in runs.items()
    }

    def ratios(part: str) -> dict[str, float]:
        peer = medians["transformers"][part]
        others = (name for name in medians if name != "transformers")
        return {name: round(peer / medians[name][part], 2) for name in others}

    height, width = case.size
    return {
        "benchmark": "t2i",
        "size": f"{height}x{width}",
        "batch": case.batch,
        "tokens": case.batch * (height * (width + 1) + 3),
        "dtype": case.dtype,
        "guidance": GUIDANCE,
        "top_k": TOP_K,
        "hidden": arguments.hidden,
        "layers": arguments.layers,
        "vocabulary": config.vocab_size,
        "vision_base_width": arguments.base,
        "equal_greedy_tokens": True,
        "median": medians,
        "runs": {name: [round(t["seconds"], 3) for t in times] for name, times in runs.items()},
        "ratio": ratios("seconds"),
        "ids_ratio": ratios("ids"),
        "processor_ratio": ratios("processor_seconds"),
        "kernels": [name for name in KERNELS if library(name) is not None],
        "transformers": transformers.__version__,
    } | facts(torch.device("cpu"))


def table(results: Sequence[dict[str, Any]]) -> str:
    first = results[0]
    lines = [
        f"width {first['hidden']}, {first['layers']} layers, vocabulary {first['vocabulary']}, "
        f"vision base width {first['vision_base_width']}",
        f"{first['device']}, {first['threads']} threads, torch {first['torch']}, "
        f"transformers {first['transformers']}, load {first['load'][0]}",
        f"kernels: {', '.join(first['kernels']) or 'none, torch does the work'}",
        "greedy tokens with guidance: equal; ratios are those of ids and pixels together",
        "",
        f"{'codes':8}{'batch':>6}  {'dtype':10}{'side':14}{'ids s':>8}{'pixels s':>9}"
        f"{'tokens/s':>10}{'cpu s':>8}{'ratio':>8}{'of ids':>8}",
    ]
    for result in results:
        for name, median in result["median"].items():
            ratio, ids = (result[key].get(name, "") for key in ("ratio", "ids_ratio"))
            lines.append(
                f"{result['size']:8}{result['batch']:6}  {result['dtype']:10}{name:14}"
                f"{median['ids']:8.2f}{median['pixels']:9.2f}"
                f"{result['tokens'] / median['seconds']:10.1f}"
                f"{median['processor_seconds']:8.2f}{ratio:>8}{ids:>8}"
            )
    return "\n".join(lines)


def size(text: str) -> tuple[int, int]:
    """Codes, rows first: "24x32" -> (24, 32)."""
    height, width = (int(part) for part in text.lower().split("x"))
    if min(height, width) < 3:
        raise ValueError(text)  # argparse names the option and the text
    return height, width


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    several: dict[str, Any] = {"nargs": "+"}
    parser.add_argument("--size", type=size, default=[(10, 10)], help="codes, as 10x10", **several)
    parser.add_argument("--batch", type=int, default=[1], help="pictures together", **several)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=["float32"], **several)
    parser.add_argument("--mode", choices=MODES, default=["full"], **several)
    parser.add_argument("--all", action="store_true", help="every size, batch, dtype and mode")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=1024, help="width, a multiple of 256")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--base", type=int, default=64, help="the vision tokenizer's base width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the JSON lines alone")
    arguments = parser.parse_args()
    if arguments.all:
        arguments.size, arguments.batch = [(10, 10), (16, 16)], [1, 4]
        arguments.dtype, arguments.mode = ["float32", "bfloat16"], list(MODES)
    results = measure(arguments)
    show(results, table(results), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
