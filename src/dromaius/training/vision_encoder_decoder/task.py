"""Pictures in, their texts out: the objective that `training/loop.py` runs.

Legend: B batch, T text tokens, S image tokens, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from dromaius.data.order import generator_for, shuffled
from dromaius.data.text_pictures import TextPictures, open_text_pictures
from dromaius.errors import InputError
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.model import IGNORED, shift_right
from dromaius.training.processes import Shard
from dromaius.training.sheet import sheet
from dromaius.training.vision_encoder_decoder.augmentation import augment, shown
from dromaius.training.vision_encoder_decoder.figures import character_error_rate
from dromaius.training.vision_encoder_decoder.model import Reader, build, export
from dromaius.training.vision_encoder_decoder.settings import (
    AugmentationSettings,
    FolderSettings,
    ModelSettings,
    TextDataSettings,
    TextObjectiveSettings,
)
from dromaius.training.vision_encoder_decoder.tokens import encode

SHOWN = 24
"""Held-out pictures on a sheet of samples."""


@dataclass(frozen=True)
class Batch:
    """Pictures with their texts, padded on the right."""

    pixels: Tensor  # float32 [B,3,H,W]
    labels: Tensor  # int64 [B,T], IGNORED where there is no target
    items: float
    """Targets in the whole step, divided by the parts that it is computed in."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


class Trained(nn.Module):
    """The model, and the head of the second loss, which is left behind at the end."""

    def __init__(self, reader: Reader, ctc: bool) -> None:
        super().__init__()
        self.reader = reader.model
        self.spell = nn.Linear(reader.model.encoder_width, len(reader.tokenizer)) if ctc else None


