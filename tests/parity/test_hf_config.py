"""Every documented field of the configurations, against transformers 5.23.

A field is changed; both models get the same weights; the results must stay equal, or the value be
refused. Defaults are compared with transformers' and with those printed in seed 000.
"""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.emu3 import configuration_emu3 as upstream_config
from transformers.models.emu3 import modeling_emu3 as upstream

from dromaius.compat import transformers as compat
from tests import tiny
from tests.compat.transformers.pairs import largest_difference

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4

TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEXT_CHANGES: list[dict[str, Any]] = [
    {"vocab_size": 71},
    {"hidden_size": 64},
    {"intermediate_size": 40},
    {"num_hidden_layers": 1},
    {"num_attention_heads": 2},
    {"num_key_value_heads": 1},
    {"hidden_act": "gelu"},
    {"rms_norm_eps": 0.5},
    {"mlp_bias": True},
    {"attention_bias": True},
    {"tie_word_embeddings": True},
    {"rope_theta": 100.0},
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}, "max_position_embeddings": 4},
    {"rope_scaling": {"rope_type": "yarn", "factor": 3.0, "beta_fast": 8, "beta_slow": 2}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 3.0, "attention_factor": 0.5}},
    {
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0, 2.0, 3.0, 4.0],
            "long_factor": [2.0, 3.0, 5.0, 7.0],
            "original_max_position_embeddings": 5,
        }
    },
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 6,
        },
        "rope_theta": 50.0,
    },
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0}},
]


def text_pair(change: dict[str, Any], seed: int, **more: Any) -> tuple[Any, Any]:
    settings = {**TEXT, **change, **more}
    theirs_config = upstream_config.Emu3TextConfig(**settings)
    theirs = tiny.make_language_model(theirs_config, seed)
    ours = compat.Emu3ForCausalLM(compat.Emu3TextConfig(**settings)).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("change", TEXT_CHANGES, ids=lambda c: "-".join(c))
@torch.no_grad()
def test_a_text_field_changes_what_it_changes_upstream(
    change: dict[str, Any], rng_seed: int
) -> None:
    ids = torch.randint(3, 60, (2, 11), generator=torch.Generator().manual_seed(rng_seed))
    plain = tiny.make_language_model(upstream_config.Emu3TextConfig(**TEXT), rng_seed)(ids)
    theirs, ours = text_pair(change, rng_seed)
    expected, got = theirs(ids), ours(ids)
    assert largest_difference(expected.logits, plain.logits) > 1e-4, "nothing changed upstream"
    assert largest_difference(got.logits, expected.logits) <= TOLERANCE
    hidden_layers = change.get("num_hidden_layers", 2)
    assert len(got.past_key_values) == hidden_layers
    heads = ours.config.num_key_value_heads
    assert got.past_key_values[0][0].shape[1] == heads


@torch.no_grad()
def test_key_value_heads_default_to_all_heads() -> None:
    model = compat.Emu3ForCausalLM(compat.Emu3TextConfig(**{**TEXT, "num_key_value_heads": None}))
    assert model(torch.tensor([[3, 4]])).past_key_values[0][0].shape[1] == 4


def test_attention_dropout_drops_where_upstream_drops(rng_seed: int) -> None:
    """In training mode, from the same random state, eager attention: the same numbers."""
    theirs, ours = text_pair({}, rng_seed, attention_dropout=0.3)
    ours.set_attn_implementation("eager")
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(rng_seed))
    outputs = []
    for model in (theirs.train(), ours.train()):
        torch.manual_seed(rng_seed)
        outputs.append(model(ids).logits.detach())
    assert largest_difference(*outputs) <= TOLERANCE
    assert largest_difference(outputs[0], theirs.eval()(ids).logits.detach()) > 1e-2


def test_padding_id_range_init_and_gradient() -> None:
    model = compat.Emu3ForCausalLM(compat.Emu3TextConfig(**{**TEXT, "pad_token_id": 5}))
    rows = model.model.embed_tokens.weight
    assert (rows[5] == 0).all() and (rows[6] != 0).any()
    model(torch.tensor([[5, 6]])).logits.sum().backward()
    assert rows.grad is not None and (rows.grad[5] == 0).all() and (rows.grad[6] != 0).any()
    with pytest.raises(ValueError, match="pad_token_id"):
        compat.Emu3ForCausalLM(compat.Emu3TextConfig(**{**TEXT, "pad_token_id": 60}))


