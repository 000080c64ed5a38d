"""Quantized checkpoints: what is written, what is loaded, how much memory that takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dromaius.errors import CheckpointError, ConfigError, DromaiusError, InputError
from dromaius.io.checkpoint import list_tensors
from dromaius.io.shards import save_sharded
from dromaius.models.emu3.config import Emu3Config, LanguageModelConfig, VocabularyConfig
from dromaius.models.emu3.convert import convert
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import read_config
from dromaius.models.emu3.quantization import MATRICES, QuantizationSettings, settings
from dromaius.models.emu3.quantize import quantize_checkpoint
from dromaius.models.emu3.weights import load_language_model
from dromaius.nn.packing import unpack
from dromaius.nn.quantized import Packed

SRC = Path(__file__).resolve().parents[3] / "src"
SHAPE = LanguageModelConfig(
    vocab_size=90,
    hidden_size=40,
    intermediate_size=70,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    attention_bias=True,
)
IDS = VocabularyConfig(20, 21, 22, 23, 24, 25, 26, 27, visual_start=30, codebook_size=60)


def write_model(
    folder: Path, shape: LanguageModelConfig = SHAPE, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """A language model alone, in our own layout."""
    config = Emu3Config(shape, None, IDS)
    model = LanguageModel(shape)
    model.init_weights(torch.Generator().manual_seed(0))
    state = {n: t.to(dtype) for n, t in model.state_dict().items()}
    if shape.tie_word_embeddings:
        del state["lm_head.weight"]
    save_sharded({f"language_model.{n}": t for n, t in state.items()}, folder)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = LanguageModelConfig(**{**SHAPE.to_dict(), "tie_word_embeddings": request.param})
    return write_model(tmp_path_factory.mktemp("full") / "model", shape)


def in_full(model: LanguageModel) -> dict[str, Tensor]:
    """The matrices of a quantized model as PyTorch alone reads them back."""
    return {
        f"{name}": unpack(part.stored(), part.form, part.shape[1], torch.float32)
        for name, part in model.named_modules(remove_duplicate=False)
        if isinstance(part, Packed)
    }


@pytest.mark.parametrize("mode", ["int8", "int4", "fp8"])
@torch.no_grad()
def test_loaded_model_is_the_full_one_with_rounded_matrices(
    source: Path, tmp_path: Path, mode: str
) -> None:
    written = quantize_checkpoint(source, tmp_path / "few", settings(mode))
    model, reference = load_language_model(written), load_language_model(source)
    matrices = in_full(model)
    assert len(matrices) == 2 * len(MATRICES) + 2
    state = reference.state_dict()
    for name, matrix in matrices.items():
        scale = state[name].abs().max()
        assert (matrix - state[name]).abs().max() <= scale * (0.25 if mode == "int4" else 0.05)
    kept = {n: t for n, t in model.state_dict().items() if n in state}
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items())
    assert len(kept) + len(matrices) == len(state)
    reference.load_state_dict(state | matrices)
    ids = torch.randint(90, (2, 5), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(ids), reference(ids), rtol=1e-4, atol=1e-5)
    part = model(ids, span=(30, 77))
    torch.testing.assert_close(part, reference(ids)[..., 30:77], rtol=1e-4, atol=1e-5)


def test_file_holds_what_the_forms_say(source: Path, tmp_path: Path) -> None:
    written = quantize_checkpoint(source, tmp_path / "few", settings("int4", 32))
    found = list_tensors(written)
    name = "language_model.model.layers.1.mlp.down_proj.weight"  # [40,70]
    assert name not in found
    parts = {part: (info.shape, info.dtype) for part, info in found.items() if name in part}
    assert parts == {
        f"{name}.packed": ((40, 48), torch.uint8),
        f"{name}.scales": ((40, 3), torch.bfloat16),
        f"{name}.lows": ((40, 3), torch.bfloat16),
    }
    table = "language_model.model.embed_tokens.weight.packed"
    assert found[table].dtype == torch.int8
    tied = read_config(source).language_model.tie_word_embeddings  # type: ignore[union-attr]
    assert ("language_model.lm_head.weight.packed" in found) != tied
    assert found["language_model.model.norm.weight"].dtype == torch.bfloat16
    stored = read_config(written).quantization
    assert stored == settings("int4", 32)


def test_parameters_and_buffers_are_as_large_as_the_file(source: Path, tmp_path: Path) -> None:
    for mode in ("int8", "int4", "fp8"):
        written = quantize_checkpoint(source, tmp_path / mode, settings(mode))
        model = load_language_model(written, dtype=torch.bfloat16)
        held = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
        stored = sum(info.bytes for info in list_tensors(written).values())
        assert sum(held.values()) == pytest.approx(stored, rel=0.1)


RESIDENT = """
import gc, json, sys
import torch
from pathlib import Path
from dromaius.models.emu3.weights import load_language_model

