"""Weight files of three frameworks read without two of them, and files that must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dromaius.errors import CheckpointError
from dromaius.models.vision_encoder_decoder.files import read_state

h5py = pytest.importorskip("h5py")
msgpack = pytest.importorskip("msgpack")

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
NAME = "enc_to_dec_proj.weight"
TF_PATH = "tf_vision_encoder_decoder_model/enc_to_dec_proj/kernel:0"


def flax_array(value: np.ndarray) -> Any:
    """As flax.serialization writes an array."""
    packed = msgpack.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True)
    return msgpack.ExtType(1, packed)


def write_h5(folder: Path, **kwargs: Any) -> None:
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file.create_dataset(f"enc_to_dec_proj/{TF_PATH}", data=KERNEL, **kwargs)


def write_flax(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "flax_model.msgpack").write_bytes(msgpack.packb(tree, use_bin_type=True))


def test_tensorflow_h5(tmp_path: Path) -> None:
    write_h5(tmp_path)
    state = read_state(tmp_path)
    assert list(state) == [NAME]
    assert state[NAME].tolist() == KERNEL.T.tolist()


def test_tensorflow_safetensors(tmp_path: Path) -> None:
    tensors = {"enc_to_dec_proj/kernel:0": KERNEL}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "tf"})
    assert read_state(tmp_path)[NAME].tolist() == KERNEL.T.tolist()
    assert read_state(tmp_path, framework="tf")[NAME].shape == (3, 2)


def test_flax_msgpack(tmp_path: Path) -> None:
    write_flax(tmp_path, {"enc_to_dec_proj": {"kernel": flax_array(KERNEL)}})
    state = read_state(tmp_path)
    assert list(state) == [NAME]
    assert state[NAME].tolist() == KERNEL.T.tolist()


def test_flax_bfloat16_and_pieces(tmp_path: Path) -> None:
    bits = torch.tensor([1.5, -2.0, 0.25]).to(torch.bfloat16)
    raw = bits.view(torch.int16).numpy().tobytes()
    half = msgpack.ExtType(1, msgpack.packb(((3,), "bfloat16", raw), use_bin_type=True))
    pieces = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 3},
        "chunks": {"0": flax_array(KERNEL.ravel()[:4]), "1": flax_array(KERNEL.ravel()[4:])},
    }
    write_flax(tmp_path, {"a": {"bias": half}, "b": {"kernel": pieces}})
    state = read_state(tmp_path)
    assert torch.equal(state["a.bias"], bits)
    assert state["b.weight"].tolist() == KERNEL.T.tolist()


def test_flax_shards(tmp_path: Path) -> None:
    index = {"weight_map": {}}
    for number, part in enumerate(("encoder", "decoder"), 1):
        file = f"flax_model-{number:05d}-of-00002.msgpack"
        tree = {part: {"lin": {"kernel": flax_array(KERNEL)}}}
        (tmp_path / file).write_bytes(msgpack.packb(tree, use_bin_type=True))
        index["weight_map"][f"{part}/lin/kernel"] = file
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps(index))
    assert sorted(read_state(tmp_path)) == ["decoder.lin.weight", "encoder.lin.weight"]


def test_the_framework_that_is_asked_for(tmp_path: Path) -> None:
    write_h5(tmp_path)
    write_flax(tmp_path, {"enc_to_dec_proj": {"kernel": flax_array(KERNEL + 1)}})
    assert read_state(tmp_path, framework="flax")[NAME][0, 0] == 1
    assert read_state(tmp_path)[NAME][0, 0] == 0
    with pytest.raises(CheckpointError, match="holds no pt weights, but those of tf and flax"):
        read_state(tmp_path, framework="pt")


def test_a_sequence_to_sequence_file_shares_its_embedding(tmp_path: Path) -> None:
    save_file({"model.shared.weight": KERNEL}, tmp_path / "model.safetensors")
    assert "model.decoder.embed_tokens.weight" in read_state(tmp_path, "decoder")


def external_data(folder: Path) -> None:
    (folder / "secret").write_bytes(b"x" * 64)
    with h5py.File(folder / "tf_model.h5", "w") as file:
        outside = [(str(folder / "secret"), 0, 24)]
        file.create_dataset(TF_PATH, (6,), "f4", external=outside)


def external_link(folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as file:
        file["secret"] = KERNEL
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file["enc_to_dec_proj"] = h5py.ExternalLink("other.h5", "/secret")


def huge_h5(folder: Path) -> None:
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file.create_dataset(TF_PATH, (10**6, 10**6), "f4")


def cut_h5(folder: Path) -> None:
    write_h5(folder)
    content = (folder / "tf_model.h5").read_bytes()
    (folder / "tf_model.h5").write_bytes(content[: len(content) // 2])


def lying_flax(folder: Path) -> None:
    packed = msgpack.packb(((10**6, 10**6), "float32", b"1234"), use_bin_type=True)
    write_flax(folder, {"a": {"kernel": msgpack.ExtType(1, packed)}})


def object_flax(folder: Path) -> None:
    packed = msgpack.packb(((1,), "object", b"12345678"), use_bin_type=True)
    write_flax(folder, {"a": {"kernel": msgpack.ExtType(1, packed)}})


def cut_flax(folder: Path) -> None:
    write_flax(folder, {"a": {"kernel": flax_array(KERNEL)}})
    content = (folder / "flax_model.msgpack").read_bytes()
    (folder / "flax_model.msgpack").write_bytes(content[:-5])


def escaping_flax_index(folder: Path) -> None:
    index = {"weight_map": {"a": "../flax_model.msgpack"}}
    (folder / "flax_model.msgpack.index.json").write_text(json.dumps(index))


def pickled(folder: Path) -> None:
    torch.save({"a": Path("/")}, folder / "pytorch_model.bin")


def tf1(folder: Path) -> None:
    (folder / "model.ckpt.index").write_bytes(b"")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (external_data, "lies in another file"),
        (external_link, "link to elsewhere"),
        (huge_h5, "more bytes than the file holds"),
        (cut_h5, "damaged or cut short"),
        (lying_flax, "size is not its shape's"),
        (object_flax, "size is not its shape's"),
        (cut_flax, "damaged or cut short"),
        (escaping_flax_index, "outside of its folder"),
        (pickled, "not a plain file of tensors"),
        (tf1, "TensorFlow 1 checkpoint"),
        (lambda folder: None, "holds no weights"),
    ],
)
def test_refused(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_state(tmp_path)
    assert "\n" not in str(caught.value)
