"""What seed 002 quotes of transformers' and BAAI's code runs with our objects as `self`."""

import ast
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.configuration_utils import GenerationMode

from dromaius.compat import baai
from dromaius.compat.drawing import Drawing
from tests.compat.seed_blocks.support import EOS, PAD, Run, grid, picture_of, read


@pytest.fixture
def drawing(parts: SimpleNamespace) -> SimpleNamespace:
    """Two prompts as the seed prepares them, and the arguments of its calls."""
    given = {"image_area": 48 * 48, "return_tensors": "pt", "padding": "longest"}
    ratio, texts = ["1:1", "16:9"], ["a portrait of young girl.", "a shiba inu"]
    prompts = parts.processor(texts, ratio=ratio, **given)
    negatives = parts.processor(["lowres, blurry."] * 2, ratio=ratio, **given)
    config = GenerationConfig(
        eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=64, do_sample=True, top_k=2048
    )

    def rules() -> LogitsProcessorList:
        sizes = prompts.image_size[:, 0], prompts.image_size[:, 1]
        rule = parts.processor.build_prefix_constrained_fn(*sizes)
        guidance = UnbatchedClassifierFreeGuidanceLogitsProcessor(
            3.0, parts.model, unconditional_ids=negatives.input_ids
        )
        return LogitsProcessorList([guidance, PrefixConstrainedLogitsProcessor(rule, num_beams=1)])

    def generate() -> torch.Tensor:
        torch.manual_seed(0)
        return parts.model.generate(
            prompts.input_ids,
            config,
            logits_processor=rules(),
            attention_mask=prompts.attention_mask,
        )

    return SimpleNamespace(
        prompts=prompts, negatives=negatives, config=config, rules=rules, generate=generate
    )


def test_seed_002_generate_call(
    run: Run, parts: SimpleNamespace, drawing: SimpleNamespace, tmp_path: Path
) -> None:
    names = run(
        "002 generate call",
        model=parts.model,
        pos_inputs=drawing.prompts,
        GENERATION_CONFIG=drawing.config,
        logits_processor=drawing.rules(),
    )
    length = drawing.prompts.input_ids.shape[1]
    sizes = [(6, 6), (4, 8)]
    codes = [
        grid(row[length:].tolist(), *size)
        for row, size in zip(names["outputs"], sizes, strict=True)
    ]
    run(
        "002 saving pictures",
        outputs=names["outputs"],
        processor=parts.processor,
        Image=Image,
    )
    for row, (height, width) in enumerate(sizes):
        saved = read(tmp_path / f"result_{row}_1.png")
        assert saved.shape == (8 * height, 8 * width, 3)
        assert np.array_equal(saved, picture_of(parts, codes[row]))


