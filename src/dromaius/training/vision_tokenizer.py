"""Training of the vision tokenizer on still pictures.

Straight-through gradients, commitment, a codebook of running means. Legend: B batch, E size of a
codebook entry, h/w grid of codes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dromaius.data.order import generator_for
from dromaius.data.pictures import Pictures, PictureSettings
from dromaius.io.images import from_pixels
from dromaius.models.emu3.config import Section, VisionTokenizerConfig
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.nn.norm import SpatialNorm
from dromaius.training.codebook import RunningCodebook
from dromaius.training.export import export_vision_tokenizer
from dromaius.training.losses import commitment_loss, flat_loss, picture_loss, structural_similarity
from dromaius.training.processes import Shard
from dromaius.training.sheet import sheet

SHOWN = 8
"""How many held-out pictures the sheet of samples shows."""


@dataclass(frozen=True)
class ObjectiveSettings(Section):
    """The loss and the codebook's running means."""

    batch: int = 32
    """Pictures in a batch, over all processes."""
    commitment: float = 0.25
    """Weight of the pull of the encoder's vectors towards their codebook entries."""
    structure: float = 0.0
    """Weight of 1 - SSIM beside the differences of pixels."""
    flat: float = 0.0
    """Weight of the pull of empty cells towards one code per background colour."""
    decay: float = 0.99
    """Of the running means that the codebook entries are: the share that stays in a step."""
    patience: int = 20
    """Steps without use after which a codebook entry is moved to where it is needed."""


class VisionTokenizerTask:
    """Pictures in, the same pictures out, through a grid of codes."""

    def __init__(
        self,
        config: VisionTokenizerConfig,
        objective: ObjectiveSettings,
        data: PictureSettings,
        heldout: PictureSettings,
        seed: int,
    ) -> None:
        self.objective, self.seed = objective, seed
        self.model = VisionTokenizer(config)
        init_weights(self.model, generator_for(seed, "init"))
        self.model.unfreeze()
        codebook = self.model.quantize.embedding.weight.requires_grad_(False)
        self.extra = RunningCodebook(codebook, objective.decay, objective.patience)
        self.pictures, self.heldout = Pictures(data), Pictures(heldout)
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def begin(self) -> None:
        """Scale the fresh encoder to latents of unit variance; codebook entries from data."""
        pixels = self.pictures.batch(0, 256, self.seed)
        with torch.no_grad():
            vectors = self.model.encode_latents(pixels).movedim(1, -1).flatten(0, -2)
            mean, scale = vectors.mean(0), vectors.std(0) + 1e-6
            last = self.model.quant_conv.conv
            assert last.bias is not None  # every convolution here has one
            last.weight /= scale[:, None, None, None, None]
            last.bias.copy_((last.bias - mean) / scale)
            vectors = (vectors - mean) / scale
        self.extra.start(vectors, generator_for(self.seed, "codebook"))

    def batch(self, index: int, shard: Shard) -> Tensor:
        pixels = self.pictures.batch(index, self.objective.batch, self.seed)
        return pixels[shard.rank :: shard.world]

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        latents = self.model.encode_latents(batch).float()  # [B,E,1,h,w]
        with torch.autocast(batch.device.type, enabled=False):
            vectors = latents.detach().movedim(1, -1)  # [B,1,h,w,E]
            codes = self.model.quantize(vectors)
            quantized = self.model.quantize.embedding(codes).movedim(-1, 1)
            commitment = commitment_loss(latents, quantized)
            passed = latents + (quantized - latents).detach()  # straight through
        pixels = self.model.decode_latents(passed, still=True).float()
        with torch.autocast(batch.device.type, enabled=False):
            loss = picture_loss(pixels, batch)
            if self.objective.structure:
                # About zero, unlike the measure: dark and light pixels weigh alike.
                similar = structural_similarity(pixels, batch, peak=2.0)
                loss = loss + self.objective.structure * (1.0 - similar.mean())
            flat = latents.new_zeros(())
            if self.objective.flat:
                flat = flat_loss(latents[:, :, 0], batch)
        self._seen.append((vectors.flatten(0, -2), codes.flatten()))
        figures = {"picture": loss.item(), "commitment": commitment.item(), "flat": flat.item()}
        figures["items"] = len(batch)
        o = self.objective
        return loss + o.commitment * commitment + o.flat * flat, figures

    def after_step(self, step: int) -> None:
        vectors, codes = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        vectors, codes = gather(vectors), gather(codes)
        self.extra.update(vectors, codes, generator_for(self.seed, "revive", step))

    def evaluate(self) -> dict[str, float]:
        """PSNR in dB and SSIM (means over held-out pictures), share of the codebook they use."""
        psnr, ssim, used = [], [], torch.zeros(self.model.config.codebook_size, dtype=torch.bool)
        with torch.no_grad():
            for rows in torch.arange(len(self.heldout)).split(64):
                pixels = self.heldout.plain(rows).to(self._device)
                codes = self.model.encode(pixels)
                used[codes.flatten().cpu()] = True
                again = self.model.decode(codes)
                psnr += peak_signal_to_noise(again, pixels).tolist()
                ssim += structural_similarity(again.clamp(-1, 1) + 1, pixels + 1, peak=2.0).tolist()
        mean = {"psnr": sum(psnr) / len(psnr), "ssim": sum(ssim) / len(ssim)}
        return mean | {"codes": used.float().mean().item()}

    def samples(self) -> Image.Image:
        """Held-out pictures, and below them what is left of them in their codes."""
        count = min(SHOWN, len(self.heldout))
        rows = torch.linspace(0, len(self.heldout) - 1, count).long()
        pixels = self.heldout.plain(rows).to(self._device)
        with torch.no_grad():
            again = self.model.decode(self.model.encode(pixels))
        return sheet([*from_pixels(pixels), *from_pixels(again)], columns=count)

    def export(self, folder: Path) -> None:
        export_vision_tokenizer(folder, self.model)


def init_weights(model: VisionTokenizer, generator: torch.Generator) -> None:
    """Fresh weights; spatial norms start close to plain group norms."""
    model.init_weights(generator)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SpatialNorm):
                module.conv_y.weight.mul_(0.1)
                module.conv_y.bias.fill_(1.0)  # type: ignore[union-attr]  # these have a bias
                module.conv_b.weight.mul_(0.1)


def peak_signal_to_noise(pixels: Tensor, target: Tensor) -> Tensor:
    """PSNR in dB of each picture, after rounding to the 8 bits a file holds: [B,3,H,W] -> [B]."""
    levels = [((x.clamp(-1, 1) + 1) * 127.5).round() for x in (pixels, target)]
    error = (levels[0] - levels[1]).pow(2).flatten(1).mean(1).clamp_min(1e-3)
    return 10 * torch.log10(255.0**2 / error)


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; alone: the tensor itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    parts: list[Any] = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor)
    return torch.cat(parts)
