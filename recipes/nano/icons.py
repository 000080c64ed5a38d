"""Finds each emoji's drawing in a style's package."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from download import members
from names import Emoji, code_points, slug
from render import fit, rasterise

# A drawing: the emoji, and a function that makes the RGBA picture of a given size.
Drawing = tuple[Emoji, Callable[[int], np.ndarray]]


def name_table(tarballs: Sequence[Path]) -> dict[str, list[str]]:
    """Code points -> icon names, from the packages that carry such a table."""
    table: dict[str, list[str]] = {}
    for tarball in tarballs:
        for _, data in members(tarball, prefix="chars.json"):
            for hexcode, icon in json.loads(data).items():
                table.setdefault(code_points(hexcode), []).append(icon)
    return table


def iconify_drawings(
    tarball: Path, emoji: Sequence[Emoji], table: dict[str, list[str]]
) -> Iterator[Drawing]:
    """The drawings of an Iconify package: one JSON file with the SVG body of every icon."""
    files = {name: json.loads(data) for name, data in members(tarball, suffix=".json")}
    icons = files["icons.json"]
    own = {code_points(key): icon for key, icon in files.get("chars.json", {}).items()}
    for one in emoji:
        guess = slug(one.en)
        # noto-v1 says "flag-for-..." where the other sets say "flag-..."
        by_name = [*table.get(one.cp, ()), guess, guess.replace("flag-", "flag-for-")]
        names = [own[one.cp]] if one.cp in own else by_name
        icon = next((found for name in names if (found := find_icon(icons, name))), None)
        if icon is not None:
            yield one, _svg_drawing(svg_text(icon, icons))


def find_icon(icons: dict[str, Any], name: str, depth: int = 0) -> dict[str, Any] | None:
    """The icon of that name, through aliases; None when absent or when the alias turns it."""
    if name in icons["icons"]:
        return dict(icons["icons"][name])
    alias = icons.get("aliases", {}).get(name)
    if alias is None or depth >= 5 or alias.keys() & {"rotate", "hFlip", "vFlip"}:
        return None
    parent = find_icon(icons, alias["parent"], depth + 1)
    return parent and parent | {key: value for key, value in alias.items() if key != "parent"}


def svg_text(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    """A whole SVG document for an icon's body; sizes the icon lacks are the set's."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{icon['body']}</svg>"
    )


def _svg_drawing(svg: str) -> Callable[[int], np.ndarray]:
    return lambda size: rasterise(svg, size)


def webp_drawings(tarball: Path, emoji: Sequence[Emoji]) -> Iterator[Drawing]:
    """The drawings of fluent-3d: one WebP file per emoji, named by its code points.

    Its country flags are left out: Microsoft's MIT release has none, so their
    owner is not known.
    """
    files = {
        swap_tones(code_points(Path(name).stem)): data
        for name, data in members(tarball, prefix="assets/", suffix=".webp")
    }
    for one in emoji:
        if one.cp in files and one.group != "flags":
            yield one, _webp_drawing(files[one.cp])


def _webp_drawing(data: bytes) -> Callable[[int], np.ndarray]:
    return lambda size: fit(Image.open(io.BytesIO(data)), size)


def swap_tones(cp: str) -> str:
    """Tones 2 and 3 interchanged, as the file names of fluent-3d 1.1.0 are (nano.md 1.1)."""
    other = {"1f3fc": "1f3fd", "1f3fd": "1f3fc"}
    return "-".join(other.get(part, part) for part in cp.split("-"))
