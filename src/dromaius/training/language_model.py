"""Training of the language model on ids: next-token prediction where a sample says so.

Legend: B batch, T tokens, N positions with a label, C channels, V vocabulary.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from dromaius.data.order import generator_for
from dromaius.data.samples import IGNORED, Batch, Samples
from dromaius.errors import ConfigError
from dromaius.models.emu3.config import LanguageModelConfig, Section, VocabularyConfig
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.layouts import read_config
from dromaius.models.emu3.weights import load_language_model, load_vision_tokenizer
from dromaius.pipelines.emu3 import Emu3
from dromaius.tokenizers import load_tokenizer
from dromaius.training.export import export_language_model
from dromaius.training.losses import next_token_loss
from dromaius.training.processes import Shard
from dromaius.training.sheet import sheet


@dataclass(frozen=True)
class SampleSettings(Section):
    """One file of samples and its part in every step."""

    file: str
    """Samples as `write_samples` writes them (recipes/nano/write_ids.py)."""
    batch: int
    """Samples in a batch, over all processes."""
    weight: float = 1.0
    """Of this file's mean loss in the sum."""
    first: int = 0
    """How many of a sample's first labels that differ from its very first one count more: the
    code of an empty corner, often repeated, tells nothing."""
    first_weight: float = 1.0
    """By how much: the first codes choose the picture, the rest follows from them."""
    blind: float = 0.0
    """Share of samples that see only some of the earlier targets: of each such sample a random
    share is replaced by padding at the input. What is learnt must then come from the prompt, not
    from the codes before it (word dropout: Bowman et al. 2016, section 3.2)."""


@dataclass(frozen=True)
class HeldoutSettings(Section):
    """A file of samples whose loss is reported."""

    file: str
    """Samples, as in [[data]]."""
    batch: int = 64
    """How many are computed at once."""
    limit: int = 256
    """Only the first so many samples."""


@dataclass(frozen=True)
class StartSettings(Section):
    """Where weights come from, if not from chance."""

    folder: str = ""
    """A model folder: the weights of an earlier stage."""
    codebook: str = ""
    """A folder with a vision tokenizer: like codes start with like embeddings."""


@dataclass(frozen=True)
class ExportSettings(Section):
    """What the exported folder is put together from."""

    base: str
    """Folder with the tokenizer, the vision tokenizer and config.json (`data/tokenize` made it)."""
    dtype: str = "bfloat16"
    """Of the exported language model; the vision tokenizer stays as it is."""


@dataclass(frozen=True)
class PromptList(Section):
    """What is drawn after every evaluation, with the base folder's generation settings."""

    prompts: tuple[str, ...]
    """What users would type."""
    columns: int = 4
    """Pictures in a row of the sheet."""
    seed: int = 0
    """Of the first picture; the next ones have the next numbers."""

    def __post_init__(self) -> None:
        if not self.prompts or not all(isinstance(one, str) for one in self.prompts):
            raise ValueError(f"prompts must list at least one text, got {self.prompts!r}")
        if self.columns < 1:
            raise ValueError(f"columns must be at least 1, got {self.columns}")


