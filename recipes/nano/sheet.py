"""Draw the sheet of eight pictures that README shows: two rows of four, each with its prompt.

    python recipes/nano/sheet.py                      # -> docs/images/sheet.png
    python recipes/nano/sheet.py --model runs/nano/model --out /tmp/sheet.png

Seeds are fixed, nothing is chosen by hand; run it again after a change of the weights. README
lists the same prompts in the same order (a test compares them). The font that writes both scripts
is ZCOOL XiaoWei (OFL-1.1), from the npm registry as the pictures are; it is used to draw the sheet
and is not part of the package.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from download import fetch, members, registry
from sources import Package

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    from dromaius.pipelines.emu3 import Emu3

PROMPTS = (
    "red apple, noto style",
    "a tiger in fluent-flat style",
    "woman firefighter, noto-v1 style",
    "a rocket, fluent-color style",
    "熊猫，noto 风格",
    "章鱼，fluent-flat 风格",
    "蓝色背景上的雪人",
    "生日蛋糕，fluent-color 风格",
)
SEED = 7
"""Picture i is drawn with SEED + i."""
COLUMNS = 4

FONT = Package(
    "@fontsource/zcool-xiaowei",
    "5.3.0",
    "sha512-iRuUPl9ONFbYzi6JcEshpE4VedINyzQ4hv0Z5XEt0cB0pMPiQeqc2Qvv1NwJCNzkPwG02VCdcO+cF2K8ylYn2A==",
    "OFL-1.1",
)
FONT_FILE = "files/zcool-xiaowei-chinese-simplified-400-normal.woff"

# Pixels of the sheet.
SCALE = 3
TEXT = 18
GAP = 16
CAPTION = 2 * TEXT + 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="nano", help="nano, or a folder")
    parser.add_argument("--out", type=Path, default=Path("docs/images/sheet.png"))
    parser.add_argument("--downloads", type=Path, default=Path("runs/nano/downloads"))
    asked = parser.parse_args()
    import dromaius
    from dromaius.io.images import save_png

    font = read_font(asked.downloads)
    pictures = draw(dromaius.load(asked.model, device="cpu"))
    save_png(sheet(pictures, PROMPTS, font), asked.out)
    print(asked.out)


def read_font(downloads: Path) -> FreeTypeFont:
    """The font, from the package cache; downloaded once, checksummed."""
    [(_, content)] = members(fetch(FONT, downloads, registry()), FONT_FILE, FONT_FILE)
    return ImageFont.truetype(io.BytesIO(content), TEXT)


def draw(model: Emu3) -> list[Image.Image]:
    """One picture of each prompt, with what the checkpoint says of guidance and choice."""
    pictures = model.generate_image(list(PROMPTS), seed=SEED)
    assert isinstance(pictures, list)  # a list of prompts gives a list
    return pictures


def sheet(
    pictures: list[Image.Image], captions: tuple[str, ...], font: FreeTypeFont
) -> Image.Image:
    """The pictures in rows of four, SCALE times as large, each above its caption."""
    side = SCALE * max(max(picture.size) for picture in pictures)
    rows = -(-len(pictures) // COLUMNS)
    width = COLUMNS * (side + GAP) + GAP
    page = Image.new("RGB", (width, rows * (side + CAPTION) + GAP), "white")
    pen = ImageDraw.Draw(page)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = GAP + place % COLUMNS * (side + GAP)
        y = GAP + place // COLUMNS * (side + CAPTION)
        page.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, y))
        lines = "\n".join(wrapped(caption, font, side))
        pen.multiline_text(
            (x + side / 2, y + side + 8), lines, fill="#333", font=font, anchor="ma", align="center"
        )
    return page


def wrapped(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """The text in lines that fit, broken at spaces."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


if __name__ == "__main__":
    main()