class VisionEncoderDecoderTask:
    """Texts of pictures: cross-entropy of the decoder's tokens, and CTC of the encoder's if asked.

    A step's loss is the mean over all its targets, however it is accumulated or shared.
    """

    def __init__(
        self,
        model: ModelSettings,
        objective: TextObjectiveSettings,
        data: TextDataSettings,
        heldout: TextDataSettings,
        augmentation: AugmentationSettings,
        exported: FolderSettings,
        seed: int,
        accumulate: int = 1,
    ) -> None:
        self.objective, self.augmentation = objective, augmentation
        self.seed, self.accumulate = seed, accumulate
        self._exported = exported
        self.pictures = open_text_pictures(Path(data.file), data.fit)
        self.heldout = open_text_pictures(Path(heldout.file), heldout.fit)
        self.reader = build(model, list(self.pictures.texts)[: data.limit or None], seed)
        self.ids = self._encoded(self.pictures, data)
        self.heldout_ids = self._encoded(self.heldout, heldout)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.model = Trained(self.reader, objective.ctc > 0)
        self.extra = nn.Module()

    def _encoded(self, pictures: TextPictures, s: TextDataSettings) -> list[list[int]]:
        """Ids of the texts that count, each with its end. Raises InputError for one too long."""
        texts = list(pictures.texts)[: s.limit or None]
        ids = [[*one, self.reader.tokenizer.eos_token_id]
               for one in encode(self.reader.tokenizer, texts)]  # fmt: skip
        for text, one in zip(texts, ids, strict=True):
            if len(one) > self.reader.longest:
                raise InputError(
                    f"{s.file}: {text[:40]!r} has {len(one)} tokens with its end, the decoder "
                    f"{self.reader.longest} positions"
                )
        return ids

    def begin(self) -> None:
        """Nothing depends on the data before the first step."""

    def batch(self, index: int, shard: Shard) -> Batch:
        size = self.objective.batch
        # The whole step's rows: its targets are what each part's loss is divided by.
        step = index - index % self.accumulate
        rows = shuffled(len(self.ids), step * size, size * self.accumulate, self.seed)
        items = sum(len(self.ids[row]) for row in rows) / self.accumulate / shard.world
        first = (index - step) * size
        places = range(first + shard.rank, first + size, shard.world)
        chosen = [int(rows[place]) for place in places]
        draws = [generator_for(self.seed, "augment", step * size + place) for place in places]
        pixels = augment(self._pixels(self.pictures, chosen), draws, self.augmentation)
        return Batch(self._scaled(pixels), padded([self.ids[row] for row in chosen]), items)

    def _pixels(self, pictures: TextPictures, rows: list[int]) -> Tensor:
        return pictures.pictures(rows, self.reader.height, self.reader.width)

    def _scaled(self, values: Tensor) -> Tensor:
        """Values in 0..1 [B,3,H,W] as the model reads them."""
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.reader.mean, self.reader.std))
        return (values - mean) / std

    def plain(self, rows: list[int]) -> Tensor:
        """Held-out pictures as they are, float32 [B,3,H,W] as the model reads them."""
        pictures = self._pixels(self.heldout, rows)
        usual = torch.tensor(self.augmentation.backgrounds[0]).expand(len(rows), 3)
        return self._scaled(shown(pictures, usual))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        self.model.train()
        targets = int((batch.labels != IGNORED).sum())
        figures = {"items": float(len(batch.labels)), "tokens": float(targets)}
        with self._attention(batch.pixels.device):
            encoded = self.reader.model.encode(batch.pixels)
            logits = self._logits(encoded.memory, batch.labels).flatten(0, 1)
        loss = F.cross_entropy(
            logits.float(), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum",
            label_smoothing=self.objective.smoothing,
        ) / batch.items  # fmt: skip
        figures["text"] = loss.item()
        if self.model.spell is not None:
            ctc = spelling_loss(self.model.spell(encoded.hidden), batch.labels) / batch.items
            figures["ctc"] = ctc.item()
            loss = loss + self.objective.ctc * ctc
        return loss, figures

    def _attention(self, device: torch.device) -> AbstractContextManager[None]:
        """On a processor, attention step by step: with few channels the gradient of torch's fused
        one takes half of a whole step there."""
        model = self.reader.model
        if device.type == "cpu":
            return parts.eager_attention(model.encoder, model.decoder)
        return nullcontext()

    def _logits(self, memory: Tensor, labels: Tensor) -> Tensor:
        """[B,T,V] for memory [B,S,M] and labels [B,T]: each token sees the right ones before."""
        model = self.reader.model
        ids = shift_right(labels, *model.start_and_pad())
        return model.decode(memory, input_ids=ids, use_cache=False).logits

    def after_step(self, step: int) -> None:
        """Nothing to update."""

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out loss, character error rate and share of texts read without a fault."""
        self.model.eval()
        device = next(self.model.parameters()).device
        total = targets = 0.0
        read: list[str] = []
        for rows in torch.arange(len(self.heldout_ids)).split(64):
            pixels = self.plain(rows.tolist()).to(device)
            labels = padded([self.heldout_ids[row] for row in rows.tolist()]).to(device)
            logits = self._logits(self.reader.model.encode(pixels).memory, labels)
            total += F.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            ).item()
            targets += int((labels != IGNORED).sum())
            read += self.read(pixels)
        texts = list(self.heldout.texts)[: len(read)]
        exact = sum(one == text for one, text in zip(read, texts, strict=True)) / len(texts)
        return {
            "heldout": total / targets,
            "cer": character_error_rate(read, texts),
            "exact": exact,
        }

    def read(self, pixels: Tensor) -> list[str]:
        """The most likely texts, token by token: [B,3,H,W] -> B texts."""
        ids = self.reader.model.generate(
            pixels, max_length=self.reader.longest, do_sample=False, num_beams=1
        )
        return self.reader.tokenizer.batch_decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def samples(self) -> Image.Image:
        """Held-out pictures, below each what is read of it."""
        self.model.eval()
        rows = list(range(min(SHOWN, len(self.heldout_ids))))
        pixels = self.plain(rows)
        texts = self.read(pixels.to(next(self.model.parameters()).device))
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.reader.mean, self.reader.std))
        values = ((pixels * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        cells = [labelled(Image.fromarray(one.numpy()), text)
                 for one, text in zip(values, texts, strict=True)]  # fmt: skip
        return sheet(cells, columns=3 if self.reader.width > self.reader.height else 6)

    def export(self, folder: Path) -> None:
        export(folder, self.reader, self._exported.dtype)


def padded(ids: list[list[int]]) -> Tensor:
    """Labels int64 [B,T], IGNORED behind the end of each."""
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(one) for one in ids], batch_first=True, padding_value=IGNORED
    )


def spelling_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """CTC of the encoder's tokens [B,S,V] against labels [B,T], summed over the batch.

    The blank is id 0, padding. The end, a text's last label, is no part of its spelling. A text
    that does not fit the S tokens counts nothing.
    """
    lengths = (labels != IGNORED).sum(1) - 1
    chances = scores.float().log_softmax(-1).transpose(0, 1)  # [S,B,V]
    places = torch.full((len(labels),), scores.shape[1], device=labels.device)
    targets = labels.clamp_min(0)[:, : max(1, int(lengths.max()))]
    return F.ctc_loss(
        chances, targets, places, lengths, blank=0, reduction="sum", zero_infinity=True
    )


def labelled(picture: Image.Image, text: str) -> Image.Image:
    """The picture above its text."""
    page = Image.new("RGB", (max(picture.width, 64), picture.height + 14), (255, 255, 255))
    page.paste(picture, (0, 0))
    ImageDraw.Draw(page).text((1, picture.height + 1), text, fill=(0, 0, 160))
    return page
