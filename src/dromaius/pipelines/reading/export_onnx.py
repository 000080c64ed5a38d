"""A VisionEncoderDecoder folder -> a folder of ONNX graphs, with a report that they are the same.

The report, parity.json: the largest difference of every output from PyTorch's over several sizes,
and whether greedy texts that onnxruntime writes with the three graphs are ours, token for token.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dromaius.errors import CheckpointError, InputError
from dromaius.files import write_text
from dromaius.models.emu3.convert import whole_folder
from dromaius.models.vision_encoder_decoder.onnx import export as onnx
from dromaius.models.vision_encoder_decoder.onnx.graphs import (
    DECODER,
    DECODER_WITH_PAST,
    ENCODER,
    names,
)
from dromaius.pipelines.reading.checkpoint import TextRules
from dromaius.pipelines.reading.image_to_text import ImageToText
from dromaius.pipelines.reading.writing import Wishes, write

REPORT = "parity.json"
IMAGES, TOKENS = 4, 24
"""Texts that are compared, and how long they may become."""
SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
"""Copied beside the graphs: configurations and tokenizers. (Indexes of weights are not.)"""


def export_onnx(
    model: ImageToText,
    destination: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes encoder_model.onnx, decoder_model.onnx, decoder_with_past_model.onnx and settings.

    destination: a folder that does not exist yet; it appears when all is written and compared.
    Returns the report. Raises InputError, ConfigError or CheckpointError in one line.
    """
    onnx.require_onnx()
    if model.pictures.shape is None:
        raise InputError(f"{model.name} takes pictures of any size; a graph needs one size")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise InputError("graphs are written from the CPU in float32: leave out device and dtype")
    channels = int(getattr(model.model.encoder.config, "num_channels", 3))
    shape = (channels, *model.pictures.shape)
    with whole_folder(destination) as folder:
        copy_settings(model.folders[0], folder)
        differences = onnx.export(model.model, folder, shape, progress)
        noise = torch.Generator().manual_seed(0)
        pixels = torch.randn(IMAGES, *shape, generator=noise)
        equal, tokens = _same_texts(model, folder, pixels)
        report = {
            "opset": onnx.OPSET,
            "largest_difference": max(max(d.values()) for d in differences.values()),
            "outputs": differences,
            "greedy": {"texts": IMAGES, "tokens": tokens, "equal": equal},
        }
        write_text(folder / REPORT, json.dumps(report, indent=1) + "\n")
        if not equal:
            raise CheckpointError(f"{model.name}: onnxruntime writes other texts than PyTorch")
    return report


def copy_settings(source: Path, folder: Path) -> None:
    """Copies configurations, tokenizer and picture settings; no weights."""
    for pattern in SETTINGS:
        for file in source.glob(pattern):
            if file.is_file() and not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)


def greedy(
    folder: Path, pixels: np.ndarray, prompts: np.ndarray, end: Sequence[int], new: int
) -> list[list[int]]:
    """Texts by onnxruntime alone: pixels [B,C,H,W], ids [B,P] -> the new ids of each."""
    encoder, decoder, step = (
        onnx.session(folder / file) for file in (ENCODER, DECODER, DECODER_WITH_PAST)
    )
    [hidden] = encoder.run(None, {"pixel_values": pixels})
    logits, *state = decoder.run(None, {"input_ids": prompts, "encoder_hidden_states": hidden})
    past = dict(zip(names("past_key_values", len(state) // 4), state, strict=True))
    known = {node.name for node in step.get_inputs()}
    own = [name for name in past if ".decoder." in name]
    texts: list[list[int]] = [[] for _ in prompts]
    for _ in range(new):
        chosen = logits[:, -1].argmax(-1)  # [B]
        for text, token in zip(texts, chosen.tolist(), strict=True):
            if not text or text[-1] not in end:
                text.append(token)
        if all(text[-1] in end for text in texts):
            break
        fed = {"input_ids": chosen[:, None], **past}
        logits, *state = step.run(None, {n: value for n, value in fed.items() if n in known})
        past |= dict(zip(own, state, strict=True))
    return texts


def _same_texts(model: ImageToText, folder: Path, pixels: Tensor) -> tuple[bool, int]:
    """Whether both write the same ids for some images, and how many ids those are."""
    rules = TextRules(model.rules.start, model.rules.end, model.rules.pad)  # plainly greedy
    prompts = torch.full((len(pixels), 1), rules.start)
    with torch.inference_mode():
        encoded = model.model.encode(pixels)
    wishes = Wishes(beams=1, max_new_tokens=TOKENS)
    ours = [texts[0].ids for texts in write(model.model, encoded, prompts, rules, wishes)]
    new = max(len(text) for text in ours)  # the decoder's positions may end before TOKENS
    theirs = greedy(folder, pixels.numpy(), prompts.numpy(), rules.end, new)
    return ours == theirs, sum(map(len, ours))
