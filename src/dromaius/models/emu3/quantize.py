"""From any checkpoint to one in few bits: tensor after tensor, none of them held for long."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dromaius.errors import CheckpointError, InputError
from dromaius.files import write_text
from dromaius.io import hub
from dromaius.io.shards import MAX_SHARD_BYTES, save_sharded
from dromaius.models.emu3 import export, layouts, weights
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.convert import Progress, Stream, check_tensors, whole_folder
from dromaius.models.emu3.quantization import QuantizationCost, QuantizationSettings
from dromaius.nn.packing import Form, pack
from dromaius.tokenizers import find_tokenizer
from dromaius.tokenizers.bpe import json_text

Measure = Callable[[Path], QuantizationCost | None]
"""(a folder with the quantized model) -> what quantizing has cost."""


def quantize_checkpoint(
    source: str | Path,
    destination: str | Path,
    settings: QuantizationSettings,
    vision_tokenizer: str | Path | None = None,
    max_shard_size: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> Path:
    """Write a checkpoint whose language model is stored in few bits, in our own layout.

    Peak memory is one matrix of the source and one file of the result. The vision tokenizer, norms
    and biases are written as they are.

    Args:
        source: "nano", a folder in any layout, or a hub id.
        destination: a folder that does not exist yet; it appears when it is complete.
        settings: the forms; their cost is what `measure` finds.
        vision_tokenizer: where the vision tokenizer lies, if the source has none.
        max_shard_size: bytes of a weight file at most.
        progress: called as tensors are read, with bytes done and bytes in all.
        measure: called with the folder before it takes its name.

    Returns:
        The folder written.

    Raises:
        CheckpointError, ConfigError: the source is damaged, or has no language model.
        InputError: the destination exists already, or the source is quantized.
    """
    folders = [hub.resolve(source)]
    config = layouts.read_config(folders[0])
    if config.language_model is None:
        raise CheckpointError(f"{source} holds no language model to quantize")
    if config.quantization is not None:
        raise InputError(f"{source} is quantized already ({config.quantization.name})")
    if vision_tokenizer is not None:
        folders.append(hub.resolve(vision_tokenizer))
        config = layouts.join(config, layouts.read_config(folders[1]))
    assert config.language_model is not None
    check_tensors(folders, config)
    plan = settings.plan(config.language_model)
    stream = Stream(folders, None, progress).tensors("dromaius")
    with whole_folder(Path(destination)) as folder:
        tokenizer = find_tokenizer(folders[0])
        if tokenizer is not None:
            tokenizer.save(folder)
        _write_config(folder, replace(config, quantization=settings))
        tied = config.language_model.tie_word_embeddings
        save_sharded(_packed(stream, plan, tied), folder, max_shard_size)
        if measure is not None:
            cost = measure(folder)
            _write_config(folder, replace(config, quantization=replace(settings, cost=cost)))
    return Path(destination)


def _write_config(folder: Path, config: Emu3Config) -> None:
    for name, content in export.own_files(config).items():
        write_text(folder / name, json_text(content))


def _packed(
    tensors: Iterable[tuple[str, Tensor]], plan: Mapping[str, Form], tied: bool
) -> Iterator[tuple[str, Tensor]]:
    """The tensors under our names, matrices of the plan in their form; a tied head goes once."""
    table, seen = ("model.embed_tokens.weight", "lm_head.weight"), False
    for name, tensor in tensors:
        ours = name.removeprefix(weights.LANGUAGE)
        if ours == name:  # the vision tokenizer's
            yield name, tensor
            continue
        if tied and ours in table:
            if seen:
                continue
            ours, seen = table[0], True
        form = plan.get(ours.removesuffix(".weight")) if ours.endswith(".weight") else None
        if form is None:
            yield weights.LANGUAGE + ours, tensor
            continue
        try:
            parts = pack(tensor, form)
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}") from None
        for part, stored in parts.items():
            yield f"{weights.LANGUAGE}{ours}.{part}", stored
