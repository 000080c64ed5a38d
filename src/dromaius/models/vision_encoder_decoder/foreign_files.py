"""TensorFlow's and Flax's weight files, read and written without TensorFlow and Flax.

Nothing in a file is executed, no path in it is followed, and no tensor may claim more bytes than
the file holds. Arrays are NumPy's, under the framework's own names.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dromaius.errors import CheckpointError
from dromaius.files import atomic_path, read_bytes, write_bytes
from dromaius.models.vision_encoder_decoder.folders import FLAX_FILE

_MAX_INDEX_BYTES = 64 * 2**20
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""NumPy has no bfloat16: its bits, under a name that tells them from integers."""

# ---------------------------------------------------------------------------------- TensorFlow


def read_h5(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(path inside of the layer's group, array) of a Keras weight file."""
    try:
        import h5py
    except ImportError as error:
        raise CheckpointError(
            f"{file}: reading it needs h5py (pip install 'dromaius[foreign]')"
        ) from error
    try:
        with h5py.File(file, "r") as opened:
            for path, dataset in _datasets(h5py, file, opened, ""):
                yield path, dataset[()]
    except CheckpointError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged or cut short") from error


def _datasets(h5py: Any, file: Path, group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if prefix.count("/") > 64:
        raise CheckpointError(f"{file}: groups are nested too deep")
    for name in group:
        path = f"{prefix}/{name}" if prefix else name
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CheckpointError(f"{file}: {path} is a link to elsewhere, which is not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(h5py, file, item, path)
        elif item.dtype.kind in "fiu":
            if item.external or item.is_virtual:
                raise CheckpointError(f"{file}: {path} lies in another file, which is not read")
            if item.id.get_storage_size() < item.nbytes:
                raise CheckpointError(f"{file}: {path} claims more bytes than the file holds")
            yield path, item


def write_h5(file: Path, variables: Mapping[str, np.ndarray], model: str) -> None:
    """Writes a Keras weight file, whole or not at all.

    variables: by their full paths ("encoder/vit/...:0"), whose first scope is a layer of the model.
    model: its own scope, which comes before each path.
    """
    import h5py

    layers: dict[str, list[str]] = {}
    for path in variables:
        layers.setdefault(path.partition("/")[0], []).append(path)
    with atomic_path(file) as temporary, h5py.File(temporary, "w") as opened:
        opened.attrs["layer_names"] = [layer.encode() for layer in layers]
        opened.attrs["backend"] = b"tensorflow"
        for layer, paths in layers.items():
            group = opened.create_group(layer)
            group.attrs["weight_names"] = [f"{model}/{path}".encode() for path in paths]
            for path in paths:
                group.create_dataset(f"{model}/{path}", data=variables[path])


# ---------------------------------------------------------------------------------------- Flax


def read_flax(folder: Path) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    for file in _flax_files(folder):
        yield from _leaves(file, _unpack(file, file.read_bytes()), ())


def _flax_files(folder: Path) -> list[Path]:
    index = folder / f"{FLAX_FILE}.index.json"
    if (folder / FLAX_FILE).is_file():
        return [folder / FLAX_FILE]
    try:
        content = json.loads(read_bytes(index, _MAX_INDEX_BYTES, CheckpointError))
        names = set(content["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a weight index") from error
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
            raise CheckpointError(f"{index} points outside of its folder: {name!r}")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} points to a missing file: {name}")
    return sorted(folder / name for name in names)


def write_flax(file: Path, tree: Mapping[str, Any]) -> None:
    """Writes a nested dict of arrays as Flax does, whole or not at all."""
    import msgpack

    write_bytes(file, msgpack.packb(tree, default=_packed, strict_types=True))


def _packed(value: Any) -> Any:
    import msgpack

    array = np.asarray(value)
    content = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))


def _unpack(file: Path, content: bytes) -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise CheckpointError(
            f"{file}: reading it needs msgpack (pip install 'dromaius[foreign]')"
        ) from error
    try:
        return msgpack.unpackb(content, ext_hook=_array, raw=False, strict_map_key=True)
    except CheckpointError:
        raise
    except Exception as error:  # msgpack raises many kinds
        raise CheckpointError(f"{file} is damaged or cut short") from error


def _array(code: int, data: bytes) -> Any:
    """Flax's extension 1: (shape, dtype's name, bytes)."""
    import msgpack

    if code != 1:
        raise CheckpointError(f"a Flax file holds an object of kind {code}, which is not read")
    shape, dtype_name, content = msgpack.unpackb(data, raw=True)
    name = dtype_name.decode("ascii")
    dtype = BFLOAT16 if name == "bfloat16" else np.dtype(name)
    if dtype.kind not in "fiubV" or math.prod(shape) * dtype.itemsize != len(content):
        raise CheckpointError(f"a Flax file holds an array of {name} whose size is not its shape's")
    return np.frombuffer(content, dtype).reshape(shape)


def _leaves(
    file: Path, tree: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    if isinstance(tree, np.ndarray):
        yield path, tree
    elif isinstance(tree, dict) and "__msgpack_chunked_array__" in tree:
        yield path, _joined(file, tree)
    elif isinstance(tree, dict):
        for name, below in tree.items():
            yield from _leaves(file, below, (*path, *str(name).split("/")))
    else:
        raise CheckpointError(f"{file}: {'.'.join(path)} is no array")


def _joined(file: Path, tree: dict[str, Any]) -> np.ndarray:
    """An array above 1 GiB, which Flax writes in flat pieces."""
    try:
        shape = [tree["shape"][str(i)] for i in range(len(tree["shape"]))]
        pieces = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
        return np.concatenate(pieces).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: an array in pieces does not fit together") from error
