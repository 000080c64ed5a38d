"""A question about a picture: vision tokenizer, prefill and answer, against transformers.

    python -m benchmarks.vqa [--size 512] [--dtype float32] [--answer 32] [--repeats 3] [--json]

Three sides answer with the same random weights over the real vocabulary of 184622 ids:
`transformers` is its own Emu3ForConditionalGeneration with `generate`, `compat` is this package's
class of that name with the same call, `engine` is what `Emu3.answer` and `dromaius ask` run. Before
anything is timed all three answer greedily in float32 and must write equal tokens; otherwise the
exit status is 1. Runs alternate; medians count. Our vision tokenizer is float32 whatever the dtype,
transformers' has the dtype of the model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.emu3.configuration_emu3 import Emu3Config
from transformers.models.emu3.modeling_emu3 import Emu3ForConditionalGeneration

from benchmarks.machine import facts, show
from benchmarks.t2i import IDS, first_difference, header
from dromaius.compat import transformers as compat
from dromaius.compat.drawing import language_model
from dromaius.compat.transformers.configuration import vocabulary_map
from dromaius.engine.decode import write_text
from dromaius.engine.sampling import Sampler
from dromaius.models.emu3 import weights
from dromaius.models.emu3.config import VocabularyConfig
from dromaius.nn.linear import applies

QUESTION = [5751, 7664, 279, 2217, 13]
"""Ids of a short question; which text they are does not matter."""
PLACEHOLDER = IDS.pad + 3
"""`<image>`: where transformers puts the embeddings of a picture's ids."""


