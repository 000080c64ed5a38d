"""A decoder layer in one call: bit for bit what its modules compute one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from dromaius.engine.kv_cache import SlotCache
from dromaius.models.emu3.config import LanguageModelConfig
from dromaius.nn.decoder import Decoder, DecoderLayer
from dromaius.nn.kernels import layer as one_call
from dromaius.nn.packing import Form
from dromaius.nn.quantized import quantize

pytestmark = pytest.mark.skipif(one_call._layer() is None, reason="no kernels here")
FORMS = [None, Form("int8"), Form("int4", 32), Form("fp8", 64)]
SLOTS = 21


def make(dtype: torch.dtype, form: Form | None, bias: bool = False, layers: int = 1) -> Decoder:
    config = LanguageModelConfig(
        vocab_size=11,
        hidden_size=96,
        intermediate_size=140,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        attention_bias=bias,
        mlp_bias=bias,
    )
    torch.manual_seed(3)
    decoder = Decoder(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.copy_(torch.randn_like(parameter) / 8 + (parameter.ndim == 1))
    if form is not None:
        names = [n for n, m in decoder.named_modules() if isinstance(m, torch.nn.Linear)]
        quantize(decoder, dict.fromkeys(names, form))
    return decoder.to(dtype)


def run(layer: DecoderLayer, batch: int, tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The layer's result, and its cache behind it."""
    g = torch.Generator().manual_seed(batch * 10 + tokens)
    x = torch.randn(batch, tokens, 96, generator=g).to(dtype)
    angles = torch.randn(batch, tokens, 16, generator=g)
    rope = angles.cos().to(dtype), angles.sin().to(dtype)

    class Shape:
        num_hidden_layers, key_value_heads, head_size = 1, 2, 16

    slots = SlotCache(Shape(), batch, SLOTS, "cpu", dtype)
    for each in (*slots.keys, *slots.values):
        each.copy_(torch.randn(each.shape, generator=g))
    start = torch.randint(0, SLOTS - tokens, (batch, 1), generator=g)
    positions = start + torch.arange(tokens)
    visible = int(positions.max()) + 1
    mask = slots.mask(positions, visible)
    (view,) = slots.at(positions, visible)
    with torch.no_grad():
        return layer(x, rope, mask, view), slots.keys[0], slots.values[0]


def one_by_one(monkeypatch: pytest.MonkeyPatch, *given: Any) -> tuple[Tensor, ...]:
    with monkeypatch.context() as patch:
        patch.setattr("dromaius.nn.decoder.step", lambda *_: None)
        return run(*given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("plain", [False, True])
def test_equals_its_modules(
    dtype: torch.dtype, form: Form | None, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain:
        monkeypatch.setenv("DROMAIUS_KERNELS", "plain")
    for bias in (False, True):
        layer = make(dtype, form, bias).layers[0]
        for batch, tokens in ((1, 1), (2, 1), (3, 2), (8, 2), (1, 16)):
            given = layer, batch, tokens, dtype
            expected = one_by_one(monkeypatch, *given)
            for name, made, wanted in zip("ykv", run(*given), expected, strict=True):
                assert made.equal(wanted), (name, batch, tokens, bias)


def test_some_matrices_packed_and_some_not(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make(torch.float32, None)
    quantize(decoder, {"layers.0.self_attn.k_proj": Form("int8"), "layers.0.mlp.up_proj": FORMS[2]})
    given = decoder.layers[0], 2, 1, torch.float32
    assert run(*given)[0].equal(one_by_one(monkeypatch, *given)[0])


def test_it_is_taken_only_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    real = one_call.step

    def watched(*given: Any) -> Tensor | None:
        y = real(*given)
        calls.append(y is not None)
        return y

    monkeypatch.setattr("dromaius.nn.decoder.step", watched)
    layer = make(torch.float32, None).layers[0]
    run(layer, 2, 1, torch.float32)
    run(layer, 17, 1, torch.float32)  # rows that torch multiplies faster
    seen: list[object] = []
    for part in (layer.self_attn, layer.mlp.down_proj, layer.input_layernorm):
        handle = part.register_forward_hook(lambda *given: seen.append(given))
        run(layer, 2, 1, torch.float32)
        handle.remove()
    assert len(seen) == 3
    layer.mlp.act = torch.nn.functional.gelu
    run(layer, 2, 1, torch.float32)
    layer.train()
    run(layer, 2, 1, torch.float32)
    assert calls == [True, False, False, False, False, False, False]


CODE = """
import torch
from tests.nn import test_layer as t
y, _, _ = t.run(t.make(torch.float32, None).layers[0], 2, 1, torch.float32)
print(t.one_call._layer() is not None, y.double().sum().item())
"""


def test_near_to_torch() -> None:
    def told(**environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CODE], env=os.environ | environment, capture_output=True
        )
        return done.stdout.decode().split()

    (built, ours), (absent, theirs) = told(), told(DROMAIUS_KERNELS="0")
    assert (built, absent) == ("True", "False")
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
