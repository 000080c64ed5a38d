"""Writing checkpoints: safetensors shards with an index, one shard in memory at a time; hashes."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dromaius.errors import CheckpointError
from dromaius.files import atomic_path, write_text
from dromaius.io.checkpoint import DTYPES, tensor_files

MAX_SHARD_BYTES = 5 * 10**9
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_HASHED_WHOLE = 64 * 2**20
_BLOCK = 64 * 2**10
_BLOCKS = 64


def save_sharded(
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    folder: Path,
    max_shard_size: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Writes model.safetensors, or shards of at most `max_shard_size` bytes and their index.

    The tensors are taken one by one and at most one shard of them is held. Files appear under
    their names only when all are written; weight files of an earlier save are then removed.
    Returns the weight files. Raises CheckpointError for a name given twice.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[tuple[Path, list[str], int]] = []
    pending: dict[str, Tensor] = {}
    seen: set[str] = set()
    try:
        pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
        for name, tensor in pairs:
            if name in seen:
                raise CheckpointError(f"tensor {name} is given twice")
            seen.add(name)
            if pending and _size(pending.values()) + tensor.nbytes > max_shard_size:
                shards.append(_write_part(pending, folder, len(shards)))
                pending = {}
            pending[name] = tensor.detach()
        shards.append(_write_part(pending, folder, len(shards)))
        return _publish(shards, folder)
    finally:
        for part, _, _ in shards:
            part.unlink(missing_ok=True)


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes one safetensors file atomically and without a second copy of CPU tensors."""
    # wider types first: then every tensor starts at a multiple of its item size
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise CheckpointError(f"tensor {name} has dtype {tensor.dtype}, which cannot be saved")
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    head = json.dumps(header, separators=(",", ":")).encode("utf-8")
    head += b" " * (-len(head) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)


def file_hash(*folders: Path) -> str:
    """Twelve hex digits that tell models apart: sha256 over weight files and config.json.

    Files up to 64 MiB count whole. Of larger ones the size, the first bytes (the header with names
    and shapes) and 64 evenly spaced blocks of 64 KiB count, so that an 8B model takes a moment; it
    is an identification, not a proof of integrity. File names do not count.
    """
    files: list[Path] = []
    for folder in map(Path, folders):
        config = folder / "config.json"
        files += [*tensor_files(folder), *([config] if config.is_file() else [])]
    return hash_files(files)


def hash_files(files: Iterable[Path]) -> str:
    """As `file_hash`, of these files in this order."""
    total = hashlib.sha256()
    for file in files:
        stat = file.stat()
        total.update(_one_hash(str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return total.hexdigest()[:12]


@lru_cache(maxsize=256)
def _one_hash(path: str, size: int, modified: int) -> bytes:
    """Hash of one file; `modified` is only part of the cache's key."""
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with open(path, "rb") as file:
        if size <= _HASHED_WHOLE:
            while block := file.read(2**20):
                digest.update(block)
        else:
            for index in range(_BLOCKS):
                file.seek((size - _BLOCK) * index // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.digest()


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _write_part(
    tensors: dict[str, Tensor], folder: Path, index: int
) -> tuple[Path, list[str], int]:
    path = folder / f".model.{os.getpid()}.{index}.part"
    write_safetensors(tensors, path)
    return path, list(tensors), _size(tensors.values())


def _publish(shards: list[tuple[Path, list[str], int]], folder: Path) -> list[Path]:
    """Gives the parts their names, writes the index last, removes files of an earlier save."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if len(shards) == 1:
        os.replace(shards[0][0], single)
        index.unlink(missing_ok=True)
        written = [single]
    else:
        count = len(shards)
        written = [
            folder / f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
        ]
        weight_map: dict[str, str] = {}
        for (part, names, _), path in zip(shards, written, strict=True):
            os.replace(part, path)
            weight_map |= dict.fromkeys(names, path.name)
        total = sum(size for _, _, size in shards)
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(index, json.dumps(content, indent=2) + "\n")
        single.unlink(missing_ok=True)  # it would be read instead of the index
    for old in folder.iterdir():
        if _SHARD.fullmatch(old.name) and old not in written:
            old.unlink()
    return written
