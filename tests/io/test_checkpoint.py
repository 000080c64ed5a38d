"""Checkpoint files, against the safetensors library, torch and transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dromaius.errors import CheckpointError
from dromaius.io.checkpoint import list_tensors, load_into, read_tensors, tensor_files
from dromaius.io.shards import file_hash, save_sharded


class Tiny(nn.Module):
    """Two linear layers, one tied to the embedding, and a BatchNorm with an int64 buffer."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("table", torch.zeros(2), persistent=False)


def random_state(seed: int, tied: bool = False) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    state = Tiny(tied).state_dict()
    return {
        name: torch.randn(value.shape, generator=draw) if value.is_floating_point() else value + 7
        for name, value in state.items()
    }


def on_meta(tied: bool = False) -> Tiny:
    with torch.device("meta"):
        return Tiny(tied)


@pytest.fixture
def saved(tmp_path: Path, rng_seed: int) -> tuple[Path, dict[str, Tensor]]:
    state = random_state(rng_seed)
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path, state


def test_list_tensors(saved: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = saved
    infos = list_tensors(folder)
    assert {n: (i.shape, i.dtype) for n, i in infos.items()} == {
        name: (tuple(value.shape), value.dtype) for name, value in state.items()
    }
    assert infos["body.0.weight"].bytes == 3 * 4 * 4


def test_load_into_is_exact_and_memory_mapped(saved: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = saved
    before = (folder / "model.safetensors").read_bytes()
    module = on_meta()
    module.embed.weight.requires_grad_(False)
    load_into(module, folder)
    for name, value in module.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name]), name
    assert [p.requires_grad for p in module.parameters()] == [False] + [True] * 5
    assert module.table.is_meta  # not in the file, so it is its owner's
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0] for line in maps if str(folder) in line]
    ranges = [tuple(int(part, 16) for part in span.split("-")) for span in spans]
    for parameter in module.parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in ranges)
    with torch.no_grad():
        module.body[0].weight.fill_(5.0)  # private pages: the file stays as it is
    assert (folder / "model.safetensors").read_bytes() == before


