"""BAAI's language model class against transformers' own and the golden numbers."""

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.utils import is_flash_attn_2_available

from dromaius import errors
from dromaius.compat.baai import AutoModel, AutoModelForCausalLM, Emu3Config, Emu3ForCausalLM
from dromaius.errors import CheckpointError
from tests.compat.conftest import Checkpoints
from tests.compat.seed_blocks.support import grid, guided
from tests.tiny import fill

PAD = 151643


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """Two rows, the first padded left."""
    ids = torch.randint(0, PAD, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[0, :4], mask[0, :4] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


# --- numbers ------------------------------------------------------------------------------------


def test_golden_numbers() -> None:
    """Spec section 8, V2."""
    config = Emu3Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = fill(Emu3ForCausalLM(config), 1)
    ids = torch.randint(3, 256, (2, 16), generator=torch.Generator().manual_seed(200))
    mask = torch.ones_like(ids)
    ids[0, :5], mask[0, :5] = 0, 0
    with torch.no_grad():
        output = model(ids, attention_mask=mask)
    expected = [
        [0.48548, -0.22958, -0.80221, 0.20057, 0.98186, -1.07134],
        [-1.10414, 0.66288, -0.90198, -0.23426, -0.04372, -2.13521],
    ]
    assert torch.allclose(output.logits[:, -1, :6], torch.tensor(expected), atol=1e-4)
    found = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)[:, 16:]
    assert found.tolist() == [
        [134, 201, 41, 113, 209, 100, 155, 141],
        [233, 190, 205, 20, 47, 158, 78, 178],
    ]


def test_equals_transformers(parts: SimpleNamespace, theirs: Any, batch: dict[str, Any]) -> None:
    wanted = {"output_hidden_states": True, "labels": batch["input_ids"]}
    with torch.no_grad():
        ours = parts.model(**batch, **wanted)
        other = theirs(**batch, **wanted)
    real = batch["attention_mask"].bool()
    assert (ours.logits - other.logits)[real].abs().max() < 1e-4
    assert torch.allclose(ours.loss, other.loss, atol=1e-4)
    assert len(ours.hidden_states) == len(other.hidden_states) == 3
    for one, two in zip(ours.hidden_states, other.hidden_states, strict=True):
        assert (one - two)[real].abs().max() < 1e-4
    assert ours.logits.dtype == torch.float32


def test_attentions(parts: SimpleNamespace, checkpoints: Checkpoints, batch: Any) -> None:
    from transformers import Emu3ForConditionalGeneration

    eager = Emu3ForConditionalGeneration.from_pretrained(
        checkpoints.hf, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        ours = parts.model(**batch, output_attentions=True).attentions
        other = eager(**batch, output_attentions=True).attentions
    assert len(ours) == len(other) == 2
    real = batch["attention_mask"].bool()
    for one, two in zip(ours, other, strict=True):
        assert (one - two).transpose(1, 2)[real].abs().max() < 1e-5


def test_arguments_of_forward(parts: SimpleNamespace, batch: dict[str, Any]) -> None:
    model, ids = parts.model, batch["input_ids"][1:]
    with torch.no_grad():
        full = model(ids).logits
        assert torch.allclose(model(ids, logits_to_keep=3).logits, full[:, -3:], atol=1e-5)
        listed = model(ids, logits_to_keep=torch.tensor([0, 5])).logits
        assert torch.allclose(listed, full[:, [0, 5]], atol=1e-5)
        embeddings = model.get_input_embeddings()(ids)
        assert torch.allclose(model(inputs_embeds=embeddings).logits, full, atol=1e-5)
        shifted = model(ids, position_ids=torch.arange(12)[None] + 7).logits
        assert torch.allclose(shifted, full, atol=1e-4)  # rotary positions are relative
        swapped = model(ids, position_ids=torch.arange(12).flip(0)[None]).logits
        assert not torch.allclose(swapped, full, atol=1e-2)
        assert model(ids, use_cache=False).past_key_values is None
        as_tuple = model(ids, return_dict=False)
        assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], full)
        # both forms of a cache continue where they stopped
        cache = model(ids[:, :8]).past_key_values
        legacy = tuple((layer.keys, layer.values) for layer in cache.layers)
        for past in (legacy, cache):
            more = model(ids[:, 8:], past_key_values=past)
            assert torch.allclose(more.logits, full[:, 8:], atol=1e-4)
            assert isinstance(more.past_key_values, type(past))
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model(ids, inputs_embeds=embeddings)
    with pytest.raises(TypeError):
        model(ids, colour="red")


