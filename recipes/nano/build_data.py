"""Download the emoji packages and draw the nano pictures.

    python recipes/nano/build_data.py --out runs/nano/data

writes pictures.npy (uint8 [N, size, size, 4], straight alpha), pictures.jsonl (one record per
picture) and data.json (counts, checksums, licences). A second run is instant: packages and drawn
styles are cached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from download import DownloadError, fetch, registry
from duplicates import first_copies
from icons import Drawing, iconify_drawings, name_table, webp_drawings
from names import Emoji, read_names
from render import RENDER_VERSION, plain_view, render_view
from sources import NAME_TABLES, NAMES, STYLES, Package
from splits import SPLITS, held_combo, held_emoji, held_pair, split_of

BLANK = 3.0  # pictures whose pixels on white vary less than this (standard deviation) are left out


def download_all(styles: Sequence[str], folder: Path, progress: Progress) -> dict[str, Path]:
    """Tarballs of the named styles, of the name tables and of the names (key "names")."""
    packages: dict[str, Package] = {"names": NAMES}
    packages |= {style: STYLES[style].package for style in (*NAME_TABLES, *styles)}
    base, found = registry(), {}
    task = progress.add_task("download", total=len(packages))
    for key, package in packages.items():
        progress.update(task, description=f"download {package.name}")
        found[key] = fetch(package, folder, base)
        progress.advance(task)
    return found


def drawings(style: str, tarballs: dict[str, Path], emoji: Sequence[Emoji]) -> list[Drawing]:
    """What the style's package has for the given emoji, in their order."""
    if STYLES[style].kind == "webp":
        return list(webp_drawings(tarballs[style], emoji))
    table = name_table([tarballs[name] for name in NAME_TABLES])
    return list(iconify_drawings(tarballs[style], emoji, table))


def record(emoji: Emoji, style: str, first_cp: str) -> dict[str, Any]:
    """One line of pictures.jsonl; `first_cp` is the first emoji of the style that looks so."""
    return {
        "style": style,
        "cp": emoji.cp,
        "base_cp": emoji.base_cp,
        "en": emoji.en,
        "zh": emoji.zh,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "keywords_en": list(emoji.keywords_en),
        "keywords_zh": list(emoji.keywords_zh),
        "tone": emoji.tone,
        "is_base": emoji.is_base,
        "licence": STYLES[style].package.licence,
        "dup_of": first_cp if first_cp != emoji.cp else None,
        "held_emoji": held_emoji(emoji.base_cp),
        "held_pair": held_pair(emoji.cp, style),
        "held_combo": held_combo(emoji.base_cp, emoji.tone, style),
    }


