"""From any layout to any other: tensors stream from file to file, bit for bit."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dromaius.errors import CheckpointError, InputError, warn_once
from dromaius.files import write_text
from dromaius.io import hub
from dromaius.io.checkpoint import list_tensors, read_tensors, without_memory
from dromaius.io.shards import MAX_SHARD_BYTES, save_sharded
from dromaius.models.emu3 import export, layouts, weights
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.tokenizers import convert as tokenizer_forms
from dromaius.tokenizers import find_tokenizer
from dromaius.tokenizers.bpe import BpeTokenizer, json_text
from dromaius.tokenizers.text import TextTokenizer

Target = Literal["dromaius", "baai", "hf"]
Progress = Callable[[int, int], None]
"""(bytes written, bytes in all)."""


def convert(
    source: str | Path,
    destination: str | Path,
    layout: Target,
    vision_tokenizer: str | Path | None = None,
    vision_destination: str | Path | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write a checkpoint in another layout.

    Args:
        source: "nano", a folder in any layout, or a hub id.
        destination: a folder that does not exist yet; it appears when it is complete.
        layout: "dromaius", "baai" (language model and vision tokenizer in two folders) or "hf".
        vision_tokenizer: where the vision tokenizer lies, if the source has none.
        vision_destination: for "baai", the vision tokenizer's folder; None puts it beside
            `destination`, with "-VisionTokenizer" behind its name.
        dtype: for the language model's weights; None keeps them bit for bit. The vision tokenizer
            is never cast.
        max_shard_size: bytes of a weight file at most.
        progress: called as tensors are written.

    Returns:
        The folders written.

    Raises:
        CheckpointError, ConfigError: the source is damaged, or the layout has no word for it.
        InputError: a destination exists already, or quantized weights would have to be changed.
    """
    if layout not in ("dromaius", "baai", "hf"):
        raise InputError(f"layout must be dromaius, baai or hf, got {layout!r}")
    folders = [hub.resolve(source)]
    config = layouts.read_config(folders[0])
    if vision_tokenizer is not None:
        folders.append(hub.resolve(vision_tokenizer))
        config = layouts.join(config, layouts.read_config(folders[1]))
    if config.quantization is not None and (layout != "dromaius" or dtype is not None):
        raise InputError(
            f"{source} holds quantized weights ({config.quantization.name}), which cannot be "
            "converted; convert the model they were made from"
        )
    check_tensors(folders, config)
    stream = Stream(folders, dtype, progress)
    tokenizer = find_tokenizer(folders[0])
    with ExitStack() as complete_together:
        parts = []
        for part in _plan(config, Path(destination), vision_destination, layout):
            parts.append((part, complete_together.enter_context(whole_folder(part.folder))))
        for part, folder in parts:
            names = part.write_tokenizer(tokenizer, folder) if tokenizer is not None else {}
            for name, content in part.files(names, stream.language_dtype()).items():
                write_text(folder / name, json_text(content))
            save_sharded(stream.tensors(part.layout), folder, max_shard_size)
    return [part.folder for part, _ in parts]


@dataclass(frozen=True)
class _Part:
    """One folder of the target layout."""

    folder: Path
    layout: layouts.Layout
    files: Callable[[dict[str, int], str], export.Files]
    """(names of the tokenizer, name of the dtype) -> JSON files."""
    write_tokenizer: Callable[[TextTokenizer, Path], dict[str, int]] = lambda tokenizer, folder: {}


def _plan(
    config: Emu3Config,
    destination: Path,
    vision_destination: str | Path | None,
    layout: Target,
) -> list[_Part]:
    """The folders to write. Raises ConfigError for what the layout has no word for."""
    if layout == "dromaius":
        return [_Part(destination, layout, lambda *_: export.own_files(config), _write_own)]
    if layout == "hf":
        files = partial(export.hf_files, config)
        files({}, "float32")  # complain before anything is written
        return [_Part(destination, layout, files, _write_hf)]
    parts = []
    if config.language_model is not None:
        export.baai_language_files(config, "float32")  # complain before anything is written
        parts.append(
            _Part(
                destination,
                "baai",
                lambda _, dtype: export.baai_language_files(config, dtype),
                _write_baai,
            )
        )
    if config.vision_tokenizer is not None:
        vision = export.baai_vision_files(config)
        beside = destination.with_name(f"{destination.name}-VisionTokenizer")
        folder = Path(vision_destination or (beside if parts else destination))
        parts.append(_Part(folder, "baai-vision", lambda *_: vision))
    return parts


