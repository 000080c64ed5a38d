"""The Emu3 vision tokenizer: a MoVQ-style VQ autoencoder with causal temporal stages.

Every 8x8 pixel patch of a still picture, or of four video frames, becomes one code.
Parameter names equal BAAI/Emu3-VisionTokenizer. Legend: B batch, T frames, t latent frames,
C channels, H/W pixels, h/w grid, E codebook vector size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dromaius.models.emu3.config import VisionTokenizerConfig
from dromaius.nn.affine import swish
from dromaius.nn.banded import channels_last, each_alone
from dromaius.nn.conv import (
    AttentionBlock,
    CausalConv3d,
    Conv2d,
    Downsample,
    ResnetBlock,
    TemporalDownsample,
    TemporalResnetBlock,
    TemporalUpsample,
    Upsample,
    make_norm,
    norm_swish_conv,
)


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, config: VisionTokenizerConfig, width: int, quant: int | None) -> None:
        super().__init__()
        groups, heads = config.norm_num_groups, config.num_attention_heads
        self.block_1 = ResnetBlock(width, width, quant, groups)
        self.attn_1 = AttentionBlock(width, quant, groups, heads)
        self.block_2 = ResnetBlock(width, width, quant, groups)

    def forward(self, x: Tensor, *quantized: Tensor) -> Tensor:
        x = self.attn_1(self.block_1(x, *quantized), *quantized)
        return self.block_2(x, *quantized)


class Stage(nn.Module):
    """Residual blocks (each followed by attention in some stages), then a change of size."""

    def __init__(
        self,
        config: VisionTokenizerConfig,
        level: int,
        in_width: int,
        num_blocks: int,
        quant: int | None,
    ) -> None:
        super().__init__()
        groups, heads = config.norm_num_groups, config.num_attention_heads
        width = config.ch * config.ch_mult[level]
        widths = [in_width] + [width] * (num_blocks - 1)
        self.block = nn.ModuleList(ResnetBlock(w, width, quant, groups) for w in widths)
        attended = num_blocks if level in config.attn_resolutions else 0
        self.attn = nn.ModuleList(
            AttentionBlock(width, quant, groups, heads) for _ in range(attended)
        )
        if quant is None and level != len(config.ch_mult) - 1:
            self.downsample = Downsample(width)
        if quant is not None and level != 0:
            self.upsample = Upsample(width)

    def forward(self, x: Tensor, *quantized: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x, *quantized)
            if self.attn:
                x = self.attn[index](x, *quantized)
        for resize in ("downsample", "upsample"):
            if hasattr(self, resize):
                x = getattr(self, resize)(x)
        return x


class Encoder(nn.Module):
    """Frames [N,3,H,W] -> features [N,Z,h,w], then over time [B,Z,T,h,w] -> [B,Z,T/4,h,w]."""

    def __init__(self, config: VisionTokenizerConfig) -> None:
        super().__init__()
        c = config
        in_widths = [c.ch * m for m in (1, *c.ch_mult)]
        self.conv_in = Conv2d(c.in_channels, c.ch, 3, padding=1)
        self.down = nn.ModuleList(
            Stage(c, level, in_widths[level], c.num_res_blocks, None)
            for level in range(len(c.ch_mult))
        )
        self.mid = Middle(c, in_widths[-1], None)
        self.norm_out = make_norm(in_widths[-1], None, c.norm_num_groups)
        self.conv_out = Conv2d(in_widths[-1], c.z_channels, 3, padding=1)
        self.time_conv = nn.ModuleList(
            TemporalDownsample(c.z_channels) for _ in range(_halvings(c))
        )
        self.time_res_stack = nn.ModuleList(
            TemporalResnetBlock(c.z_channels) for _ in range(c.num_res_blocks)
        )

    def space(self, frames: Tensor) -> Tensor:
        """Each frame alone: [N,3,H,W] -> [N,Z,h,w]."""
        return each_alone(self._space, frames, pixels=frames[0, 0].numel())

    def time(self, x: Tensor) -> Tensor:
        """[B,Z,T,h,w] -> [B,Z,T/4,h,w]."""
        return each_alone(self._time, x)

    def _space(self, frames: Tensor) -> Tensor:
        x = self.conv_in(channels_last(frames))
        for stage in self.down:
            x = stage(x)
        return norm_swish_conv(self.norm_out, self.conv_out, self.mid(x))

    def _time(self, x: Tensor) -> Tensor:
        for conv in self.time_conv:
            x = swish(conv(x))
        for block in self.time_res_stack:
            x = block(x)
        return x


class Decoder(nn.Module):
    """Latents and quantized vectors over time, then each frame [N,Z,h,w] -> [N,3,H,W]."""

    def __init__(self, config: VisionTokenizerConfig) -> None:
        super().__init__()
        c = config
        quant, levels = c.embed_dim, range(len(c.ch_mult))
        width = c.ch * c.ch_mult[-1]
        self.time_res_stack = nn.ModuleList(
            TemporalResnetBlock(c.z_channels) for _ in range(c.num_res_blocks)
        )
        self.time_conv = nn.ModuleList(TemporalUpsample(c.z_channels) for _ in range(_halvings(c)))
        self.conv_in = Conv2d(c.z_channels, width, 3, padding=1)
        self.mid = Middle(c, width, quant)
        in_widths = [c.ch * c.ch_mult[min(level + 1, levels[-1])] for level in levels]
        self.up = nn.ModuleList(
            Stage(c, level, in_widths[level], c.num_res_blocks + 1, quant) for level in levels
        )
        self.norm_out = make_norm(c.ch * c.ch_mult[0], quant, c.norm_num_groups)
        self.conv_out = Conv2d(c.ch * c.ch_mult[0], c.out_channels, 3, padding=1)

    def time(self, x: Tensor) -> Tensor:
        """[B,Z,t,h,w] -> [B,Z,4t,h,w]."""
        return each_alone(self._time, x)

    def space(self, latents: Tensor, quantized: Tensor) -> Tensor:
        """Each frame alone: latents [N,Z,h,w], quantized [N,E,h,w] -> [N,3,H,W]."""
        pixels = latents[0, 0].numel() * 4 ** (len(self.up) - 1)
        return each_alone(self._space, latents, quantized, pixels=pixels)

    def _time(self, x: Tensor) -> Tensor:
        for block in self.time_res_stack:
            x = block(x)
        for conv in self.time_conv:
            x = swish(conv(x))
        return x

    def _space(self, latents: Tensor, quantized: Tensor) -> Tensor:
        x = self.mid(self.conv_in(channels_last(latents)), quantized)
        for stage in reversed(self.up):
            x = stage(x, quantized)
        pixels = norm_swish_conv(self.norm_out, self.conv_out, x, quantized)
        return pixels.contiguous()  # not channels last


class Quantizer(nn.Module):
    """The codebook; the nearest entry by squared Euclidean distance stands for a vector."""

    def __init__(self, codebook_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors [...,E] -> int64 codes [...]; of equally near entries the first."""
        codebook = self.embedding.weight
        codebook_norm, twice = codebook.pow(2).sum(1), 2 * codebook.T
        # The table of distances is [positions, codebook]: few rows at a time, which stay in the
        # processor's cache, and never rows of two items, whose codes shall not depend on the batch.
        rows = max(1, 2**20 // codebook.shape[0])
        codes = [
            (block.pow(2).sum(1, keepdim=True) + codebook_norm).sub_(block @ twice).argmin(1)
            for item in x.reshape(len(x), -1, x.shape[-1])
            for block in item.split(rows)
        ]
        return torch.cat(codes).view(x.shape[:-1])


class VisionTokenizer(nn.Module):
    """Pictures and clips <-> grids of codes.

    It stays float32 whatever dtype a surrounding model is moved to (a bfloat16 nearest-code lookup
    picks other codes), and frozen: `train()` of a surrounding model does not reach it, because its
    batch norms would move and the codes with them. Only `unfreeze()` makes it trainable, and only
    through `encode_latents` and `decode_latents`: `encode` and `decode` never carry gradients.
    """

    def __init__(self, config: VisionTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config.codebook_size, config.embed_dim)
        self.quant_conv = CausalConv3d(config.z_channels, config.embed_dim)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.z_channels)
        # The default dtype may be another one around this constructor (transformers does that).
        super()._apply(lambda t: t.float() if t.is_floating_point() else t)
        self.freeze()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes of pictures or clips.

        Args:
            pixels: [B,3,H,W] or, for clips, [B,T,3,H,W], values -1..1, H and W multiples of 8.
                A clip is one causal sequence of frames; published checkpoints were trained on
                clips of 4 frames, so longer videos go in as chunks on the batch axis.

        Returns:
            int64 [B,H/8,W/8], or [B,T//4,H/8,W/8] for clips.

        Raises:
            ValueError: sizes that are no multiple of the patch, or a clip that is too short.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            latents = self.encode_latents(pixels.to(self.quantize.embedding.weight.dtype))
            codes = self.quantize(latents.movedim(1, -1))  # [B,E,t,h,w] -> [B,t,h,w]
        return codes.squeeze(1) if pixels.ndim == 4 else codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Pixels of codes, unclamped.

        Args:
            codes: int64 [B,h,w], or [B,t,h,w] for clips.

        Returns:
            float32 [B,3,8h,8w], or [B,4t,3,8h,8w] for clips.
        """
        with torch.autocast(codes.device.type, enabled=False):
            quantized = self.quantize.embedding(codes)  # [B,(t,)h,w,E]
            still = codes.ndim == 3
            quantized = (quantized.unsqueeze(1) if still else quantized).movedim(-1, 1)
            return self.decode_latents(quantized, still)

    def encode_latents(self, pixels: Tensor) -> Tensor:
        """What the quantizer sees: [B,3,H,W] or [B,T,3,H,W] -> [B,E,t,h,w].

        A still picture is defined as a clip of 4 equal frames. The spatial stages look at one
        frame at a time, so they run once and their result is repeated: the same bits for a
        quarter of the work.
        """
        side, frames = self.config.spatial_factor, self.config.temporal_downsample_factor
        if any(size % side or size < side for size in pixels.shape[-2:]):
            raise ValueError(
                f"picture sides {tuple(pixels.shape[-2:])} must be multiples of {side}"
            )
        if pixels.ndim == 4:
            x = self.encoder.space(pixels)  # [B,Z,h,w]
            x = x[:, :, None].expand(-1, -1, frames, -1, -1)  # [B,Z,T,h,w]
        else:
            if pixels.shape[1] < frames:
                raise ValueError(f"a clip needs at least {frames} frames, got {pixels.shape[1]}")
            x = self.encoder.space(pixels.flatten(0, 1))  # [B*T,Z,h,w]
            x = x.unflatten(0, pixels.shape[:2]).transpose(1, 2)  # [B,Z,T,h,w]
        return self.quant_conv(self.encoder.time(x))

    def decode_latents(self, quantized: Tensor, still: bool) -> Tensor:
        """Codebook vectors [B,E,t,h,w] -> [B,3,H,W] (still: the first frame) or [B,4t,3,H,W]."""
        both = torch.cat((self.post_quant_conv(quantized), quantized))  # latents, then the grid
        latents, grid = self.decoder.time(both).transpose(1, 2).chunk(2)  # [B,T,Z,h,w] each
        if still:
            return self.decoder.space(latents[:, 0], grid[:, 0])
        pixels = self.decoder.space(latents.flatten(0, 1), grid.flatten(0, 1))
        return pixels.unflatten(0, latents.shape[:2])

    def freeze(self) -> None:
        """No gradients, evaluation mode: the state every caller finds it in."""
        self.requires_grad_(False)
        super().train(False)

    def unfreeze(self) -> None:
        """For the tokenizer's own trainer alone: gradients on.

        Batch norms keep their running statistics, so that training sees what inference computes.
        """
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> "VisionTokenizer":
        """Does nothing: see the class."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow a surrounding model to its device, not to its dtype."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights (He normal); the codebook uniform in +-1/size as in the released code."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.bias is not None:
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, fan_in**-0.5, generator=generator)
                module.bias.zero_()
        bound = 1.0 / self.config.codebook_size
        self.quantize.embedding.weight.uniform_(-bound, bound, generator=generator)


def _halvings(config: VisionTokenizerConfig) -> int:
    """How often time is halved: log2 of the temporal factor."""
    return config.temporal_downsample_factor.bit_length() - 1
