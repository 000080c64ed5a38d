"""Pages of a PDF file as pictures, by pypdfium2 (an optional extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from dromaius.errors import InputError
from dromaius.files import read_bytes
from dromaius.io.images import MAX_FILE_BYTES, MAX_PIXELS

DPI = 200
"""Sharp enough for print of 8 points and more."""
_POINTS = 72  # of an inch
_MAGIC = b"%PDF-"


def is_pdf(source: str | Path) -> bool:
    """Whether a file begins as a PDF does, within the first kilobyte. A pipe is not looked into."""
    try:
        if not Path(source).is_file():
            return False
        with open(source, "rb") as file:
            return _MAGIC in file.read(1024)
    except OSError:
        return False


def count_pages(path: str | Path) -> int:
    """How many pages a PDF has. Raises InputError as `render` does."""
    document = _open(Path(path))
    try:
        return len(document)
    finally:
        document.close()


def render(path: str | Path, number: int) -> Image.Image:
    """Page `number` (from 1) as an RGB picture at DPI.

    A page so large that it would have more than 64 megapixels is drawn smaller.
    Raises InputError without pypdfium2, or for a file that is damaged or locked by a password.
    """
    document = _open(Path(path))
    try:
        page = document[number - 1]
        width, height = page.get_size()
        scale = min(DPI / _POINTS, (MAX_PIXELS / max(width * height, 1)) ** 0.5)
        return page.render(scale=scale).to_pil().convert("RGB")
    except RuntimeError as error:  # pypdfium2's own error is one
        raise InputError(f"{path}, page {number}, cannot be read: {error}") from error
    finally:
        document.close()


def _open(path: Path) -> Any:
    try:
        import pypdfium2
    except ImportError as error:
        raise InputError(
            f"{path}: reading PDF files needs pypdfium2 (pip install 'dromaius[pdf]')"
        ) from error
    content = read_bytes(path, MAX_FILE_BYTES)
    try:
        return pypdfium2.PdfDocument(content)
    except RuntimeError as error:
        reason = "it is locked by a password" if "assword" in str(error) else "it is damaged"
        raise InputError(f"{path} cannot be read: {reason}") from error
