"""What all model classes share: how they are loaded, saved and dispatched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from dromaius.compat.transformers import loading
from dromaius.compat.transformers.configuration import Emu3Config
from dromaius.errors import warn_once
from dromaius.models.emu3 import weights
from dromaius.models.emu3.layouts import Layout


class Emu3PreTrainedModel(PreTrainedModel):
    """A transformers model whose parameters are those of our modules.

    Checkpoints are read and written by `models.emu3.weights`; nothing of transformers' own loader
    runs. `halves` says which of our modules a class holds.
    """

    config: Emu3Config
    base_model_prefix = "model"
    saved_layout: ClassVar[Layout] = "hf"
    """The layout that `save_pretrained` writes."""
    _supports_sdpa = True
    _supports_flash_attn = True
    _skip_keys_device_placement = ["past_key_values"]

    def halves(self) -> Mapping[str, nn.Module]:
        """Our modules by the prefix of their tensors' names (`weights.LANGUAGE` / `VISION`)."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(  # type: ignore[override]  # one signature for every checkpoint layout
        cls, pretrained_model_name_or_path: str | Path, *, config: Any = None, **kwargs: Any
    ) -> Any:
        """Read a checkpoint in the -hf, BAAI or Dromaius layout.

        Args:
            pretrained_model_name_or_path: folder or hub id.
            config: a configuration, or a folder to read it from, instead of the checkpoint's.
            **kwargs: `dtype` / `torch_dtype` (torch.dtype, its name, or "auto"), `device_map` (one
                device), `attn_implementation`, `revision`, `subfolder`, `generation_config`,
                `output_loading_info`, `vision_tokenizer` (BAAI: the folder or hub id of the other
                half), and any field of the configuration.

        Raises:
            CheckpointError: files absent or damaged, tensors missing, unexpected or misshapen.
            TypeError: an unknown argument.
        """
        return loading.load(cls, pretrained_model_name_or_path, config, kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write an -hf folder that transformers' own classes load; arguments as upstream's."""
        if kwargs.get("state_dict") is None:
            kwargs["state_dict"] = self._tensors_on_disk()
        super().save_pretrained(save_directory, *args, **kwargs)

    def _tensors_on_disk(self) -> dict[str, Tensor]:
        tensors = {}
        for half, module in self.halves().items():
            for name, tensor in module.state_dict().items():
                if name == "lm_head.weight" and self.tied_head:
                    continue  # one tensor is stored once
                theirs = weights.their_name(half + name, self.saved_layout)
                assert theirs is not None, name
                tensors[theirs] = weights.their_tensor(half + name, tensor, self.saved_layout)
        return tensors

    @property
    def tied_head(self) -> bool:
        """Whether output and input embeddings are one tensor."""
        return bool(self.config.tie_word_embeddings)

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *args: Any, **kwargs: Any
    ) -> str:
        """FlashAttention falls back to torch's fused attention, which has the same kernels."""
        name = attn_implementation or "sdpa"
        if name.startswith("flash_attention"):
            warn_once(f"attn_implementation={name!r}: flash-attn is not used, PyTorch's sdpa is")
            name = "sdpa"
        if name not in ("eager", "sdpa"):
            raise ValueError(
                f"attn_implementation must be 'eager', 'sdpa' or 'flash_attention_2', got {name!r}"
            )
        return name


def language_view(decoder: nn.Module, head: nn.Module | None = None) -> nn.Module:
    """Modules of ours under the names they have in a `LanguageModel`, tensors shared."""
    view = nn.Module()
    view.model = nn.Module()
    for name in ("embed_tokens", "layers", "norm"):
        view.model.add_module(name, decoder.get_submodule(name))
    if head is not None:
        view.lm_head = head
    return view


def reject(unknown: Mapping[str, Any], where: str) -> None:
    """Raise TypeError for arguments that would otherwise be ignored in silence."""
    if given := sorted(name for name, value in unknown.items() if value is not None):
        raise TypeError(f"{where} got an unexpected keyword argument {given[0]!r}")