def test_bfloat16_logits_are_float32(checkpoints: Checkpoints, batch: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints.baai_lm, torch_dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and model.config.dtype == torch.bfloat16
    assert model(**batch).logits.dtype == torch.float32


def test_generation_is_the_same_by_any_road(
    parts: SimpleNamespace, theirs: Any, batch: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = theirs.generate(**batch, **options, pad_token_id=PAD).tolist()
    assert parts.model.generate(**batch, **options).tolist() == expected
    assert parts.model.generate(**batch, **options, use_cache=False).tolist() == expected
    static = parts.model.generate(**batch, **options, cache_implementation="static")
    assert static.tolist() == expected
    beams = {"num_beams": 2, "max_new_tokens": 4, "do_sample": False}
    wide = theirs.generate(**batch, **beams, pad_token_id=PAD)
    assert parts.model.generate(**batch, **beams).tolist() == wide.tolist()


# --- guidance -----------------------------------------------------------------------------------


def draw(parts: SimpleNamespace, prompt: Any, negative: Any, **mask: Any) -> list[list[int]]:
    """Greedy ids with guidance 3, as the seeds' scripts ask for them."""
    rule = parts.processor.build_prefix_constrained_fn(*prompt.image_size.T)
    processors = LogitsProcessorList(
        [
            UnbatchedClassifierFreeGuidanceLogitsProcessor(
                3.0, parts.model, unconditional_ids=negative.input_ids, **mask
            ),
            PrefixConstrainedLogitsProcessor(rule, num_beams=1),
        ]
    )
    config = GenerationConfig(
        pad_token_id=PAD, eos_token_id=151850, max_new_tokens=40, do_sample=False
    )
    outputs = parts.model.generate(
        prompt.input_ids,
        config,
        logits_processor=processors,
        attention_mask=prompt.attention_mask,
    )
    return outputs[:, prompt.input_ids.shape[1] :].tolist()


def test_padding_of_negative_prompts_is_not_attended_to(
    parts: SimpleNamespace, theirs: Any
) -> None:
    """BAAI's script gives no mask for them, and its model looks at the pads (spec section 5)."""
    given = {"ratio": ["1:1", "4:1"], "image_area": 24 * 40, "return_tensors": "pt"}
    given |= {"padding": "longest"}
    prompt = parts.processor(["a dog", "a shiba inu"], **given)
    given["image_area"] = 80 * 80  # so that "10*10" and "5*20" differ in length
    negative = parts.processor(["lowres, blurry."] * 2, **given)
    pads = (negative.input_ids == PAD).sum(1).tolist()
    assert sorted(pads) == [0, 1]
    errors.warn_once.cache_clear()
    with pytest.warns(UserWarning, match="left padding without an attention mask") as caught:
        found = draw(parts, prompt, negative)
    assert len([w for w in caught if "left padding" in str(w.message)]) == 1
    mask = negative.attention_mask
    assert found == draw(parts, prompt, negative, unconditional_attention_mask=mask)
    assert found == draw(parts, prompt, negative, use_cache=False)
    for row, (height, width) in enumerate(prompt.image_size.tolist()):
        ids = [
            fields.input_ids[row][fields.attention_mask[row] == 1].tolist()
            for fields in (prompt, negative)
        ]
        cells = height * (width + 1) + 3
        grid(found[row], height, width)
        assert found[row][:cells] == guided(theirs, *ids, height, width, 3.0)
        assert found[row][:cells] != guided(theirs, *ids, height, width, 1.0)
    padded = negative.input_ids[pads.index(1)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = parts.model(padded[None]).logits[0, -1]
        upstream = theirs(input_ids=padded[None]).logits[0, -1]
        right = theirs(input_ids=padded[None, 1:]).logits[0, -1]
    assert torch.allclose(ours, right, atol=1e-4)
    assert not torch.allclose(upstream, right, atol=1e-2)


# --- loading and saving -------------------------------------------------------------------------


def test_every_layout_gives_the_same_logits(
    checkpoints: Checkpoints, parts: SimpleNamespace, batch: dict[str, Any], tmp_path: Path
) -> None:
    with torch.no_grad():
        expected = parts.model(**batch).logits
        parts.model.save_pretrained(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        original = load_file(checkpoints.baai_lm / "model.safetensors")
        assert stored.keys() == original.keys()
        assert all(torch.equal(stored[name], original[name]) for name in original)
        for source in (checkpoints.hf, str(checkpoints.baai_lm), tmp_path):
            model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True)
            assert torch.equal(model(**batch).logits, expected)
            assert model.config.eos_token_id == 151850 and model.config.img_token_id == 151851
    assert isinstance(AutoModel.from_pretrained(checkpoints.baai_lm), Emu3ForCausalLM)
    assert parts.model.config.image_area == 518400
    assert parts.model.config.rope_theta == 1_000_000.0
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def copied(folder: Path, target: Path, change: Any) -> Path:
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


def test_wrong_tensors_are_named(checkpoints: Checkpoints, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    missing = copied(checkpoints.baai_lm, tmp_path / "a", lambda t: t.pop(name))
    with pytest.raises(CheckpointError, match=name):
        Emu3ForCausalLM.from_pretrained(missing)
    more = copied(
        checkpoints.baai_lm, tmp_path / "b", lambda t: t.update({"odd.weight": torch.zeros(2)})
    )
    with pytest.raises(CheckpointError, match="odd.weight"):
        Emu3ForCausalLM.from_pretrained(more)


def test_code_of_a_repository_is_never_run(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """`auto_map` names files; here they would leave a trace."""
    for source in (checkpoints.baai_lm, checkpoints.baai_vq):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        for name in ("configuration_emu3", "modeling_emu3", "tokenization_emu3"):
            trap = f"open({str(tmp_path / 'trace')!r}, 'w').close()\n"
            (folder / f"{name}.py").write_text(trap)
            (folder / f"{name}visionvq.py").write_text(trap)
        assert "auto_map" in json.loads((folder / "config.json").read_text())
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert not (tmp_path / "trace").exists()


def test_arguments_of_from_pretrained(checkpoints: Checkpoints) -> None:
    load = AutoModelForCausalLM.from_pretrained
    model = load(checkpoints.baai_lm, device_map="auto", image_area=262144, low_cpu_mem_usage=True)
    assert model.config.image_area == 262144
    assert load(checkpoints.baai_lm, device_map={"": "cpu"}).device.type == "cpu"
    config = Emu3Config.from_pretrained(checkpoints.baai_lm, rms_norm_eps=0.5)
    assert load(checkpoints.baai_lm, config=config).model.norm.eps == 0.5
    with pytest.raises(TypeError, match="'colour'"):
        load(checkpoints.baai_lm, colour="red")
    with pytest.raises(ValueError, match="one device"):
        load(checkpoints.baai_lm, device_map={"model": "cpu", "lm_head": "cuda:0"})
    with pytest.raises(ValueError, match="float7"):
        load(checkpoints.baai_lm, torch_dtype="float7")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_flash_attention_falls_back(
    checkpoints: Checkpoints, parts: SimpleNamespace, batch: dict[str, Any]
) -> None:
    with pytest.warns(UserWarning, match="flash_attention_2 is not available") as caught:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoints.baai_lm, attn_implementation="flash_attention_2"
        )
    assert len(caught) == 1
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, parts.model(**batch).logits)


def test_published_size() -> None:
    with torch.device("meta"):
        model = Emu3ForCausalLM(Emu3Config())
    assert sum(p.numel() for p in model.parameters()) == 8_492_011_520
    assert len(model.state_dict()) == 291


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    config = Emu3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=5,
    )
    model = Emu3ForCausalLM(config)
    assert model.model.embed_tokens.weight[5].abs().max() == 0
    assert abs(float(model.lm_head.weight.detach().std()) - 0.02) < 0.005
    assert model.model.norm.weight.detach().eq(1).all()
