"""From any layout to any other: every tensor comes back bit for bit, and transformers reads ours.

The vocabulary is Emu3's block of names above 256 single bytes, so that files stay small.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, Emu3Config, Emu3ForConditionalGeneration

import dromaius
from dromaius.errors import CheckpointError, ConfigError, InputError
from dromaius.io.checkpoint import read_tensors
from dromaius.models.emu3.convert import convert
from dromaius.models.emu3.layouts import detect, read_config
from dromaius.tokenizers.convert import hf_form, to_tokenizer_json
from dromaius.tokenizers.tiktoken import FIXED_NAMES, TiktokenTokenizer, vision_names
from tests.tiny import fill

CODES = 64
BYTES = [bytes([b]) for b in range(256)]


@pytest.fixture(scope="module")
def tokenizer() -> TiktokenTokenizer:
    return TiktokenTokenizer.from_pieces(BYTES, [*FIXED_NAMES, *vision_names(CODES)])


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory, tokenizer: TiktokenTokenizer) -> Path:
    """A composite checkpoint in several shards, written by transformers itself."""
    folder = tmp_path_factory.mktemp("convert") / "hf"
    names = tokenizer.special_tokens
    vocabulary = hf_form(tokenizer).definition["model"]["vocab"]
    config = Emu3Config(
        text_config=dict(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=names["<|endoftext|>"],
            bos_token_id=names["<|extra_203|>"],
            eos_token_id=names["<|extra_204|>"],
        ),
        vq_config=dict(
            codebook_size=CODES,
            base_channels=32,
            channel_multiplier=[1, 1, 2, 2],
            num_res_blocks=1,
            attn_resolutions=[3],
            hidden_size=64,
        ),
        vocabulary_map=vocabulary,
    )
    model = fill(Emu3ForConditionalGeneration(config), 3)
    model.save_pretrained(folder, max_shard_size="400KB")
    to_tokenizer_json(tokenizer, folder)
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def tensors(*folders: Path) -> dict[str, Tensor]:
    return {name: tensor for folder in folders for name, tensor in read_tensors(folder)}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def test_hf_to_ours_to_hf(hf: Path, tmp_path: Path) -> None:
    assert convert(hf, tmp_path / "ours", "dromaius") == [tmp_path / "ours"]
    convert(tmp_path / "ours", tmp_path / "hf", "hf", max_shard_size=300_000)
    assert_equal(tensors(hf), tensors(tmp_path / "hf"))
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    before, after = (read_config(folder) for folder in (hf, tmp_path / "hf"))
    assert before == after

    reference, said = Emu3ForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(said.values()), said
    ids = torch.arange(0, 40).view(2, 20)
    with torch.no_grad():
        ours = dromaius.load(tmp_path / "ours").language_model(ids)
        assert (reference.eval()(ids).logits - ours).abs().max() <= 1e-4


def test_baai_to_ours_to_baai(hf: Path, tmp_path: Path) -> None:
    language, vision = tmp_path / "baai", tmp_path / "baai-VisionTokenizer"
    assert convert(hf, language, "baai") == [language, vision]
    assert (detect(language), detect(vision)) == ("baai", "baai-vision")
    convert(language, tmp_path / "ours", "dromaius", vision_tokenizer=vision)
    again, vision_again = tmp_path / "again", tmp_path / "vision"
    convert(tmp_path / "ours", again, "baai", vision_destination=vision_again)
    assert_equal(tensors(language), tensors(again))
    assert_equal(tensors(vision), tensors(vision_again))
    for name in ("emu3.tiktoken", "emu3_vision_tokens.txt", "config.json", "tokenizer_config.json"):
        assert (language / name).read_bytes() == (again / name).read_bytes(), name
    assert (vision / "config.json").read_bytes() == (vision_again / "config.json").read_bytes()

    # Names against the spec's table, written down here once more.
    held = tensors(language)
    assert "model.layers.1.self_attn.o_proj.weight" in held and "lm_head.weight" in held
    held = tensors(vision)
    assert held["encoder.down.3.attn.0.q.weight"].shape == (64, 64, 1, 1)
    assert "decoder.up.3.attn.1.norm.norm_layer.weight" in held
    assert "decoder.mid.attn_1.proj_out.bias" in held

    model = dromaius.load(language, vision)
    reference = Emu3ForConditionalGeneration.from_pretrained(hf).eval()
    pixels = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    theirs = reference.model.vqmodel.encode(pixels, torch.tensor([[24, 32]])).image_tokens[0]
    assert torch.equal(model.vision_tokenizer.encode(pixels)[0], theirs)


def test_text_ids_survive(hf: Path, tmp_path: Path, tokenizer: TiktokenTokenizer) -> None:
    convert(hf, tmp_path / "baai", "baai")
    convert(
        tmp_path / "baai", tmp_path / "hf", "hf", vision_tokenizer=tmp_path / "baai-VisionTokenizer"
    )
    text = "line1\n\nline2 (hello) e\N{COMBINING ACUTE ACCENT}clair <|image start|>"
    ids = tokenizer.encode(text)
    for folder in (tmp_path / "baai", tmp_path / "hf"):
        assert dromaius.load(folder, _vision(folder, tmp_path)).tokenizer.encode(text) == ids
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    plain = text.removesuffix("<|image start|>")
    assert theirs(plain, add_special_tokens=False).input_ids == tokenizer.encode(plain)


def _vision(folder: Path, parent: Path) -> Path | None:
    return parent / "baai-VisionTokenizer" if folder.name == "baai" else None


def test_dtype_casts_the_language_model_only(hf: Path, tmp_path: Path) -> None:
    convert(hf, tmp_path / "half", "dromaius", dtype=torch.bfloat16)
    source = tensors(hf)
    for name, tensor in tensors(tmp_path / "half").items():
        if name.startswith("language_model."):
            before = source[f"text_model.{name.removeprefix('language_model.')}"]
            assert torch.equal(tensor, before.bfloat16()), name
        elif tensor.is_floating_point():
            assert tensor.dtype == torch.float32, name


def test_progress_reaches_the_end(hf: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(hf, tmp_path / "ours", "dromaius", progress=lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1] == sum(t.nbytes for t in tensors(hf).values())
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_nothing_half_written(hf: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in hf.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    shard = sorted(damaged.glob("*.safetensors"))[-1]
    held = load_file(shard)
    lost = sorted(held)[0]
    save_file({name: t for name, t in held.items() if name != lost}, shard, {"format": "pt"})
    index = json.loads((damaged / "model.safetensors.index.json").read_text())
    del index["weight_map"][lost]
    (damaged / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="lacks"):
        convert(damaged, tmp_path / "out", "dromaius")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged"]

    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="exists already"):
        convert(hf, tmp_path / "taken", "dromaius")


def test_what_a_layout_cannot_say_is_an_error(hf: Path, tmp_path: Path) -> None:
    convert(hf, tmp_path / "ours", "dromaius")
    path = tmp_path / "ours" / "config.json"
    config = json.loads(path.read_text())
    config["vision_tokenizer"]["norm_num_groups"] = 16
    path.write_text(json.dumps(config))
    for layout in ("hf", "baai"):
        with pytest.raises(ConfigError, match="norm_num_groups"):
            convert(tmp_path / "ours", tmp_path / layout, layout)
        assert not (tmp_path / layout).exists()
