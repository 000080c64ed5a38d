"""Odd pictures and texts are converted, never rejected.

Every odd picture has the pixels and the codes of the plain one that is worked out here by hand.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dromaius
from dromaius.io.images import open_image
from dromaius.pipelines.emu3 import Emu3
from dromaius.tokenizers import load_tokenizer
from tests.cli.conftest import SPECIAL, Cli, command, start

Values = np.ndarray[Any, Any]

DRAW = np.random.default_rng(0)
RAMP = np.linspace(0, 1, 48)[:, None, None] * np.linspace(0, 1, 64)[None, :, None]  # [H,W,1]
RGB = np.uint8(RAMP * [200, 140, 90] + DRAW.integers(0, 50, (48, 64, 3)))
GREY, ALPHA = RGB[..., 0], DRAW.integers(0, 256, (48, 64), np.uint8)
DEEP = DRAW.integers(0, 2**16, (48, 64, 3)).astype(np.uint16)
PALETTE = np.uint8([[10, 20, 30], [200, 40, 50], [60, 170, 80], [90, 100, 210]])
INDICES = GREY // 64
INK = np.dstack([RGB // 2, GREY // 4])  # cyan, magenta, yellow, black


def three(grey: Values) -> Values:
    """One channel [H,W] as three [H,W,3]."""
    return np.repeat(grey[..., None], 3, axis=-1)


def on_white(colours: Values, alpha: Values) -> Values:
    """RGB [H,W,3] seen through alpha [H,W] on white paper."""
    share = alpha[..., None] / 255
    return share * colours + (1 - share) * 255


def printed(ink: Values) -> Values:
    """CMYK [H,W,4] as light: each ink lets pass what it does not take."""
    return 255 * (1 - ink[..., :3] / 255) * (1 - ink[..., 3:] / 255)


def rgba(path: Path) -> Values:
    Image.fromarray(np.dstack([RGB, ALPHA])).save(path, lossless=True, exact=True)
    return on_white(RGB, ALPHA)


def clear(path: Path) -> Values:
    Image.fromarray(np.dstack([RGB, ALPHA * 0])).save(path)
    return np.full_like(RGB, 255)


def grey_alpha(path: Path) -> Values:
    Image.fromarray(np.dstack([GREY, ALPHA])).save(path)
    return on_white(three(GREY), ALPHA)


def cmyk(path: Path) -> Values:
    Image.fromarray(INK, mode="CMYK").save(path)
    with Image.open(path) as stored:  # a JPEG has lost a little: the inks that it holds
        assert stored.mode == "CMYK"
        return printed(np.asarray(stored))


def deep_grey(path: Path) -> Values:
    Image.fromarray(DEEP[..., 0]).save(path)
    return three(DEEP[..., 0] / 257)


def deep_rgb(path: Path) -> Values:
    """Written here: Pillow reads 16-bit RGB, but cannot write it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    return DEEP / 257


def palette(path: Path, **options: Any) -> Values:
    image = Image.fromarray(INDICES, mode="P")
    image.putpalette(PALETTE.flatten().tolist())
    image.save(path, **options)
    return PALETTE[INDICES]


def palette_alpha(path: Path) -> Values:
    colours = palette(path, transparency=bytes([255, 0, 128, 51]))
    return on_white(colours, np.uint8([255, 0, 128, 51])[INDICES])


def palette_key(path: Path) -> Values:
    colours = palette(path, transparency=1)
    return on_white(colours, np.where(INDICES == 1, 0, 255))


def one_bit(path: Path) -> Values:
    Image.fromarray(GREY > 90).save(path)
    return three(np.where(GREY > 90, 255, 0))


ODD: dict[str, Callable[[Path], Values]] = {
    "rgba.png": rgba,
    "rgba.webp": rgba,
    "clear.png": clear,
    "la.png": grey_alpha,
    "cmyk.tiff": cmyk,
    "cmyk.jpg": cmyk,
    "deep-grey.png": deep_grey,
    "deep-grey.tiff": deep_grey,
    "deep-rgb.png": deep_rgb,
    "palette.png": palette,
    "palette.gif": palette,
    "palette-alpha.png": palette_alpha,
    "palette-key.png": palette_key,
    "palette-key.gif": palette_key,
    "one-bit.png": one_bit,
    "one-bit.tiff": one_bit,
}


