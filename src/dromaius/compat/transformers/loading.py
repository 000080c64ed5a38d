"""Checkpoint folders of any layout -> transformers-style models holding our modules."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig
from transformers.initialization import no_init_weights

from dromaius.compat.transformers.configuration import (
    Emu3Config,
    Emu3TextConfig,
    Emu3VQVAEConfig,
    text_config,
    vision_config,
)
from dromaius.errors import CheckpointError, warn_once
from dromaius.io import checkpoint, hub
from dromaius.models.emu3 import weights
from dromaius.models.emu3.layouts import Layout, detect, join, read_config, read_json

if TYPE_CHECKING:
    from dromaius.compat.transformers.base import Emu3PreTrainedModel

WITHOUT_EFFECT = frozenset(
    "low_cpu_mem_usage use_safetensors trust_remote_code weights_only local_files_only "
    "offload_folder offload_state_dict offload_buffers max_memory force_download use_fast".split()
)
"""Arguments about how transformers loads, which our loader settles by itself."""


def load(
    cls: "type[Emu3PreTrainedModel]", source: str | Path, config: Any, kwargs: dict[str, Any]
) -> Any:
    """Does what `Emu3PreTrainedModel.from_pretrained` documents."""
    folder = _folder(source, kwargs)
    dtype, torch_dtype = kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None)
    dtype = torch_dtype if dtype is None else dtype
    device = one_device(kwargs.pop("device_map", None))
    want_info = kwargs.pop("output_loading_info", False)
    generation = kwargs.pop("generation_config", None)
    partner = kwargs.pop("vision_tokenizer", None)
    folders = _halves_folders(folder, partner)
    if not isinstance(config, PreTrainedConfig):
        config = config_of(cls.config_class, Path(config) if config else folder, folders)
    _override(cls, config, kwargs)
    dtype = named_dtype(config.dtype if dtype in (None, "auto") else dtype)
    with torch.device("meta"), no_init_weights():
        model = cls(config)
    _fill(model, folders, device, dtype)
    model.config.dtype = dtype or model.dtype
    model.config.name_or_path = model.name_or_path = str(source)
    if model.can_generate():
        _generation_settings(model, folder, generation)
    model.eval()
    if not want_info:
        return model
    nothing: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set()}
    return model, nothing | {"mismatched_keys": set(), "error_msgs": []}


def config_of(
    config_class: Any, folder: Path, folders: dict[str, Path] | None = None
) -> PreTrainedConfig:
    """The configuration of a folder of any layout as `config_class`.

    Raises CheckpointError if the folder holds no such half.
    """
    layout = detect(folder)
    if layout == "hf":
        whole = Emu3Config.from_pretrained(folder)
        outer = read_json(folder / "config.json").get("tie_word_embeddings")
        tied = whole.text.tie_word_embeddings if outer is None else outer  # the outer one counts
        whole.tie_word_embeddings = whole.text.tie_word_embeddings = tied
        parts = {Emu3Config: whole, Emu3TextConfig: whole.text, Emu3VQVAEConfig: whole.vision}
        return parts[config_class]
    if (layout, config_class) in (("hf-text", Emu3TextConfig), ("hf-vision", Emu3VQVAEConfig)):
        return config_class.from_pretrained(folder)
    ours = read_config(folder)
    partner = (folders or {}).get(weights.VISION, folder)
    if partner != folder:
        ours = join(ours, read_config(partner))
    if config_class is Emu3TextConfig and ours.language_model:
        return text_config(ours)
    if config_class is Emu3VQVAEConfig and ours.vision_tokenizer:
        return vision_config(ours.vision_tokenizer)
    if config_class is Emu3Config and ours.language_model and ours.vision_tokenizer:
        return Emu3Config.from_ours(ours)
    hint = "; give the other half as vision_tokenizer=..." if layout == "baai" else ""
    raise CheckpointError(f"{folder} ({layout} layout) is no whole {config_class.__name__}{hint}")


def one_device(device_map: Any) -> torch.device:
    """The single device that a `device_map` means. Raises ValueError if it names several."""
    if isinstance(device_map, dict):
        if len(devices := set(device_map.values())) != 1:
            raise ValueError(f"device_map must name one device, got {sorted(map(str, devices))}")
        device_map = devices.pop()
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cpu" if device_map is None else device_map)


def named_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype from its name. Raises ValueError for a name that is none."""
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"dtype must be a torch.dtype or its name, got {dtype!r}")
        return found
    return dtype


def _folder(source: str | Path, kwargs: dict[str, Any]) -> Path:
    revision, subfolder = kwargs.pop("revision", None), kwargs.pop("subfolder", "")
    return hub.resolve(source, None if revision == "main" else revision) / (subfolder or "")


def _halves_folders(folder: Path, partner: str | Path | None) -> dict[str, Path]:
    vision = hub.resolve(partner) if partner is not None else folder
    return {weights.LANGUAGE: folder, weights.VISION: vision}


def _override(cls: type, config: PreTrainedConfig, kwargs: dict[str, Any]) -> None:
    """Settings of the configuration given as arguments. Raises TypeError for an unknown one."""
    for name, value in kwargs.items():
        if name == "attn_implementation":
            config._attn_implementation = value
        elif hasattr(config, name):
            setattr(config, name, value)
        elif name not in WITHOUT_EFFECT:
            raise TypeError(f"{cls.__name__}.from_pretrained got an unexpected argument {name!r}")


def _fill(
    model: "Emu3PreTrainedModel",
    folders: dict[str, Path],
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    model.tie_weights()  # tied tensors are in a file once
    halves = model.halves()
    for half, module in halves.items():
        folder, layout = folders[half], detect(folders[half])
        if layout == "hf" and half == weights.LANGUAGE and weights.VISION not in halves:
            _say_what_upstream_does(type(model).__name__)
        _load_half(module, half, folder, layout, device, dtype)


def _say_what_upstream_does(name: str) -> None:
    warn_once(
        f"{name}.from_pretrained on a whole Emu3 checkpoint: its language model is loaded "
        "(transformers finds none of its tensors and returns random weights)"
    )


def _load_half(
    module: nn.Module,
    half: str,
    folder: Path,
    layout: Layout,
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    has_head = hasattr(module, "lm_head")

    def rename(name: str) -> str | None:
        if layout == "hf-text" and not name.startswith(("model.", "lm_head.")):
            name = f"model.{name}"  # as transformers writes a model without head
        ours = weights.our_name(name, layout)
        if ours.startswith(weights.VISION if half == weights.LANGUAGE else weights.LANGUAGE):
            return None
        if ours.endswith("rotary_emb.inv_freq") or ("lm_head" in ours and not has_head):
            return None
        return ours.removeprefix(half)

    checkpoint.load_into(
        module,
        folder,
        rename=rename,
        device=device,
        dtype=torch.float32 if half == weights.VISION else dtype,
        transform=lambda name, tensor: weights.our_tensor(half + name, tensor),
    )


def _generation_settings(model: Any, folder: Path, given: GenerationConfig | None) -> None:
    if given is not None:
        model.generation_config = given
    elif (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