class Stream:
    """The tensors of one or two folders, renamed and reshaped on the way."""

    def __init__(
        self, folders: list[Path], dtype: torch.dtype | None, progress: Progress | None
    ) -> None:
        self.folders, self.dtype, self.progress = folders, dtype, progress
        self.infos = {folder: list_tensors(folder) for folder in folders}
        self.total = sum(info.bytes for infos in self.infos.values() for info in infos.values())
        self.done = 0

    def tensors(self, layout: layouts.Layout) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of all that the layout has a place for."""
        for index, folder in enumerate(self.folders):
            source_layout = layouts.detect(folder)
            for name, tensor in read_tensors(folder):
                ours = weights.our_name(name, source_layout)
                is_vision = ours.startswith(weights.VISION)
                if ours.endswith("rotary_emb.inv_freq") or (index == 0 and self._replaced(ours)):
                    continue
                theirs = weights.their_name(ours, layout)
                if theirs is None:
                    continue
                tensor = weights.our_tensor(ours, tensor)
                if self.dtype is not None and not is_vision and tensor.is_floating_point():
                    tensor = tensor.to(self.dtype)
                yield theirs, weights.their_tensor(ours, tensor, layout)
                self.done += tensor.nbytes
                if self.progress:
                    self.progress(self.done, self.total)

    def _replaced(self, ours: str) -> bool:
        """Whether a vision tokenizer given on its own stands in for the one in the source."""
        return len(self.folders) > 1 and ours.startswith(weights.VISION)

    def language_dtype(self) -> str:
        """Name of the language model's dtype as it is written."""
        if self.dtype is not None:
            return str(self.dtype).removeprefix("torch.")
        first = next(iter(self.infos[self.folders[0]].values()))
        return str(first.dtype).removeprefix("torch.")


def check_tensors(folders: list[Path], config: Emu3Config) -> None:
    """Raises CheckpointError if a tensor is absent or misshapen, or is not the model's."""
    expected: dict[str, Tensor] = {}
    optional = set()
    with without_memory():
        if config.language_model is not None:
            state = weights.empty_language_model(config).state_dict()
            expected |= {weights.LANGUAGE + name: tensor for name, tensor in state.items()}
            if config.language_model.tie_word_embeddings:
                head = f"{weights.LANGUAGE}lm_head.weight"
                optional = {name for name in expected if name.startswith(head)}
        if config.vision_tokenizer is not None:
            state = VisionTokenizer(config.vision_tokenizer).state_dict()
            expected |= {weights.VISION + name: tensor for name, tensor in state.items()}
    given: dict[str, tuple[int, ...]] = {}
    for folder in folders:
        layout = layouts.detect(folder)
        for name, info in list_tensors(folder).items():
            ours = weights.our_name(name, layout)
            tensor = torch.empty(info.shape, device="meta")
            given[ours] = tuple(weights.our_tensor(ours, tensor).shape)
    given = {name: s for name, s in given.items() if not name.endswith("rotary_emb.inv_freq")}
    if missing := sorted(set(expected) - optional - set(given)):
        raise CheckpointError(f"{folders[0]} lacks {missing[0]} ({len(missing)} tensors in all)")
    if unexpected := sorted(set(given) - set(expected)):
        raise CheckpointError(
            f"{folders[0]} holds {unexpected[0]}, which the model does not have "
            f"({len(unexpected)} tensors in all)"
        )
    for name, shape in given.items():
        if shape != (wanted := tuple(expected[name].shape)):
            raise CheckpointError(f"{folders[0]}: {name} is {shape}, not {wanted}")


class whole_folder:
    """A folder that is filled under another name and takes its own when all went well."""

    def __init__(self, folder: Path) -> None:
        if folder.exists():
            raise InputError(f"{folder} exists already")
        self.folder = folder
        self.part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> Path:
        try:
            self.part.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot write {self.folder}: {error.strerror}") from None
        return self.part

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        if kind is None:
            os.replace(self.part, self.folder)
            return
        shutil.rmtree(self.part, ignore_errors=True)
        if isinstance(error, InputError):  # named as the user knows it
            raise InputError(str(error).replace(str(self.part), str(self.folder))) from error


def _write_own(tokenizer: TextTokenizer, folder: Path) -> dict[str, int]:
    tokenizer.save(folder)
    return {}


def _write_hf(tokenizer: TextTokenizer, folder: Path) -> dict[str, int]:
    """tokenizer.json and the chat template; returns every name with its id."""
    write_text(folder / "chat_template.jinja", export.CHAT_TEMPLATE)
    written: BpeTokenizer = tokenizer_forms.to_tokenizer_json(tokenizer, folder)
    return {**written.definition["model"]["vocab"], **written.special_tokens}


def _write_baai(tokenizer: TextTokenizer, folder: Path) -> dict[str, int]:
    if not tokenizer_forms.cuts_like_emu3(tokenizer):
        warn_once(
            "the BAAI layout cuts text with Emu3's own rule: ids of some texts change "
            "(line breaks, brackets and the like; spec section 3.3)"
        )
    tokenizer_forms.to_tiktoken(tokenizer, folder)
    return {}
