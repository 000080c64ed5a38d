"""Checkpoint folders: memory-mapped reading into a meta-device module, and sharded writing.

Reads model.safetensors, shards with model.safetensors.index.json, or the same in .bin form (read
with `weights_only`, so nothing in it is executed). On a CPU a tensor of the wanted dtype stays the
mapped file itself: pages are read when used, writes stay private to the process. Of a tensor that
is converted or moved the file's pages are given back at once.
"""

import ctypes
import json
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dromaius.errors import CheckpointError
from dromaius.files import read_bytes

MAX_INDEX_BYTES = 64 * 2**20
PART_BYTES = 2**24
"""Of a mapped tensor that is converted or moved, about as much is read at a time."""
_NAMES = {".safetensors": "model", ".bin": "pytorch_model"}
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

DtypeRule = torch.dtype | Callable[[str], torch.dtype | None] | None
DeviceRule = torch.device | str | Callable[[str], torch.device | str]


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint says of one tensor, known without reading its data."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def bytes(self) -> int:
        """Size of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def tensor_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder, in the order of their names.

    Raises CheckpointError when there are none, or when an index names a file that is missing or
    outside of the folder.
    """
    folder = Path(folder)
    for suffix, stem in _NAMES.items():
        single, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return sorted({folder / file for file in _weight_map(index).values()})
    raise CheckpointError(f"{folder} holds no weights (model.safetensors or its index)")


def list_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Tensor name -> shape, dtype and file, for every tensor of a checkpoint folder.

    Raises CheckpointError naming the file when one is damaged, or disagrees with the index.
    """
    folder = Path(folder)
    found: dict[str, TensorInfo] = {}
    for file in tensor_files(folder):
        for name, info in _file_tensors(file).items():
            if name in found:
                raise CheckpointError(f"{name} is in both {found[name].file} and {file}")
            found[name] = info
    for suffix, stem in _NAMES.items():
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file() and not (folder / f"{stem}{suffix}").is_file():
            absent = [n for n, f in _weight_map(index).items() if n not in found]
            if absent:
                raise CheckpointError(f"{index} lists tensors that no file holds: {_few(absent)}")
            break
    return found


def read_tensors(folder: Path, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, memory-mapped CPU tensor), file by file; all tensors unless `names` is given.

    Raises CheckpointError when a name is not in the folder.
    """
    infos = list_tensors(folder)
    wanted = list(infos) if names is None else list(names)
    absent = [name for name in wanted if name not in infos]
    if absent:
        raise CheckpointError(f"{folder} lacks {_few(absent)}")
    by_file: dict[Path, list[str]] = {}
    for name in wanted:
        by_file.setdefault(infos[name].file, []).append(name)
    for file, inside in by_file.items():
        yield from _read_file(file, inside)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules built inside lie on the meta device and are not initialised: for `load_into`."""
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    """Skips torch.nn.init: on the meta device it fills nothing, yet imports torch._dynamo (1 s)."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", *args[:1])
        return function(*args, **(kwargs or {}))


