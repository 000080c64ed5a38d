"""Recorded steps draw what eager steps draw, and a step never asks the host.

Where there is no GPU a tape stands in for a CUDA graph: it keeps the operators that ran and the
tensors they ran on, and plays them again on the same memory. What Python decided while it recorded
is frozen, as it is on a GPU. Arithmetic is in float64, where no C++ kernel hides from the tape.
"""

from __future__ import annotations

import copy
import gc
import random
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dromaius.engine import graph, rows
from dromaius.engine.canvas import GridRequest
from dromaius.engine.decode import draw_grids, write_text
from dromaius.engine.graph import Work, rounded
from dromaius.engine.jacobi import Jacobi, draw_grids_in_passes
from dromaius.engine.kv_cache import SlotCache
from dromaius.engine.sampling import Sampler
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.nn.rope import ROPE_TYPES
from tests.engine.small import EOS, VOCABULARY, Pair, draw, request, words
from tests.tiny import our_language_config, random_text_config

SAMPLERS = [Sampler(temperature=0), Sampler(0.9, top_k=20), Sampler(1.2, top_p=0.9)]


@pytest.fixture
def rng(rng_seed: int) -> random.Random:
    return random.Random(rng_seed)


@pytest.fixture(scope="module")
def model(pair: Pair) -> LanguageModel:
    return copy.deepcopy(pair.ours).double()


def mixed(rng: random.Random) -> list[GridRequest]:
    """Sizes, guidance that ends, min_p, begun codes, two pictures of one prompt."""
    base = request(rng, 4, 5, 1)
    return [
        replace(base, guided=(0.25, 0.6)),
        replace(base, seed=2, guided=(0.0, 0.4)),
        replace(request(rng, 5, 3, 3, guidance=2.0, min_p=0.1), guided=(0.0, 0.5)),
        request(rng, 2, 2, 4, guidance=1.0),
        replace(request(rng, 3, 4, 5), begun=[3, 1, 4, 1, 5], guided=(0.0, 0.7)),
    ]


def quickly(model: Any, requests: Sequence[GridRequest], sampler: Sampler, how: Jacobi) -> Tensor:
    *_, last = draw_grids_in_passes(model, requests, sampler, how)
    return last.codes


# ------------------------------------------------------------------------------------------ a tape


def tensors(*things: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(things) if isinstance(leaf, Tensor)]


def memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Tape(TorchDispatchMode):
    """Records the operators that run inside; `play` runs them again into the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, tensors(made)))
        return made

    def play(self) -> None:
        for function, args, kwargs, kept in self.calls:
            given = {memory(tensor) for tensor in tensors(args, kwargs)}
            again = tensors(function(*args, **kwargs))
            for old, new in zip(kept, again, strict=True):
                if memory(old) not in given:  # else a view, or a change in place
                    old.copy_(new)


class TapeRecorder:
    """Stands in for `CudaRecorder` while it is on, and counts."""

    def __init__(self) -> None:
        self.on = False
        self.recorded = self.played = 0

    def __call__(self, work: Work) -> Work:
        self.recorded += 1
        with Tape() as tape:
            work()

        def play() -> None:
            self.played += 1
            tape.play()

        return play


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Iterator[TapeRecorder]:
    """Rows record on a CPU while it is on, in sizes of 16 slots."""
    recorder = TapeRecorder()
    monkeypatch.setattr(rows, "recorder", lambda device: recorder if recorder.on else None)
    monkeypatch.setattr(graph, "rounded", lambda visible, slots: min(-(-visible // 16) * 16, slots))
    yield recorder


# -------------------------------------------------------------------------------- recorded = eager


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_recorded_steps_draw_the_same_pictures(
    model: LanguageModel, rng: random.Random, tape: TapeRecorder, sampler: Sampler
) -> None:
    """Code for code: mixed sizes, guidance that ends, n pictures of a prompt, begun ones."""
    requests = mixed(rng)
    eager = draw(model, requests, sampler)
    tape.on = True
    assert draw(model, requests, sampler) == eager
    assert 5 <= tape.played <= 19 - tape.recorded  # 20 codes, the first from the prefill
    assert tape.recorded >= 3  # among them both numbers of rows, and both of tokens
    assert draw(model, requests[::-1], sampler) == eager[::-1]


@pytest.mark.parametrize("form", ["seed-exact", "coupled"])
def test_recorded_windows_draw_the_same_pictures(
    model: LanguageModel, rng: random.Random, tape: TapeRecorder, form: str
) -> None:
    requests, how = mixed(rng), Jacobi(form, window=3)
    eager = quickly(model, requests, SAMPLERS[1], how).clone()
    tape.on = True
    assert quickly(model, requests, SAMPLERS[1], how).equal(eager)
    assert tape.played > 0


def test_recorded_steps_write_the_same_text(
    model: LanguageModel, rng: random.Random, tape: TapeRecorder
) -> None:
    prompts = [words(rng, count) for count in (3, 9, 5)]

    def written() -> list[list[int | None]]:
        return list(write_text(model, prompts, 30, [EOS], Sampler(0.9, top_k=40), [1, 2, 3]))

    eager = written()
    tape.on = True
    assert written() == eager
    assert tape.played > 0 or len(eager) < 3


def test_what_is_frozen_shows(
    model: LanguageModel, rng: random.Random, tape: TapeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that goes on reading an old input draws something else: the tape is no sham."""
    requests = mixed(rng)
    eager = draw(model, requests, SAMPLERS[1])
    tape.on = True
    monkeypatch.setattr(graph._Step, "take", lambda self, ids, start, last: self.ids.copy_(ids))
    assert draw(model, requests, SAMPLERS[1]) != eager