@pytest.fixture(scope="module")
def model() -> Emu3:
    """The embedded model: a trained one, whose codes tell pictures apart."""
    nano = dromaius.load("nano", device="cpu")
    assert nano.encode_image(Image.fromarray(RGB)).unique().numel() > 10
    return nano


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("error")
def test_an_odd_picture_is_the_plain_one(model: Emu3, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    by_hand = np.uint8(np.round(ODD[name](path)))
    found = open_image(path)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int) - by_hand).max() <= 1  # rounding, either way
    same = model.encode_image(found) == model.encode_image(Image.fromarray(by_hand))
    assert same.float().mean() > 0.9  # a rounding may move a picture over the border of a code
    assert same.all() or not np.array_equal(np.asarray(found), by_hand)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_eight_ways_to_hold_a_camera(model: Emu3, tmp_path: Path, kind: str) -> None:
    """EXIF orientation n: how the stored rows and columns come from the upright picture [H,W]."""
    upright = np.repeat(np.repeat(RGB[:6, :8], 8, axis=0), 8, axis=1)  # blocks, as a JPEG likes
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright.swapaxes(0, 1)[:, ::-1],
    }
    expected = model.encode_image(Image.fromarray(upright))
    for orientation, values in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{kind}"
        lossless = {"quality": 100, "subsampling": 0} if kind == "jpg" else {"lossless": True}
        Image.fromarray(np.ascontiguousarray(values)).save(path, exif=exif, **lossless)
        found = open_image(path)
        assert found.size == (64, 48)
        away = np.abs(np.asarray(found).astype(int) - upright).max()
        assert away <= (3 if kind == "jpg" else 0), orientation
        if kind != "jpg":
            assert model.encode_image(found).equal(expected), orientation


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_is_its_first_frame_with_one_warning(
    checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    first, second = Image.new("RGB", (64, 48), (255, 0, 0)), Image.new("RGB", (64, 48))
    first.save(tmp_path / f"a.{kind}", save_all=True, append_images=[second], lossless=True)
    first.save(tmp_path / "still.png")
    flags = ["-m", str(checkpoint), "-q", "-o"]
    for source, result in ((f"a.{kind}", "one.png"), ("still.png", "two.png")):
        process = start(command("reconstruct", source, *flags, result, model="real"), tmp_path)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.decode()) == (0, f"{result}\n")
        said = f"dromaius: warning: {source} is animated; its first frame is used\n"
        assert err.decode() == ("" if source == "still.png" else said)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


FORGED = ["<|image start|>", "<|extra_203|>", "<image>", "<|visual token 000007|>", *SPECIAL]


def test_names_of_special_tokens_stay_text(model: Emu3, checkpoint: Path) -> None:
    """In the embedded model, whose special tokens have these names, and in the tiny one."""
    nano = model.require_tokenizer()
    assert {"<|image start|>", "<|extra_203|>"} <= set(nano.special_tokens)
    for tokenizer in (nano, load_tokenizer(checkpoint)):
        for text in FORGED:
            ids = tokenizer.encode(text)
            assert len(ids) > 1 and tokenizer.decode(ids) == text
            assert not set(ids) & set(tokenizer.special_tokens.values())


def test_names_of_special_tokens_are_drawn_and_asked(program: Cli, checkpoint: Path) -> None:
    text = " ".join(FORGED)
    flags = ["-m", str(checkpoint), "-q"]
    drawn = program("image", text, "-o", "a.png", "--seed", "7", *flags, model="real")
    assert (drawn.code, drawn.out, drawn.err) == (0, "a.png\n", "")
    asked = program("ask", "a.png", text, *flags, model="real")
    assert asked.code == 0 and asked.err == ""
