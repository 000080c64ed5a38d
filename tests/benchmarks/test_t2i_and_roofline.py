"""Both benchmarks run at a tiny size, compare before they time, and say what they say."""

import argparse
import json
import re
from typing import Any

import pytest
import torch

from benchmarks import roofline, t2i

TINY = {"hidden": 64, "layers": 1, "seed": 0}


def drawing(**changes: Any) -> argparse.Namespace:
    given = {"size": [(3, 4)], "batch": [2], "dtype": ["bfloat16"], "mode": ["full", "int8"]}
    return argparse.Namespace(**TINY | given | {"base": 32, "repeats": 1} | changes)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    (result,) = t2i.measure(drawing())
    return result


def test_t2i_times_three_sides_from_prompt_to_pixels(drawn: dict[str, Any]) -> None:
    assert drawn["vocabulary"] == 184622
    assert drawn["tokens"] == 2 * (3 * 5 + 3)
    assert list(drawn["median"]) == ["transformers", "dromaius", "int8"]
    for name, parts in drawn["median"].items():
        assert min(parts["ids"], parts["pixels"]) > 0, name
        assert parts["seconds"] == pytest.approx(parts["ids"] + parts["pixels"], abs=1e-3)
    for key, part in (("ratio", "seconds"), ("ids_ratio", "ids")):
        for name, ratio in drawn[key].items():
            expected = drawn["median"]["transformers"][part] / drawn["median"][name][part]
            assert ratio == pytest.approx(expected, rel=0.1)
    assert json.loads(json.dumps(drawn)) == drawn
    lines = t2i.table([drawn]).splitlines()
    assert [line.split()[3] for line in lines[-3:]] == ["transformers", "dromaius", "int8"]


def test_t2i_times_nothing_where_tokens_or_pixels_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> list[int]:
        return [*right(*given)[:-1], -1]

    right = t2i.draw_ours
    monkeypatch.setattr(t2i, "draw_ours", wrong)
    with pytest.raises(SystemExit, match="tokens differ from position 17"):
        t2i.measure(drawing(batch=[1]))
    monkeypatch.undo()
    model, twin = t2i.make_vision(32, 0)
    with torch.no_grad():
        next(model.decoder.parameters()).mul_(2.0)  # the tensor is shared: both move
    tokens = t2i.draw_ours(t2i.make_models(64, 1, 0)[1], 3, 4, True, 0)
    assert t2i.pixels(model, tokens, 3, 4).shape == (1, 3, 24, 32)
    torch.testing.assert_close(
        t2i.pixels(model, tokens, 3, 4), t2i.pixels(twin, tokens, 3, 4), rtol=0, atol=1e-3
    )


def test_roofline_divides_what_is_read_by_time_and_bandwidth() -> None:
    given = {"dtype": ["float32", "bfloat16"], "mode": ["full", "int4"], "batch": 1, "steps": 4}
    results = roofline.measure(argparse.Namespace(**TINY | given | {"read_bytes": 2**22}))
    assert [(r["dtype"], r["mode"]) for r in results] == [
        ("float32", "full"), ("float32", "int4"), ("bfloat16", "full"), ("bfloat16", "int4"),
    ]  # fmt: skip
    matrices = 64 * 64 * 2 + 2 * 64 * 64 + 3 * 64 * 176 + 32768 * 64 + 3 * 64
    slots = 2 * 2 * 64 * (len(t2i.header(t2i.NEGATIVE, 16, 16)) + roofline.WARM + 2)
    for result, size in ((results[0], 4), (results[2], 2)):
        assert result["bytes_a_step"] == (matrices + slots) * size
        seconds = result["median_milliseconds"] / 1e3
        share = result["bytes_a_step"] / seconds / result["read_bandwidth"]
        assert result["share"] == pytest.approx(share, rel=0.02, abs=1e-3)
        assert json.loads(json.dumps(result)) == result
    assert results[1]["bytes_a_step"] < results[0]["bytes_a_step"] / 3
    assert len(re.findall("full|int4", roofline.table(results))) == 4
