"""Text to image with guidance: this engine against transformers' `generate`, on the same weights.

    python -m benchmarks.t2i [--size 24x24] [--dtype float32] [--repeats 3] [--json]

Both sides draw one picture of the same prompt with guidance 3 and a negative prompt, over the real
vocabulary of 184622 ids, with random weights shared in memory. transformers runs as seed 000 shows
(prefix function, unconditional branch in a second forward); its prompts carry the image header on
both branches, so that the results are comparable. Before anything is timed both draw greedily in
float32 and must write equal tokens; otherwise the exit status is 1. Runs alternate; medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Emu3TextConfig
from transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM

from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.models.emu3.config import LanguageModelConfig, VocabularyConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vocabulary import Vocabulary

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


def header(text: Sequence[int], height: int, width: int) -> list[int]:
    """[bos] text [image start] "height*width" [image token]."""
    size = [STAR if c == "*" else ZERO + int(c) for c in f"{height}*{width}"]
    return [IDS.bos, *text, IDS.image_start, *size, IDS.image_token]


def make_models(hidden: int, layers: int, seed: int) -> tuple[Any, LanguageModel]:
    """transformers' model with random weights, and ours over the same tensors."""
    shape = {
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(1, hidden // 256),
    }
    torch.manual_seed(seed)
    theirs = Emu3ForCausalLM(Emu3TextConfig(**shape)).eval()
    with torch.device("meta"):
        ours = LanguageModel(LanguageModelConfig(**shape)).eval()
    share(theirs, ours)
    return theirs, ours


def share(theirs: Any, ours: LanguageModel) -> None:
    ours.load_state_dict(theirs.state_dict(), assign=True)


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


def draw_theirs(model: Any, height: int, width: int, greedy: bool, seed: int) -> list[int]:
    """The tokens behind the header."""
    ids = torch.tensor([header(PROMPT, height, width)])
    negative = torch.tensor([header(NEGATIVE, height, width)])
    choice = {"do_sample": False} if greedy else {"do_sample": True, "top_k": TOP_K}
    torch.manual_seed(seed)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        negative_prompt_ids=negative,
        negative_prompt_attention_mask=torch.ones_like(negative),
        guidance_scale=GUIDANCE,
        prefix_allowed_tokens_fn=prefix_rule(height, width),
        max_new_tokens=height * (width + 1) + 3,
        **choice,
    )
    return out[0, ids.shape[1] :].tolist()


def draw_ours(model: LanguageModel, height: int, width: int, greedy: bool, seed: int) -> list[int]:
    """The tokens behind the header."""
    grid = TokenGrid(
        height, width, IDS.visual_start, IDS.visual_stop,
        IDS.end_of_line, IDS.end_of_frame, IDS.image_end, IDS.eos,
    )  # fmt: skip
    prompt, negative = (header(text, height, width) for text in (PROMPT, NEGATIVE))
    request = GridRequest(prompt, grid, seed, negative, GUIDANCE)
    sampler = Sampler(temperature=0) if greedy else Sampler(top_k=TOP_K)
    *_, codes = draw_grids(model, [request], sampler)
    return IDS.codes_to_ids(codes.view(height, width)).tolist() + list(grid.tail)


# ------------------------------------------------------------------------------------- measurement


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Where two token sequences part, or None."""
    if list(ours) == list(theirs):
        return None
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def seconds(work: Callable[[], list[int]]) -> tuple[float, float]:
    """Wall-clock and processor seconds; where others compute too, the second is the fairer."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


def processor() -> str:
    """The processor's name as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks equality, then times both; raises SystemExit where tokens differ."""
    height, width = arguments.size
    theirs, ours = make_models(arguments.hidden, arguments.layers, arguments.seed)
    expected = draw_theirs(theirs, height, width, greedy=True, seed=0)
    place = first_difference(draw_ours(ours, height, width, greedy=True, seed=0), expected)
    if place is not None:
        raise SystemExit(f"t2i: the tokens differ from position {place}: nothing is timed")
    theirs.to(getattr(torch, arguments.dtype))
    share(theirs, ours)
    runs: dict[str, list[tuple[float, float]]] = {"transformers": [], "dromaius": []}
    for repeat in range(arguments.repeats):
        draw = {
            "transformers": partial(draw_theirs, theirs, height, width, False, repeat),
            "dromaius": partial(draw_ours, ours, height, width, False, repeat),
        }
        for name, work in draw.items():
            runs[name].append(seconds(work))
    wall, busy = (
        {name: statistics.median(pair[i] for pair in times) for name, times in runs.items()}
        for i in range(2)
    )
    return {
        "benchmark": "t2i",
        "size": f"{height}x{width}",
        "tokens": len(expected),
        "dtype": arguments.dtype,
        "guidance": GUIDANCE,
        "top_k": TOP_K,
        "hidden": arguments.hidden,
        "layers": arguments.layers,
        "parameters": sum(p.numel() for p in ours.parameters()),
        "vocabulary": ours.config.vocab_size,
        "equal_greedy_tokens": True,
        "seconds": {name: [round(pair[0], 3) for pair in times] for name, times in runs.items()},
        "median_seconds": {name: round(t, 3) for name, t in wall.items()},
        "median_processor_seconds": {name: round(t, 3) for name, t in busy.items()},
        "ratio": round(wall["transformers"] / wall["dromaius"], 2),
        "processor_ratio": round(busy["transformers"] / busy["dromaius"], 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": processor(),
        "load": [round(x, 1) for x in os.getloadavg()],
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['size']} codes ({result['tokens']} tokens), {result['dtype']}, "
        f"{result['parameters'] / 1e6:.0f}M parameters, vocabulary {result['vocabulary']}",
        f"{result['processor']}, {result['threads']} threads, torch {result['torch']}, "
        f"transformers {result['transformers']}, load {result['load'][0]}",
        "greedy tokens with guidance: equal",
        "",
        f"{'':14}{'median s':>10}{'tokens/s':>10}{'cpu s':>10}   runs",
    ]
    for name, median in result["median_seconds"].items():
        rate = result["tokens"] / median
        busy = result["median_processor_seconds"][name]
        lines.append(f"{name:14}{median:10.2f}{rate:10.1f}{busy:10.2f}   {result['seconds'][name]}")
    ratios = f"{'ratio':14}{result['ratio']:10.2f}{'':10}{result['processor_ratio']:10.2f}"
    return "\n".join([*lines, ratios])


def size(text: str) -> tuple[int, int]:
    """Codes, rows first: "24x32" -> (24, 32)."""
    height, width = (int(part) for part in text.lower().split("x"))
    if min(height, width) < 3:
        raise ValueError(text)  # argparse names the option and the text
    return height, width


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=size, default=(24, 24), help="codes, rows x columns")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=768, help="width, a multiple of 256")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    arguments = parser.parse_args()
    result = measure(arguments)
    if not arguments.json:
        print(table(result), end="\n\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
