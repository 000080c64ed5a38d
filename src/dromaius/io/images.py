"""Picture files -> PIL RGB -> pixels [B,3,H,W] and back (spec: emu3.md, section 4.3)."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from dromaius.errors import InputError
from dromaius.files import atomic_path, read_bytes

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 64 * 2**20  # 8192 x 8192
MAX_FILE_BYTES = 512 * 2**20
# decoders that read pixels only: Pillow's EPS reader, for one, starts another program
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
HALF = (0.5, 0.5, 0.5)

Source = str | Path | bytes | IO[bytes] | Image.Image


def open_image(source: Source) -> Image.Image:
    """Reads a picture as 8-bit RGB, rotated as its EXIF says and with alpha laid on white.

    source: path, "-" (standard input), the file's bytes, a binary file object, or a PIL image.
    The first frame of an animation is taken, with one warning. Raises InputError in one line
    naming the source when it is absent, not a picture, damaged, or above 64 megapixels.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    name, content = _content(source)
    with open_raw(content, name) as image:
        if image.format in _ANIMATED and getattr(image, "is_animated", False):
            warnings.warn(f"{name} is animated; its first frame is used", stacklevel=2)
        return decode(image, name)


def open_raw(content: bytes, name: str) -> Image.Image:
    """Opens a picture without decoding it, after a check of its format and size."""
    if not content:
        raise InputError(f"{name} is empty")
    Image.init()
    allowed = [kind for kind in FORMATS if kind in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; ours is the tighter bound and an error
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=allowed)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is larger than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        raise InputError(f"{name} is not a picture that can be read") from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise InputError(f"{name} is {size}, larger than {MAX_PIXELS} pixels")
    return image


def decode(image: Image.Image, name: str) -> Image.Image:
    """Decodes the current frame to RGB, as `open_image` does."""
    try:
        image.load()
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF says nothing about rotation; the pixels are fine
            pass
        return to_rgb(image)
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} is damaged: {reason}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a PIL image of any mode; transparent parts show white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey: I;16 and its byte orders, or I
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)  # [H,W]
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, height: int, width: int) -> Image.Image:
    """Bicubic resize on 8-bit values, as both upstream processors do."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def to_pixels(
    images: Sequence[Image.Image],
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    rescale: float = 1 / 255,
) -> torch.Tensor:
    """PIL RGB images of one size -> float32 pixels [B,3,H,W], (value * rescale - mean) / std."""
    import torch

    sizes = {image.size for image in images}
    if len(sizes) != 1:
        raise InputError(f"pictures of one batch must have one size, not {sorted(sizes)}")
    # one table per channel: 256 results, rounded to float32 after each step as upstream does
    values = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    shift, scale = (np.asarray(v, dtype=np.float32)[:, None] for v in (mean, std))  # [3,1] each
    table = (values[None] - shift) / scale  # [3,256]
    bytes_ = np.stack([np.asarray(to_rgb(image)) for image in images])  # [B,H,W,3]
    channels = [table[c][bytes_[..., c]] for c in range(3)]
    return torch.from_numpy(np.stack(channels, axis=1))  # [B,3,H,W]


def from_pixels(
    pixels: torch.Tensor, mean: Sequence[float] = HALF, std: Sequence[float] = HALF
) -> list[Image.Image]:
    """Pixels [B,3,H,W] -> PIL images: x * std + mean, times 255, clipped and truncated.

    Truncation, not rounding, is upstream's: 0.0 becomes 127.
    """
    import torch

    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(f"pixels must be [B,3,H,W], not {list(pixels.shape)}")
    values = pixels.detach().to(device="cpu", dtype=torch.float32)
    scale = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)
    shift = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
    bytes_ = ((values * scale + shift) * 255).nan_to_num(0).clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(one) for one in bytes_.permute(0, 2, 3, 1).numpy()]  # [B,H,W,3]


def save_png(image: Image.Image, path: str | Path, info: Mapping[str, str] | None = None) -> None:
    """Writes a PNG atomically ("-": standard output), with `info` as international text chunks.

    The same image and info give the same bytes.
    """
    chunks = PngImagePlugin.PngInfo()
    for key, text in (info or {}).items():
        chunks.add_itxt(key, text)
    if str(path) == "-":
        image.save(sys.stdout.buffer, format="PNG", pnginfo=chunks)
        sys.stdout.buffer.flush()
        return
    with atomic_path(Path(path)) as temporary:
        image.save(temporary, format="PNG", pnginfo=chunks)


def _content(source: str | Path | bytes | IO[bytes]) -> tuple[str, bytes]:
    """A name for messages, and the bytes."""
    if isinstance(source, bytes):
        return "the picture", source
    if isinstance(source, (str, Path)) and str(source) != "-":
        return str(source), read_bytes(Path(source), MAX_FILE_BYTES)
    stream: IO[bytes] = sys.stdin.buffer if isinstance(source, (str, Path)) else source
    name = "standard input" if stream is sys.stdin.buffer else getattr(stream, "name", "the file")
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{name} is larger than the allowed {MAX_FILE_BYTES} bytes")
    return str(name), content
