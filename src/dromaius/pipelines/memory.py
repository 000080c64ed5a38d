"""Where the two halves of a model are while they are not at work.

| memory   | language model and vision tokenizer                                               |
|----------|-----------------------------------------------------------------------------------|
| resident | both stay on the device                                                           |
| staged   | each is there while it works; before it comes, the other one leaves               |
| low      | staged, and the tables of embedding and head stay on the host: rows come as they  |
|          | are asked for (`dromaius.nn.host`)                                                |

Pictures and answers are the same in every mode, bit for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dromaius.models.emu3.config import LanguageModelConfig, VisionTokenizerConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer

MODES = ("resident", "staged", "low")
"""From the fastest to the smallest."""

Module = TypeVar("Module", bound=nn.Module)


class Stage:
    """Room for one half of a model: who enters puts the other out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # weak, for no circle may keep a model's memory when nobody has the model any more
        self._holder: weakref.ref[Half[Any]] | None = None

    def enter(self, half: Half[Any]) -> None:
        """Makes `half` the one that is there."""
        holder = None if self._holder is None else self._holder()
        if holder is not None and holder is not half:
            holder.leave()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # blocks of one half's sizes are no use to the other
        self._holder = weakref.ref(half)


class Half(Generic[Module]):
    """Stands in for a language model or a vision tokenizer that is loaded when it is to work."""

    def __init__(self, stage: Stage, dtype: torch.dtype, load: Callable[[], Module]) -> None:
        self._stage, self._load = stage, load
        self._module: Module | None = None
        self.device, self.dtype = stage.device, dtype

    @property
    def present(self) -> bool:
        """Whether it is on the device now."""
        return self._module is not None

    def module(self) -> Module:
        """The half itself. Nobody may hold it longer than he works with it."""
        if self._module is None:
            self._stage.enter(self)
            self._module = self._load()
        return self._module

    def leave(self) -> None:
        """Frees its memory."""
        self._module = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Loads the half."""
        return self.module().parameters()


def place(half: nn.Module | Half[Any]) -> tuple[torch.device, torch.dtype]:
    """Where a half works and in which numbers; loads nothing."""
    if isinstance(half, Half):
        return half.device, half.dtype
    first = next(half.parameters())
    return first.device, first.dtype


def whole_half(half: nn.Module | Half[Any]) -> nn.Module:
    """The half itself, loaded if it is not here."""
    return half.module() if isinstance(half, Half) else half


class StagedLanguageModel(Half[LanguageModel]):
    """A `LanguageModel` as the engine sees it."""

    fixed = False
    """Its weights do not stay in one place, so no step with them can be recorded."""

    def __init__(
        self,
        stage: Stage,
        dtype: torch.dtype,
        load: Callable[[], LanguageModel],
        config: LanguageModelConfig,
    ) -> None:
        super().__init__(stage, dtype, load)
        self.config = config

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        logits: Tensor = self.module()(*args, **kwargs)
        return logits


class StagedVisionTokenizer(Half[VisionTokenizer]):
    """A `VisionTokenizer` as the pipelines see it."""

    def __init__(
        self,
        stage: Stage,
        load: Callable[[], VisionTokenizer],
        config: VisionTokenizerConfig,
    ) -> None:
        super().__init__(stage, torch.float32, load)
        self.config = config

    def encode(self, pixels: Tensor) -> Tensor:
        """See `VisionTokenizer.encode`."""
        return self.module().encode(pixels)

    def decode(self, codes: Tensor) -> Tensor:
        """See `VisionTokenizer.decode`."""
        return self.module().decode(codes)
