"""Between transformers' `generate`, which prepares ids and rules, and our decoding loops.

Legend: B images, K rows of each (beams, or texts that are sampled), R = B * K, P prompt tokens.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import (
    GenerateBeamEncoderDecoderOutput,
    GenerateEncoderDecoderOutput,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from dromaius.compat.vision_encoder_decoder.outputs import EncoderOutput
from dromaius.engine.beam_search import (
    Beams,
    NextLogits,
    Process,
    Record,
    search_beams,
    write_rows,
)
from dromaius.models.vision_encoder_decoder.decoding.called import CalledDecoder
from dromaius.models.vision_encoder_decoder.decoding.families import read_layers
from dromaius.models.vision_encoder_decoder.decoding.fast import FastDecoder
from dromaius.models.vision_encoder_decoder.decoding.own_products import own_products
from dromaius.models.vision_encoder_decoder.model import check_mask


def write_texts(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    encoded: EncoderOutput,
    instead: Mapping[str, Any] | None = None,
    streamer: Any = None,
    **given: Any,
) -> Any:
    """What `generate` returns, by our loops.

    Args:
        input_ids: [R,P], K equal rows for each image.
        logits_processor, stopping_criteria, generation_config: as `generate` has prepared them.
        encoded: of the B images.
        instead: matrices of the decoder to use in place of its own (`read_layers`).

    Raises InputError for ids outside of the vocabulary or a mask that does not fit the images.
    """
    config: Any = generation_config
    by_beams = (config.num_beams or 1) > 1
    if by_beams and streamer is not None:
        raise ValueError("a streamer cannot follow several beams: set num_beams=1")
    rows = max(config.num_beams or 1, config.num_return_sequences or 1)
    prompts, mask = input_ids[::rows], given.get("decoder_attention_mask")
    mask = None if mask is None else mask[::rows]
    model.check_ids(prompts, "decoder_input_ids")
    check_mask(encoded.attention_mask, encoded.memory)
    decoder = _decoder(model, encoded, config, rows, mask, instead)
    wanted = bool(config.return_dict_in_generate)
    record = Record(
        scores=[] if wanted and config.output_scores else None,
        logits=[] if wanted and config.output_logits else None,
    )
    write: Callable[..., dict[str, Any]] = _by_beams
    if not by_beams:
        write = partial(_by_rows, streamer=streamer)
    with own_products(model.decoder):
        found = write(decoder, prompts, config, logits_processor, stopping_criteria, record)
    if not wanted:
        return found["sequences"]
    output: Any = GenerateBeamEncoderDecoderOutput if by_beams else GenerateEncoderDecoderOutput
    return output(**found, **_seen(decoder, record, encoded, config))


def _by_rows(
    decoder: NextLogits,
    prompts: Tensor,
    config: Any,
    rules: Process,
    stopping_criteria: StoppingCriteriaList,
    record: Record,
    streamer: Any,
) -> dict[str, Any]:
    ends = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
    ids = write_rows(
        decoder,
        prompts,
        config.num_return_sequences or 1,
        rules,
        stopping_criteria,
        sample=bool(config.do_sample),
        filler=int(config._pad_token_tensor) if ends else None,
        record=record,
        show=None if streamer is None else lambda new: streamer.put(new.cpu()),
    )
    if streamer is not None:
        streamer.end()
    return {"sequences": ids}


def _by_beams(
    decoder: NextLogits,
    prompts: Tensor,
    config: Any,
    rules: Process,
    stopping_criteria: StoppingCriteriaList,
    record: Record,
) -> dict[str, Any]:
    ends, pad = config._eos_token_tensor, config._pad_token_tensor
    beams = Beams(
        count=config.num_beams,
        longest=config.max_length,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        end_ids=0 if ends is None else len(ends),
        # As transformers: a padding id of 0 counts as none, and without an end nothing is filled.
        filler=-1 if ends is None else int(pad) or int(ends[0]),
        sample=bool(config.do_sample),
    )
    count = config.num_return_sequences or 1
    found = search_beams(
        decoder, prompts, beams, rules, stopping_criteria, returned=count, record=record
    )
    return {
        "sequences": found.ids,
        "sequences_scores": found.scores if config.output_scores else None,
        "beam_indices": found.rows,
    }


def _decoder(
    model: Any,
    encoded: EncoderOutput,
    config: Any,
    rows: int,
    prompt_mask: Tensor | None,
    instead: Mapping[str, Any] | None,
) -> NextLogits:
    """Our own step where there is one and nothing is asked that only the module returns."""
    memory: Any = encoded.memory
    memory = memory.to(model.decoder.dtype)
    wishes = {name: bool(getattr(config, name)) for name in _WISHES}
    if config.use_cache and not any(wishes.values()):
        layers = read_layers(model.decoder, instead)
        if layers is not None:
            return FastDecoder(layers, memory, encoded.attention_mask, rows, prompt_mask)
    return CalledDecoder(
        model,
        memory,
        encoded.attention_mask,
        rows,
        prompt_mask,
        cached=bool(config.use_cache),
        **wishes,
    )


_WISHES = ("output_attentions", "output_hidden_states")


def _seen(decoder: Any, record: Record, encoded: EncoderOutput, config: Any) -> dict[str, Any]:
    """What was recorded, under the names of transformers' outputs."""
    found: dict[str, Any] = {
        "scores": record.seen(),
        "logits": None if record.logits is None else tuple(record.logits),
    }
    if config.output_attentions:
        found["encoder_attentions"] = encoded.attentions
        for name in ("attentions", "cross_attentions"):
            key = name if name.startswith("cross") else f"decoder_{name}"
            found[key] = tuple(out[name] for out in decoder.outputs)
    if config.output_hidden_states:
        found["encoder_hidden_states"] = encoded.hidden_states
        found["decoder_hidden_states"] = tuple(out["hidden_states"] for out in decoder.outputs)
    return found