def test_what_cannot_be_recorded_is_drawn_eagerly(
    model: LanguageModel, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, asked = mixed(rng), []

    def refuse(work: Work) -> Work:
        asked.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    eager = draw(model, requests, SAMPLERS[1])
    monkeypatch.setattr(rows, "recorder", lambda device: refuse)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs: operation not permitted.*g$"):
        assert draw(model, requests, SAMPLERS[1]) == eager
    assert len(asked) == 1


def test_recordings_die_with_their_rows(
    model: LanguageModel, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is most of what a drawing holds; no cycle may keep it until a collection."""
    caches: list[weakref.ref[SlotCache]] = []

    class Noted(SlotCache):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            caches.append(weakref.ref(self))

    monkeypatch.setattr(rows, "SlotCache", Noted)
    # As on a GPU, a recording holds addresses and no Python object.
    monkeypatch.setattr(rows, "recorder", lambda device: lambda work: lambda: None)
    drawing = draw_grids(model, mixed(rng), SAMPLERS[0])
    for _ in range(8):
        next(drawing)
    (cache,) = caches
    assert cache() is not None
    gc.disable()
    try:
        drawing.close()
        assert cache() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("slots", [1, 63, 256, 300, 2048, 2600, 8300])
def test_sizes_are_few_and_large_enough(slots: int) -> None:
    sizes = {rounded(visible, slots) for visible in range(1, slots + 1)}
    assert len(sizes) <= graph.SIZES and max(sizes) == slots
    for visible in range(1, slots + 1):
        size = rounded(visible, slots)
        assert visible <= size <= slots
        assert size - visible < max(graph.LEAST, slots / graph.SIZES + 64)


def test_nothing_records_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graph.recorder(torch.device("cpu")) is None
    monkeypatch.setenv("DROMAIUS_GRAPHS", "0")
    assert graph.recorder(torch.device("cuda")) is None


# ------------------------------------------------------------------------------- the host is quiet


class NoLists(TorchFunctionMode):
    """Refuses tensors made of the host's numbers, which are invisible further below."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert function not in (torch.tensor, torch.as_tensor), "a list of the host"
        return function(*args, **(kwargs or {}))


class NoCopies(TorchDispatchMode):
    """Refuses what takes or makes a tensor of the host."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function)
        host = [leaf for leaf in tensors(args, kwargs) if leaf.device.type != "meta"]
        assert not host, f"{name} takes a tensor of the host"
        made = function(*args, **(kwargs or {}))
        host = [leaf for leaf in tensors(made) if leaf.device.type != "meta"]
        assert not host, f"{name} makes a tensor of the host"
        return made


@contextmanager
def quiet() -> Iterator[None]:
    """The meta device plays the GPU: whatever the host gives to it is refused.

    Reading from it is refused by torch itself, since nothing is there.
    """
    with NoCopies(), NoLists():
        yield


@pytest.mark.parametrize(
    ("rope", "sampler"),
    [("default", sampler) for sampler in SAMPLERS]
    + [(rope, SAMPLERS[1]) for rope in ROPE_TYPES[1:]],
)
def test_a_step_never_asks_the_host(rng: random.Random, sampler: Sampler, rope: str) -> None:
    """From the second pass to the last, with guidance that ends on the way."""
    config = random_text_config(rng, rope)
    config.vocab_size = VOCABULARY
    model = LanguageModel(our_language_config(config)).eval().to("meta")
    drawing = draw_grids(model, mixed(rng), sampler)
    next(drawing)
    with quiet():
        passes = 1 + sum(1 for _ in drawing)
    assert passes == 20


def test_the_quiet_can_be_broken(rng: random.Random) -> None:
    x = torch.ones(3, device="meta")
    with quiet():
        for loud in (
            lambda: torch.tensor([1, 2], device="meta"),
            lambda: torch.arange(3).to("meta"),
        ):
            with pytest.raises(AssertionError, match="of the host"):
                loud()
        for loud in (lambda: x[0].item(), lambda: x.tolist(), lambda: bool(x.any())):
            with pytest.raises((RuntimeError, NotImplementedError)):
                loud()
        torch.where(x > 0, x, 1.0) + torch.arange(3, device="meta")


# --------------------------------------------------------------------------------- on a real GPU


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_cuda_graphs_draw_the_same_pictures(
    pair: Pair, rng: random.Random, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32: as the eager steps on the same GPU, nothing refused, and fewer launches."""
    model = copy.deepcopy(pair.ours).cuda()
    requests = mixed(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorded = draw(model, requests, sampler)
    windows = quickly(model, requests, sampler, Jacobi(window=3))
    monkeypatch.setenv("DROMAIUS_GRAPHS", "0")
    assert recorded == draw(model, requests, sampler)
    assert windows.equal(quickly(model, requests, sampler, Jacobi(window=3)))


@pytest.mark.gpu
def test_a_cuda_step_is_not_waited_for(pair: Pair, rng: random.Random) -> None:
    """torch refuses every operation that would make the host wait."""
    drawing = draw_grids(copy.deepcopy(pair.ours).cuda(), mixed(rng), SAMPLERS[1])
    for _ in range(3):
        next(drawing)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(drawing)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_recording_fails_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph cannot hold raises, and the stream is what it was."""
    record = graph.recorder(torch.device("cuda"))
    assert record is not None
    x, stream = torch.ones(3, device="cuda"), torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        record(lambda: print(x.sum().item()))
    assert torch.cuda.current_stream() == stream
    assert float(x.sum()) == 3
