"""Vector art to 64x64 pictures with alpha, and pictures to views (shift, scale, background)."""

from __future__ import annotations

import io
from typing import Any, NotRequired, TypedDict

import numpy as np
from PIL import Image

RENDER_VERSION = 2  # part of the cache key: raise it when pixels or records change
SUPERSAMPLE = 2
WHITE = (255, 255, 255)

# Centres of the copies of a composite, as fractions of the side.
CENTRES = {
    1: ((0.5, 0.5),),
    2: ((0.25, 0.5), (0.75, 0.5)),
    3: ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75)),
    4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}


class View(TypedDict):
    """How a stored picture is shown; a plain JSON object."""

    dx: int  # pixels to the right
    dy: int  # pixels down
    scale: float  # of the whole picture, about its centre
    background: list[int]  # red, green, blue, 0..255
    copies: NotRequired[int]  # 1 (default) to 4, laid out as in CENTRES


def rasterise(svg: str, size: int) -> np.ndarray:
    """An SVG as straight-alpha RGBA uint8 [size, size, 4], aspect kept, centred."""
    picture = _draw(svg, {"width": size * SUPERSAMPLE})
    if picture.height > picture.width:
        picture = _draw(svg, {"height": size * SUPERSAMPLE})
    return fit(picture, size)


def _draw(svg: str, side: dict[str, Any]) -> Image.Image:
    import resvg_py  # here, because only building the data needs it

    data = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, **side)
    return Image.open(io.BytesIO(data)).convert("RGBA")


def fit(picture: Image.Image, size: int) -> np.ndarray:
    """Any picture as straight-alpha RGBA uint8 [size, size, 4], aspect kept, centred."""
    picture = picture.convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    kernel = Image.Resampling.BOX if side % size == 0 else Image.Resampling.LANCZOS
    # Pillow multiplies by alpha before it averages RGBA, and divides afterwards.
    return np.asarray(square.resize((size, size), kernel))


def render_view(rgba: np.ndarray, view: View) -> np.ndarray:
    """The picture [S,S,4] (straight alpha, uint8) as one opaque RGB uint8 [S,S,3] view."""
    size = rgba.shape[0]
    side = round(size * view["scale"])
    if not 1 <= side <= size:
        raise ValueError(f"scale {view['scale']} is not in (0, 1]")
    if side != size:
        scaled = Image.fromarray(rgba).resize((side, side), Image.Resampling.HAMMING)
        rgba = np.asarray(scaled)
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = view["background"]
    for x, y in CENTRES[view.get("copies", 1)]:
        left = round(x * size - side / 2) + view["dx"]
        top = round(y * size - side / 2) + view["dy"]
        _paste(canvas, rgba, left, top)
    return canvas


def _paste(canvas: np.ndarray, rgba: np.ndarray, left: int, top: int) -> None:
    """Composite `rgba` onto `canvas` in place; what falls outside is cut off."""
    size, side = canvas.shape[0], rgba.shape[0]
    x0, x1 = max(left, 0), min(left + side, size)
    y0, y1 = max(top, 0), min(top + side, size)
    if x0 >= x1 or y0 >= y1:
        return
    part = rgba[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.uint32)
    below = canvas[y0:y1, x0:x1].astype(np.uint32)
    alpha = part[..., 3:]
    canvas[y0:y1, x0:x1] = (part[..., :3] * alpha + below * (255 - alpha) + 127) // 255


def plain_view(background: tuple[int, int, int] = WHITE) -> View:
    """The picture as it is, on one colour."""
    return {"dx": 0, "dy": 0, "scale": 1.0, "background": list(background)}
