"""Variations of pictures, one by one: what a picture becomes depends on its own number alone.

So a batch may be cut into parts or shared by processes, and the pictures are the same. Legend: B
batch, C channels, K strengths that are drawn for a picture.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dromaius.training.vision_encoder_decoder.settings import AugmentationSettings

_STRENGTHS = 16
_BLUR_TAPS = 3
"""Pixels of the blur's reach, either way."""


def shown(pictures: Tensor, background: Tensor) -> Tensor:
    """uint8 [B,H,W,C] on RGB [B,3] -> float32 [B,3,H,W] in 0..1; grey becomes RGB."""
    values = pictures.permute(0, 3, 1, 2).float() / 255.0  # [B,C,H,W]
    if values.shape[1] == 4:
        alpha = values[:, 3:]
        return values[:, :3] * alpha + background[:, :, None, None].float() / 255.0 * (1 - alpha)
    return values.expand(-1, 3, -1, -1) if values.shape[1] == 1 else values


def augment(pictures: Tensor, draws: list[torch.Generator], s: AugmentationSettings) -> Tensor:
    """uint8 [B,H,W,C] -> float32 [B,3,H,W] in 0..1, varied; `draws`: a generator a picture."""
    chance = torch.stack([torch.rand(_STRENGTHS, generator=draw) for draw in draws])  # [B,K]
    free = (chance[:, 0] >= s.plain).float()
    even = (chance * 2.0 - 1.0) * free[:, None]  # -1..1
    colours = torch.tensor(s.backgrounds)
    number = torch.zeros(len(draws), dtype=torch.long)
    if len(colours) > 1:
        other = 1 + (chance[:, 2] * (len(colours) - 1)).long().clamp(max=len(colours) - 2)
        number = torch.where(chance[:, 1] < s.coloured, other, number)
    # Whole pixels of one kind where there is no colour: a third of the work.
    values = shown(pictures, colours[number]) if pictures.shape[-1] > 1 else _grey(pictures)
    if s.shift or s.scale or s.turn or s.slant:
        values = _moved(values, even[:, 3:8], s)
    if s.blur:
        values = _blurred(values, chance[:, 8] * free * s.blur)
    if s.contrast or s.inverted:
        lost = chance[:, 9] * free * s.contrast
        low, flip = lost * chance[:, 10], ((chance[:, 11] < s.inverted) & (free > 0))
        values = torch.where(flip[:, None, None, None], 1.0 - values, values)
        values = low[:, None, None, None] + values * (1.0 - lost)[:, None, None, None]
    if s.light:
        values = values * _light(even[:, 12:14], values.shape[-2], values.shape[-1], s.light)
    if s.noise:
        grain = torch.stack([torch.randn(values.shape[1:], generator=draw) for draw in draws])
        values = values + grain * (chance[:, 14] * free * s.noise)[:, None, None, None]
    return values.clamp(0, 1).expand(-1, 3, -1, -1)


def _grey(pictures: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).float() / 255.0  # [B,1,H,W]


def _moved(values: Tensor, even: Tensor, s: AugmentationSettings) -> Tensor:
    """[B,C,H,W] shifted, scaled, turned and slanted; the border's pixels are what comes in."""
    height, width = values.shape[-2:]
    angle = torch.deg2rad(even[:, 2] * s.turn)
    size = 1.0 + even[:, 3] * s.scale
    cosine, sine = angle.cos() / size, angle.sin() / size
    slant = even[:, 4] * s.slant
    # affine_grid wants, in halves of width and height, where a pixel of the result comes from
    across = torch.stack(
        [cosine, (slant * cosine - sine) * height / width, even[:, 0] * s.shift * 2 / width], 1
    )
    down = torch.stack(
        [sine * width / height, slant * sine + cosine, even[:, 1] * s.shift * 2 / height], 1
    )
    grid = F.affine_grid(torch.stack([across, down], 1), list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


def _blurred(values: Tensor, deviation: Tensor) -> Tensor:
    """[B,C,H,W] blurred by Gaussians of deviations [B]."""
    batch, channels = values.shape[:2]
    places = torch.arange(-_BLUR_TAPS, _BLUR_TAPS + 1).float()
    taps = torch.exp(-0.5 * (places / deviation.clamp_min(1e-2)[:, None]).square())  # [B,7]
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [B*C,7]
    flat = values.reshape(1, batch * channels, *values.shape[2:])
    edges = (_BLUR_TAPS,) * 4
    flat = F.pad(flat, edges, mode="replicate")
    flat = F.conv2d(flat, taps[:, None, :, None], groups=batch * channels)
    flat = F.conv2d(flat, taps[:, None, None, :], groups=batch * channels)
    return flat.reshape(values.shape)


def _light(even: Tensor, height: int, width: int, strength: float) -> Tensor:
    """[B,2] -> factors [B,1,H,W] that fall evenly from 1 on one side; 0: no difference."""
    down = torch.linspace(-1, 1, height)[None, :, None] * even[:, 0, None, None]
    across = torch.linspace(-1, 1, width)[None, None, :] * even[:, 1, None, None]
    most = even.abs().sum(1)[:, None, None]
    return 1.0 - strength * (most - down - across)[:, None] / 4.0
