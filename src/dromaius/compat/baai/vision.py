"""The vision tokenizer of the BAAI repositories as a transformers model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dromaius.compat.baai.configuration import Emu3VisionVQConfig
from dromaius.compat.baai.loading import as_dtype, attention_implementation, read_options
from dromaius.errors import CheckpointError, warn_once
from dromaius.models.emu3 import dialects
from dromaius.models.emu3.layouts import read_config
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.weights import load_vision_tokenizer


class Emu3VisionVQModel(PreTrainedModel):
    """Pictures and clips <-> codes. Holds our `VisionTokenizer`'s parts under BAAI's names.

    Always float32, frozen and in evaluation mode, whatever the arguments say.
    Legend: B batch, T frames, H/W pixels, h/w grid of codes.
    """

    config_class = Emu3VisionVQConfig
    base_model_prefix = "emuvideovq"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _whole: tuple[VisionTokenizer]

    def __init__(
        self, config: Emu3VisionVQConfig, tokenizer: VisionTokenizer | None = None
    ) -> None:
        """Random weights, unless a filled `tokenizer` is given."""
        super().__init__(config)
        fresh = tokenizer is None
        tokenizer = tokenizer or VisionTokenizer(config.to_vision_tokenizer())
        self.encoder = tokenizer.encoder
        self.decoder = tokenizer.decoder
        self.quantize = tokenizer.quantize
        self.quant_conv = tokenizer.quant_conv
        self.post_quant_conv = tokenizer.post_quant_conv
        self._whole = (tokenizer,)  # not a submodule: its parts are
        if fresh and tokenizer.quantize.embedding.weight.device.type != "meta":
            tokenizer.init_weights()
        self.training = False
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # arguments of our own loader
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "Emu3VisionVQModel":
        """Load from a folder or hub id in BAAI's, the -hf or our own layout.

        Raises CheckpointError naming a missing or unexpected tensor. `trust_remote_code` runs
        nothing; a dtype other than float32 is not followed (one warning).
        """
        options = read_options(pretrained_model_name_or_path, kwargs, Emu3VisionVQConfig)
        ours = read_config(options.folder)
        config = options.config or _config_of(options.folder, ours.vision_tokenizer)
        for name, value in options.overrides.items():
            setattr(config, name, value)
        if as_dtype(options.dtype, auto="float32") != torch.float32:
            warn_once(
                "the vision tokenizer stays float32: in a narrower dtype it picks other codes"
            )
        attention_implementation(options.attention)
        ours = replace(ours, vision_tokenizer=config.to_vision_tokenizer(), language_model=None)
        return cls(config, load_vision_tokenizer(options.folder, ours, options.device))

    def encode(self, x: Tensor) -> Tensor:
        """[B,3,H,W] -> int64 [B,H/8,W/8]; a clip [B,T,3,H,W] -> [B,T//4,H/8,W/8]."""
        return self.vision_tokenizer.encode(x)

    def decode(self, x: Tensor) -> Tensor:
        """Codes [B,h,w] -> [B,3,8h,8w]; codes of clips [B,t,h,w] -> [B,4t,3,8h,8w]."""
        return self.vision_tokenizer.decode(x)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The reconstruction: encode, then decode."""
        return self.decode(self.encode(pixel_values))

    @property
    def vision_tokenizer(self) -> VisionTokenizer:
        """Our module, whose parts this model holds."""
        return self._whole[0]

    @property
    def spatial_scale_factor(self) -> int:
        """Pixels per code along one side."""
        return self.vision_tokenizer.config.spatial_factor

    @property
    def temporal_scale_factor(self) -> int:
        """Frames per grid of codes."""
        return self.config.temporal_downsample_factor

    def train(self, mode: bool = True) -> "Emu3VisionVQModel":
        """Does nothing: in training mode its batch norms would move, and the codes with them."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Our module follows a move to a device and keeps float32.
        self.vision_tokenizer._apply(fn, recurse)
        return self

    def _init_weights(self, module: Any) -> None:
        """Weights are filled before transformers asks."""


def _config_of(folder: Path, vision: Any) -> Emu3VisionVQConfig:
    """config.json, or its translation from another layout."""
    from dromaius.models.emu3.layouts import detect

    if detect(folder) == "baai-vision":
        return Emu3VisionVQConfig.from_pretrained(str(folder))
    if vision is None:
        raise CheckpointError(f"{folder} holds no vision tokenizer")
    return Emu3VisionVQConfig(**dialects.to_foreign(vision, dialects.BAAI_VISION_TOKENIZER))