@pytest.mark.parametrize("width", [0.02, 0.3])
def test_initializer_range(width: float) -> None:
    model = compat.Emu3ForCausalLM(compat.Emu3TextConfig(**TEXT, initializer_range=width))
    for weight in (model.lm_head.weight, model.model.layers[0].mlp.up_proj.weight):
        assert float(weight.detach().std()) == pytest.approx(width, rel=0.15)
    assert (model.model.norm.weight == 1).all()


def test_use_cache_and_special_ids() -> None:
    config = compat.Emu3TextConfig(**{**TEXT, "eos_token_id": [2, 3]}, use_cache=False)
    model = compat.Emu3ForCausalLM(config)
    assert model(torch.tensor([[3, 4]])).past_key_values is None
    theirs = upstream.Emu3ForCausalLM(
        upstream_config.Emu3TextConfig(**{**TEXT, "eos_token_id": [2, 3]})
    )
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        mine, other = (getattr(m.generation_config, name) for m in (model, theirs))
        assert mine == other == getattr(config, name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_act": "tanhshrink"},
        {"hidden_size": 33},
        {"num_key_value_heads": 3},
        {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}},
        {"vocab_size": "many"},
        {"hidden_act": torch.tanh},
    ],
    # The same names in every process: a function's own text holds its address.
    ids=lambda wrong: "-".join(f"{k}={getattr(v, '__name__', v)}" for k, v in wrong.items()),
)
def test_impossible_text_fields_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"\w"):
        compat.Emu3ForCausalLM(compat.Emu3TextConfig(**{**TEXT, **wrong}))


VISION = {
    "codebook_size": 64,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [2],
    "hidden_size": 32,
}
VISION_CHANGES: list[dict[str, Any]] = [
    {"codebook_size": 100},
    {"embed_dim": 6, "latent_channels": 6},
    {"temporal_downsample_factor": 2},
    {"base_channels": 64, "hidden_size": 64},
    {"channel_multiplier": [1, 2], "hidden_size": 64, "attn_resolutions": [1]},
    {"num_res_blocks": 2},
    {"attn_resolutions": [1, 2]},
    {"num_attention_heads": 2},
    {"in_channels": 1},
    {"out_channels": 4},
]


@pytest.mark.parametrize("change", VISION_CHANGES, ids=lambda c: "-".join(c))
@torch.no_grad()
def test_a_vision_field_changes_what_it_changes_upstream(
    change: dict[str, Any], rng_seed: int
) -> None:
    settings = {**VISION, **change}
    theirs = tiny.make_vision_tokenizer(upstream_config.Emu3VQVAEConfig(**settings), rng_seed)
    ours = compat.Emu3VQVAE(compat.Emu3VQVAEConfig(**settings))
    ours.tokenizer.load_state_dict(tiny.baai_vision_state(theirs.state_dict()))
    generator = torch.Generator().manual_seed(rng_seed)
    side = 3 * ours.vision_spatial_factor
    pixels = (
        torch.rand((2, settings.get("in_channels", 3), side, side), generator=generator) * 2 - 1
    )
    sizes = torch.tensor([[side, side], [side, side]])
    expected, got = theirs.encode(pixels, sizes), ours.encode(pixels, sizes)
    assert largest_difference(got.last_hidden_state, expected.last_hidden_state) <= TOLERANCE
    latents = ours.tokenizer.encode_latents(pixels).movedim(1, -1)[:, 0]
    book = ours.tokenizer.quantize.embedding.weight
    tiny.assert_same_codes(
        torch.stack(got.image_tokens), torch.stack(expected.image_tokens), latents, book
    )
    codes = torch.stack(expected.image_tokens)
    assert largest_difference(ours.decode(codes), theirs.decode(codes)) <= 1e-3


