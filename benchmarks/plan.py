"""How far a plan is from what is held: `python -m benchmarks.plan [--only nano] [--device cuda]`.

For each case one JSON line and one row of a table: the peak that `dromaius plan` predicts for a way
to keep a model, and the peak that torch's allocator reports while such a model is loaded and does
the job. On a CPU that is the highest sum of allocations less releases, read from torch's profiler
(`profile_memory`): it sees what operators hold for themselves, too, and it is the same in every
run. The process's resident size is not: it depends on what malloc gives back, and when. On a GPU it
is `torch.cuda.max_memory_allocated`.

Weights are zeros: memory does not depend on their values. On a CPU the device is given as "cpu:0",
which to torch is another place than "cpu": weights are then copied there, as to a GPU, and what
stays on the host stays the mapped file, which no allocator sees.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

import dromaius
from benchmarks import machine
from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids, write_text
from dromaius.engine.sampling import Sampler
from dromaius.io import hub
from dromaius.io.checkpoint import without_memory
from dromaius.io.shards import save_sharded
from dromaius.models.emu3 import config as emu3
from dromaius.models.emu3 import layouts
from dromaius.models.emu3.quantization import settings
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.weights import empty_language_model
from dromaius.pipelines.emu3 import Emu3
from dromaius.pipelines.image import picture_grid
from dromaius.pipelines.planning import cards
from dromaius.pipelines.planning.plan import plan

PROMPT = 20
"""Tokens of each prompt."""
PASSES = 70
"""At most so many passes: the cache has its full size from the start."""


def nano() -> emu3.Emu3Config:
    """Nano, but for pictures of any size."""
    images = emu3.ImageSettings(min_pixels=64 * 64, max_pixels=512 * 512, image_area=64 * 64)
    return _short(replace(layouts.read_config(hub.resolve("nano")), image=images))


def middle() -> emu3.Emu3Config:
    """300M parameters: 287M of the language model, 17M of the vision tokenizer."""
    config = emu3.Emu3Config(
        emu3.LanguageModelConfig(
            vocab_size=40960,
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=18,
            num_attention_heads=16,
            num_key_value_heads=4,
        ),
        emu3.VisionTokenizerConfig(ch=64),
        emu3.VocabularyConfig(0, 1, 2, 3, 4, 5, 6, 7, visual_start=8192, codebook_size=32768),
        emu3.ImageSettings(min_pixels=32 * 32, max_pixels=512 * 512, image_area=64 * 64),
    )
    return _short(config)


def large() -> emu3.Emu3Config:
    """The published sizes: for a GPU."""
    return _short(emu3.Emu3Config())


def _short(config: emu3.Emu3Config) -> emu3.Emu3Config:
    """Answers of a few tokens."""
    return replace(config, generation=replace(config.generation, max_new_tokens=8))


@dataclass(frozen=True)
class Row:
    """One case; bytes."""

    model: str
    dtype: str
    mode: str
    task: str
    height: int
    width: int
    batch: int
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


class Case:
    """A model in one precision ("" as it is, "int8", "int4"), as a checkpoint of zeros."""

    def __init__(
        self,
        name: str,
        config: emu3.Emu3Config,
        dtype: torch.dtype,
        folder: Path,
        precision: str = "",
        device: str = "cpu",
    ) -> None:
        self.name, self.config, self.dtype, self.device = name, config, dtype, device
        self.precision, self.folder = precision, folder
        stored = config
        if precision:
            stored = replace(config, quantization=settings(precision))
        save_sharded(_zeros(stored), folder)
        self.folder.joinpath("config.json").write_text(json.dumps(stored.to_json()))

    def image(self, height: int, width: int, batch: int, memory: str = "resident") -> Row:
        """Pictures drawn with guidance, then decoded one by one, as `generate_image` does."""

        def work(model: Emu3) -> None:
            grid = picture_grid(model, height, width, None, None)
            requests = [
                GridRequest([8 + i] * PROMPT, grid, i, [7] * PROMPT, 3.0) for i in range(batch)
            ]
            sampler = Sampler(top_k=self.config.generation.top_k)
            steps = draw_grids(model.require_language_model(), requests, sampler)
            *_, codes = islice(steps, PASSES)
            steps.close()  # type: ignore[attr-defined]  # it is a generator
            for one in codes.view(batch, grid.height, grid.width).clamp(min=0):
                model.decode_image(one)

        return self._row("image", height, width, batch, memory, work)

    def ask(self, height: int, width: int, memory: str = "resident") -> Row:
        """A picture read, and a few tokens written."""

        def work(model: Emu3) -> None:
            codes = _encode(model, height, width)
            ids = model.vocabulary.codes_to_ids(codes[0])
            room = picture_grid(model, height, width, None, None).length - len(ids)
            prompt = [7] * (PROMPT + room) + ids.tolist()
            greedy, limit = Sampler(temperature=0), self.config.generation.max_new_tokens
            for _ in write_text(model.require_language_model(), [prompt], limit, (), greedy, [0]):
                pass

        return self._row("ask", height, width, 1, memory, work)

    def reconstruct(self, height: int, width: int, memory: str = "resident") -> Row:
        def work(model: Emu3) -> None:
            model.require_vision_tokenizer().decode(_encode(model, height, width))

        return self._row("reconstruct", height, width, 1, memory, work)

    def _row(
        self,
        task: Any,
        height: int,
        width: int,
        batch: int,
        memory: str,
        work: Callable[[Emu3], None],
    ) -> Row:
        with mock.patch.object(cards, "_read_speed", return_value=1e10):
            made = plan(
                self.folder,
                self.device,
                task,
                height,
                width,
                batch=batch,
                guidance=True,
                dtype=self.dtype,
                prompt_tokens=PROMPT,
            )
        place = "cpu:0" if self.device == "cpu" else self.device

        def load_and_work() -> None:
            work(dromaius.load(self.folder, device=place, dtype=self.dtype, memory=memory))

        files = {file.stat().st_size for file in self.folder.glob("*.safetensors")}
        mode = f"{self.precision}, {memory}" if self.precision else memory
        number = str(self.dtype).removeprefix("torch.")
        if self.device == "cpu":
            peak = allocator_peak(load_and_work, files)
        else:
            peak = card_peak(load_and_work)
        return Row(self.name, number, mode, task, height, width, batch, made.totals[memory], peak)


def _encode(model: Emu3, height: int, width: int) -> Tensor:
    pixels = torch.zeros(1, 3, height, width, device=model.device)
    return model.require_vision_tokenizer().encode(pixels)


def _zeros(config: emu3.Emu3Config) -> Iterator[tuple[str, Tensor]]:
    """A checkpoint's tensors in our layout, 16 bits where they are floating-point."""
    assert config.vision_tokenizer is not None
    with without_memory():
        halves = {
            "language_model": empty_language_model(config).to(torch.bfloat16),
            "vision_tokenizer": VisionTokenizer(config.vision_tokenizer),
        }
    for half, module in halves.items():
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            dtype = torch.bfloat16 if tensor.dtype == torch.float32 else tensor.dtype
            yield f"{half}.{name}", torch.zeros(tensor.shape, dtype=dtype)


