"""One step is the same however the batch is cut; under the Trainer, with checkpointing and LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.compat.vision_encoder_decoder.pairs import labels, model, pixels


def gradients(subject: Any) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in subject.named_parameters() if p.grad is not None}
    subject.zero_grad()
    return found


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up(parts: int) -> None:
    ours = model("vit", "gpt2")
    images, targets = pixels("vit", 4), labels(4)  # the first row has fewer targets
    whole = ours(images, labels=targets).loss
    whole.backward()
    expected = gradients(ours)
    total = (targets != -100).sum()
    losses = []
    for image, target in zip(images.chunk(parts), targets.chunk(parts), strict=True):
        losses.append(ours(image, labels=target, num_items_in_batch=total).loss)
        losses[-1].backward()
    torch.testing.assert_close(sum(losses), whole)
    assert_same(gradients(ours), expected)


def train(steps: int, folder: Path) -> tuple[float, dict[str, Tensor]]:
    """One update by the Trainer on the same four samples, in `steps` parts."""
    images, targets = pixels("vit", 4), labels(4)
    samples = [
        {"pixel_values": image, "labels": target}
        for image, target in zip(images, targets, strict=True)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4 // steps,
        gradient_accumulation_steps=steps,
        max_steps=1,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=0.0,
        weight_decay=0.0,
    )
    subject = model("vit", "gpt2", dropout=False)  # the parts would draw different masks
    trainer = transformers.Trainer(subject, arguments, train_dataset=samples)
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return loss, dict(subject.named_parameters())


def test_accumulation_under_the_trainer(tmp_path: Path) -> None:
    loss, weights = train(1, tmp_path)
    assert loss == pytest.approx(
        model("vit", "gpt2")(pixels("vit", 4), labels=labels(4)).loss.item(), abs=1e-3
    )
    for steps in (2, 4):
        again, updated = train(steps, tmp_path)
        assert again == pytest.approx(loss, abs=1e-3)
        for name, value in weights.items():
            torch.testing.assert_close(updated[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("encoder", "decoder"), [("vit", "gpt2"), ("swin", "bert")])
def test_gradient_checkpointing_changes_nothing(encoder: str, decoder: str) -> None:
    ours = model(encoder, decoder, dropout=False).train()
    images, targets = pixels(encoder), labels()
    ours(images, labels=targets).loss.backward()
    expected = gradients(ours)
    ours.gradient_checkpointing_enable()
    ours(images, labels=targets).loss.backward()
    assert_same(gradients(ours), expected)


def test_a_step_with_labels_keeps_no_cache() -> None:
    ours = model("vit", "gpt2")
    assert ours(pixels("vit"), labels=labels()).past_key_values is None
    ids = torch.tensor([[1], [1]])
    assert ours(pixels("vit"), decoder_input_ids=ids).past_key_values is not None


def test_loss_in_bfloat16_is_float32() -> None:
    ours = model("vit", "gpt2").bfloat16()
    out = ours(pixels("vit").bfloat16(), labels=labels())
    assert (out.logits.dtype, out.loss.dtype) == (torch.bfloat16, torch.float32)


def test_lora_on_the_decoder() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["c_attn", "q_attn"], fan_in_fan_out=True)
    base = model("vit", "gpt2")
    before = base(pixels("vit"), labels=labels()).logits.detach()
    subject = peft.get_peft_model(base, config)
    out = subject(pixel_values=pixels("vit"), labels=labels())
    torch.testing.assert_close(out.logits, before)  # an adapter starts as nothing
    out.loss.backward()
    trained = [name for name, p in subject.named_parameters() if p.grad is not None]
    assert trained and all("lora" in name for name in trained)
    assert subject.generate(pixel_values=pixels("vit"), max_new_tokens=3).shape[0] == 2
