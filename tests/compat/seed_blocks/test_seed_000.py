"""Seed 000: the examples of transformers' documentation page."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.compat.conftest import Checkpoints
from tests.compat.seed_blocks.support import (
    BOI,
    BOS,
    IMG,
    NEGATIVE_LENGTH,
    Run,
    grid,
    guided,
    read,
    says,
    to_bytes,
)

LANGUAGE_MODEL_PARAMETERS = 8_492_011_520
HEAD_PARAMETERS = 756_211_712
VISION_PARAMETERS = 270_740_287
CONVERSATION = [
    {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
    {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "Please describe the image."}],
    },
]
CHAT_PROMPT = "You are a helpful assistant. USER: <image>Please describe the image. ASSISTANT:"


@pytest.fixture
def processor(checkpoints: Checkpoints) -> Any:
    from dromaius.compat.transformers import Emu3Processor

    return Emu3Processor.from_pretrained(checkpoints.hf)


@pytest.fixture(scope="module")
def their_processor(checkpoints: Checkpoints) -> Any:
    from transformers import Emu3Processor

    return Emu3Processor.from_pretrained(checkpoints.hf)


def test_tips(run: Run, processor: Any) -> None:
    run("000 padding side", processor=processor)
    batch = processor(text=["a", "a b c d"], padding=True, return_tensors="pt")
    assert batch.attention_mask[0].tolist() == sorted(batch.attention_mask[0].tolist())
    names = run("000 chat template", processor=processor, my_conversation_dict=CONVERSATION)
    assert names["_"] == CHAT_PROMPT.removesuffix("ASSISTANT:")


def test_chat(
    run: Run, their_processor: Any, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run("000 chat")
    prompt = names["inputs"]["input_ids"]
    expected = their_processor(
        images=Image.open(picture), text="What do you see in this image?<image>"
    )
    assert prompt[0].tolist() == expected["input_ids"][0]
    assert names["output"][:, : prompt.shape[1]].tolist() == prompt.tolist()
    printed = capsys.readouterr().out
    assert printed.startswith("What do you see in this image?5*8")
    assert len(printed.strip()) > len("What do you see in this image?5*8")


def test_generation(run: Run, checkpoints: Checkpoints, theirs: Any, tmp_path: Path) -> None:
    from dromaius.compat.transformers import Emu3ForConditionalGeneration, Emu3Processor

    with pytest.warns(UserWarning) as caught:
        # the block has no imports of its own: on the page it follows the chat block's
        names = run(
            "000 generation",
            torch=torch,
            Emu3Processor=Emu3Processor,
            Emu3ForConditionalGeneration=Emu3ForConditionalGeneration,
        )
    assert says(caught, "ignores the negative prompt") == 1
    assert says(caught, "no picture header") == 1
    assert says(caught, "flash-attn") == 1
    inputs, sequences = names["inputs"], names["out"].sequences
    prompts = [
        ids[mask == 1].tolist()
        for ids, mask in zip(inputs.input_ids, inputs.attention_mask, strict=True)
    ]
    assert len(prompts[0]) != len(prompts[1])  # so that padding matters
    assert (int(names["HEIGHT"]), int(names["WIDTH"])) == (6, 6)
    codes = [grid(row[inputs.input_ids.shape[1] :].tolist(), 6, 6) for row in sequences]
    assert codes[0] != codes[1]
    pixels = theirs.model.vqmodel.decode(torch.tensor(codes))
    for row in range(2):  # the second is the one that upstream corrupts
        saved = read(tmp_path / f"result{row}.png").astype(int)
        assert saved.shape == (48, 48, 3)
        assert np.abs(saved - to_bytes(pixels[row])).max() <= 1
    assert_guided(names, checkpoints, theirs, prompts[1])


def assert_guided(
    names: dict[str, Any], checkpoints: Checkpoints, theirs: Any, prompt: list[int]
) -> None:
    """The block's own call, greedy and in float32, gives the ids that the formulas give."""
    inputs, negative = names["inputs"], names["neg_inputs"]
    model = type(names["model"]).from_pretrained(checkpoints.hf, torch_dtype=torch.float32)
    found = model.generate(
        **inputs,
        do_sample=False,
        prefix_allowed_tokens_fn=names["prefix_allowed_tokens_fn"],
        negative_prompt_ids=negative.input_ids,
        negative_prompt_attention_mask=negative.attention_mask,
    )[1, inputs.input_ids.shape[1] :].tolist()
    ids = negative.input_ids[1].tolist()
    assert len(ids) == 1 + NEGATIVE_LENGTH and ids[0] == BOS
    unconditional = [*ids, BOI, 21, 9, 21, IMG]  # with the header "6*6" that upstream forgets
    assert found == guided(theirs, prompt, unconditional, 6, 6, 3.0)
    assert found != guided(theirs, prompt, unconditional, 6, 6, 1.0)


def test_configurations(run: Run) -> None:
    vision = run("000 vision configuration", meta=True)
    assert vision["configuration"] is vision["model"].config
    assert sum(p.numel() for p in vision["model"].parameters()) == VISION_PARAMETERS
    model = run("000 model configuration", meta=True)
    assert model["configuration"] is model["model"].config
    total = sum(p.numel() for p in model["model"].parameters())
    assert total == LANGUAGE_MODEL_PARAMETERS - HEAD_PARAMETERS + VISION_PARAMETERS


def test_causal_language_model(run: Run, theirs: Any) -> None:
    """Upstream returns random weights here; ours are the checkpoint's, and one warning says so."""
    with pytest.warns(UserWarning) as caught:
        names = run("000 causal language model")
    assert says(caught, "random weights") == 1
    ours = names["model"].state_dict()
    for name, tensor in theirs.lm_head.state_dict().items():
        assert torch.equal(ours[f"lm_head.{name}"], tensor.to(torch.bfloat16))
    layer = "layers.1.self_attn.q_proj.weight"
    expected = theirs.model.text_model.state_dict()[layer].to(torch.bfloat16)
    assert torch.equal(ours[f"model.{layer}"], expected)
    assert continues_likely(theirs, names)
    assert names["_"].startswith("Can you write me a poem about winter.")
    assert len(names["_"]) > len("Can you write me a poem about winter.")


def test_conditional_generation(run: Run, theirs: Any, their_processor: Any, picture: Path) -> None:
    names = run("000 conditional generation")
    assert names["prompt"] == CHAT_PROMPT
    image = Image.open(picture)
    inputs = their_processor(images=[image], text=[CHAT_PROMPT], return_tensors="pt")
    assert names["inputs"]["input_ids"].tolist() == inputs["input_ids"].tolist()
    assert continues_likely(
        theirs, names, pixel_values=inputs["pixel_values"], image_sizes=inputs["image_sizes"]
    )
    assert "Please describe the image. ASSISTANT:" in names["_"]
    assert names["_"].split("ASSISTANT:", 1)[1].strip()


def continues_likely(theirs: Any, names: dict[str, Any], **more: Any) -> bool:
    """Each greedy id of our bfloat16 model is among the likeliest of transformers' in float32."""
    ids = names["generated_ids"]
    start = names["inputs"]["input_ids"].shape[1]
    with torch.no_grad():
        scores = theirs(input_ids=ids, **more).logits[0, start - 1 : -1]
    chosen = scores.gather(1, ids[0, start:, None])
    return ids.shape[1] == start + 8 and bool(((scores > chosen).sum(1) < 5).all())
