"""Pictures that are stopped half-way: kept in a file, drawn on from it, or let go."""

from __future__ import annotations

import gc
import json
import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from dromaius.engine import rows
from dromaius.engine.canvas import Canvas
from dromaius.engine.kv_cache import SlotCache
from dromaius.errors import InputError
from dromaius.pipelines.emu3 import Emu3

SIZE = {"height": 24, "width": 32}
MIXED: dict[str, Any] = {
    "prompt": ["a cat", "a red apple"],
    "height": [24, 40],
    "width": [40, 24],
    "guidance": [3.0, 1.0],
    "negative_prompt": ["bad", None],
    "seed": [4, -9],
}
"""15 codes each, in rows of 5 and of 3."""


@pytest.fixture
def forwards(model: Emu3) -> Iterator[list[tuple[int, ...]]]:
    """Shapes [R,T] of what the language model is fed."""
    shapes: list[tuple[int, ...]] = []
    assert model.language_model is not None
    hook = model.language_model.register_forward_pre_hook(
        lambda module, inputs: shapes.append(tuple(inputs[0].shape))
    )
    yield shapes
    hook.remove()


def stop(model: Emu3, after: int, **arguments: Any) -> None:
    """Draws that many steps and goes away without a word, as a killed process does."""
    drawings = model.stream_image(**arguments)
    for _ in range(after):
        next(drawings)
    state = Path(arguments["state"])
    left = state.read_bytes()
    drawings.close()
    state.write_bytes(left)


def grids(model: Emu3, **arguments: Any) -> list[list[Any]]:
    *_, drawing = model.stream_image(**arguments)
    return [codes.tolist() for codes in drawing.codes]


# ---------------------------------------------------------------------------------------- drawn on


@pytest.mark.parametrize("after", [1, 4, 5, 11, 14, 15])
def test_a_killed_drawing_goes_on_to_the_same_pictures(
    model: Emu3, tmp_path: Path, forwards: list[tuple[int, ...]], after: int
) -> None:
    """Mixed sizes and guidance; behind one prefill at most one row, of 5, is drawn again."""
    whole = grids(model, **MIXED)
    path = tmp_path / "s.safetensors"
    stop(model, after, **MIXED, state=path)
    forwards.clear()
    assert grids(model, **MIXED, state=path) == whole
    kept = after // 5 * 5
    passes = 15 - kept
    assert len(forwards) == passes
    assert all(tokens <= 2 for _, tokens in forwards[1:])  # a code, and a line end


def test_a_cancelled_drawing_keeps_every_code(
    model: Emu3, tmp_path: Path, forwards: list[tuple[int, ...]]
) -> None:
    path = tmp_path / "s.safetensors"
    drawings = model.stream_image("a", **SIZE, seed=2, state=path)
    for _ in range(7):
        next(drawings)
    drawings.close()
    forwards.clear()
    steps = [drawing.step for drawing in model.stream_image("a", **SIZE, seed=2, state=path)]
    assert steps == [8, 9, 10, 11, 12] and len(forwards) == 5


def test_a_finished_drawing_is_not_drawn_again(
    model: Emu3, tmp_path: Path, forwards: list[tuple[int, ...]]
) -> None:
    path = tmp_path / "s.safetensors"
    first = model.generate_image("a", **SIZE, seed=2, state=path)
    forwards.clear()
    again = model.generate_image("a", **SIZE, seed=2, state=str(path))
    assert forwards == [] and again.tobytes() == first.tobytes()
    other = model.generate_image("b", **SIZE, seed=2, state=path)  # another one takes its place
    assert other.tobytes() == model.generate_image("b", **SIZE, seed=2).tobytes()


def test_without_a_seed_it_goes_on_with_its_own(model: Emu3, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    stop(model, 6, prompt="a", **SIZE, n=2, state=path)
    *_, drawing = model.stream_image("a", **SIZE, n=2, state=path)
    seed = drawing.records[0]["seed"]
    whole = grids(model, prompt="a", **SIZE, n=2, seed=seed)
    assert [codes.tolist() for codes in drawing.codes] == whole


def test_the_state_is_written_at_every_row(model: Emu3, tmp_path: Path) -> None:
    """safetensors reads it: codes int32, what they depend on in the metadata."""
    path = tmp_path / "s.safetensors"
    seen = []
    for drawing in model.stream_image("a", **SIZE, seed=2, guided=(0, 0.5), state=path):
        with safe_open(path, "np") as file:
            codes = file.get_tensor("codes")
            facts = json.loads(file.metadata()["state"])
        assert codes.dtype == np.int32 and codes.shape == (1, 12)
        count = int((codes >= 0).sum())
        assert drawing.closes_row == (drawing.step % 4 == 0)
        assert count == drawing.step // 4 * 4
        assert codes[0, :count].tolist() == drawing.codes[0].flatten()[:count].tolist()
        seen.append(count)
    assert seen == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12]
    assert facts["model_hash"] == model.hash and facts["dtype"] == "float32"
    assert facts["records"] == [{**drawing.records[0], "guided": [0, 0.5]}]
    assert os.listdir(tmp_path) == ["s.safetensors"]


