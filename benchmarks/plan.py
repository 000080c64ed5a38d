"""How far a plan is from what is held: `python -m benchmarks.plan [--only nano]`.

For each case one row of a table and one JSON line: the peak that `dromaius plan` predicts for
everything resident on a CPU, and the peak that torch's allocator reports. What is measured is the
bytes of the weights plus the highest sum of allocations less releases, read from torch's profiler
(`profile_memory`): it sees what operators hold for themselves, too, and it is the same in every
run. The process's resident size is not: it depends on what malloc gives back, and when.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids
from dromaius.engine.sampling import Sampler
from dromaius.engine.token_grid import TokenGrid
from dromaius.io import hub
from dromaius.io.checkpoint import without_memory
from dromaius.models.emu3 import config as emu3
from dromaius.models.emu3 import layouts
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.pipelines.planning import cards
from dromaius.pipelines.planning.plan import plan

PROMPT = 20
"""Tokens of each prompt."""


def nano() -> emu3.Emu3Config:
    """Nano, but for pictures of any size."""
    settings = emu3.ImageSettings(min_pixels=64 * 64, max_pixels=512 * 512, image_area=64 * 64)
    return replace(layouts.read_config(hub.resolve("nano")), image=settings)


def middle() -> emu3.Emu3Config:
    """300M parameters: 287M of the language model, 17M of the vision tokenizer."""
    return emu3.Emu3Config(
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


@dataclass(frozen=True)
class Row:
    """One case; bytes."""

    model: str
    dtype: str
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
    """A model with weights of zeros: memory does not depend on their values."""

    def __init__(self, name: str, config: emu3.Emu3Config, dtype: torch.dtype) -> None:
        assert config.language_model is not None and config.vision_tokenizer is not None
        self.name, self.config, self.dtype = name, config, dtype
        with without_memory():
            language = LanguageModel(config.language_model).to(dtype)
            vision = VisionTokenizer(config.vision_tokenizer)
        self.language, self.vision = _zeros(language), _zeros(vision)
        self.language.tie_weights()
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for half in (self.language, self.vision)
            for tensor in (*half.parameters(), *half.buffers())
        }
        self.weights = sum(storages.values())

    def image(self, height: int, width: int, batch: int) -> Row:
        """Pictures drawn with guidance, then decoded one by one, as `generate_image` does."""
        ids = self.config.vocabulary
        stop = ids.visual_start + ids.codebook_size
        structure = ids.end_of_line, ids.end_of_frame, ids.image_end, ids.eos
        grid = TokenGrid(height // 8, width // 8, ids.visual_start, stop, *structure)
        requests = [GridRequest([8 + i] * PROMPT, grid, i, [7] * PROMPT, 3.0) for i in range(batch)]

        def work() -> None:
            *_, codes = draw_grids(
                self.language, requests, Sampler(top_k=self.config.generation.top_k)
            )
            for one in codes.view(batch, 1, grid.height, grid.width):
                self.vision.decode(one)

        return self._row("image", height, width, batch, work)

    def reconstruct(self, height: int, width: int) -> Row:
        def work() -> None:
            self.vision.decode(self.vision.encode(torch.zeros(1, 3, height, width)))

        return self._row("reconstruct", height, width, 1, work)

    def _row(self, task: Any, height: int, width: int, batch: int, work: Callable[[], None]) -> Row:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(self.config.to_json()))
            with mock.patch.object(cards, "_read_speed", return_value=1e10):
                made = plan(
                    folder,
                    "cpu",
                    task,
                    height,
                    width,
                    batch=batch,
                    guidance=True,
                    dtype=self.dtype,
                    prompt_tokens=PROMPT,
                )
        predicted = made.totals["everything resident"]
        number = str(self.dtype).removeprefix("torch.")
        measured = self.weights + allocator_peak(work)
        return Row(self.name, number, task, height, width, batch, predicted, measured)


def allocator_peak(work: Callable[[], None]) -> int:
    """The most bytes that torch's CPU allocator has given and not got back while `work` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    changes: list[tuple[int, int]] = []

    def collect(events: Any) -> None:
        for event in events:
            if event.tag == _EventType.Allocation:
                changes.append((event.start_time_ns, event.extra_fields.alloc_size))
            collect(event.children)

    collect(profiled.profiler.kineto_results.experimental_event_tree())
    live = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        peak = max(peak, live)
    return peak


def _zeros(module: Any) -> Any:
    module.to_empty(device="cpu")
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.zero_()
    assert isinstance(module, nn.Module)
    return module.eval().requires_grad_(False)


def rows(only: str | None) -> Iterator[Row]:
    """All cases, one after the other."""
    for name, config in (("nano", nano()), ("300M", middle())):
        for dtype in (torch.float32, torch.bfloat16):
            if only in (None, name):
                case = Case(name, config, dtype)
                side = 64 if name == "nano" else 32
                for batch in (1, 4):
                    yield case.image(side, side, batch)
                yield case.reconstruct(64, 64)
                yield case.reconstruct(128, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("nano", "300M"))
    found = []
    for row in rows(parser.parse_args().only):
        print(json.dumps(asdict(row) | {"ratio": round(row.ratio, 4)}), flush=True)
        found.append(row)
    print("\n| model | dtype | task | size | batch | predicted MB | measured MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found:
        size = f"{row.height}x{row.width}"
        print(
            f"| {row.model} | {row.dtype} | {row.task} | {size} | {row.batch} "
            f"| {row.predicted / 1e6:.2f} | {row.measured / 1e6:.2f} | {row.ratio:.3f} |"
        )


if __name__ == "__main__":
    main()