def allocator_peak(work: Callable[[], None], mapped: Collection[int] = ()) -> int:
    """The most bytes that torch's CPU allocator has given and not got back while `work` runs.

    mapped: sizes of files; it reports a mapped file as if it were memory.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    changes: list[tuple[int, int]] = []

    def collect(events: Any) -> None:
        for event in events:
            if (
                event.tag == _EventType.Allocation
                and abs(event.extra_fields.alloc_size) not in mapped
            ):
                changes.append((event.start_time_ns, event.extra_fields.alloc_size))
            collect(event.children)

    collect(profiled.profiler.kineto_results.experimental_event_tree())
    live = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        peak = max(peak, live)
    return peak


def card_peak(work: Callable[[], None]) -> int:
    """The most bytes of tensors that were on the GPU while `work` ran."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def rows(only: str | None, device: str = "cpu") -> Iterator[Row]:
    """All cases, one after the other; the 8B one needs a GPU."""
    models: list[tuple[str, Callable[[], emu3.Emu3Config], int]] = [("nano", nano, 64)]
    models.append(("300M", middle, 32) if device == "cpu" else ("8B", large, 720))
    for name, config, side in models:
        if only not in (None, name):
            continue
        types = (torch.bfloat16,) if name == "8B" else (torch.float32, torch.bfloat16)
        for dtype in types:
            for precision in ("", "int8", "int4"):
                with tempfile.TemporaryDirectory() as folder:
                    case = Case(name, config(), dtype, Path(folder), precision, device)
                    yield from _rows_of(case, side)


def _rows_of(case: Case, side: int) -> Iterator[Row]:
    for memory in ("resident", "staged", "low"):
        yield case.image(side, side, 1, memory)
    if case.precision:
        return
    yield case.image(side, side, 4)
    for memory in ("resident", "staged", "low"):
        yield case.ask(64, 64, memory)
    for memory in ("resident", "staged"):
        yield case.reconstruct(2 * side, 3 * side // 2, memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("nano", "300M", "8B"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    found = []
    about = machine.facts(torch.device(options.device))
    for row in rows(options.only, options.device):
        print(json.dumps(asdict(row) | {"ratio": round(row.ratio, 4)} | about), flush=True)
        found.append(row)
    print("\n| model | dtype | mode | task | size | batch | predicted MB | measured MB | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in found:
        size = f"{row.height}x{row.width}"
        print(
            f"| {row.model} | {row.dtype} | {row.mode} | {row.task} | {size} | {row.batch} "
            f"| {row.predicted / 1e6:.2f} | {row.measured / 1e6:.2f} | {row.ratio:.3f} |"
        )


if __name__ == "__main__":
    main()
