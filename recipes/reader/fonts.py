"""The typefaces: pinned npm packages, the faces in them, and which glyphs a face really has.

    python recipes/reader/fonts.py            # download all of them, 100 MB, once

`fonts.txt` pins every package with its SHA-512 and says whether training may see the family.
Families of one maker that share shapes (Lato and Carlito, PT Sans and PT Serif, both B612) stand on
the same side.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ImageFont

sys.path.append(str(Path(__file__).resolve().parents[1] / "nano"))  # its downloads serve here too

from download import DownloadError, fetch, members, registry  # noqa: E402
from sources import Package  # noqa: E402

LIST = Path(__file__).with_name("fonts.txt")
WORDS = Package(
    "an-array-of-english-words",
    "2.0.0",
    "sha512-FXnNvZSOI27kkKXeLSquhaTGP7z198UOQ4txaYO9fCfrjCh+D5SV7G7XqzEH0229+pAi4cjBEZ4WIQYgjKtO7Q==",
    "MIT",
)
CUTS = ("400-normal", "700-normal", "400-italic", "300-normal")
"""Weight and slope of the faces that are taken of a family, where it has them."""
CACHE = Path("runs/reader/downloads")
PRINTABLE = "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Family:
    """One typeface family. `held`: training never sees it."""

    name: str
    package: Package
    held: bool


@dataclass(frozen=True, eq=False)
class Face:
    """One cut of a family, as the bytes of a WOFF2 file."""

    family: Family
    cut: str
    content: bytes

    @cache  # noqa: B019  # faces live as long as the script, and unpacking one takes long
    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at `size` pixels per em."""
        return ImageFont.truetype(io.BytesIO(self.content), size)

    @property
    def complete(self) -> bool:
        """Whether each printable ASCII character has ink of its own.

        A missing glyph is drawn as the font's box; capitals for small letters would teach errors.
        """
        font = self.at(32)

        def ink(character: str) -> bytes:
            mask = font.getmask(character)
            return bytes(str(mask.size), "ascii") + bytes(mask)

        absent = ink("\U0010fffd")
        inks = [ink(character) for character in PRINTABLE[1:]]
        letters = zip("abcdefghijklmnpqrtuy", "ABCDEFGHIJKLMNPQRTUY", strict=True)
        return absent not in inks and all(ink(a) != ink(b) for a, b in letters)


def families() -> list[Family]:
    """All families of `fonts.txt`, in its order."""
    found = []
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, version, licence, integrity, side = line.split()
        package = Package(f"@fontsource/{name}", version, integrity, licence)
        found.append(Family(name, package, side == "held"))
    return found


def faces(family: Family, folder: Path, base: str) -> Iterator[Face]:
    """The complete faces of a family; its package is downloaded if it is not in `folder`."""
    tarball = fetch(family.package, folder, base)
    wanted = {f"files/{family.name}-latin-{cut}.woff2": cut for cut in CUTS}
    for path, content in members(tarball, "files/", ".woff2"):
        if cut := wanted.get(path):
            face = Face(family, cut, content)
            if face.complete:
                yield face


def main(arguments: Sequence[str] | None = None) -> int:
    """Downloads everything."""
    parser = argparse.ArgumentParser(description="Download the typefaces and the words.")
    parser.add_argument("--cache", type=Path, default=CACHE)
    asked = parser.parse_args(arguments)
    base, packages = registry(), [WORDS, *(one.package for one in families())]
    try:
        with ThreadPoolExecutor(8) as pool:
            for path in pool.map(lambda package: fetch(package, asked.cache, base), packages):
                print(path)
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
