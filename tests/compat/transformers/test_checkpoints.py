"""from_pretrained and save_pretrained: every layout, dtype and device argument."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.models.emu3 import modeling_emu3 as upstream

from dromaius import errors
from dromaius.compat import transformers as compat
from dromaius.errors import CheckpointError
from dromaius.models.emu3.convert import convert
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.nn.decoder import DecoderLayer
from tests.compat.transformers.pairs import (
    Pair,
    largest_difference,
    picture,
    picture_prompt,
    processors,
    prompts,
)

CLASSES = (
    "Emu3ForConditionalGeneration",
    "Emu3ForCausalLM",
    "Emu3Model",
    "Emu3TextModel",
    "Emu3VQVAE",
)


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    errors.warn_once.cache_clear()


@torch.no_grad()
def test_the_classes_hold_our_modules_and_nothing_else(pair: Pair) -> None:
    model = pair.ours
    assert isinstance(model, PreTrainedModel) and isinstance(model, GenerationMixin)
    assert isinstance(model.vqmodel.tokenizer, VisionTokenizer)
    assert all(isinstance(layer, DecoderLayer) for layer in model.text_model.layers)
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            assert type(module).__module__.startswith(("dromaius.nn", "torch.nn")), module
    assert model.model.text_model is model.text_model


@pytest.mark.parametrize("name", CLASSES)
def test_what_we_save_transformers_loads_whole(pair: Pair, name: str, tmp_path: Path) -> None:
    ours = getattr(compat, name).from_pretrained(pair.folder)
    ours.save_pretrained(tmp_path)
    theirs, info = getattr(upstream, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    again = getattr(compat, name).from_pretrained(tmp_path)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())
    if name == "Emu3VQVAE":
        pixels = torch.rand(1, 3, 16, 16)
        codes = [m.encode(pixels, [[16, 16]]).image_tokens[0] for m in (ours, theirs)]
        assert torch.equal(*codes)
        return
    ids = prompts(pair, [6, 6])[0]
    with torch.no_grad():
        assert largest_difference(ours(ids)[0], theirs(ids)[0]) <= 1e-5


@pytest.mark.parametrize("name", CLASSES[1:])
def test_parts_written_by_transformers(pair: Pair, name: str, tmp_path: Path) -> None:
    """transformers writes parts under other names than the whole; each loads."""
    theirs = {
        "Emu3Model": pair.theirs.model,
        "Emu3TextModel": pair.theirs.model.text_model,
        "Emu3VQVAE": pair.theirs.model.vqmodel,
    }.get(name)
    if theirs is None:
        theirs = upstream.Emu3ForCausalLM(pair.theirs.config.text_config)
    theirs.save_pretrained(tmp_path)
    ours = getattr(compat, name).from_pretrained(tmp_path)
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())


def test_the_language_model_of_a_whole_checkpoint(pair: Pair) -> None:
    """transformers finds no tensor and gives a random model (spec section 0, fact 12)."""
    with pytest.warns(UserWarning, match="random weights") as caught:
        model = compat.Emu3ForCausalLM.from_pretrained(pair.folder)
        compat.Emu3ForCausalLM.from_pretrained(pair.folder)
    assert len([w for w in caught if "random weights" in str(w.message)]) == 1
    ids = prompts(pair, [6, 6])[0]
    with torch.no_grad():
        assert largest_difference(model(ids).logits, pair.theirs(ids).logits) <= 1e-4
    assert isinstance(model.config, compat.Emu3TextConfig)


@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["bfloat16", torch.bfloat16])
def test_dtype_is_the_language_models(pair: Pair, argument: str, value: Any) -> None:
    model = compat.Emu3ForConditionalGeneration.from_pretrained(
        str(pair.folder), **{argument: value}, low_cpu_mem_usage=True
    )
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert {p.dtype for p in model.text_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.vqmodel.parameters()} == {torch.float32}
    assert model(prompts(pair, [4, 4])[0]).logits.dtype == torch.bfloat16
    inputs = picture_prompt(pair, [(40, 48)], ["a"])
    codes = model.get_image_tokens(inputs["pixel_values"], inputs["image_sizes"])
    expected = pair.ours.get_image_tokens(inputs["pixel_values"], inputs["image_sizes"])
    assert torch.equal(codes, expected)
    model.train()
    assert model.text_model.training and not any(
        m.training for m in model.vqmodel.tokenizer.modules()
    )
    assert not any(p.requires_grad for p in model.vqmodel.parameters())
    assert all(p.requires_grad for p in model.text_model.parameters())


def test_dtype_auto_and_nonsense(pair: Pair) -> None:
    model = compat.Emu3ForConditionalGeneration
    assert model.from_pretrained(pair.folder, dtype="auto").dtype == torch.float32
    with pytest.raises(ValueError, match="float7"):
        model.from_pretrained(pair.folder, dtype="float7")


def test_device_map(pair: Pair) -> None:
    load = compat.Emu3ForConditionalGeneration.from_pretrained
    for device in ("cpu", torch.device("cpu"), {"": "cpu"}):
        assert load(pair.folder, device_map=device).device.type == "cpu"
    if not torch.cuda.is_available():
        assert load(pair.folder, device_map="auto").device.type == "cpu"
    assert load(pair.folder, device_map="meta").device.type == "meta"
    with pytest.raises(ValueError, match="one device"):
        load(pair.folder, device_map={"model": "cpu", "lm_head": "meta"})


def test_attn_implementation(pair: Pair) -> None:
    """FlashAttention falls back with one warning; another name is an error."""
    load = compat.Emu3ForConditionalGeneration.from_pretrained
    ids = prompts(pair, [6, 6])[0]
    eager = load(pair.folder, attn_implementation="eager")
    fused = load(pair.folder, attn_implementation="sdpa")
    with pytest.warns(UserWarning, match="flash") as caught:
        flash = load(pair.folder, attn_implementation="flash_attention_2")
    assert len(caught) == 1
    with torch.no_grad():
        logits = [model(ids).logits for model in (eager, fused, flash)]
    assert torch.equal(logits[1], logits[2])
    assert largest_difference(logits[0], logits[1]) <= 1e-4
    assert eager.config._attn_implementation == eager.text_model.config._attn_implementation
    assert flash.text_model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="rainbow"):
        load(pair.folder, attn_implementation="rainbow")


def test_fields_of_the_configuration_and_unknown_arguments(pair: Pair) -> None:
    load = compat.Emu3ForCausalLM.from_pretrained
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(pair.folder, use_cache=False, attention_dropout=0.4)
        assert model(prompts(pair, [4, 4])[0]).past_key_values is None
        assert model.model.layers[0].dropout == 0.4
        with pytest.raises(TypeError, match="torch_dtpye"):
            load(pair.folder, torch_dtpye="bfloat16")
        given = compat.Emu3TextConfig.from_dict({**model.config.to_dict(), "use_cache": True})
        assert load(pair.folder, config=given).config.use_cache


def test_generation_settings_come_along(pair: Pair, tmp_path: Path) -> None:
    model = compat.Emu3ForConditionalGeneration.from_pretrained(pair.folder)
    model.generation_config = GenerationConfig(do_sample=True, top_k=7, max_new_tokens=9)
    model.save_pretrained(tmp_path)
    again = compat.Emu3ForConditionalGeneration.from_pretrained(tmp_path)
    assert (again.generation_config.top_k, again.generation_config.max_new_tokens) == (7, 9)
    own = GenerationConfig(max_new_tokens=3)
    load = compat.Emu3ForConditionalGeneration.from_pretrained
    assert load(tmp_path, generation_config=own).generation_config.max_new_tokens == 3


def test_shards_and_loading_info(pair: Pair, tmp_path: Path) -> None:
    pair.ours.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    load = compat.Emu3ForConditionalGeneration.from_pretrained
    model, info = load(tmp_path, output_loading_info=True)
    assert not any(info.values())
    ids = prompts(pair, [6, 6])[0]
    with torch.no_grad():
        assert largest_difference(model(ids).logits, pair.ours(ids).logits) <= 1e-4


def test_a_missing_tensor_is_an_error_that_names_it(pair: Pair, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    pair.ours.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["text_model.model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.norm.weight"):
        compat.Emu3ForConditionalGeneration.from_pretrained(tmp_path)


def test_no_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model at"):
        compat.Emu3ForConditionalGeneration.from_pretrained(tmp_path / "nowhere")


def test_tied_weights_are_stored_once(pair: Pair, tmp_path: Path) -> None:
    config = compat.Emu3Config.from_dict(
        {**pair.ours.config.to_dict(), "tie_word_embeddings": True}
    )
    model = compat.Emu3ForConditionalGeneration(config)
    assert model.lm_head.weight is model.text_model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    for again in (
        compat.Emu3ForConditionalGeneration.from_pretrained(tmp_path),
        upstream.Emu3ForConditionalGeneration.from_pretrained(tmp_path),
    ):
        assert again.lm_head.weight is again.get_input_embeddings().weight
        assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_our_own_layout(pair: Pair, tmp_path: Path) -> None:
    """-hf -> ours -> the same numbers through the same classes."""
    convert(pair.folder, tmp_path / "own", "dromaius")
    model = compat.Emu3ForConditionalGeneration.from_pretrained(tmp_path / "own")
    assert json.loads((tmp_path / "own" / "config.json").read_text())["format"] == "dromaius"
    inputs = picture_prompt(pair, [(40, 48)], ["what?"])
    with torch.no_grad():
        assert largest_difference(model(**inputs).logits, pair.theirs(**inputs).logits) <= 1e-4
    mapping = model.vocabulary_mapping
    assert mapping.img2bpe == pair.ours.vocabulary_mapping.img2bpe
    assert mapping.eol_token_id == pair.names["<|extra_200|>"]
    text = compat.Emu3ForCausalLM.from_pretrained(tmp_path / "own")
    assert isinstance(text.lm_head, nn.Linear)


def test_every_layout_with_its_processor(pair: Pair, tmp_path: Path) -> None:
    """-hf with a processor -> ours and BAAI's -> the same model inputs and the same logits."""
    _, processor = processors(pair.codebook)
    pair.ours.save_pretrained(tmp_path / "hf")
    processor.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "own", "dromaius")
    convert(tmp_path / "hf", tmp_path / "lm", "baai", vision_destination=tmp_path / "vq")
    image, text = picture(40, 50), "What is it?<image>"
    expected = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        logits = pair.theirs(**expected).logits
    two = {"vision_tokenizer": tmp_path / "vq"}
    for folder, more in (("own", {}), ("lm", two)):
        inputs = compat.Emu3Processor.from_pretrained(tmp_path / folder, **more)(
            images=image, text=text, return_tensors="pt"
        )
        assert all(torch.equal(inputs[k], expected[k]) for k in expected), folder
        load = compat.Emu3ForConditionalGeneration.from_pretrained
        model = load(tmp_path / folder, **more)
        with torch.no_grad():
            assert largest_difference(model(**inputs).logits, logits) <= 1e-4
    with pytest.raises(CheckpointError, match="vision_tokenizer"):
        load(tmp_path / "lm")
    assert compat.Emu3VQVAE.from_pretrained(tmp_path / "vq").config.codebook_size == pair.codebook
    text_model = compat.Emu3ForCausalLM.from_pretrained(tmp_path / "lm")
    ids = prompts(pair, [6, 6])[0]
    with torch.no_grad():
        assert largest_difference(text_model(ids).logits, pair.theirs(ids).logits) <= 1e-4