def load_into(
    module: nn.Module,
    folder: Path,
    rename: Callable[[str], str | None] | None = None,
    device: DeviceRule = "cpu",
    dtype: DtypeRule = None,
    transform: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Gives a module built on the meta device its parameters and persistent buffers, one by one.

    rename: name in the file -> name in the module; None skips the tensor (it is another module's).
    device: one device or a rule by module name.
    dtype: for floating-point tensors, one dtype or a rule by module name; None keeps the file's.
    transform: (module name, tensor) -> tensor, for a reshape that a layout needs.
    Peak memory is the module plus one tensor. Tied parameters stay tied: one name is enough.
    Raises CheckpointError naming missing and unexpected tensors and wrong shapes.
    """
    sources: dict[str, str] = {}  # name in the module -> name in the file
    for name in list_tensors(folder):
        target = name if rename is None else rename(name)
        if target is None:
            continue
        if target in sources:
            raise CheckpointError(f"{folder}: {sources[target]} and {name} are both {target}")
        sources[target] = name
    renamed = {name: target for target, name in sources.items()}
    slots = _slots(module)
    _check_names(folder, slots, set(sources))
    wrong: list[str] = []
    for name, tensor in read_tensors(folder, renamed):
        target = renamed[name]
        if transform is not None:
            tensor = transform(target, tensor)
        places = slots[target]
        if tensor.shape != places[0].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, not {tuple(places[0].shape)}")
            continue
        place = device(target) if callable(device) else device
        _assign(places, _moved(tensor, torch.device(place), _dtype_of(tensor, target, dtype)))
    if wrong:
        raise CheckpointError(f"{folder}: {len(wrong)} wrong shapes: {_few(wrong)}")


@dataclass(frozen=True)
class _Slot:
    """One place in a module that holds a tensor."""

    owner: nn.Module
    leaf: str

    @property
    def tensor(self) -> Tensor:
        value = getattr(self.owner, self.leaf)
        assert isinstance(value, Tensor)
        return value

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape


def _slots(module: nn.Module) -> dict[str, list[_Slot]]:
    """State name -> all places that share its tensor (more than one when weights are tied)."""
    shared: dict[int, list[_Slot]] = {}
    slots: dict[str, list[_Slot]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        path, _, leaf = name.rpartition(".")
        places = shared.setdefault(id(tensor), [])
        places.append(_Slot(module.get_submodule(path), leaf))
        slots[name] = places
    return slots


def _check_names(folder: Path, slots: Mapping[str, list[_Slot]], given: set[str]) -> None:
    filled = {id(slots[name]) for name in given if name in slots}
    missing = [name for name, places in slots.items() if id(places) not in filled]
    unexpected = sorted(given - set(slots))
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing tensors: {_few(missing)}")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected tensors: {_few(unexpected)}")
    if problems:
        raise CheckpointError(f"{folder}: {'; '.join(problems)}")


def _dtype_of(tensor: Tensor, name: str, rule: DtypeRule) -> torch.dtype:
    if not tensor.is_floating_point() or rule is None:
        return tensor.dtype
    wanted = rule if isinstance(rule, torch.dtype) else rule(name)
    return wanted or tensor.dtype


def _assign(places: list[_Slot], value: Tensor) -> None:
    first = places[0]
    if isinstance(first.tensor, nn.Parameter):
        parameter = nn.Parameter(value, requires_grad=first.tensor.requires_grad)
        for place in places:
            place.owner.register_parameter(place.leaf, parameter)
    else:
        for place in places:
            setattr(place.owner, place.leaf, value)  # stays the registered, persistent buffer


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A mapped tensor on a device and in a dtype; itself where it is both already.

    It goes part by part, and the file's pages behind each are given back at once: else a file that
    is converted would stay in memory beside what it became.
    """
    if (tensor.device, tensor.dtype) == (device, dtype) or not tensor.numel():
        return tensor.to(device, dtype)
    value = torch.empty_like(tensor, device=device, dtype=dtype)
    if device.type == "meta":
        return value
    rows = max(1, PART_BYTES // (tensor[:1].numel() * tensor.itemsize)) if tensor.ndim else 1
    for target, part in zip(_split(value, rows), _split(tensor, rows), strict=True):
        target.copy_(part)
        _give_back(part)
    return value


def _split(tensor: Tensor, rows: int) -> tuple[Tensor, ...]:
    return tensor.split(rows) if tensor.ndim else (tensor,)


def _give_back(tensor: Tensor) -> None:
    """Drops the pages of a mapped file behind a tensor; who looks at it again reads them again.

    Nothing is lost: nobody has written into the mapping.
    """
    advise, page = _madvise(), mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page
    whole = (tensor.data_ptr() + tensor.nbytes) // page * page - first
    if advise is not None and whole > 0 and tensor.is_contiguous():
        advise(first, whole, mmap.MADV_DONTNEED)


@cache
def _madvise() -> Any:
    """The C library's function, None where there is none."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _few(names: list[str], shown: int = 3) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _weight_map(index: Path) -> dict[str, str]:
    """Reads an index file; every file it names is a plain name that exists beside it."""
    try:
        content: Any = json.loads(read_bytes(index, MAX_INDEX_BYTES, CheckpointError))
        weight_map = dict(content["weight_map"])
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a weight index") from error
    for file in set(weight_map.values()):
        if not isinstance(file, str) or file != Path(file).name or file in ("", ".", ".."):
            raise CheckpointError(f"{index} points outside of its folder: {file!r}")
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index} points to a missing file: {file}")
    return weight_map


def _file_tensors(file: Path) -> dict[str, TensorInfo]:
    if file.suffix == ".bin":
        return {n: TensorInfo(tuple(t.shape), t.dtype, file) for n, t in _load_bin(file).items()}
    infos: dict[str, TensorInfo] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - the handle is not a dict
                part = opened.get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                if dtype is None:
                    raise CheckpointError(f"{file}: {name} has dtype {part.get_dtype()}")
                infos[name] = TensorInfo(tuple(part.get_shape()), dtype, file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or cut short: {error}") from error
    return infos


def _read_file(file: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".bin":
        loaded = _load_bin(file)
        yield from ((name, loaded[name]) for name in names)
        return
    with safe_open(file, framework="pt", device="cpu") as opened:
        for name in names:
            yield name, opened.get_tensor(name)


def _load_bin(file: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch reports a bad file as RuntimeError, UnpicklingError, ...
        # torch's own words are not passed on: they advise to run what the file holds
        raise CheckpointError(
            f"{file} is not a plain file of tensors; what else a pickle holds is never run"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise CheckpointError(f"{file} is not a plain file of tensors")
    return {str(name): tensor for name, tensor in loaded.items()}
