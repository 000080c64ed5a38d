"""The configuration: copies, flags, ids that are None until set, settings of decoding kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from transformers import BertConfig, GPT2Config, ViTConfig

from dromaius.compat.vision_encoder_decoder import (
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from dromaius.errors import ConfigError
from tests.compat.vision_encoder_decoder.pairs import DECODERS, ENCODERS, model


def test_the_callers_configurations_stay_as_they_are() -> None:
    encoder, decoder = ENCODERS["vit"](), DECODERS["gpt2"]()
    before = encoder.to_dict(), decoder.to_dict()
    direct = VisionEncoderDecoderConfig(encoder=encoder, decoder=decoder)
    made = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    whole = made.to_dict()
    built = VisionEncoderDecoderModel(config=made)
    built.config.decoder.vocab_size = 7
    assert (encoder.to_dict(), decoder.to_dict()) == before
    assert made.to_dict() == whole
    for config in (direct, made):
        assert config.decoder.is_decoder and config.decoder.add_cross_attention
        assert config.is_encoder_decoder and not config.tie_word_embeddings


def test_a_decoder_object_keeps_its_configuration() -> None:
    config = GPT2Config(
        vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=8, add_cross_attention=True
    )
    decoder = transformers.GPT2LMHeadModel(config)
    encoder = transformers.ViTModel(ENCODERS["vit"]())
    before = config.to_dict()
    built = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    assert built.encoder is encoder and built.decoder is decoder
    assert config.to_dict() == before
    assert built.config.decoder.is_decoder


def test_parts_and_whole_share_one_configuration() -> None:
    built = model("vit", "bert")
    assert built.encoder.config is built.config.encoder
    assert built.decoder.config is built.config.decoder
    assert built.decoder.bert.encoder.layer[0].attention.self.config is built.config.decoder
    built.set_attn_implementation("eager")
    assert built.decoder.bert.config._attn_implementation == "eager"


def test_ids_are_none_until_set() -> None:
    config = VisionEncoderDecoderConfig()
    assert isinstance(config.encoder, ViTConfig) and isinstance(config.decoder, BertConfig)
    names = "pad_token_id decoder_start_token_id eos_token_id bos_token_id vocab_size hidden_size"
    assert [getattr(config, name) for name in names.split()] == [None] * 6
    with pytest.raises(AttributeError, match="paddding"):
        _ = config.paddding


def test_settings_of_decoding_reach_generation_config(tmp_path: Path) -> None:
    built = model("vit", "gpt2", max_length=9, num_beams=2)
    assert (built.generation_config.max_length, built.generation_config.num_beams) == (9, 2)
    built.config.max_length = 7  # transformers 5 refuses to generate after this
    built.config.no_repeat_ngram_size = 3
    built.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "generation_config.json").read_text())
    assert (stored["max_length"], stored["no_repeat_ngram_size"]) == (7, 3)
    assert "max_length" not in json.loads((tmp_path / "config.json").read_text())


def test_files_of_transformers_4_and_5_are_read(tmp_path: Path) -> None:
    theirs = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ENCODERS["swin"](), DECODERS["bert"](), pad_token_id=0
    )
    theirs.save_pretrained(tmp_path)
    ours = VisionEncoderDecoderConfig.from_pretrained(tmp_path)
    assert ours.decoder.to_dict() == theirs.decoder.to_dict()
    assert ours.encoder.to_dict() == theirs.encoder.to_dict()
    # transformers 4 wrote all settings of decoding into each part, and could have some on top
    content = json.loads((tmp_path / "config.json").read_text())
    content["decoder"] |= {"num_beams": 1, "max_length": 20, "cross_attention_hidden_size": None}
    content |= {"max_length": 33, "early_stopping": True, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    old = VisionEncoderDecoderConfig.from_pretrained(tmp_path)
    assert old.decoding == {"max_length": 33, "early_stopping": True}
    old.save_pretrained(tmp_path / "again")
    again = transformers.VisionEncoderDecoderConfig.from_pretrained(tmp_path / "again")
    extra = {"cross_attention_hidden_size": None}
    assert again.decoder.to_dict() == ours.decoder.to_dict() | extra
    assert again.pad_token_id == 0


@pytest.mark.parametrize(
    ("encoder", "decoder", "words"),
    [
        (transformers.ViTMAEConfig(), None, "vit_mae cannot be the encoder: .*at random"),
        (transformers.PixtralVisionConfig(), None, "pixtral cannot be the encoder: .*would mix"),
        (None, transformers.OPTConfig(), "cannot be the decoder: it has no cross-attention"),
        (None, transformers.LlamaConfig(), "cannot be the decoder: it has no cross-attention"),
        (None, transformers.DistilBertConfig(), "distilbert cannot be the decoder: .*use BERT"),
        (None, transformers.T5Config(), "t5 cannot be the decoder: transformers has no causal"),
        (None, transformers.BigBirdConfig(), "big_bird cannot be the decoder"),
        (None, {"model_type": "no-such"}, "decoder: transformers knows no model_type 'no-such'"),
        (None, "gpt2", "decoder must be a configuration or a dict, not str"),
        (None, BertConfig(cross_attention_hidden_size=5), "they must be equal"),
        (
            ViTConfig(hidden_size=64),
            BertConfig(hidden_size=32, cross_attention_hidden_size=64),
            "a bert decoder reads only its own width 32",
        ),
    ],
)
def test_pairs_that_cannot_work(encoder: object, decoder: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        VisionEncoderDecoderConfig(encoder=encoder, decoder=decoder)
    assert "\n" not in str(caught.value)


def test_a_text_model_is_no_encoder() -> None:
    config = VisionEncoderDecoderConfig(encoder=DECODERS["bert"](), decoder=DECODERS["gpt2"]())
    with pytest.raises(ConfigError, match="bert cannot be the encoder: it takes no pixel_values"):
        VisionEncoderDecoderModel(config=config)


def test_a_decoder_built_without_cross_attention_is_refused() -> None:
    decoder = transformers.GPT2LMHeadModel(DECODERS["gpt2"]())
    with pytest.raises(ConfigError, match="built without cross-attention and would ignore"):
        VisionEncoderDecoderModel(encoder=transformers.ViTModel(ENCODERS["vit"]()), decoder=decoder)


def test_construction_needs_a_configuration_or_both_parts() -> None:
    with pytest.raises(ValueError, match="a configuration, or an encoder and a decoder"):
        VisionEncoderDecoderModel()
    with pytest.raises(ValueError, match="VisionEncoderDecoderConfig, not ViTConfig"):
        VisionEncoderDecoderModel(config=ViTConfig())
