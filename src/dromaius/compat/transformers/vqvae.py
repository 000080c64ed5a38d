"""Emu3VQVAE: our vision tokenizer behind transformers' interface.

Legend: B batch, T frames, H/W pixels, h/w grid of codes, E latent size.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dromaius.compat.transformers.base import Emu3PreTrainedModel, reject
from dromaius.compat.transformers.configuration import Emu3VQVAEConfig, own_config
from dromaius.models.emu3 import weights
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer

ImageSizes = Tensor | Sequence[Iterable[int]] | None
"""(height, width) in pixels of each picture of a padded batch; None: nothing is padding."""


@dataclass
class Emu3VQVAEModelOutput(BaseModelOutputWithPooling):
    """What `Emu3VQVAE.encode` returns; `pooler_output` is filled by `get_image_features`."""

    image_tokens: list[Tensor] | None = None
    """Codes int64 [h,w] of each picture ([t,h,w] of each clip), without those of padding."""


class Emu3VQVAE(Emu3PreTrainedModel):
    """Pictures and clips <-> codes. Always float32 and frozen (see `VisionTokenizer`)."""

    config: Emu3VQVAEConfig  # type: ignore[assignment]  # as upstream: the vision half alone
    base_model_prefix = "emuvideovq"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # as upstream
    saved_layout = "hf-vision"

    def __init__(self, config: Emu3VQVAEConfig) -> None:
        config = own_config(config, Emu3VQVAEConfig)
        super().__init__(config)
        self.tokenizer = VisionTokenizer(config.to_ours())
        self.vision_spatial_factor = self.tokenizer.config.spatial_factor
        self.eval()
        self.post_init()

    def halves(self) -> Mapping[str, nn.Module]:
        return {weights.VISION: self.tokenizer}

    @property
    def tied_head(self) -> bool:
        return False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, VisionTokenizer) and not module.quantize.embedding.weight.is_meta:
            module.init_weights()

    def encode(
        self,
        pixel_values: Tensor,
        image_sizes: ImageSizes = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Emu3VQVAEModelOutput | tuple[Any, ...]:
        """Codes of pictures [B,3,H,W] or clips [B,T,3,H,W], values -1..1.

        Args:
            image_sizes: (height, width) in pixels of each picture before the batch was padded.
            return_dict: False gives a tuple.

        Returns:
            `last_hidden_state` [B,t,E,h,w], what the encoder found, and `image_tokens`.
        """
        reject(kwargs, "encode()")
        output = self.encode_pictures(pixel_values, image_sizes)
        keep_dict = self.config.return_dict if return_dict is None else return_dict
        return output if keep_dict else output.to_tuple()

    @torch.no_grad()
    def encode_pictures(
        self, pixel_values: Tensor, image_sizes: ImageSizes = None
    ) -> Emu3VQVAEModelOutput:
        """`encode` with one type of result."""
        features: list[Tensor] = []  # what enters the convolution before the quantizer
        watch = self.tokenizer.quant_conv.register_forward_pre_hook(
            lambda _, inputs: features.append(inputs[0])
        )
        with watch:
            codes = self.tokenizer.encode(pixel_values)  # [B,(t,)h,w]
        return Emu3VQVAEModelOutput(
            last_hidden_state=features[0].transpose(1, 2),  # [B,E,t,h,w] -> [B,t,E,h,w]
            image_tokens=self._without_padding(codes, image_sizes),
        )

    @torch.no_grad()
    def decode(self, hidden_states: Tensor) -> Tensor:
        """Codes [B,h,w] -> pixels [B,3,8h,8w]; codes [B,t,h,w] -> frames [B,4t,3,8h,8w]."""
        return self.tokenizer.decode(hidden_states)

    def _without_padding(self, codes: Tensor, image_sizes: ImageSizes) -> list[Tensor]:
        if image_sizes is None:
            return list(codes)
        if len(sizes := list(image_sizes)) != len(codes):
            raise ValueError(f"{len(codes)} pictures, but image_sizes has {len(sizes)} rows")
        factor = self.vision_spatial_factor
        grids = [[int(side) // factor for side in size] for size in sizes]
        return [c[..., :h, :w] for c, (h, w) in zip(codes, grids, strict=True)]