def make_models(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """transformers' model with random weights, and ours over the same tensors."""
    text = {
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.hidden * 11 // 4,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.hidden // 64,
        "num_key_value_heads": max(1, arguments.hidden // 256),
    }
    vision = {"base_channels": arguments.base, "hidden_size": arguments.base * 4}
    torch.manual_seed(arguments.seed)
    config = Emu3Config(
        text_config=text, vq_config=vision, vocabulary_map=vocabulary_map(VocabularyConfig())
    )
    theirs = Emu3ForConditionalGeneration(config).eval().requires_grad_(False)
    for tensor in theirs.model.vqmodel.parameters():
        # transformers draws the codebook wide and narrow convolutions: let codes differ.
        if tensor.ndim > 2:
            tensor.normal_(0.0, 2.0 * tensor[0].numel() ** -0.5)
    with torch.device("meta"):
        ours = compat.Emu3ForConditionalGeneration(compat.Emu3Config(**config.to_dict())).eval()
    share(theirs, ours)
    for model in (theirs, ours):
        model.generation_config.eos_token_id = None  # an answer takes as long as it is asked to
        model.generation_config.pad_token_id = IDS.pad
    return theirs, ours


def share(theirs: Any, ours: Any) -> None:
    """Let our class hold transformers' tensors; the vision tokenizer gets float32 ones."""
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("model.vqmodel."):
            name = weights.our_name(name.removeprefix("model."), "hf")
            tensor = weights.our_tensor(name, tensor).to(torch.float32, copy=True)
            name = f"model.vqmodel.tokenizer.{name.removeprefix(weights.VISION)}"
        tensors[name] = tensor
    ours.load_state_dict(tensors, assign=True)


# ---------------------------------------------------------------------------------------- the sides


@dataclass
class Answer:
    """What a side wrote, and when (seconds); also a streamer of transformers'."""

    started: float = field(default_factory=time.perf_counter)
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    prompt: Tensor | None = None

    def put(self, ids: Tensor) -> None:
        if self.prompt is None:  # transformers' streamers get the prompt first
            self.prompt = ids
        else:
            self.add(int(ids))

    def add(self, token: int) -> None:
        self.tokens.append(token)
        self.times.append(time.perf_counter() - self.started)

    def end(self) -> None:
        pass


def by_generate(model: Any, pixels: Tensor, count: int) -> Answer:
    """One call of `generate`, as seed 000's chat example."""
    side = pixels.shape[-1] // 8
    picture = [PLACEHOLDER] * (side * (side + 1))
    ids = torch.tensor([[*header([], side, side), *picture, *closing()]])
    answer = Answer()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels.to(model.dtype),
        image_sizes=torch.tensor([pixels.shape[-2:]]),
        max_new_tokens=count,
        do_sample=False,
        streamer=answer,
    )
    return answer


@torch.no_grad()
def by_engine(model: Any, pixels: Tensor, count: int) -> Answer:
    """What the pipeline does for `Emu3.answer`."""
    answer = Answer()
    codes = model.model.vqmodel.tokenizer.encode(pixels)[0]  # [h,w]
    picture = IDS.codes_to_ids(codes).tolist()
    prompt = [*header([], *codes.shape), *picture, *closing()]
    greedy = Sampler(temperature=0)
    for (token,) in write_text(language_model(model), [prompt], count, (), greedy, [0]):
        assert token is not None  # no id ends the answer
        answer.add(token)
    return answer


def closing() -> list[int]:
    """What follows the rows of the picture: its end, and the question."""
    return [IDS.end_of_frame, IDS.image_end, *QUESTION]


SIDES: dict[str, Callable[[Any, Tensor, int], Answer]] = {
    "transformers": by_generate,
    "compat": by_generate,
    "engine": by_engine,
}

# ------------------------------------------------------------------------------------- measurement


def vision_seconds(model: Any, pixels: Tensor) -> float:
    """Seconds that `get_image_tokens` takes: the part before the language model."""
    start = time.perf_counter()
    with torch.no_grad():
        model.model.get_image_tokens(pixels.to(model.dtype), torch.tensor([pixels.shape[-2:]]))
    return time.perf_counter() - start


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks equality, then times all sides; raises SystemExit where tokens differ."""
    theirs, ours = make_models(arguments)
    models = {"transformers": theirs, "compat": ours, "engine": ours}
    generator = torch.Generator().manual_seed(arguments.seed)
    pixels = torch.rand(1, 3, arguments.size, arguments.size, generator=generator) * 2 - 1
    work = {
        name: partial(side, models[name], pixels, arguments.answer) for name, side in SIDES.items()
    }
    expected = work["transformers"]().tokens
    for name in ("compat", "engine"):
        place = first_difference(work[name]().tokens, expected)
        if place is not None:
            raise SystemExit(f"vqa: {name} parts from transformers at token {place}")
    theirs.to(getattr(torch, arguments.dtype))
    vision = ours.model.vqmodel.state_dict()
    share(theirs, ours)
    ours.model.vqmodel.load_state_dict(vision, assign=True)  # not those rounded to the dtype
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in work}
    for _ in range(arguments.repeats):
        for name, answer in work.items():
            runs[name].append(timed(answer, partial(vision_seconds, models[name], pixels)))
    medians = {
        name: {part: round(statistics.median(run[part] for run in times), 4) for part in times[0]}
        for name, times in runs.items()
    }
    wall = {name: parts["seconds"] for name, parts in medians.items()}
    busy = {name: parts["processor_seconds"] for name, parts in medians.items()}
    side = arguments.size // 8
    row = torch.zeros(1, arguments.hidden, dtype=getattr(torch, arguments.dtype))
    with torch.no_grad():
        own = applies(row, ours.lm_head.weight)
    return {
        "benchmark": "vqa",
        "size": f"{arguments.size}x{arguments.size}",
        "prompt_tokens": len(header([], side, side)) + side * (side + 1) + len(closing()),
        "answer_tokens": arguments.answer,
        "dtype": arguments.dtype,
        "hidden": arguments.hidden,
        "layers": arguments.layers,
        "vision_base_width": arguments.base,
        "vocabulary": ours.config.text.vocab_size,
        "equal_greedy_tokens": True,
        "median": medians,
        "runs": {name: [round(r["seconds"], 3) for r in times] for name, times in runs.items()},
        "ratio": {n: round(wall["transformers"] / wall[n], 2) for n in ("compat", "engine")},
        "processor_ratio": {
            n: round(busy["transformers"] / busy[n], 2) for n in ("compat", "engine")
        },
        "products": "few_rows.cpp" if own else "torch",
        "transformers": transformers.__version__,
        **facts(torch.device("cpu")),
    }


def timed(work: Callable[[], Answer], vision: Callable[[], float]) -> dict[str, float]:
    """Seconds of one answer and of its parts; the vision tokenizer alone runs once more."""
    busy, start = time.process_time(), time.perf_counter()
    answer = work()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    first, last = answer.times[0], answer.times[-1]
    alone = vision()
    return {
        "seconds": seconds,
        "processor_seconds": busy,
        "vision": alone,
        "prefill": first - alone,
        "token": (last - first) / max(1, len(answer.times) - 1),
    }


COLUMNS = ("all", "cpu", "vision", "prefill", "ms/token", "ratio", "cpu ratio")


def table(result: dict[str, Any]) -> str:
    lines = [
        f"picture of {result['size']}, {result['prompt_tokens']} ids and {result['answer_tokens']} "
        f"to answer, {result['dtype']}, hidden {result['hidden']}, {result['layers']} layers, "
        f"vision width {result['vision_base_width']}",
        f"{result['device']}, {result['threads']} threads, torch {result['torch']}, "
        f"transformers {result['transformers']}, products by {result['products']}, "
        f"load {result['load'][0]}",
        "greedy tokens in float32: equal",
        "",
        "median s".ljust(14) + "".join(f"{name:>10}" for name in COLUMNS),
    ]
    for name, parts in result["median"].items():
        ratio, busy = (result[key].get(name, 1.0) for key in ("ratio", "processor_ratio"))
        numbers = [parts[key] for key in ("seconds", "processor_seconds", "vision", "prefill")]
        cells = "".join(f"{number:10.2f}" for number in numbers)
        lines.append(f"{name:14}{cells}{parts['token'] * 1000:10.1f}{ratio:10.2f}{busy:10.2f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--answer", type=int, default=32, help="tokens to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=1024, help="width, a multiple of 64")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--base", type=int, default=64, help="width of the vision tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    arguments = parser.parse_args()
    if arguments.size % 8 or arguments.size < 32:
        parser.error(f"--size must be a multiple of 8 from 32 on, got {arguments.size}")
    result = measure(arguments)
    show([result], table(result), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
