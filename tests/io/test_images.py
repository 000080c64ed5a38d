"""Pictures in and out, against hand-computed values and transformers' Emu3 image processor."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dromaius.errors import InputError
from dromaius.io import images
from dromaius.io.images import from_pixels, open_image, resize, save_png, to_pixels, to_rgb


def noise(seed: int, height: int, width: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def pixel(content: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = open_image(content)
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def test_every_kind_of_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(1, 5, 7)
    content = encoded(picture)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (str(path), path, content, io.BytesIO(content), picture):
        assert open_image(source).tobytes() == picture.tobytes()
    with open(path, "rb") as file:
        assert open_image(file).tobytes() == picture.tobytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert open_image("-").tobytes() == picture.tobytes()


def test_alpha_is_laid_on_white() -> None:
    # 255 - alpha/255 * (255 - value), by hand: alpha 51 is one fifth
    assert pixel(encoded(Image.new("RGBA", (2, 2), (0, 100, 255, 0)))) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (2, 2), (0, 100, 255, 51)))) == (204, 224, 255)
    assert pixel(encoded(Image.new("RGBA", (2, 2), (9, 8, 7, 255)))) == (9, 8, 7)
    assert pixel(encoded(Image.new("LA", (2, 2), (0, 51)))) == (204, 204, 204)
    assert to_rgb(Image.new("RGBa", (2, 2), (0, 0, 0, 51))).getpixel((0, 0)) == (204, 204, 204)
    palette = Image.new("PA", (1, 1), (0, 51))
    palette.putpalette([0, 100, 255])
    assert to_rgb(palette).getpixel((0, 0)) == (204, 224, 255)


def test_palettes_and_transparent_colours() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    assert pixel(encoded(picture), 1) == (40, 50, 60)
    content = encoded(picture, transparency=1)
    assert (pixel(content, 0), pixel(content, 1)) == ((10, 20, 30), (255, 255, 255))
    half = encoded(picture, transparency=bytes([255, 51]))
    assert pixel(half, 1) == (212, 214, 216)  # a fifth of 40, 50, 60 and four fifths of 255
    keyed = encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixel(keyed) == (255, 255, 255)
    assert pixel(encoded(Image.new("L", (1, 1), 7), transparency=7)) == (255, 255, 255)


def test_other_modes() -> None:
    assert pixel(encoded(Image.new("1", (1, 1), 1))) == (255, 255, 255)
    assert pixel(encoded(Image.new("L", (1, 1), 77))) == (77, 77, 77)
    assert to_rgb(Image.new("CMYK", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("CMYK", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (0, 255, 255)
    assert pixel(encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "TIFF")) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    content = encoded(Image.fromarray(values), kind)
    # value / 257, to the nearest: 128 is just under a half, 129 just above
    assert [pixel(content, x)[0] for x in range(6)] == [0, 0, 1, 1, 128, 255]


def test_exif_rotation_is_applied() -> None:
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned = open_image(encoded(picture, exif=exif))
    assert turned.size == (1, 2)
    assert (turned.getpixel((0, 0)), turned.getpixel((0, 1))) == ((255, 0, 0), (0, 0, 255))
    assert open_image(encoded(picture, "JPEG", exif=exif)).size == (1, 2)
    assert open_image(encoded(picture, "JPEG", exif=b"Exif\0\0junk")).size == (2, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match="is animated; its first frame is used") as caught:
        assert pixel(content) == (255, 0, 0)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixel(encoded(frames[1], kind, **options)) == (0, 255, 0)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_not_a_picture(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="bad.png is (empty|not a picture that can be read)") as e:
        open_image(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_cut_short(kind: str, tmp_path: Path) -> None:
    content = encoded(noise(2, 40, 40), kind)
    path = tmp_path / "cut"
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match="cut is (damaged|not a picture that)") as caught:
            open_image(path)
        assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read .*none.png: No such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="cannot read .*: Is a directory"):
        open_image(tmp_path)


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims a size; its data is never reached."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(8193, 8192), (12000, 12000), (100_000, 100_000)])
def test_too_many_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="larger than 67108864 pixels"):
        open_image(huge_png(*size))
    with pytest.raises(InputError, match="damaged"):  # one pixel row less passes the bound
        open_image(huge_png(8192, 8192))


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    content = encoded(noise(1, 30, 30))
    (tmp_path / "a.png").write_bytes(content)
    for source in (tmp_path / "a.png", io.BytesIO(content)):
        with pytest.raises(InputError, match="larger than the allowed 100 bytes"):
            open_image(source)


def test_pixels_are_upstreams_bit_for_bit(rng_seed: int) -> None:
    from transformers.models.emu3 import Emu3ImageProcessor

    picture = noise(rng_seed, 64, 96)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    picture.paste(Image.fromarray(levels))  # every level at least once
    for mean, std in (([0.5] * 3, [0.5] * 3), ([0.48, 0.457, 0.408], [0.268, 0.261, 0.275])):
        theirs = Emu3ImageProcessor(image_mean=mean, image_std=std, do_resize=False)
        wanted = theirs(picture, return_tensors="pt")["pixel_values"].reshape(1, 3, 64, 96)
        assert torch.equal(to_pixels([picture], mean, std), wanted)
    grey = Image.fromarray(levels[..., 0])
    assert torch.equal(to_pixels([grey, grey])[1, 2], to_pixels([Image.fromarray(levels)])[0, 0])


def test_resize_is_upstreams_bit_for_bit(rng_seed: int) -> None:
    from transformers.models.emu3 import Emu3ImageProcessor

    picture = noise(rng_seed, 600, 801)
    theirs = Emu3ImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    result = theirs(picture, return_tensors="pt")
    height, width = (int(side) for side in result["image_sizes"][0])
    assert (height, width) == (600, 800)
    wanted = result["pixel_values"].reshape(1, 3, 600, 800)
    assert torch.equal(to_pixels([resize(picture, height, width)]), wanted)


def test_pixels_back_to_pictures() -> None:
    # golden values V7 of the spec
    assert np.asarray(from_pixels(torch.zeros(1, 3, 1, 1))[0]).tolist() == [[[127, 127, 127]]]
    ramp = torch.linspace(-1.2, 1.2, 60).view(1, 3, 4, 5)
    first_row = [[0, 78, 181], [0, 83, 187], [0, 88, 192], [0, 93, 197], [0, 98, 202]]
    for dtype in (torch.float32, torch.float64):
        picture = from_pixels(ramp.to(dtype))[0]
        assert picture.size == (5, 4)
        assert np.asarray(picture)[0].tolist() == first_row
    odd = torch.tensor([float("nan"), float("inf"), -float("inf")]).view(1, 3, 1, 1)
    assert from_pixels(odd)[0].getpixel((0, 0)) == (0, 255, 0)
    two = from_pixels(torch.stack([torch.full((3, 1, 2), 1.0), torch.full((3, 1, 2), -1.0)]))
    assert [picture.getpixel((1, 0)) for picture in two] == [(255,) * 3, (0,) * 3]


def test_a_round_trip_loses_at_most_one_level(rng_seed: int) -> None:
    picture = noise(rng_seed, 32, 32)
    back = np.asarray(from_pixels(to_pixels([picture]))[0]).astype(int)
    lost = np.asarray(picture).astype(int) - back
    assert set(np.unique(lost)) <= {0, 1}  # truncation, as upstream


def test_wrong_shapes() -> None:
    with pytest.raises(InputError, match="one size"):
        to_pixels([noise(1, 4, 4), noise(1, 4, 5)])
    with pytest.raises(InputError, match="one size"):
        to_pixels([])
    with pytest.raises(InputError, match=r"\[B,3,H,W\], not \[3, 4, 4\]"):
        from_pixels(torch.zeros(3, 4, 4))


def test_save_png(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    picture = noise(3, 6, 5)
    path = tmp_path / "deep" / "a.png"
    save_png(picture, path, {"title": "红苹果 🍎"})
    with Image.open(path) as again:
        assert again.text == {"title": "红苹果 🍎"}
        assert again.tobytes() == picture.tobytes()
    first = path.read_bytes()
    save_png(picture, path, {"title": "红苹果 🍎"})
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(InputError, match="cannot write"):
        save_png(picture, path / "below" / "a.png")
    save_png(picture, "-", {"title": "红苹果 🍎"})
    assert capfdbinary.readouterr().out == first