@pytest.fixture
def inside_generate(
    parts: SimpleNamespace, drawing: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The result of a `generate` call, and what it gave to `_sample`, made anew."""
    seen: dict[str, Any] = {}
    sample = type(parts.model)._sample

    def spy(self: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        seen.update(input_ids=input_ids, **kwargs)
        return sample(self, input_ids, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(type(parts.model), "_sample", spy)
        result = drawing.generate()
    # processors and cache have been used up by that call
    fresh = LogitsProcessorList([*drawing.rules(), *seen["logits_processor"][2:]])
    used = ("input_ids", "logits_processor", "stopping_criteria", "generation_config")
    options = ("synced_gpus", "streamer", "past_key_values", *used)
    model_kwargs = {k: v for k, v in seen.items() if k not in options}
    return result, {
        "self": parts.model,
        "input_ids": seen["input_ids"],
        "generation_config": seen["generation_config"],
        "prepared_logits_processor": fresh,
        "prepared_stopping_criteria": seen["stopping_criteria"],
        "model_kwargs": model_kwargs,
        "synced_gpus": False,
        "streamer": None,
    }


@pytest.mark.parametrize("name", ["002 generate branch", "002 generate branch again"])
def test_seed_002_generate_branch(
    run: Run, inside_generate: tuple[torch.Tensor, dict[str, Any]], name: str
) -> None:
    expected, given = inside_generate
    given |= {"generation_mode": GenerationMode.SAMPLE, "GenerationMode": GenerationMode}
    with torch.no_grad():
        assert run(name, **given)["result"].tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["002 maximum length", "002 maximum length again"])
def test_seed_002_maximum_length(
    run: Run, inside_generate: tuple[torch.Tensor, dict[str, Any]], name: str
) -> None:
    names = run(name, generation_config=inside_generate[1]["generation_config"])
    assert names["max_length"] == 64 + inside_generate[1]["input_ids"].shape[1]


def test_seed_002_sampling_loop(
    run: Run,
    inside_generate: tuple[torch.Tensor, dict[str, Any]],
    drawing: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, given = inside_generate
    monkeypatch.setattr(Drawing, "recognise", lambda *_: None)  # the quoted loop, not the engine
    expected = drawing.generate()
    ids, config = given["input_ids"], given["generation_config"]
    flags = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
    given |= dict.fromkeys(flags, False) | {
        "torch": torch,
        "nn": nn,
        "logits_processor": given["prepared_logits_processor"],
        "stopping_criteria": given["prepared_stopping_criteria"],
        "this_peer_finished": False,
        "cur_len": ids.shape[1],
        "max_length": config.max_length,
        "return_dict_in_generate": False,
        "scores": None,
        "do_sample": True,
        "has_eos_stopping_criteria": True,
        "pad_token_id": PAD,
        "unfinished_sequences": torch.ones(len(ids), dtype=torch.long),
    }
    with torch.no_grad():
        names = run("002 sampling loop", **given)
    assert names["input_ids"].tolist() == expected.tolist()


def test_seed_002_expand_inputs(run: Run, parts: SimpleNamespace) -> None:
    names = run(
        "002 expand inputs", torch=torch, Optional=Optional, Tuple=tuple, Dict=dict, Any=Any
    )
    ids = torch.arange(6).view(2, 3)
    for size in (1, 3):
        arguments = {"expand_size": size, "input_ids": ids, "attention_mask": torch.ones(2, 3)}
        found = names["_expand_inputs_for_generation"](**dict(arguments))
        expected = parts.model._expand_inputs_for_generation(**dict(arguments))
        assert found[0].tolist() == expected[0].tolist() == ids.repeat_interleave(size, 0).tolist()
        assert found[1]["attention_mask"].shape == expected[1]["attention_mask"].shape
    outputs = {"hidden": torch.zeros(2, 4)}
    _, more = names["_expand_inputs_for_generation"](2, True, ids, encoder_outputs=outputs)
    assert more["encoder_outputs"]["hidden"].shape == (4, 4)


def test_seed_002_decode(run: Run, parts: SimpleNamespace, drawing: SimpleNamespace) -> None:
    # the seed names its argument `self`; the methods run on our processor
    decode = run("002 decode")["decode"]
    multimodal = run("002 multimodal decode", re=re, torch=torch)["multimodal_decode"]
    ids = drawing.generate()[0]
    pieces = decode(parts.processor, ids)
    assert [type(piece) for piece in pieces] == [str, Image.Image, str]
    document = parts.tokenizer.decode(ids)
    # the quoted method fills its list and, as printed, returns nothing
    collected = last_value(multimodal, "multimodal_output", parts.processor, document)
    assert [type(piece) for piece in collected] == [str, Image.Image, str]
    for ours, theirs in zip(pieces, collected, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def last_value(function: Callable[..., Any], name: str, *args: Any) -> Any:
    """What a local variable of a function held when the function returned."""
    found: dict[str, Any] = {}

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is function.__code__:
            if event == "return":
                found.update(frame.f_locals)
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return found[name]


def test_seed_002_tokenize_and_encode_image(
    run: Run, parts: SimpleNamespace, picture: Path
) -> None:
    image = [Image.open(picture)]
    ours = run("002 tokenize image", self=parts.processor, image=image, padding_image=True)[
        "image_tokens"
    ]
    part = run("002 encode image", self=parts.processor, image=image, is_all_same_size=True)
    assert part["image_tokens"].tolist() == ours.tolist()
    encode = run("002 encode", torch=torch)["encode"]
    quantizer = run(
        "002 vector quantizer", torch=torch, nn=nn, Emu3VisionVQConfig=baai.Emu3VisionVQConfig
    )["Emu3VisionVQVectorQuantizer"](parts.vision.config)
    quantizer.embedding.weight.data.copy_(parts.vision.quantize.embedding.weight)
    # ours has no forward over [B,T,C,H,W]: the spatial stages run frame by frame, then time
    encoder = parts.vision.encoder

    def encode_frames(x: torch.Tensor) -> torch.Tensor:
        frames = encoder.space(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return encoder.time(frames.transpose(1, 2)).transpose(1, 2)  # [B,t,Z,h,w]

    upstream = SimpleNamespace(
        config=parts.vision.config,
        encoder=encode_frames,
        quant_conv=parts.vision.quant_conv,
        quantize=quantizer,
    )
    with torch.no_grad():
        assert encode(upstream, part["image_inputs"]).tolist() == ours.tolist()
        clip = torch.rand(1, 8, 3, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
        assert encode(upstream, clip).tolist() == parts.vision.encode(clip).tolist()
    assert ours.shape == (1, 5, 8) and len(ours.unique()) > 10


def test_seed_002_vector_quantizer(run: Run, parts: SimpleNamespace) -> None:
    quantizer = run(
        "002 vector quantizer", torch=torch, nn=nn, Emu3VisionVQConfig=baai.Emu3VisionVQConfig
    )["Emu3VisionVQVectorQuantizer"](parts.vision.config)
    quantizer.embedding.weight.data.copy_(parts.vision.quantize.embedding.weight)
    latents = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(4))
    ours = parts.vision.quantize(latents.movedim(2, -1))
    assert quantizer(latents).tolist() == ours.tolist()
    # independent of both: distances written out, in float64
    book = parts.vision.quantize.embedding.weight.double()
    exact = torch.cdist(latents.movedim(2, -1).reshape(-1, 4).double(), book).argmin(1)
    assert (exact == ours.flatten()).float().mean() > 0.99


@pytest.mark.parametrize("mode", ["U", "G"])
def test_seed_002_prompts(run: Run, parts: SimpleNamespace, picture: Path, mode: str) -> None:
    image = [Image.open(picture), Image.open(picture).resize((48, 48))]
    given: dict[str, Any] = {
        "self": parts.processor,
        "mode": mode,
        "text": ["Please describe the image", "请描述该图片"],
        "ratio": ["16:9", "1:1"],
        "image_area": 64 * 64,
    }
    if mode == "U":
        given["image_tokens"] = parts.processor.tokenize_image(image)
    names = run("002 prompts", **given)
    names |= {"kwargs": {"padding": "longest", "return_tensors": "pt"}}
    ids = run(
        "002 tokenizer call",
        **{k: names[k] for k in ("prompt_list", "kwargs")},
        **{"self": parts.processor},
    )["text_inputs"]
    ours = parts.processor(
        given["text"],
        image if mode == "U" else None,
        mode=mode,
        ratio=given["ratio"],
        image_area=given["image_area"],
        **names["kwargs"],
    )
    assert ours.input_ids.tolist() == ids.input_ids.tolist()
    assert ours.attention_mask.tolist() == ids.attention_mask.tolist()
    assert ours.image_size.tolist() == names["size_list"]
    assert names["size_list"] == ([[5, 8], [6, 6]] if mode == "U" else [[6, 11], [8, 8]])


def test_seed_002_picture_as_text(run: Run, parts: SimpleNamespace) -> None:
    to_imgstr = run("002 picture as text")["to_imgstr"]
    codes = torch.tensor([[11928, 8709], [4787, 8607]])
    text = to_imgstr(parts.processor, codes)
    assert text == parts.processor.to_imgstr(codes)
    assert text.startswith("<|visual token 011928|><|visual token 008709|><|extra_200|>")


def test_seed_002_text_to_ids(run: Run, parts: SimpleNamespace, seeds: Path) -> None:
    prompt = (
        "<|extra_203|>You are a helpful assistant. USER: <|image start|>64*64<|image token|>"
        "<|visual token 011928|>"
    )
    tokenizer = parts.tokenizer
    tokens = run(
        "002 tokens",
        self=SimpleNamespace(tokenizer=tokenizer.tokenizer, decoder=tokenizer.decoder),
        unicodedata=unicodedata,
        text=prompt,
        allowed_special="all",
        disallowed_special=(),
    )["tokens"]
    ids = run("002 ids", self=tokenizer, tokens=tokens)["ids"]
    get_input_ids = run("002 input ids", self=tokenizer, kwargs={})["get_input_ids"]
    assert get_input_ids(prompt) == ids == tokenizer(prompt).input_ids
    # what the seed prints
    (text,) = [path.read_text(encoding="utf-8") for path in seeds.glob("002_*.txt")]
    printed = [
        line for line in text.splitlines() if line.startswith(("['<|extra_203|>'", "[151849"))
    ]
    assert ast.literal_eval(printed[0].rstrip(".")) == tokens
    numbers = [int(n) for n in re.findall(r"\d+", printed[1])]
    assert ids[: len(numbers)] == numbers == [151849, 2610, 525, 264, 10950, 17847, 13]