@pytest.mark.parametrize(
    "wrong", [{"double_latent": True}, {"hidden_size": 64}, {"attention_dropout": 0.1}], ids=str
)
def test_impossible_vision_fields_are_refused(wrong: dict[str, Any]) -> None:
    """The first two fail in transformers' forward, too; the last trains what is frozen."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        compat.Emu3VQVAE(compat.Emu3VQVAEConfig(**{**VISION, **wrong}))


@pytest.mark.parametrize("name", ["Emu3TextConfig", "Emu3VQVAEConfig"])
def test_defaults_are_those_of_the_document(name: str, seeds_dir: Path, require_file: Any) -> None:
    """Read from the seed's signature of the class, name = value by name = value."""
    document = require_file(seeds_dir / "000_43a63cf6208e7cd1.txt").read_text(errors="replace")
    signature = re.search(rf"class transformers\.{name}\n< source >\((.*?)\*\*kwargs \)", document)
    assert signature
    pairs = re.findall(r"(\w+)(?:: [\w.\[\]]+)? = (\[[^\]]*\]|[^,]+?),? ", signature[1] + ", ")
    assert len(pairs) >= 14
    config = getattr(compat, name)()
    for field, text in pairs:
        if field == "rope_scaling":
            continue  # None there; here the whole table of the rotary embedding
        expected = {"None": None}.get(text, text)
        value = getattr(config, field)
        value = list(value) if isinstance(value, tuple) else value
        as_text = f"'{value}'" if isinstance(value, str) else str(value)
        assert as_text == str(expected), field


def test_composite_defaults_and_round_trip(tmp_path: Path) -> None:
    names = {"<image>": 3, "<|visual token 000000|>": 4}
    config = compat.Emu3Config(
        text_config=TEXT, vq_config=compat.Emu3VQVAEConfig(**VISION), vocabulary_map=names
    )
    config.save_pretrained(tmp_path)
    theirs = upstream_config.Emu3Config.from_pretrained(tmp_path)
    again = compat.Emu3Config.from_pretrained(tmp_path)
    for read in (theirs, again):
        assert read.vocabulary_map == names and read.image_token_id == 3
        assert read.text_config.rope_parameters["rope_theta"] == 1e6
        for part, settings in (("text_config", TEXT), ("vq_config", VISION)):
            for field, value in settings.items():
                assert getattr(getattr(read, part), field) == value, field
    assert again.to_dict() == config.to_dict()
    assert compat.Emu3Config().vocabulary_map is None


def test_rope_arguments_do_not_leak_into_the_callers_table() -> None:
    table = {"rope_type": "linear", "factor": 2.0}
    config = compat.Emu3TextConfig(**TEXT, rope_scaling=table, rope_theta=5.0)
    assert table == {"rope_type": "linear", "factor": 2.0}
    assert config.rope_theta == 5.0 and config.rope_parameters["factor"] == 2.0


def test_default_models_are_built_on_the_meta_device() -> None:
    """35 GB in fact; seed 000 builds them like this."""
    with torch.device("meta"):
        model = compat.Emu3Model(compat.Emu3Config())
        tokenizer = compat.Emu3VQVAE(compat.Emu3VQVAEConfig())
    assert sum(p.numel() for p in model.text_model.parameters()) == 8_492_011_520 - 184622 * 4096
    assert sum(p.numel() for p in tokenizer.parameters()) == 270_740_287
    assert isinstance(model.config, compat.Emu3Config)
    assert model.vocabulary_mapping.image_tokens[:2] == [151854, 151855]
    assert len(model.vocabulary_mapping.image_tokens) == 32768


def test_random_whole_configurations(rng_seed: int) -> None:
    rng = random.Random(rng_seed)
    for rope_type in ("default", "yarn"):
        theirs = tiny.make_language_model(tiny.random_text_config(rng, rope_type), rng_seed)
        settings = theirs.config.to_dict()
        ours = compat.Emu3ForCausalLM(compat.Emu3TextConfig(**settings)).eval()
        ours.load_state_dict(theirs.state_dict())
        ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(rng_seed))
        assert largest_difference(ours(ids).logits, theirs(ids).logits) <= TOLERANCE
