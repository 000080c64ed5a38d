"""What `dromaius.load` returns for a VisionEncoderDecoder: pictures to captions, lines, pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from dromaius.errors import InputError
from dromaius.io.images import open_image, to_rgb
from dromaius.models.vision_encoder_decoder.model import VisionEncoderDecoder
from dromaius.pipelines.reading import facts
from dromaius.pipelines.reading.checkpoint import TextRules
from dromaius.pipelines.reading.lines import Box, Page, cut_at_gaps, find_lines, paper_colour
from dromaius.pipelines.reading.pictures import PictureSettings
from dromaius.pipelines.reading.writing import Wishes, Written, write

Picture = Image.Image | str | Path
Layout = Literal["auto", "line", "page"]
Progress = Callable[[int, int], None]
"""(lines read, lines) of the pictures that are being read."""
LINE_SHAPE = 3.0
"""An encoder whose pixels are at least so many times as wide as high reads lines in a frame."""


@dataclass(frozen=True)
class Reading:
    """What a model says of a picture, or reads in it."""

    text: str
    score: float | None
    """Log-probability of the text's tokens, their mean unless the checkpoint weights lengths; None
    from a model that gives none."""
    tokens: int
    """Written, the end included."""
    alternatives: tuple[Reading, ...] = ()
    """Other texts of the same picture, the next best first."""
    lines: tuple[Reading, ...] = ()
    """Of a page: its lines, in reading order."""
    box: Box | None = None
    """Of a line: where it stands on its page, which may have been straightened."""

    def __str__(self) -> str:
        return self.text


@dataclass
class ImageToText:
    """Any image encoder with any text decoder, its tokenizer and its way to prepare pictures."""

    model: VisionEncoderDecoder = field(repr=False)
    tokenizer: Any = field(repr=False)
    """transformers'."""
    pictures: PictureSettings
    rules: TextRules
    name: str = "VisionEncoderDecoder"
    folders: tuple[Path, ...] = ()
    hash: str = ""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def caption(
        self,
        pictures: Picture | Sequence[Picture],
        max_new_tokens: int | None = None,
        beams: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        prompt: str | None = None,
        alternatives: int = 1,
        batch_size: int = 8,
    ) -> Any:
        """Describe a picture, or each of a list.

        Args:
            pictures: PIL images or paths.
            max_new_tokens: longest text; None is what the checkpoint says, at most 128.
            beams: texts that are followed at a time; None is what the checkpoint says.
            temperature: above 0 tokens are drawn, with `seed` (picture i: seed + i).
            prompt: a task that the text begins with, as Donut's "<s_cord-v2>"; its words may name
                special tokens.
            alternatives: texts of each picture.
            batch_size: pictures that are computed at a time.

        Returns:
            A `Reading` for one picture, a list of them for a list.

        Raises:
            InputError: a picture or number cannot be used.
        """
        wishes = Wishes(beams, max_new_tokens, temperature, seed, alternatives)
        given, single = _listed(pictures)
        found = list(self.stream_captions(given, wishes, prompt, batch_size))
        return found[0] if single else found

    def read(
        self,
        pictures: Picture | Sequence[Picture],
        max_new_tokens: int | None = None,
        beams: int | None = None,
        layout: Layout = "auto",
        temperature: float = 0.0,
        seed: int = 0,
        prompt: str | None = None,
        alternatives: int = 1,
        batch_size: int = 8,
        progress: Progress = lambda done, total: None,
    ) -> Any:
        """Read the text in a picture, or in each of a list; other arguments as `caption`'s.

        layout: "line": each picture is one line. "page": its lines are found and read one by one.
        "auto": the latter where there is more than one line, and the picture as it is for a model
        that is given a prompt, as Donut reads whole pages.
        """
        wishes = Wishes(beams, max_new_tokens, temperature, seed, alternatives)
        given, single = _listed(pictures)
        found = list(self.stream_texts(given, wishes, prompt, layout, batch_size, progress))
        return found[0] if single else found

    def stream_captions(
        self,
        pictures: Iterable[Picture],
        wishes: Wishes,
        prompt: str | None = None,
        batch_size: int = 8,
    ) -> Iterator[Reading]:
        """As `caption`, batch by batch: a picture is opened when its turn comes."""
        for batch in _batches(pictures, batch_size):
            yield from self._texts([open_image(picture) for picture in batch], wishes, prompt)
            wishes = replace(wishes, seed=wishes.seed + len(batch))

    def stream_texts(
        self,
        pictures: Iterable[Picture],
        wishes: Wishes,
        prompt: str | None = None,
        layout: Layout = "auto",
        batch_size: int = 8,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[Reading]:
        """As `read`, picture by picture."""
        if layout not in ("auto", "line", "page"):
            raise InputError(f"layout must be auto, line or page, got {layout!r}")
        for batch in _batches(pictures, batch_size):
            pages = [self._pieces(open_image(picture), layout, prompt) for picture in batch]
            pieces = [piece for page in pages for _, line in page for piece in line]
            found: list[Reading] = []
            for start in range(0, len(pieces), batch_size):
                found += self._texts(pieces[start : start + batch_size], wishes, prompt)
                wishes = replace(wishes, seed=wishes.seed + batch_size)
                progress(len(found), len(pieces))
            rest = iter(found)
            for page in pages:
                lines = [replace(_joined(list(islice(rest, len(p)))), box=box) for box, p in page]
                yield _page(lines)

    def _pieces(
        self, image: Image.Image, layout: Layout, prompt: str | None
    ) -> list[tuple[Box | None, list[Image.Image]]]:
        """The lines of a picture: where each is, and the pictures that it is read in."""
        if layout == "line" or (layout == "auto" and prompt is not None):
            return [(None, self._framed(image, None))]
        page = find_lines(image)
        if layout == "auto" and _is_one_line(page, image):
            return [(None, self._framed(image, page.paper))]
        return [(box, self._framed(page.cut(box), page.paper)) for box in page.lines]

    def _framed(self, line: Image.Image, paper: tuple[int, int, int] | None) -> list[Image.Image]:
        """A line as an encoder for lines has learnt to see it: letters neither wide nor narrow.

        Its pixels are a frame much wider than high. A longer line is cut between words, a shorter
        one gets paper on its right. An encoder of squares (TrOCR's) squeezes lines itself.
        """
        shape = self.pictures.shape
        if shape is None or shape[1] < LINE_SHAPE * shape[0]:
            return [line]
        longest = shape[1] / shape[0]
        pieces = cut_at_gaps(line, longest)
        if self.pictures.keeps_shape:
            return pieces
        colour = paper_colour(line) if paper is None else paper
        return [_widened(piece, round(longest * piece.height), colour) for piece in pieces]

    def _texts(
        self, images: Sequence[Image.Image], wishes: Wishes, prompt: str | None
    ) -> list[Reading]:
        """One batch. Where ids are drawn, or sizes differ, picture by picture: a text then does
        not depend on its neighbours."""
        if len(images) > 1 and (wishes.temperature or self.pictures.shape is None):
            each = [replace(wishes, seed=wishes.seed + i) for i in range(len(images))]
            return [self._texts([i], w, prompt)[0] for i, w in zip(images, each, strict=True)]
        if not images:
            return []
        channels = int(getattr(self.model.encoder.config, "num_channels", 3))
        array = self.pictures.prepare([to_rgb(image) for image in images], channels)
        pixels = torch.from_numpy(array).to(self.device, self.dtype)  # [B,C,H,W]
        ids = self._prompt(prompt)
        prompts = torch.tensor([ids] * len(images), device=self.device)
        with torch.inference_mode():
            encoded = self.model.encode(pixels)
        texts = write(self.model, encoded, prompts, self.rules, wishes)
        return [self._reading([self._text(w, prompt) for w in each]) for each in texts]

    def _prompt(self, prompt: str | None) -> list[int]:
        """The ids that a text begins with."""
        start = self.rules.start
        if prompt is None:
            return [start]
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        if not ids:
            raise InputError(f"the prompt {prompt!r:.60} holds no tokens")
        # Donut's prompts are the start themselves
        is_donut = "donut" in str(self.model.encoder.config.model_type)
        return ids if is_donut or ids[0] == start else [start, *ids]

    def _text(self, written: Written, prompt: str | None) -> Reading:
        ids, rules = written.ids, self.rules
        if prompt is None:
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
        else:  # such a model's special tokens are its answer's fields
            outside = {rules.start, rules.pad, *rules.end}
            text = self.tokenizer.decode([i for i in ids if i not in outside])
        return Reading(text.strip(), round(written.score, 6), len(ids))

    @staticmethod
    def _reading(texts: list[Reading]) -> Reading:
        return replace(texts[0], alternatives=tuple(texts[1:]))

    def describe(self) -> dict[str, Any]:
        """What `dromaius info` prints."""
        return facts.describe(self)


def _joined(pieces: Sequence[Reading]) -> Reading:
    """The pieces of a line as one."""
    if len(pieces) == 1:
        return pieces[0]
    text = " ".join(piece.text for piece in pieces if piece.text)
    return Reading(text, _mean_score(pieces), sum(piece.tokens for piece in pieces))


def _page(lines: Sequence[Reading]) -> Reading:
    """The lines of a page as one; a picture that is one line is that line."""
    if len(lines) == 1 and lines[0].box is None:
        return lines[0]
    text = "\n".join(line.text for line in lines)
    return Reading(text, _mean_score(lines), sum(line.tokens for line in lines), lines=tuple(lines))


def _mean_score(parts: Sequence[Reading]) -> float:
    """The mean of scores by tokens; 0 where nothing was read."""
    tokens = sum(part.tokens for part in parts)
    return (
        round(sum((part.score or 0.0) * part.tokens for part in parts) / tokens, 6)
        if tokens
        else 0.0
    )


def _is_one_line(page: Page, image: Image.Image) -> bool:
    """Whether a picture is a line's own and lies level.

    Of letters without ascenders the ink may be a fifth of the line's height.
    """
    if len(page.lines) != 1 or page.degrees:
        return False
    return page.lines[0].height > 0.2 * image.height


def _widened(line: Image.Image, width: int, paper: tuple[int, int, int]) -> Image.Image:
    if line.width >= width:
        return line
    frame = Image.new("RGB", (width, line.height), paper)
    frame.paste(line, (0, 0))
    return frame


def _listed(pictures: Any) -> tuple[list[Any], bool]:
    """The pictures as a list, and whether it was one."""
    single = not isinstance(pictures, (list, tuple))
    return ([pictures] if single else list(pictures)), single


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size must be at least 1, got {size!r}")
    rest = iter(pictures)
    while batch := list(islice(rest, size)):
        yield batch