def memory():
    lines = open("/proc/self/status").read().splitlines()
    told = dict(line.split(":", 1) for line in lines)
    return {name: int(told[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "VmHWM")}

def touch(model):
    for tensor in (*model.parameters(), *model.buffers()):
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        flat[:: 512].sum()

touch(load_language_model(Path(sys.argv[1])))  # whatever a first load brings in
gc.collect()
before = memory()
model = load_language_model(Path(sys.argv[2]))
touch(model)
after = memory()
print(json.dumps({name: after[name] - before[name] for name in before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_is_the_file_and_no_more(tmp_path: Path) -> None:
    """In a process of its own, after every page of the weights was read."""
    small = quantize_checkpoint(write_model(tmp_path / "s"), tmp_path / "small", settings("int4"))
    shape = LanguageModelConfig(
        vocab_size=4096,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_key_value_heads=12,
    )
    large = quantize_checkpoint(
        write_model(tmp_path / "l", shape), tmp_path / "large", settings("int8")
    )
    size = (large / "model.safetensors").stat().st_size
    assert size > 60e6
    result = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(small), str(large)],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    growth = json.loads(result.stdout)
    assert 0.9 * size < growth["VmRSS"] < 1.1 * size
    assert growth["RssAnon"] < 0.1 * size  # the file itself, and no copy of it
    assert growth["VmHWM"] < 1.15 * size


def test_a_source_in_shards_gives_the_same_file(source: Path, tmp_path: Path) -> None:
    one = quantize_checkpoint(source, tmp_path / "one", settings("int4"))
    many = quantize_checkpoint(
        convert(source, tmp_path / "c", "dromaius", max_shard_size=20_000)[0],
        tmp_path / "many",
        settings("int4"),
        max_shard_size=10_000,
    )
    assert len(list(many.glob("*.safetensors"))) > 2
    whole = load_file(one / "model.safetensors")
    parts: dict[str, Tensor] = {}
    for file in many.glob("*.safetensors"):
        parts |= load_file(file)
    assert whole.keys() == parts.keys()
    assert all(
        torch.equal(t.view(torch.uint8), parts[n].view(torch.uint8)) for n, t in whole.items()
    )


# --------------------------------------------------------------------------------- what is refused


def test_an_existing_folder_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        quantize_checkpoint(source, tmp_path / "there", settings("int8"))
    assert not list((tmp_path / "there").iterdir())


def test_nothing_is_left_of_what_failed(source: Path, tmp_path: Path) -> None:
    def measure(folder: Path) -> None:
        raise InputError("enough")

    with pytest.raises(InputError, match="enough"):
        quantize_checkpoint(source, tmp_path / "few", settings("int8"), measure=measure)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_named(source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    tensors[name][3, 4] = float("nan")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name}: numbers that are not finite"):
        quantize_checkpoint(copy, tmp_path / "few", settings("int8"))


def test_quantized_weights_are_copied_but_not_converted(source: Path, tmp_path: Path) -> None:
    few = quantize_checkpoint(source, tmp_path / "few", settings("int4"))
    [copy] = convert(few, tmp_path / "copy", "dromaius")
    assert (copy / "config.json").read_text() == (few / "config.json").read_text()
    before, after = (load_file(f / "model.safetensors") for f in (few, copy))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    for asked in ({"layout": "baai"}, {"layout": "dromaius", "dtype": torch.float32}):
        with pytest.raises(
            InputError, match="quantized weights .int4, groups of 64., which cannot"
        ):
            convert(few, tmp_path / "other", **asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is quantized already"):
        quantize_checkpoint(few, tmp_path / "other", settings("int8"))


def changed(path: tuple[str, ...], value: Any) -> Callable[[Path], None]:
    """Sets one value of config.json."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (folder / "config.json").write_text(json.dumps(content))

    return change


def tensors_changed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


Q0 = "language_model.model.layers.0.self_attn.q_proj.weight"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown key": (changed(("quantization", "bits"), 4), "unknown key quantization.bits"),
    "unknown cost": (changed(("quantization", "cost"), {"kl": 1}), "quantization.cost.kl"),
    "unknown kind": (changed(("quantization", "layers", "kind"), "int3"), "kind must be one of"),
    "unknown group": (changed(("quantization", "layers", "group"), 48), "group must be one of"),
    "huge group": (changed(("quantization", "layers", "group"), 2**40), "group must be one of"),
    "no form": (changed(("quantization",), {}), "quantization"),
    "a list": (changed(("quantization",), [1]), "quantization must be a table"),
    "another group": (changed(("quantization", "layers", "group"), 32), "wrong shapes"),
    "another kind": (changed(("quantization", "layers", "kind"), "int8"), "unexpected tensors"),
    "not said": (changed(("quantization",), None), "missing tensors"),
    "cut short": (cut_short, "damaged or cut short"),
    "no scales": (tensors_changed(lambda t: t.pop(f"{Q0}.scales")), "missing tensors"),
    "other dtype": (
        tensors_changed(lambda t: t.update({f"{Q0}.packed": t[f"{Q0}.packed"].float()})),
        "is torch.float32, not torch.uint8",
    ),
    "signed": (
        tensors_changed(lambda t: t.update({f"{Q0}.packed": t[f"{Q0}.packed"].view(torch.int8)})),
        "is torch.int8, not torch.uint8",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_refused_in_one_line(
    damage: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    few = quantize_checkpoint(write_model(tmp_path / "full"), tmp_path / "few", settings("int4"))
    apply, words = DAMAGES[damage]
    apply(few)
    with pytest.raises(DromaiusError) as refused:
        load_language_model(few)
    message = str(refused.value)
    assert words in message and "\n" not in message


def test_two_forms_for_one_matrix_are_refused() -> None:
    stored = QuantizationSettings.from_dict(
        {"layers": {"kind": "int8", "group": 0}, "head": {"kind": "int8"}}, "quantization"
    )
    tied = LanguageModelConfig(**{**SHAPE.to_dict(), "tie_word_embeddings": True})
    with pytest.raises(ConfigError, match="one matrix, with two forms"):
        stored.plan(tied)
    assert "model.embed_tokens" not in stored.plan(SHAPE)  # kept in full
