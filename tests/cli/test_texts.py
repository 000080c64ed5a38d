"""`caption` and `read`: which pictures, what is printed, what a rerun and a bad picture do."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import dromaius
from dromaius.cli import texts as work
from dromaius.cli.picture_list import items
from dromaius.cli.results import Results
from dromaius.pipelines.reading.image_to_text import Reading
from tests.cli.conftest import Cli
from tests.pipelines.reading import folders
from tests.pipelines.reading.test_image_to_text import drawn_page, noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(folders.write(tmp_path_factory.mktemp("models") / "ved"))


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    """a.png, b.png, c.png and notes.txt in the folder "some"."""
    (tmp_path / "some").mkdir()
    for seed, name in enumerate("abc"):
        noise(seed=seed).save(tmp_path / "some" / f"{name}.png")
    (tmp_path / "some" / "notes.txt").write_text("no picture")


def texts(folder: str, root: Path) -> list[str]:
    """By the Python API."""
    model = dromaius.load(folder)
    return [model.caption(root / "some" / f"{name}.png").text for name in "abc"]


def test_one_picture_gives_its_text_alone(in_process: Cli, folder: str, tmp_path: Path) -> None:
    found = in_process("caption", "some/a.png", "-m", folder)
    assert (found.code, found.out) == (0, texts(folder, tmp_path)[0] + "\n")
    assert found.error.startswith("dromaius: 1 picture in ")
    assert in_process("read", "some/a.png", "-m", folder, "-q").out == found.out


@pytest.mark.parametrize("named", [("some",), ("some/*.png",), ("some/a.png", "some/[bc].png")])
def test_folders_and_patterns(
    named: tuple[str, ...], in_process: Cli, folder: str, tmp_path: Path
) -> None:
    found = in_process("caption", *named, "-m", folder, "-q", "--batch", "2")
    expected = zip("abc", texts(folder, tmp_path), strict=True)
    assert found.out.splitlines() == [f"some/{name}.png: {text}" for name, text in expected]
    assert found.err == ""


def test_json_has_scores_and_alternatives(in_process: Cli, folder: str, tmp_path: Path) -> None:
    found = in_process("caption", "some", "-m", folder, "--json", "--beams", "3", "-n", "2")
    rows = [json.loads(line) for line in found.out.splitlines()]
    model = dromaius.load(folder)
    for row, name in zip(rows, "abc", strict=True):
        wanted = model.caption(tmp_path / "some" / f"{name}.png", beams=3, alternatives=2)
        assert row["image"] == f"some/{name}.png" and row["model"] == folder
        assert (row["text"], row["tokens"]) == (wanted.text, wanted.tokens)
        assert row["score"] == pytest.approx(wanted.score, abs=1e-4)
        [other] = row["alternatives"]
        assert other["text"] == wanted.alternatives[0].text and other["score"] <= row["score"]


def test_a_drawn_text_does_not_depend_on_its_neighbours(in_process: Cli, folder: str) -> None:
    flags = ("-m", folder, "-q", "--temperature", "1.5", "--max-tokens", "6")
    all_ = in_process("caption", "some", *flags, "--seed", "3").out.splitlines()
    alone = in_process("caption", "some/c.png", *flags, "--seed", "5").out
    assert all_[2] == f"some/c.png: {alone}".rstrip("\n")


def test_a_rerun_goes_on_where_the_file_ends(in_process: Cli, folder: str, tmp_path: Path) -> None:
    flags = ("-m", folder, "-o", "out.jsonl")
    assert in_process("caption", "some/a.png", "some/b.png", *flags).out == "out.jsonl\n"
    file = tmp_path / "out.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{second[:20]}")  # as a machine that lost power leaves it
    again = in_process("caption", "some", *flags)
    assert "2 pictures in" in again.err and "1 were there already" in again.err
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"some/{name}.png" for name in "abc"]
    assert [row["text"] for row in rows] == texts(folder, tmp_path)
    other = in_process("caption", "some", "-m", "nano", "-o", "out.jsonl")
    assert other.code == 1 and "out.jsonl holds texts of" in other.error


def test_a_bad_picture_stops_no_others(in_process: Cli, folder: str, tmp_path: Path) -> None:
    (tmp_path / "some" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    found = in_process("caption", "some", "-m", folder, "--json")
    assert found.code == 1
    assert [json.loads(line)["image"] for line in found.out.splitlines()] == [
        "some/a.png",
        "some/c.png",
    ]
    error, summary = found.err.splitlines()
    assert error.startswith("dromaius: error: some/b.png is ")
    assert summary.startswith("dromaius: 2 pictures in ")


def test_pictures_of_all_kinds_are_read(in_process: Cli, folder: str, tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1", "CMYK", "I;16"):
        image = noise().convert("I") if mode == "I;16" else noise().convert(mode)
        image.convert("I;16" if mode == "I;16" else mode).save(tmp_path / "some" / f"{mode}.tif")
    Image.new("RGB", (1, 1)).save(tmp_path / "some" / "speck.png")
    found = in_process("read", "some", "-m", folder, "--layout", "line", "-q")
    assert (found.code, found.err) == (0, "") and len(found.out.splitlines()) == 10


def test_a_page_is_printed_line_by_line(in_process: Cli, folder: str, tmp_path: Path) -> None:
    drawn_page(3).save(tmp_path / "page.png")
    found = in_process("read", "page.png", "-m", folder, "--json", "--max-tokens", "4")
    row = json.loads(found.out)
    assert len(row["lines"]) == 3
    assert row["text"] == "\n".join(line["text"] for line in row["lines"])
    for line in row["lines"]:
        left, top, right, bottom = line["box"]
        assert 0 <= left < right <= 200 and 0 <= top < bottom <= 160 and line["score"] <= 0
    plain = in_process("read", "page.png", "-m", folder, "-q", "--max-tokens", "4")
    assert plain.out == row["text"] + "\n"


def test_a_pdf_is_read_page_by_page(
    in_process: Cli, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pypdfium2")
    pages = [drawn_page(2), drawn_page(4)]
    pages[0].save(tmp_path / "scan.pdf", save_all=True, append_images=pages[1:], resolution=200)
    flags = ("-m", folder, "--json", "--max-tokens", "2")
    rows = [json.loads(r) for r in in_process("read", "scan.pdf", *flags).out.splitlines()]
    assert [(row["image"], row["page"]) for row in rows] == [("scan.pdf", 1), ("scan.pdf", 2)]
    assert [len(row["lines"]) for row in rows] == [2, 4]
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4\nno pages")
    assert "bad.pdf cannot be read: it is damaged" in in_process("read", "bad.pdf", *flags).error
    assert "dromaius read reads its pages" in in_process("caption", "scan.pdf", *flags).error
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    assert "pip install 'dromaius[pdf]'" in in_process("read", "scan.pdf", *flags).error


def test_info_shows_the_parts(in_process: Cli, folder: str) -> None:
    facts = json.loads(in_process("info", folder, "--json").out)
    assert facts["family"] == "vision-encoder-decoder" and facts["dtype"] == "float32"
    assert set(facts["parameters"]) == {"encoder", "decoder", "projection"}
    shown = in_process("info", folder).out
    assert "kind: gpt2" in shown and "pictures: 64x16 pixels" in shown


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("image x -m {}", "it describes and reads pictures (dromaius caption, dromaius read)"),
        ("ask some/a.png What? -m {}", "this verb is for Emu3 models"),
        ("reconstruct some/a.png -m {}", "this verb is for Emu3 models"),
        ("plan {}", "holds a VisionEncoderDecoder, not an Emu3 model: describe and read"),
        ("quantize {} -o out", "holds a VisionEncoderDecoder, not an Emu3 model"),
        ("info {} --vision-tokenizer nano", "are for Emu3 models"),
    ],
)
def test_other_verbs_say_what_the_model_is_for(
    line: str, says: str, in_process: Cli, folder: str
) -> None:
    found = in_process(*line.format(folder).split())
    assert found.code == 1 and says in found.error


def test_a_picture_on_stdin(
    in_process: Cli, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO((tmp_path / "some" / "b.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
    assert in_process("caption", "-", "-m", folder, "-q").out == texts(folder, tmp_path)[1] + "\n"


def test_an_interruption_keeps_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(images: list[Any], first: int, share: work.Share) -> Iterable[Reading]:
        if first >= 2:
            raise KeyboardInterrupt
        share(0.5)
        return [Reading(f"picture {first + i}", -0.5, 3) for i in range(len(images))]

    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        results = Results("new/out.jsonl", False, True, "some model")
        work.write_all(items(["some"], pdf=False), results, answer, 2, 2**20, True, "looking")
    rows = [json.loads(line) for line in (tmp_path / "new" / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["picture 0", "picture 1"]


def test_emu3_describes_too(cli: Cli) -> None:
    """With the fake model, which says what it was asked."""
    found = cli("caption", "some", "-m", "nano", "--json", "--max-tokens", "5")
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert [(row["text"], row["score"]) for row in rows] == [("64 wide, 5", None)] * 3


def test_a_checkpoint_of_flax_becomes_one_of_pytorch(
    in_process: Cli, folder: str, tmp_path: Path
) -> None:
    pytest.importorskip("jax")
    from dromaius.compat.vision_encoder_decoder import FlaxVisionEncoderDecoderModel

    flax = tmp_path / "flax"
    FlaxVisionEncoderDecoderModel.from_pretrained(folder, from_pt=True).save_pretrained(flax)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (flax / name).write_bytes((Path(folder) / name).read_bytes())
    assert (flax / "flax_model.msgpack").is_file() and not list(flax.glob("*.safetensors"))
    found = in_process("convert", "flax", "torch", "--to", "hf", "-q")
    assert (found.code, found.out) == (0, "torch\n")
    expected = in_process("caption", "some", "-m", folder, "-q").out
    assert in_process("caption", "some", "-m", "flax", "-q").out == expected
    assert in_process("caption", "some", "-m", "torch", "-q").out == expected
    assert "framework: Flax" in in_process("info", "flax").out


def test_convert_to_onnx_reports_parity(in_process: Cli, folder: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    found = in_process("convert", folder, "graphs", "--to", "onnx", "--json")
    facts = json.loads(found.out)
    assert facts["parity"]["greedy"]["equal"] and facts["folders"] == ["graphs"]
    assert "texts of" in found.error and "tokens equal" in found.error
    assert len(list((tmp_path / "graphs").glob("*.onnx"))) == 3
