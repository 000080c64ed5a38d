"""`accelerate`: the same pictures in fewer passes, or as likely ones; stopped, and drawn on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import dromaius
from dromaius.errors import InputError
from dromaius.pipelines.drawing import Drawing
from dromaius.pipelines.emu3 import Emu3
from tests.pipelines.test_state import MIXED, SIZE, grids, rewrite, stop

SETTINGS: dict[str, dict[str, Any]] = {
    "mixed sizes and guidance": MIXED,
    "guidance for a part, min_p, several": SIZE
    | {"prompt": "a cat", "n": 3, "seed": 2, "min_p": 0.1, "guided": (0.2, 0.7)},
    "greedy": SIZE | {"prompt": "a cat", "seed": 3, "temperature": 0},
}


def finished(model: Emu3, **arguments: Any) -> Drawing:
    *_, drawing = model.stream_image(**arguments)
    return drawing


# ------------------------------------------------------------------------------- the same pictures


def test_twenty_seeds_of_nano_have_the_same_pixels() -> None:
    """Codes and pixels, alone and together; every one in fewer passes than it has codes."""
    nano = dromaius.load("nano")
    plain = finished(nano, prompt="a red apple", n=20, seed=100)
    fast = finished(nano, prompt="a red apple", n=20, seed=100, accelerate="seed-exact")
    assert (plain.passes, plain.tokens) == (64, [64] * 20)
    assert fast.passes < 64 and fast.tokens == [64] * 20
    for ours, theirs in zip(fast.codes, plain.codes, strict=True):
        assert ours.equal(theirs)
    pixels = [picture.tobytes() for picture in plain.pictures()]
    assert [picture.tobytes() for picture in fast.pictures()] == pixels
    for i in (0, 7, 19):
        alone = nano.generate_image("a red apple", seed=100 + i, accelerate="seed-exact")
        assert alone.tobytes() == pixels[i]


@pytest.mark.parametrize("mode", ["seed-exact", "auto"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_exact_modes_draw_the_plain_pictures(model: Emu3, mode: str, settings: str) -> None:
    """And leave the same record: nothing says how it was drawn."""
    arguments = SETTINGS[settings]
    plain = finished(model, **arguments)
    fast = finished(model, **arguments, accelerate=mode, window=4)
    assert [c.tolist() for c in fast.codes] == [c.tolist() for c in plain.codes]
    assert fast.records == plain.records and fast.records[0]["accelerate"] is None
    assert fast.passes <= plain.passes and fast.tokens == plain.tokens
    assert fast.accelerate == ("off" if mode == "auto" else mode)  # so few codes


def test_coupled_pictures_are_the_same_alone_and_together(model: Emu3) -> None:
    """Of each size; greedy they are the plain ones, because nothing is left to chance."""
    mode: dict[str, Any] = {"accelerate": "coupled", "window": 4}
    together = grids(model, **MIXED, **mode)
    assert together != grids(model, **MIXED)
    for i in range(2):
        one = {key: [value[i]] for key, value in MIXED.items()}
        assert grids(model, **one, **mode) == [together[i]]
    greedy = SETTINGS["greedy"]
    assert grids(model, **greedy, **mode) == grids(model, **greedy)


def test_the_usual_window(model: Emu3) -> None:
    """Smaller on a CPU, but where the picture depends on it: that is the same on every device."""
    coupled = finished(model, prompt="a", **SIZE, seed=1, accelerate="coupled")
    assert (coupled.records[0]["accelerate"], coupled.records[0]["window"]) == ("coupled", 16)
    arguments: dict[str, Any] = {"prompt": "a cat", **SIZE, "seed": 3, "accelerate": "seed-exact"}
    usual, *others = (finished(model, **arguments, window=w).passes for w in (None, 4, 1))
    assert usual == others[0] <= others[1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"accelerate": "fast"}, "one of off, seed-exact, coupled, auto, got 'fast'"),
        ({"accelerate": 3}, "got 3"),
        ({"accelerate": "auto", "window": 0}, "window must be 1 to 1024 drafts, got 0"),
        ({"accelerate": "auto", "window": 10**9}, "window must be 1 to 1024"),
        ({"accelerate": "auto", "window": "4"}, "window must be a whole number, got '4'"),
    ],
)
def test_ways_that_are_none(model: Emu3, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        model.generate_image("a", **SIZE, **given)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------- states


def test_a_drawing_fills_with_certain_codes_only(model: Emu3) -> None:
    whole = grids(model, **MIXED)
    seen = []
    for drawing in model.stream_image(**MIXED, accelerate="seed-exact", window=4):
        for codes, final in zip(drawing.codes, whole, strict=True):
            flat = codes.flatten().tolist()
            certain = sum(code >= 0 for code in flat)
            assert flat == [*sum(final, [])[:certain], *[-1] * (15 - certain)]
            assert certain >= drawing.step
        seen.append(drawing.step)
        assert [picture.size for picture in drawing.pictures()] == [(40, 24), (24, 40)]
    assert seen == sorted(set(seen)) and seen[-1] == 15


@pytest.mark.parametrize("after", [1, 3, 6])
@pytest.mark.parametrize("modes", [("off", "seed-exact"), ("seed-exact", "off")])
def test_exact_states_are_interchangeable(
    model: Emu3, tmp_path: Path, modes: tuple[str, str], after: int
) -> None:
    path = tmp_path / "s.safetensors"
    whole = grids(model, **MIXED)
    stop(model, after, **MIXED, state=path, accelerate=modes[0], window=4)
    drawing = finished(model, **MIXED, state=path, accelerate=modes[1], window=2)
    assert [codes.tolist() for codes in drawing.codes] == whole
    assert all(0 < tokens <= 15 for tokens in drawing.tokens)


@pytest.mark.parametrize("after", range(1, 8))
def test_a_killed_coupled_drawing_goes_on_to_the_same_pictures(
    model: Emu3, tmp_path: Path, after: int
) -> None:
    """What is stored of the last pass makes the next one what it would have been."""
    mode: dict[str, Any] = {"accelerate": "coupled", "window": 4}
    whole = grids(model, **MIXED, **mode)
    path = tmp_path / "s.safetensors"
    stop(model, after, **MIXED, state=path, **mode)
    assert grids(model, **MIXED, state=path, **mode) == whole
    assert grids(model, **MIXED, state=path, **mode) == whole  # now it is finished


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_cancelled_coupled_drawing_goes_on_twice(model: Emu3, tmp_path: Path, after: int) -> None:
    """Cancelled between rows, and again at its first pass."""
    arguments: dict[str, Any] = {**MIXED, "accelerate": "coupled", "window": 3}
    whole = grids(model, **arguments)
    arguments["state"] = tmp_path / "s.safetensors"
    for steps in (after, 1):
        drawings = model.stream_image(**arguments)
        for _ in range(steps):
            next(drawings)
        drawings.close()
    assert grids(model, **arguments) == whole
    with safe_open(arguments["state"], "np") as file:
        last = file.get_tensor("last_pass")
    assert last.dtype == np.int32 and last.shape == (2, 3 + 2 * 3)


@pytest.mark.parametrize(
    ("drawn", "wanted", "says"),
    [
        ("coupled", {}, "picture 1 has accelerate 'coupled', not None"),
        ("coupled", {"accelerate": "seed-exact"}, "has accelerate 'coupled', not None"),
        ("coupled", {"accelerate": "coupled", "window": 5}, "picture 1 has window 4, not 5"),
        ("seed-exact", {"accelerate": "coupled"}, "has accelerate None, not 'coupled'"),
    ],
)
def test_states_of_another_form_are_refused(
    model: Emu3, tmp_path: Path, drawn: str, wanted: dict[str, Any], says: str
) -> None:
    path = tmp_path / "s"
    stop(model, 3, prompt="a", **SIZE, seed=1, state=path, accelerate=drawn, window=4)
    with pytest.raises(InputError, match=says):
        model.generate_image("a", **SIZE, seed=1, state=path, **wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda codes, last: last.__setitem__(0, 0),
        lambda codes, last: last.__setitem__(0, int(last[1]) + 1),
        lambda codes, last: last.__setitem__(1, 1000),
        lambda codes, last: last.__setitem__(2, -1),
        lambda codes, last: last.__setitem__(3, 10**6),
        lambda codes, last: last.__setitem__(6, (int(last[6]) + 1) % 64),  # a code it drew
    ],
)
def test_a_last_pass_that_cannot_be_is_named(model: Emu3, tmp_path: Path, change: Any) -> None:
    path = tmp_path / "s"
    arguments: dict[str, Any] = {"prompt": "a", **SIZE, "seed": 1, "state": path}
    arguments |= {"accelerate": "coupled", "window": 4}
    drawings = model.stream_image(**arguments)
    for _ in range(3):
        next(drawings)
    drawings.close()
    rewrite(path, lambda head, facts, content: change(content[:12], content[12:]))
    with pytest.raises(InputError, match="is damaged: its last pass does not fit its codes"):
        model.generate_image(**arguments)


def test_a_last_pass_in_another_shape_is_named(model: Emu3, tmp_path: Path) -> None:
    path = tmp_path / "s"
    arguments: dict[str, Any] = {"prompt": "a", **SIZE, "seed": 1, "state": path}
    stop(model, 3, **arguments, accelerate="coupled", window=4)
    rewrite(path, lambda head, facts, content: facts["records"][0].update(window=5))
    with pytest.raises(InputError, match="is damaged: its last pass"):
        model.generate_image(**arguments, accelerate="coupled", window=5)
    rewrite(path, lambda head, facts, content: head["last_pass"].update(dtype="F32"))
    with pytest.raises(InputError, match="is damaged, or does not hold a drawing"):
        model.generate_image(**arguments, accelerate="coupled", window=5)
