"""A model and an evaluation set: draws, asks and times, case by case.

Everything goes through the model's public interface: `generate_image`, `answer`, `encode_image`,
`decode_image`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from dromaius.errors import InputError
from dromaius.evaluation.cases import WHITE, Draw, EvaluationSet, Question, View
from dromaius.evaluation.nearest import nearest
from dromaius.training.losses import structural_similarity

if TYPE_CHECKING:
    from dromaius.pipelines.emu3 import Emu3

BATCH = 25  # pictures drawn at once
ANSWER_TOKENS = 48  # more than any answer of the sets has; bounds a model that never ends
GREEDY: dict[str, Any] = {"temperature": 0.0, "guidance": 1.0}
SAMPLED: dict[str, Any] = {"temperature": 1.0}  # guidance and mask as the model's settings say
DRAW_SEED = 7

Progress = Callable[[int, int], None]
"""Called with how many cases are done and how many there are."""


class Bench:
    """What is measured with; `limit` bounds the cases of each split, language and kind."""

    def __init__(
        self, model: Emu3, cases: EvaluationSet, limit: int | None, progress: Progress
    ) -> None:
        self.model, self.cases, self.limit = model, cases, limit
        self.total = self._done = 0
        self._progress = progress
        self._codes: dict[View, Any] = {}

    # --- which cases ---------------------------------------------------------------------------

    def draws(self, split: str, language: str) -> list[Draw]:
        found = [d for d in self.cases.draws if (d.split, d.language) == (split, language)]
        return found[: self.limit]

    def questions(self, split: str, kind: str, language: str) -> list[Question]:
        wanted = (split, kind, language)
        found = [q for q in self.cases.questions if (q.split, q.kind, q.language) == wanted]
        return found[: self.limit]

    def reconstructions(self, split: str) -> tuple[int, ...]:
        return self.cases.reconstructions.get(split, ())[: self.limit]

    # --- what the model makes of them ----------------------------------------------------------

    def draw(self, draws: Sequence[Draw], options: dict[str, Any]) -> np.ndarray:
        """A picture for each prompt, uint8 [n,S,S,3]. Seeds are fixed: case i has DRAW_SEED + i."""
        side = self.cases.side
        drawn = np.empty((len(draws), side, side, 3), np.uint8)
        for start in range(0, len(draws), BATCH):
            prompts = [one.prompt for one in draws[start : start + BATCH]]
            pictures = self.model.generate_image(prompts, seed=DRAW_SEED + start, **options)
            assert isinstance(pictures, list)
            for place, picture in enumerate(pictures, start):
                if picture.size != (side, side):
                    size = f"{picture.width}x{picture.height}"
                    raise InputError(f"the model draws {size} pixels, the set has {side}x{side}")
                drawn[place] = np.asarray(picture.convert("RGB"))
            self._tick(len(prompts))
        return drawn

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """The model's answer to each question about its view."""
        answers = []
        for one in questions:
            if one.view not in self._codes:
                self._codes[one.view] = self.model.encode_image(self._picture(one.view))
            codes = self._codes[one.view]
            answers.append(self.model.answer(codes, one.question, ANSWER_TOKENS).strip())
            self._tick()
        return answers

    def answer_blank(self, questions: Sequence[Question]) -> list[str]:
        """The model's answers to the same questions about a white picture."""
        white = np.full((self.cases.side, self.cases.side, 3), 255, np.uint8)
        codes = self.model.encode_image(Image.fromarray(white))
        answers = []
        for one in questions:
            answers.append(self.model.answer(codes, one.question, ANSWER_TOKENS).strip())
            self._tick()
        return answers

    def reconstruct(self, pictures: Sequence[int]) -> tuple[list[float], list[float], set[int]]:
        """PSNR in dB and SSIM of each picture on white (8 bit), and the codes that were used."""
        psnr, ssim, used = [], [], set[int]()
        for index in pictures:
            shown = self.cases.show(View(index))
            codes = self.model.encode_image(Image.fromarray(shown))
            again = np.asarray(self.model.decode_image(codes).convert("RGB"))
            if again.shape != shown.shape:
                raise InputError(f"the model reads {again.shape[1]}x{again.shape[0]} pixels only")
            one, other = (
                torch.from_numpy(np.array(x)).permute(2, 0, 1)[None].double()
                for x in (shown, again)
            )
            error = (one - other).square().mean().clamp(min=1e-6)
            psnr.append(float(10 * torch.log10(255**2 / error)))
            ssim.append(float(structural_similarity(one, other, 255.0)))
            used |= set(np.unique(np.asarray(codes)).tolist())
            self._tick()
        return psnr, ssim, used

    def seconds(self, job: Callable[[], object]) -> float:
        """The shortest of five runs."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            job()
            times.append(time.perf_counter() - start)
            self._tick()
        return min(times)

    # --- what a picture is nearest to ----------------------------------------------------------

    def found(self, drawn: np.ndarray, draws: Sequence[Draw]) -> list[tuple[str, str]]:
        """For each picture the gallery and the name of the nearest one in its case's galleries."""
        result = [("", "")] * len(draws)
        kinds = {(one.galleries, one.background) for one in draws}
        for galleries, background in sorted(kinds):
            places = [
                place
                for place, one in enumerate(draws)
                if (one.galleries, one.background) == (galleries, background)
            ]
            best: dict[int, int] = {}
            for gallery in galleries:
                known = self.cases.galleries[gallery]
                rows, distances = nearest(drawn[places], self.cases, known.pictures, background)
                for place, row, distance in zip(places, rows, distances, strict=True):
                    if place not in best or distance < best[place]:
                        best[place] = int(distance)
                        result[place] = (gallery, known.names[row])
        return result

    def neighbours(self, questions: Sequence[Question], gallery: str) -> list[str]:
        """The name of the nearest picture of a gallery on white to each question's view."""
        if not questions:
            return []
        shown = np.stack([self.cases.show(one.view) for one in questions])
        known = self.cases.galleries[gallery]
        rows, _ = nearest(shown, self.cases, known.pictures, WHITE)
        return [known.names[row] for row in rows]

    def _picture(self, view: View) -> Image.Image:
        return Image.fromarray(self.cases.show(view))

    def _tick(self, count: int = 1) -> None:
        self._done += count
        self._progress(self._done, max(self.total, self._done))