class LanguageModelTask:
    """Several files of samples; a step takes a batch of each and adds their losses."""

    def __init__(
        self,
        config: LanguageModelConfig,
        data: list[SampleSettings],
        heldout: list[HeldoutSettings],
        export: ExportSettings,
        start: StartSettings | None,
        ids: VocabularyConfig,
        seed: int,
        drawn: PromptList | None = None,
    ) -> None:
        self.settings, self.seed, self.pad = data, seed, ids.pad
        self._visual_start = ids.visual_start
        self.model = LanguageModel(config)
        init_weights(self.model, generator_for(seed, "init"))
        self.extra = nn.Module()
        self.files = [Samples(Path(one.file)) for one in data]
        self.heldout = [(one, Samples(Path(one.file))) for one in heldout]
        self._export, self._start, self._drawn = export, start, drawn
        self._pipeline = in_use(self.model, Path(export.base)) if drawn else None

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def begin(self) -> None:
        """Take over the weights of an earlier stage, or what the codebook tells of the codes."""
        if self._start is not None and self._start.folder:
            folder = Path(self._start.folder)
            if read_config(folder).quantization is not None:
                raise ConfigError(f"{folder} is quantized; training goes on from full weights")
            earlier = load_language_model(folder)
            self.model.load_state_dict(earlier.state_dict())
        if self._start is not None and self._start.codebook:
            codebook = load_vision_tokenizer(Path(self._start.codebook)).quantize.embedding.weight
            draw = generator_for(self.seed, "codebook")
            embed_codebook(self.model, codebook, self._visual_start, draw)

    def batch(self, index: int, shard: Shard) -> list[Batch]:
        out = []
        for one, samples in zip(self.settings, self.files, strict=True):
            rows = samples.rows(index, one.batch, self.seed)
            part = samples.batch(rows[shard.rank :: shard.world], self.pad)
            draw = generator_for(self.seed, "blind", one.file, index, shard.rank)
            out.append(blinded(part, one.blind, self.pad, draw) if one.blind else part)
        return out

    def loss(self, batch: list[Batch]) -> tuple[Tensor, dict[str, float]]:
        self.model.train()
        total = torch.zeros((), device=self._device)
        figures = {"items": 0.0, "tokens": 0.0}
        for one, part in zip(self.settings, batch, strict=True):
            loss = batch_loss(self.model, part, one.first, one.first_weight)
            total = total + one.weight * loss
            figures[Path(one.file).stem] = loss.item()
            figures["items"] += len(part.ids)
            figures["tokens"] += part.tokens
        return total, figures

    def after_step(self, step: int) -> None:
        """Nothing to update."""

    def evaluate(self) -> dict[str, float]:
        """Per held-out file the mean loss, and the share of labels that the model puts first."""
        figures: dict[str, float] = {}
        self.model.eval()
        with torch.no_grad():
            for one, samples in self.heldout:
                losses, right = [], []
                for rows in torch.arange(min(one.limit, len(samples))).split(one.batch):
                    batch = samples.batch(rows.tolist(), self.pad).to(self._device)
                    logits, labels = labelled_logits(self.model, batch)
                    losses.append(next_token_loss(logits, labels))
                    right.append(logits.argmax(dim=-1) == labels)
                name = Path(one.file).stem
                figures[f"heldout/{name}"] = torch.stack(losses).mean().item()
                figures[f"right/{name}"] = torch.cat(right).float().mean().item()
        return figures

    def samples(self) -> Image.Image | None:
        """The recipe's prompts drawn as a user would draw them."""
        if self._drawn is None or self._pipeline is None:
            return None
        self.model.eval()
        self._pipeline.require_vision_tokenizer().to(self._device)
        *_, drawing = self._pipeline.stream_image(self._drawn.prompts, seed=self._drawn.seed)
        return sheet(drawing.pictures(), self._drawn.columns)

    def export(self, folder: Path) -> None:
        export_language_model(folder, self.model, Path(self._export.base), self._export.dtype)


def batch_loss(
    model: LanguageModel, batch: Batch, first: int = 0, first_weight: float = 1.0
) -> Tensor:
    """Mean loss of a batch; the head is computed at the labelled positions only.

    The first `first` labels of a sample that differ from its very first one count `first_weight`
    times as much as the others.
    """
    logits, labels = labelled_logits(model, batch)
    weights = None
    if first:
        asked = batch.labels != IGNORED
        begin = batch.labels.gather(1, asked.int().argmax(dim=1, keepdim=True))  # [B,1]
        others = asked & (batch.labels != begin)
        early = others & (others.cumsum(dim=1) <= first)
        weights = torch.where(early, first_weight, 1.0)[asked]  # [N]
    return next_token_loss(logits, labels, weights)


def labelled_logits(model: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the model says where a label stands, [N,V], and the labels [N]."""
    hidden = model.model(batch.ids, batch.positions, batch.mask)  # [B,T,C]
    asked = batch.labels != IGNORED
    return model.lm_head(hidden[asked]), batch.labels[asked]


def in_use(model: LanguageModel, base: Path) -> Emu3:
    """The model in training as users will hold it: with the base folder's other parts."""
    config = replace(read_config(base), language_model=model.config, quantization=None)
    return Emu3(config, model, load_vision_tokenizer(base), load_tokenizer(base))


def blinded(batch: Batch, share: float, pad: int, draw: torch.Generator) -> Batch:
    """Hide earlier targets from a `share` of the samples; the labels stay as they are."""
    size = batch.ids.shape[0]
    chosen = torch.rand(size, 1, generator=draw) < share
    rate = torch.rand(size, 1, generator=draw)
    hidden = chosen & (torch.rand(batch.ids.shape, generator=draw) < rate)  # [B,T]
    targets = torch.zeros_like(hidden)
    targets[:, 1:] = batch.labels[:, :-1] != IGNORED
    return replace(batch, ids=batch.ids.masked_fill(hidden & targets, pad))


@torch.no_grad()
def embed_codebook(
    model: LanguageModel, codebook: Tensor, start: int, draw: torch.Generator
) -> None:
    """Add a random projection of the codebook [K,E] to the embeddings of the ids from `start`.

    Projection and chance share the variance, which stays as it was.
    """
    rows = model.model.embed_tokens.weight[start : start + codebook.shape[0]]  # [K,C]
    entries = (codebook - codebook.mean(0)) / codebook.std(0).clamp_min(1e-6)
    spread = torch.randn(entries.shape[1], rows.shape[1], generator=draw)
    projected = entries @ spread / entries.shape[1] ** 0.5 * rows.std()
    rows.copy_((rows + projected) / 2**0.5)


def init_weights(model: LanguageModel, generator: torch.Generator) -> None:
    """Fresh weights; every residual branch starts at zero, so that the stack starts as identity."""
    model.init_weights(generator)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                p.zero_()