def test_transformers_own_emu3_is_never_imported() -> None:
    folder = Path(compat.__file__).parent
    for file in folder.glob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) ([\w.]+)", file.read_text(), re.MULTILINE)
        assert not [name for name in imported if name.startswith("transformers.models")], file


@torch.no_grad()
def test_transformers_own_configurations_are_understood(pair: Pair) -> None:
    """Also seed 000's `Emu3TextModel(config: Emu3Config)`."""
    theirs = pair.theirs.config
    whole = compat.Emu3ForConditionalGeneration(theirs)
    assert isinstance(whole.config, compat.Emu3Config)
    assert whole.config.vocabulary_map == pair.names
    for config in (theirs.text_config, pair.ours.config):
        model = compat.Emu3TextModel(config)
        model.load_state_dict(pair.theirs.model.text_model.state_dict())
        ids = prompts(pair, [6, 6])[0]
        expected = pair.theirs.model.text_model(ids).last_hidden_state
        assert largest_difference(model.eval()(ids).last_hidden_state, expected) <= 1e-4
    assert compat.Emu3VQVAE(theirs.vq_config).tokenizer.config.codebook_size == pair.codebook
    with pytest.raises(TypeError):
        compat.Emu3ForCausalLM({"vocab_size": 5})


def test_random_weights_are_drawn_for_every_part(pair: Pair) -> None:
    model = compat.Emu3ForConditionalGeneration(pair.ours.config)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        if parameter.ndim > 1 and "embed_tokens" not in name:
            assert parameter.detach().float().std() > 0, name