def draw_style(
    style: str, size: int, found: Sequence[Drawing], progress: Progress
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Pictures [n, size, size, 4] and their records; what fails or is blank is left out."""
    pictures, whites, drawn = [], [], []
    for emoji, draw in progress.track(found, description=f"draw {style}"):
        try:
            picture = draw(size)
        except (ValueError, OSError) as error:
            progress.console.print(f"{style}: {emoji.en} left out: {str(error)[:80]}")
            continue
        on_white = render_view(picture, plain_view())
        if on_white.std() < BLANK:
            progress.console.print(f"{style}: {emoji.en} left out: blank on white")
            continue
        pictures.append(picture)
        whites.append(on_white)
        drawn.append(emoji)
    if not pictures:
        return np.empty((0, size, size, 4), np.uint8), []
    first = first_copies(np.stack(whites))
    records = [record(emoji, style, drawn[i].cp) for emoji, i in zip(drawn, first, strict=True)]
    return np.stack(pictures), records


def cached_style(
    style: str,
    size: int,
    tarballs: dict[str, Path],
    emoji: Sequence[Emoji],
    cache: Path,
    progress: Progress,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """`draw_style`, remembered on disk under a name that depends on everything that matters."""
    fingerprint = [RENDER_VERSION, STYLES[style].package.integrity, NAMES.integrity, size]
    key = json.dumps([*fingerprint, *(one.cp for one in emoji)]).encode()
    stem = cache / f"{style}-{hashlib.sha256(key).hexdigest()[:12]}"
    array, lines = stem.with_suffix(".npy"), stem.with_suffix(".jsonl")
    if array.exists() and lines.exists():  # the records are written last
        return np.load(array, mmap_mode="r"), read_lines(lines)
    pictures, records = draw_style(style, size, drawings(style, tarballs, emoji), progress)
    cache.mkdir(parents=True, exist_ok=True)
    write_array(array, [pictures], size)
    write_lines(lines, records)
    return pictures, records


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """A JSON Lines file, whole or not at all."""
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))


def write_array(path: Path, parts: Sequence[np.ndarray], size: int) -> None:
    """The parts one after the other as one .npy file, whole or not at all."""
    partial = path.with_name(path.name + ".part")
    shape = (sum(len(part) for part in parts), size, size, 4)
    with partial.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).tobytes())
    os.replace(partial, path)


def summary(records: Sequence[dict[str, Any]], array: Path, size: int) -> dict[str, Any]:
    """What data.json holds: facts for the model card."""
    styles = list(dict.fromkeys(one["style"] for one in records))
    packages = [NAMES, *(STYLES[style].package for style in styles)]
    with array.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def counts(of: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "pictures": len(of),
            "base": sum(one["is_base"] for one in of),
            "duplicates": sum(one["dup_of"] is not None for one in of),
            "groups": dict(Counter(one["group"] for one in of)),
            "splits": {split: sum(split_of(one) == split for one in of) for split in SPLITS},
        }

    return {
        "size": size,
        "pictures_sha256": digest,
        "packages": [
            {
                "name": one.name,
                "version": one.version,
                "licence": one.licence,
                "integrity": one.integrity,
            }
            for one in packages
        ],
        "total": counts(records),
        "styles": {
            style: counts([one for one in records if one["style"] == style]) for style in styles
        },
    }


def print_counts(data: dict[str, Any]) -> None:
    """The table of counts, on stdout."""
    table = Table("style", "pictures", "base", "dup", *SPLITS)
    for style, of in [*data["styles"].items(), ("all", data["total"])]:
        splits = (of["splits"][split] for split in SPLITS)
        row = (of["pictures"], of["base"], of["duplicates"], *splits)
        table.add_row(style, *map(str, row))
    groups = Table("group", *data["styles"], "all")
    for group in data["total"]["groups"]:
        columns = [*data["styles"].values(), data["total"]]
        groups.add_row(group, *(str(of["groups"].get(group, 0)) for of in columns))
    console = Console(width=110)
    console.print(table, groups)


def build(
    out: Path,
    styles: Sequence[str],
    groups: Sequence[str] | None,
    limit: int | None,
    size: int,
    downloads: Path,
) -> dict[str, Any]:
    """Write pictures.npy, pictures.jsonl and data.json into `out`; returns data.json's content."""
    with Progress(console=Console(stderr=True)) as progress:
        tarballs = download_all(styles, downloads, progress)
        emoji = read_names(tarballs["names"])
        if groups is not None:
            known = {one.group for one in emoji}
            if unknown := sorted(set(groups) - known):
                raise ValueError(f"unknown group {unknown[0]!r}; known: {', '.join(sorted(known))}")
            emoji = [one for one in emoji if one.group in groups]
        emoji = emoji[:limit]
        parts, records = [], []
        for style in styles:
            cache = out / "cache"
            pictures, lines = cached_style(style, size, tarballs, emoji, cache, progress)
            parts.append(pictures)
            records += lines
    out.mkdir(parents=True, exist_ok=True)
    write_array(out / "pictures.npy", parts, size)
    write_lines(out / "pictures.jsonl", records)
    data = summary(records, out / "pictures.npy", size)
    write_text(out / "data.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    shipped = [style for style, one in STYLES.items() if one.shipped]
    parser = argparse.ArgumentParser(description="Build the nano pictures.")
    parser.add_argument("--out", type=Path, default=Path("runs/nano/data"))
    parser.add_argument("--downloads", type=Path, help="package cache (default: OUT/../downloads)")
    parser.add_argument("--styles", default=",".join(shipped), help=f"of {', '.join(STYLES)}")
    parser.add_argument("--groups", help="emoji groups, comma-separated (default: all)")
    parser.add_argument("--limit", type=int, help="only the first N emoji")
    parser.add_argument("--size", type=int, default=64, help="side of a picture in pixels")
    asked = parser.parse_args(arguments)
    chosen = asked.styles.split(",")
    if unknown := [style for style in chosen if style not in STYLES]:
        parser.error(f"unknown style {unknown[0]!r}; known: {', '.join(STYLES)}")
    if asked.size < 4 or asked.size % 4:
        parser.error(f"--size {asked.size} is not a positive multiple of 4")
    styles = [style for style in STYLES if style in chosen]  # the order numbers the pictures
    groups = asked.groups.split(",") if asked.groups else None
    downloads = asked.downloads or asked.out.parent / "downloads"
    try:
        data = build(asked.out, styles, groups, asked.limit, asked.size, downloads)
    except (DownloadError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_counts(data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