def test_a_drawing_can_be_saved_by_hand(model: Emu3, tmp_path: Path) -> None:
    whole = grids(model, prompt="a", **SIZE, seed=2)
    for drawing in model.stream_image("a", **SIZE, seed=2):
        if drawing.step == 3:
            drawing.save(tmp_path / "by-hand")
            break
    assert grids(model, prompt="a", **SIZE, seed=2, state=tmp_path / "by-hand") == whole


# -------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"prompt": "a dog"}, "picture 1 has prompt 'a cat', not 'a dog'"),
        ({"negative_prompt": "x"}, "picture 1 has negative_prompt '', not 'x'"),
        ({"seed": 6}, "picture 1 has seed 5, not 6"),
        ({"width": 40}, "picture 1 has width 32, not 40"),
        ({"guidance": 2.0}, "picture 1 has guidance 3.0, not 2.0"),
        ({"top_k": 3}, "picture 1 has top_k 40, not 3"),
        ({"min_p": 0.1}, "picture 1 has min_p None, not 0.1"),
        ({"guided": (0, 0.5)}, r"picture 1 has guided \[0.0, 1.0\], not \[0.0, 0.5\]"),
        ({"n": 2}, "of 1 pictures, not 2"),
    ],
)
def test_other_pictures_are_named(
    model: Emu3, tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    arguments: dict[str, Any] = {"prompt": "a cat", **SIZE, "seed": 5, "state": tmp_path / "s"}
    stop(model, 5, **arguments)
    kept = arguments["state"].read_bytes()
    with pytest.raises(InputError, match=says) as error:
        model.generate_image(**arguments | other)
    assert "\n" not in str(error.value) and "remove it to begin anew" in str(error.value)
    assert arguments["state"].read_bytes() == kept


def rewrite(path: Path, change: Any) -> None:
    """Lets `change(head, facts, codes)` alter a state file, whose layout is safetensors'."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + length])
    facts = json.loads(head["__metadata__"]["state"])
    codes = np.frombuffer(content[8 + length :], "<i4").copy()
    change(head, facts, codes)
    head["__metadata__"]["state"] = json.dumps(facts)
    raw = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + codes.tobytes())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h, f, c: f.update(model_hash="beef"), "of model 'beef', this is "),
        (lambda h, f, c: f.update(dtype="bfloat16"), "drawn in 'bfloat16', not 'float32'"),
        (lambda h, f, c: h["__metadata__"].update(format_version="2"), "version '2'; .* reads 1"),
        (lambda h, f, c: h["__metadata__"].update(format="pt"), "does not hold a drawing"),
        (lambda h, f, c: h.update(__metadata__={}), "is damaged, or"),
        (lambda h, f, c: f.update(records=3), "is damaged, or"),
        (lambda h, f, c: f.update(records=[3]), "is damaged, or"),
        (lambda h, f, c: f.update(more=1), "is damaged, or"),
        (lambda h, f, c: f["records"][0].update(seed="x"), "seed 'x', not 5"),
        (lambda h, f, c: h["codes"].update(shape=[3, 4]), "its codes do not fit its pictures"),
        (lambda h, f, c: h["codes"].update(shape=[1, 10**9]), "is damaged, or"),
        (lambda h, f, c: h["codes"].update(dtype="F32"), "is damaged, or"),
        (lambda h, f, c: h["codes"].update(data_offsets=[0, 4]), "is damaged, or"),
        (lambda h, f, c: c.__setitem__(0, 10**6), "its codes do not fit its pictures"),
        (lambda h, f, c: c.__setitem__(1, -1), "its codes do not fit its pictures"),
        (lambda h, f, c: c.__setitem__(-1, -2), "its codes do not fit its pictures"),
    ],
)
def test_damaged_and_foreign_states_are_named(
    model: Emu3, tmp_path: Path, change: Any, says: str
) -> None:
    path = tmp_path / "s.safetensors"
    arguments: dict[str, Any] = {"prompt": "a cat", **SIZE, "seed": 5, "state": path}
    stop(model, 5, **arguments)
    rewrite(path, change)
    with pytest.raises(InputError, match=says) as error:
        model.generate_image(**arguments)
    assert "s.safetensors" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04cos\nsystem\n",
        b"\xff" * 100,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 10**5) + b"[" * 10**5,
        b"{}",
    ],
)
def test_what_is_no_state_is_named(model: Emu3, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(InputError, match="is damaged, or does not hold a drawing"):
        model.generate_image("a", **SIZE, state=tmp_path / "s")
    assert (tmp_path / "s").read_bytes() == content


def test_places_that_cannot_be_used(model: Emu3, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="state must be a path, got 3"):
        model.generate_image("a", **SIZE, state=3)  # type: ignore[arg-type]  # a wrong one
    with pytest.raises(InputError, match="cannot read"):
        model.generate_image("a", **SIZE, state=tmp_path)


# --------------------------------------------------------------------------------------- let go


def test_a_cancelled_drawing_frees_its_memory_at_once(
    model: Emu3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By reference counts alone: no cycle holds keys and values until a collection."""
    held: list[weakref.ref[Any]] = []

    class Watched(SlotCache):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            held.extend(weakref.ref(tensor) for tensor in [*self.keys, *self.values])

    monkeypatch.setattr(rows, "SlotCache", Watched)
    for leave in ("close", "break"):
        held.clear()
        gc.collect()
        gc.disable()
        try:
            if leave == "close":
                drawings = model.stream_image("a", **SIZE, n=2, seed=1, state=tmp_path / "s")
                kept = [next(drawings) for _ in range(6)]
                assert held and all(ref() is not None for ref in held)
                drawings.close()
            else:
                for drawing in model.stream_image("a", **SIZE, n=2, seed=1):
                    kept = [drawing]
                    if drawing.step == 6:
                        break
            assert len(held) == 2 * len(model.language_model.model.layers)
            assert [ref() for ref in held] == [None] * len(held)
            assert kept[-1].step == 6 and kept[-1].pictures()[0].size == (32, 24)
        finally:
            gc.enable()


# ------------------------------------------------------------------------- shared prefill, guidance


def test_pictures_of_one_prompt_share_the_prefill(
    model: Emu3, forwards: list[tuple[int, ...]]
) -> None:
    """Four pictures with guidance: the two prompts are read once, then eight rows go on."""
    model.generate_image("a red apple", **SIZE, n=4, seed=1)
    (first, *others) = forwards
    assert first[0] == 2 and first[1] > 2
    assert {shape[0] for shape in others} == {8} and len(others) == 11
    forwards.clear()
    model.generate_image("a red apple", **SIZE, n=4, seed=1, guidance=1)
    assert forwards[0][0] == 1 and {shape[0] for shape in forwards[1:]} == {4}


def test_guidance_for_a_part_of_the_picture(
    model: Emu3, forwards: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the part as everywhere; behind it the negative prompt's rows are not computed."""
    scores: list[Tensor] = []
    plain = Canvas.scores

    def noted(*given: Any) -> Tensor:
        scores.append(plain(*given))
        return scores[-1]

    monkeypatch.setattr(Canvas, "scores", noted)
    arguments: dict[str, Any] = {"prompt": "a", **SIZE, "seed": 3, "guidance": 4.0}
    everywhere = sum(grids(model, **arguments)[0], [])
    half = sum(grids(model, **arguments, guided=(0, 0.5))[0], [])
    assert [count for count, _ in forwards] == [2] * 12 + [2] * 6 + [1] * 6
    assert half[:6] == everywhere[:6] and half != everywhere
    assert torch.equal(scores[5], scores[12 + 5])


@pytest.mark.parametrize(
    "part", [0.5, (0.5,), (0, 0.5, 1), (0.5, 0.5), (-0.1, 1), (0, 1.1), (0, float("nan")), "01"]
)
def test_parts_that_cannot_be_used(model: Emu3, part: Any) -> None:
    with pytest.raises(InputError, match="guided must be|must be a finite number") as error:
        model.generate_image("a", **SIZE, guided=part)
    assert "\n" not in str(error.value)