def test_dtype_rename_and_transform(saved: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = saved
    renamed = {f"outer.{name}": value for name, value in state.items() if "head" not in name}
    renamed["outer.head.weight"] = state["head.weight"].T.contiguous()[None]
    renamed["other.weight"] = torch.zeros(1)
    save_file(renamed, folder / "model.safetensors")
    module = on_meta()
    load_into(
        module,
        folder,
        rename=lambda name: name.removeprefix("outer.") if name.startswith("outer.") else None,
        dtype=lambda name: torch.bfloat16 if "weight" in name else None,
        transform=lambda name, value: value[0].T if name == "head.weight" else value,
    )
    for name, value in module.state_dict().items():
        wanted = state[name].bfloat16() if "weight" in name else state[name]
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted), name
    assert module.state_dict()["body.1.num_batches_tracked"].item() == 7
    half = on_meta()
    save_file(state, folder / "model.safetensors")
    load_into(half, folder, dtype=torch.float16)
    assert half.head.weight.dtype == torch.float16
    assert half.state_dict()["body.1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.gpu
def test_load_into_a_gpu(saved: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = saved
    module = on_meta()
    load_into(module, folder, device="cuda", dtype=torch.bfloat16)
    assert module.head.weight.is_cuda
    assert torch.equal(module.head.weight.cpu(), state["head.weight"].bfloat16())


def test_data_at_odd_addresses(tmp_path: Path, rng_seed: int) -> None:
    """Files of other writers need not align their data."""
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(rng_seed))
    entry = {"dtype": "F32", "shape": [6, 4], "data_offsets": [0, 96]}
    head = json.dumps({"weight": entry}).encode()
    head += b" " * ((1 - len(head)) % 8)
    file = len(head).to_bytes(8, "little") + head + weight.numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(file)
    with torch.device("meta"):
        module = nn.Linear(4, 6, bias=False)
    load_into(module, tmp_path)
    assert torch.equal(module(torch.eye(4)), weight.T)


def test_tied_weights_stay_tied(tmp_path: Path, rng_seed: int) -> None:
    state = random_state(rng_seed, tied=True)
    del state["head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    module = on_meta(tied=True)
    load_into(module, tmp_path)
    assert module.head.weight is module.embed.weight
    assert torch.equal(module.head.weight, state["embed.weight"])
    with pytest.raises(CheckpointError, match="1 missing tensors: head.weight"):
        load_into(on_meta(), tmp_path)


def test_names_and_shapes_that_do_not_fit(saved: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = saved
    wrong = dict(state)
    del wrong["embed.weight"], wrong["body.0.bias"]
    wrong |= {f"extra.{i}": torch.zeros(1) for i in range(5)}
    save_file(wrong, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_into(on_meta(), folder)
    assert str(caught.value) == (
        f"{folder}: 2 missing tensors: embed.weight, body.0.bias; "
        "5 unexpected tensors: extra.0, extra.1, extra.2 and 2 more"
    )
    state["body.0.weight"] = torch.zeros(4, 3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"body.0.weight is \(4, 3\), not \(3, 4\)"):
        load_into(on_meta(), folder)
    with pytest.raises(CheckpointError, match="are both head.weight"):
        load_into(on_meta(), folder, rename=lambda name: "head.weight")
    with pytest.raises(CheckpointError, match="lacks nothing.here"):
        list(read_tensors(folder, ["nothing.here"]))


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_cut_short(kept: int, saved: tuple[Path, dict[str, Tensor]]) -> None:
    file = saved[0] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="model.safetensors is damaged or cut short"):
        load_into(on_meta(), saved[0])


def test_shards_round_trip_bit_for_bit(tmp_path: Path, rng_seed: int) -> None:
    draw = torch.Generator().manual_seed(rng_seed)
    bits = torch.randint(-(2**31), 2**31, (40, 10), generator=draw)
    state: dict[str, Tensor] = {
        "a": bits.to(torch.int32).view(torch.float32),  # any bits, NaN payloads included
        "b": bits[:5].to(torch.int16).view(torch.bfloat16),
        "c": bits[:3].to(torch.int16).view(torch.float16).T,  # not contiguous
        "d": bits,
        "e": torch.zeros(0, 4),
        "f": torch.tensor(3.5),
        "g": bits[0] > 0,
        "h": bits[:1].to(torch.uint8),
    }
    for limit, count in ((10**9, 1), (2000, 3), (1, 8)):
        written = save_sharded(iter(state.items()), tmp_path, limit)
        assert len(written) == count
        assert sorted(tmp_path.glob("model*.safetensors")) == written  # earlier saves are gone
        assert not list(tmp_path.glob(".*"))
        theirs = {k: v for file in written for k, v in load_file(file).items()}
        for read in (theirs, dict(read_tensors(tmp_path))):
            assert read.keys() == state.keys()
            for name, value in state.items():
                assert read[name].dtype == value.dtype
                assert read[name].shape == value.shape
                flat = value.contiguous().reshape(-1)
                same = read[name].reshape(-1).view(torch.uint8) == flat.view(torch.uint8)
                assert bool(same.all()), name
        index = tmp_path / "model.safetensors.index.json"
        assert index.is_file() == (count > 1)
        if count > 1:
            content = json.loads(index.read_text())
            assert content["metadata"]["total_size"] == sum(t.nbytes for t in state.values())
            assert set(content["weight_map"]) == set(state)


def test_a_failed_save_changes_nothing(tmp_path: Path) -> None:
    save_sharded({"a": torch.ones(3)}, tmp_path)
    pairs = [("b", torch.ones(3)), ("c", torch.ones(3)), ("b", torch.ones(3))]
    with pytest.raises(CheckpointError, match="tensor b is given twice"):
        save_sharded(pairs, tmp_path, 12)
    with pytest.raises(CheckpointError, match="complex64"):
        save_sharded({"z": torch.zeros(2, dtype=torch.complex64)}, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert list(list_tensors(tmp_path)) == ["a"]


def test_transformers_reads_our_shards(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)
    model = LlamaForCausalLM(config)
    assert len(save_sharded(model.state_dict(), tmp_path, 4000)) > 2
    config.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize("target", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", 7])
def test_index_outside_of_the_folder(target: object, tmp_path: Path) -> None:
    index = {"weight_map": {"a": target}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(1)}, tmp_path.parent / "x.safetensors")
    with pytest.raises(CheckpointError, match="points outside of its folder"):
        list_tensors(tmp_path)


def test_index_that_does_not_fit(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(CheckpointError, match="points to a missing file: model-1.safetensors"):
        list_tensors(tmp_path)
    save_file({"b": torch.zeros(1)}, tmp_path / "model-1.safetensors")
    with pytest.raises(CheckpointError, match="lists tensors that no file holds: a"):
        list_tensors(tmp_path)
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    save_file({"b": torch.zeros(1)}, tmp_path / "model-2.safetensors")
    with pytest.raises(CheckpointError, match="b is in both"):
        list_tensors(tmp_path)
    for text in ("{", "[]", "{}", '{"weight_map": 3}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="is not a weight index"):
            list_tensors(tmp_path)
    index.unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        tensor_files(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("/tmp/dromaius-test-was-executed"),))


def test_bin_files(tmp_path: Path, rng_seed: int) -> None:
    state = random_state(rng_seed)
    torch.save(state, tmp_path / "pytorch_model.bin")
    module = on_meta()
    load_into(module, tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    for content in ({"a": Evil()}, {"a": 3}, [torch.zeros(1)]):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="pytorch_model.bin is not a plain file"):
            list_tensors(tmp_path)
    assert not Path("/tmp/dromaius-test-was-executed").exists()
    (tmp_path / "pytorch_model.bin").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="pytorch_model.bin is not a plain file"):
        list_tensors(tmp_path)


def test_file_hash(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    big = torch.zeros(5 * 2**22)  # 80 MiB: hashed by blocks
    save_sharded({"w": big}, tmp_path / "one")
    save_sharded({"w": big}, tmp_path / "two")
    save_sharded({"w": big + 1}, tmp_path / "three")
    first, second, third = (file_hash(tmp_path / name) for name in ("one", "two", "three"))
    assert first == second != third
    assert len(first) == 12
    assert int(first, 16) >= 0
    (tmp_path / "two" / "config.json").write_text("{}")
    assert file_hash(tmp_path / "two") != first
    small = torch.zeros(1000)
    save_sharded({"w": small}, tmp_path / "one")
    before = file_hash(tmp_path / "one")
    small[500] = 1e-30
    save_sharded({"w": small}, tmp_path / "one")
    assert file_hash(tmp_path / "one") != before != first


PEAK = """
import sys, torch
from pathlib import Path
from torch import nn
from dromaius.io.checkpoint import load_into
from dromaius.io.shards import save_sharded

def peak():  # of this process alone: ru_maxrss would start at the parent's peak
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

folder, what = sys.argv[1:]
count, rows = 5, 10240  # 40 MiB each
size = rows * 1024 * 4
if what == "save":
    start = peak()
    pairs = ((f"{i}.weight", torch.full((rows, 1024), float(i))) for i in range(count))
    save_sharded(pairs, folder, size)
else:
    with torch.device("meta"):
        module = nn.ModuleList(nn.Linear(1024, rows, bias=False) for _ in range(count))
    start = peak()
    load_into(module, folder)
    assert [p.mean().item() for p in module.parameters()] == list(range(count))
print((peak() - start) / (count * size))
"""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """200 MB in 40 MB shards: saving holds a shard, loading (and reading all) holds it once."""
    ratios = {}
    for what in ("save", "load"):
        command = [sys.executable, "-c", PEAK, str(tmp_path), what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        ratios[what] = float(done.stdout)
    assert 0.3 < ratios["save"] < 0.55, ratios  # one shard of five, and the tensor after it
    assert 0.9 < ratios["load"] < 1.3, ratios
