"""Pictures with a text each, as training reads them: from one file, or from a list of files.

A stored file (safetensors) holds `pictures` uint8 [N,H,W] or [N,H,W,C] (1 grey, 3 RGB, 4 RGB and
straight alpha), `texts` uint8 (their UTF-8, one behind the other) and `offsets` int64 [N+1]. A list
is JSON Lines with "image" (a path, from the list's folder on) and "text": a folder of pictures with
one such file is all that own data need. Legend: N pictures, B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dromaius.errors import InputError
from dromaius.files import atomic_path
from dromaius.io.images import open_image
from dromaius.io.jsonl import read_jsonl

LIST = ".jsonl"
FITS = ("pad", "stretch")
"""How a picture of another shape comes to the model's: see `fitted`."""
MAX_TEXT = 10_000
"""Characters of one text: more is no caption but a mistake."""


class TextPictures(Protocol):
    """Pictures, each with its text."""

    texts: Sequence[str]

    def pictures(self, rows: Sequence[int], height: int, width: int) -> Tensor:
        """uint8 [B,height,width,C]."""
        ...


def open_text_pictures(path: Path, fit: str = "pad") -> TextPictures:
    """A stored file, or a list (.jsonl) whose pictures are brought to a size as `fit` says.

    Raises InputError naming the file, and its line, when it cannot be used.
    """
    return ListedPictures(path, fit) if path.suffix == LIST else StoredPictures(path)


def write_text_pictures(path: Path, pictures: np.ndarray, texts: Iterable[str]) -> None:
    """Writes a stored file, whole or not at all. Raises InputError if the counts differ."""
    coded = [text.encode() for text in texts]
    if len(coded) != len(pictures) or not coded:
        raise InputError(f"{len(pictures)} pictures and {len(coded)} texts do not make a file")
    tensors = {
        "pictures": torch.from_numpy(np.ascontiguousarray(pictures, np.uint8)),
        "texts": torch.frombuffer(bytearray(b"".join(coded)), dtype=torch.uint8),
        "offsets": torch.tensor([0, *map(len, coded)]).cumsum(0),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


class StoredPictures:
    """A stored file; its pictures stay on the disk until they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises InputError naming the file when it is absent or something else."""
        self.path = path
        try:
            found = load_file(path)  # mapped, not read
            self.stored, offsets = found["pictures"], found["offsets"].tolist()
            content = found["texts"].numpy().tobytes()
            self.texts: Sequence[str] = [
                content[first:end].decode()
                for first, end in zip(offsets, offsets[1:], strict=False)
            ]
        except (OSError, SafetensorError, KeyError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a file of pictures with texts: {error}") from error
        if self.stored.dtype != torch.uint8 or self.stored.ndim not in (3, 4):
            kind, shape = self.stored.dtype, list(self.stored.shape)
            raise InputError(f"{path} must hold uint8 [N,H,W] or [N,H,W,C], not {kind} {shape}")
        if len(self.texts) != len(self.stored) or not self.texts:
            raise InputError(f"{path}: {len(self.stored)} pictures, {len(self.texts)} texts")

    def pictures(self, rows: Sequence[int], height: int, width: int) -> Tensor:
        """Raises InputError if the file's pictures have another size."""
        if self.stored.shape[1:3] != (height, width):
            found = f"{self.stored.shape[2]}x{self.stored.shape[1]}"
            raise InputError(f"{self.path} holds pictures of {found}, not {width}x{height}")
        chosen = self.stored[torch.as_tensor(rows)]
        return chosen[..., None] if chosen.ndim == 3 else chosen


class ListedPictures:
    """Pictures in files of their own, opened when they are asked for."""

    def __init__(self, path: Path, fit: str = "pad") -> None:
        """Raises InputError for a line that names no picture file or has no text."""
        self.fit = fit
        self.paths: list[Path] = []
        texts: list[str] = []
        for number, row in enumerate(read_jsonl(path), start=1):
            image, text = row.get("image"), row.get("text")
            where = f"{path}, picture {number}"
            if not isinstance(image, str) or not isinstance(text, str) or not text.strip():
                raise InputError(f'{where}: needs "image", a path, and "text", not empty')
            if len(text) > MAX_TEXT:
                raise InputError(f"{where}: the text has {len(text)} characters, over {MAX_TEXT}")
            file = path.parent / image
            if not file.is_file():
                raise InputError(f"{where}: there is no file {file}")
            self.paths.append(file)
            texts.append(text)
        if not texts:
            raise InputError(f"{path} lists no picture")
        self.texts: Sequence[str] = texts

    def pictures(self, rows: Sequence[int], height: int, width: int) -> Tensor:
        """Raises InputError naming a file that is no picture."""
        found = [fitted(open_image(self.paths[row]), height, width, self.fit) for row in rows]
        return torch.from_numpy(np.stack([np.asarray(one) for one in found]))


def fitted(image: Image.Image, height: int, width: int, fit: str = "pad") -> Image.Image:
    """An RGB picture in the model's size.

    "stretch" changes its shape, as transformers' ViTImageProcessor does. "pad" keeps it: the
    picture fills height or width, from the upper left corner on, and the rest has the colour of its
    border (the median).
    """
    if image.size == (width, height):
        return image
    if fit == "stretch":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    scale = min(height / image.height, width / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in np.median(border, axis=0))
    frame = Image.new("RGB", (width, height), colour)
    frame.paste(image.resize(size, Image.Resampling.BICUBIC), (0, 0))
    return frame
