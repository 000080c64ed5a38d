"""What `from_pretrained` of the model classes here share: its arguments, and where files are."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from dromaius.io import hub

# Accepted for the sake of published scripts; they change nothing here. No repository code is ever
# run, weights are memory-mapped in any case, and the hub client has its own settings.
_WITHOUT_EFFECT = (
    "trust_remote_code",
    "use_safetensors",
    "low_cpu_mem_usage",
    "local_files_only",
    "force_download",
    "cache_dir",
    "token",
)


@dataclass(frozen=True)
class LoadOptions:
    """Arguments of `from_pretrained`, read."""

    folder: Path
    device: torch.device
    dtype: str | torch.dtype | None
    attention: str | None
    config: Any
    """A configuration object to use instead of the folder's."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Values for the configuration."""


def read_options(
    source: str | Path, kwargs: dict[str, Any], config_class: type[PretrainedConfig]
) -> LoadOptions:
    """Sort the arguments. Raises TypeError naming one that nobody knows."""
    kwargs = {k: v for k, v in kwargs.items() if k not in _WITHOUT_EFFECT}
    dtype = kwargs.pop("dtype", None)
    dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype
    options = LoadOptions(
        folder=hub.resolve(source, kwargs.pop("revision", None)),
        device=_device(kwargs.pop("device_map", None)),
        dtype=dtype,
        attention=kwargs.pop("attn_implementation", None),
        config=kwargs.pop("config", None),
        overrides=kwargs,
    )
    known = config_class().to_dict()
    if unknown := sorted(set(kwargs) - set(known)):
        raise TypeError(f"from_pretrained() got an unexpected argument {unknown[0]!r}")
    return options


def as_dtype(value: str | torch.dtype | None, auto: Any = None) -> torch.dtype:
    """A dtype or its name; "auto" is the checkpoint's, None is float32 as in transformers 4."""
    if value == "auto":
        value = auto
    if isinstance(value, str):
        value = getattr(torch, value.removeprefix("torch."), value)
    if value is None:
        return torch.float32
    if not isinstance(value, torch.dtype):
        raise ValueError(f"unknown dtype {value!r}")
    return value


def attention_implementation(asked: str | None) -> str | None:
    """What to compute attention with: flash_attention_2 needs the package and a GPU."""
    from transformers.utils import is_flash_attn_2_available

    if asked == "flash_attention_2" and not is_flash_attn_2_available():
        warnings.warn(
            "flash_attention_2 is not available here; PyTorch's scaled dot product attention "
            "computes the same numbers instead",
            UserWarning,
            stacklevel=4,
        )
        return "sdpa"
    return asked


def _device(device_map: Any) -> torch.device:
    """The one device that a model is put on."""
    if isinstance(device_map, dict):
        places = set(device_map.values())
        if len(places) != 1:
            raise ValueError("device_map: the model lives on one device, several were given")
        device_map = places.pop()
    if device_map is None:
        return torch.device("cpu")
    if isinstance(device_map, str) and device_map.startswith(("auto", "balanced", "sequential")):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device_map)
