"""Which pictures a command is about: files, folders, patterns, stdin, pages of PDF files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dromaius.cli import inputs
from dromaius.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    ".png .jpg .jpeg .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .avif .jp2 .j2k".split()
)
"""What counts as a picture in a folder; a file that is named may be called anything."""


@dataclass(frozen=True)
class Item:
    """One picture to come."""

    name: str
    page: int | None = None
    """Of a PDF, from 1."""

    @property
    def shown(self) -> str:
        return self.name if self.page is None else f"{self.name}, page {self.page}"


def items(sources: Sequence[str], pdf: bool) -> list[Item]:
    """All pictures that the arguments name; with `pdf` also each page of each PDF.

    Raises InputError for a folder or pattern without any, or a PDF that cannot be read.
    """
    inputs.at_most_one_stdin(list(sources))
    return [item for source in sources for item in _items(source, pdf)]


def _items(source: str, pdf: bool) -> Iterator[Item]:
    path = Path(source)
    if source == "-" or path.is_file():
        files = [source]
    elif path.is_dir():
        wanted = SUFFIXES | ({".pdf"} if pdf else set())
        found = sorted(os.scandir(path), key=lambda entry: entry.name)
        files = [e.path for e in found if Path(e.name).suffix.lower() in wanted and e.is_file()]
        if not files:
            raise InputError(f"the folder {source} holds no pictures")
    elif glob.has_magic(source):
        files = sorted(name for name in glob.glob(source, recursive=True) if Path(name).is_file())
        if not files:
            raise InputError(f"no file is called {source}")
    else:
        files = [source]  # absent: said when its turn comes, with the system's reason
    for name in files:
        yield from _pages(name, pdf)


def _pages(name: str, pdf: bool) -> Iterator[Item]:
    from dromaius.io.pdf import count_pages, is_pdf

    if name == "-" or not is_pdf(name):
        yield Item(name)
    elif pdf:
        yield from (Item(name, page) for page in range(1, count_pages(name) + 1))
    else:
        raise InputError(f"{name} is a PDF; dromaius read reads its pages")


def open_item(item: Item) -> Image:
    """The picture. Raises InputError naming it."""
    from dromaius.io.images import open_image
    from dromaius.io.pdf import render

    return open_image(item.name) if item.page is None else render(item.name, item.page)
