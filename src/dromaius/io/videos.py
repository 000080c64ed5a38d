"""Videos as lists of PIL frames: folders of pictures, lists of files, animated GIF and WebP."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dromaius.errors import InputError
from dromaius.files import atomic_path, read_bytes
from dromaius.io.images import MAX_FILE_BYTES, MAX_PIXELS, decode, open_image, open_raw, save_png

MAX_FRAMES = 10_000
MAX_TOTAL_PIXELS = 16 * MAX_PIXELS  # all frames together, 3 bytes each
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"}
_OURS = re.compile(r"frame_\d{5}\.png")


def read_frames(source: str | Path | Sequence[str | Path]) -> list[Image.Image]:
    """Reads the frames of a video as RGB images of one size.

    source: a folder of pictures (in the order of their names, 2 before 10), a list of files, or
    one animated file. Raises InputError when there are no frames, too many, or unequal sizes.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_dir():
            return _read_animation(path)
        files = [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES]
        files.sort(key=_natural)
        name = str(path)
    else:
        files = [Path(file) for file in source]
        name = "the list of frames"
    if not files:
        raise InputError(f"{name} holds no pictures")
    _check_count(len(files), name)
    frames: list[Image.Image] = []
    for file in files:
        frame = open_image(file)
        if frames and frame.size != frames[0].size:
            raise InputError(f"{file} is {_size(frame)}, but the first frame is {_size(frames[0])}")
        frames.append(frame)
        _check_pixels(frames, name)
    return frames


def save_frames(frames: Sequence[Image.Image], path: str | Path, fps: float = 8.0) -> None:
    """Writes a video: an animated .gif or .webp (lossless), else a folder of frame_00001.png ...

    A GIF holds at most 256 colours per frame. In a folder, frames of an earlier, longer video are
    removed. Raises InputError for no frames, unequal sizes, or a frame rate that is not positive.
    """
    if not frames:
        raise InputError("a video needs at least one frame")
    if len({frame.size for frame in frames}) != 1:
        raise InputError("the frames of a video must have one size")
    if not 0 < fps <= 1000:
        raise InputError(f"the frame rate must be above 0 and at most 1000, not {fps}")
    path = Path(path)
    kind = path.suffix.lower()
    if kind in (".gif", ".webp"):
        first, rest = frames[0], list(frames[1:])
        options: dict[str, object] = {"lossless": True} if kind == ".webp" else {"optimize": False}
        with atomic_path(path) as temporary:
            first.save(
                temporary,
                format=kind[1:].upper(),
                save_all=True,
                append_images=rest,
                duration=round(1000 / fps),
                loop=0,
                **options,
            )
        return
    if kind:
        raise InputError(f"cannot write {kind} files; use .gif, .webp or a folder")
    written = [path / f"frame_{index:05d}.png" for index in range(1, len(frames) + 1)]
    for frame, file in zip(frames, written, strict=True):
        save_png(frame, file)
    for old in path.iterdir():
        if _OURS.fullmatch(old.name) and old not in written:
            old.unlink()


def _read_animation(path: Path) -> list[Image.Image]:
    name = str(path)
    with open_raw(read_bytes(path, MAX_FILE_BYTES), name) as image:
        count = getattr(image, "n_frames", 1)
        _check_count(count, name)
        frames: list[Image.Image] = []
        for index in range(count):
            try:
                image.seek(index)
            except Exception as error:  # Pillow's readers raise many kinds for damaged files
                raise InputError(f"{name} is damaged at frame {index + 1}") from error
            frames.append(decode(image, name))
            _check_pixels(frames, name)
    return frames


def _check_count(count: int, name: str) -> None:
    if count > MAX_FRAMES:
        raise InputError(f"{name} has {count} frames; at most {MAX_FRAMES} are read")


def _check_pixels(frames: list[Image.Image], name: str) -> None:
    if len(frames) * frames[0].width * frames[0].height > MAX_TOTAL_PIXELS:
        raise InputError(f"{name} is too large: more than {MAX_TOTAL_PIXELS} pixels in all")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts runs of digits as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
