"""Where pictures go: their names, a test that they can be written, files, devices and stdout."""

import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dromaius.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

STDOUT = Path("-")
"""Stands for standard output among the paths of pictures."""

MAX_NAME = 60  # characters of a file name made of a prompt; file systems allow 255 bytes


Owned = Callable[[int, Path], bool]


def picture_paths(
    output: str | None, titles: Sequence[str], is_own: Owned = lambda place, path: False
) -> list[Path]:
    """One path a picture, checked to be writable now, before any work is done.

    Args:
        output: `-` for stdout; a name ending in .png (numbered where there are several pictures);
            a folder. None is the current folder.
        titles: what each picture shows. In a folder, file names are made of it, and such a name is
            never one that exists.
        is_own: whether a file that exists is picture number `place` itself: then it keeps its name.

    Raises:
        InputError: a path cannot be written, or several pictures are to go to one place.
    """
    if output == "-":
        if len(titles) > 1:
            raise InputError(f"-o - takes one picture, not {len(titles)}; give a folder")
        if sys.stdout is None or sys.stdout.isatty():
            raise InputError("-o - would write a PNG to the terminal; redirect it")
        return [STDOUT]
    if output is None or _is_folder(output):
        paths = _named(Path(output or "."), titles, is_own)
    else:
        path = Path(output)
        if path.suffix.lower() != ".png" and not _is_device(path):
            raise InputError(f"pictures are written as PNG: {path} must end in .png")
        paths = [path] if len(titles) == 1 else _numbered(path, len(titles))
    for path in paths:
        check_writable(path)
    return paths


def preview_paths(preview: str, paths: Sequence[Path]) -> list[Path]:
    """Where the pictures of `paths` are shown while they grow: a name.png, or a folder.

    Raises InputError if one cannot be written.
    """
    if _is_folder(preview):
        names = ["preview.png" if path == STDOUT else path.name for path in paths]
        shown = [Path(preview) / name for name in names]
    elif Path(preview).suffix.lower() == ".png":
        shown = [Path(preview)] if len(paths) == 1 else _numbered(Path(preview), len(paths))
    else:
        raise InputError(f"previews are written as PNG: {preview} must end in .png")
    for path in shown:
        check_writable(path)
    return shown


def check_apart(others: Sequence[Path], paths: Sequence[Path]) -> None:
    """Raises InputError if one of `others` is where a picture of `paths` goes."""
    taken = {path.absolute() for path in paths}
    for path in others:
        if path.absolute() in taken:
            raise InputError(
                f"{path} is to hold a picture: give --preview and --state other places"
            )


def check_writable(path: Path) -> None:
    """Raises InputError unless a file can be made at `path`; leaves nothing behind.

    A folder that is yet to be made is not made here: its nearest existing parent is tried.
    """
    try:
        if path == STDOUT or _is_device(path):
            return  # whoever reads a pipe would see a trial
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
        folder = path.absolute().parent
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
        path.exists()  # a name that is too long is an error here
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def partial_path(path: Path) -> Path:
    """Where an unfinished picture is kept: name.partial.png."""
    return path.with_name(f"{path.stem}.partial.png")


def write_picture(image: "Image", path: Path, info: Mapping[str, str] | None = None) -> None:
    """Writes a whole PNG to a file (atomically), a device or stdout.

    Raises InputError for a file that cannot be written, OSError for stdout.
    """
    from dromaius.io.images import save_png

    if not _is_device(path):
        return save_png(image, path, info)
    with tempfile.TemporaryDirectory() as folder:  # a device is written to, never replaced
        whole = Path(folder) / "whole.png"
        save_png(image, whole, info)
        try:
            path.write_bytes(whole.read_bytes())
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error


def _is_device(path: Path) -> bool:
    return path.exists() and not (path.is_file() or path.is_dir())


def _is_folder(output: str) -> bool:
    path = Path(output)
    return output.endswith("/") or path.is_dir() or not (path.suffix or path.exists())


def _numbered(path: Path, count: int) -> list[Path]:
    """out.png -> out-1.png, out-2.png ...; zeros in front keep their order by name."""
    if _is_device(path):
        raise InputError(f"{path} takes one picture, not {count}; give a folder")
    digits = len(str(count))
    numbers = range(1, count + 1)
    return [path.with_name(f"{path.stem}-{i:0{digits}}{path.suffix}") for i in numbers]


def _named(folder: Path, titles: Sequence[str], is_own: Owned) -> list[Path]:
    """a-red-apple.png, or 1-a-red-apple.png ... for several."""
    digits = len(str(len(titles)))
    paths = []
    for place, title in enumerate(titles):
        stem = re.sub(r"\W+", "-", title.lower())[:MAX_NAME].strip("-_") or "picture"
        if len(titles) > 1:
            stem = f"{place + 1:0{digits}}-{stem}"
        paths.append(_unused(folder / f"{stem}.png", place, is_own))
    return paths


def _unused(path: Path, place: int, is_own: Owned) -> Path:
    """The path, with -2, -3 ... before the suffix if that is what it takes to be a new one."""
    candidate, i = path, 1
    while candidate.exists() and not is_own(place, candidate):
        i += 1
        candidate = path.with_name(f"{path.stem}-{i}.png")
    return candidate
