"""What a model holds beside its weights while it works: its own code, run without memory.

Every function runs the modules on the meta device and counts tensors (`dromaius.nn.live`); nothing
is computed. Sizes are bytes. Legend: B pictures, R rows, h/w grid.
"""

from dataclasses import dataclass

import torch

from dromaius.engine.guidance import guide, plausible
from dromaius.engine.rows import Rows
from dromaius.engine.sampling import Sampler
from dromaius.io.checkpoint import without_memory
from dromaius.models.emu3.config import Emu3Config, VisionTokenizerConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.weights import empty_language_model
from dromaius.nn.live import LiveBytes


@dataclass(frozen=True)
class Peak:
    """The most that is held at one time, weights and cache aside."""

    bytes: int
    where: str
    """Module and operator at that time."""


@dataclass(frozen=True)
class Decoding:
    """A language model at work."""

    cache: int
    """Keys and values of all rows."""
    prefill: Peak
    step: Peak
    """One pass with everything visible, and the draw from its logits."""

    @property
    def bytes(self) -> int:
        return self.cache + max(self.prefill.bytes, self.step.bytes)


def language_model(config: Emu3Config, dtype: torch.dtype) -> LanguageModel:
    """A language model without memory."""
    return empty_language_model(config).to(dtype).eval().requires_grad_(False)


def vision_tokenizer(config: VisionTokenizerConfig) -> VisionTokenizer:
    """A vision tokenizer without memory."""
    with without_memory():
        return VisionTokenizer(config)


@torch.no_grad()
def draw(
    model: LanguageModel,
    prompts: list[list[int]],
    room: int,
    span: tuple[int, int],
    guided: bool,
    sampler: Sampler,
) -> Decoding:
    """Pictures of `room` tokens each, drawn as `engine.decode.draw_grids` does.

    prompts: of the rows, those of the unwanted prompts behind those of the pictures.
    """
    with LiveBytes() as live, live.named(model):
        rows = Rows(model, prompts, [room] * len(prompts), span)
        cache = live.live
        logits = rows.prefill()
        prefill = _since(live, cache)
        count = len(prompts) // 2 if guided else len(prompts)
        each = torch.zeros(count, dtype=torch.long, device="meta")
        scores = logits[:count].float()
        allowed = plausible(scores, each.float())
        if guided:
            scores = guide(scores, logits[count:], each.float())
        drawn = sampler.draw(scores.masked_fill(~allowed, -torch.inf), each, each, span[0])
        del scores, allowed
        start = torch.zeros(len(prompts), dtype=torch.long, device="meta")
        # a line's last code is fed together with the line end
        ids = drawn[:, None].repeat(2 if guided else 1, 2)
        rows.step(ids, start, start, rows.cache.slots)
        return Decoding(cache, prefill, _since(live, cache))


@torch.no_grad()
def write(model: LanguageModel, prompt: list[int], room: int) -> Decoding:
    """A text of `room` tokens behind a prompt, as `engine.decode.write_text` does."""
    with LiveBytes() as live, live.named(model):
        rows = Rows(model, [prompt], [room])
        cache = live.live
        logits = rows.prefill()
        prefill = _since(live, cache)
        zero = torch.zeros(1, dtype=torch.long, device="meta")
        drawn = Sampler(temperature=0).draw(logits.float(), zero, zero, 0)
        rows.step(drawn[:, None], zero, zero, rows.cache.slots)
        return Decoding(cache, prefill, _since(live, cache))


@torch.no_grad()
def encode(model: VisionTokenizer, height: int, width: int, chunks: int = 0) -> Peak:
    """Pixels to codes: one picture, or so many chunks of a clip."""
    frames = (chunks, model.config.temporal_downsample_factor) if chunks else (1,)
    with LiveBytes() as live, live.named(model):
        pixels = torch.zeros(*frames, 3, height, width, device="meta")
        # not `encode`: autocast, which it turns off, does not know the meta device
        model.quantize(model.encode_latents(pixels).movedim(1, -1))
        return _since(live, 0)


@torch.no_grad()
def decode(model: VisionTokenizer, rows: int, columns: int, chunks: int = 0) -> Peak:
    """Codes to pixels: one picture, or so many chunks of a clip."""
    with LiveBytes() as live, live.named(model):
        codes = torch.zeros(chunks or 1, 1, rows, columns, dtype=torch.long, device="meta")
        quantized = model.quantize.embedding(codes).movedim(-1, 1)  # [B,E,t,h,w]
        model.decode_latents(quantized, still=not chunks)
        return _since(live, 0)


def _since(live: LiveBytes, base: int) -> Peak:
    """The peak above `base`; counting begins anew."""
    peak = Peak(live.peak - base, live.where)
    live.peak = 0
    return peak
