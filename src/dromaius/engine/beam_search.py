"""Decoding loops over rows of ids: greedy, sampling, beams. What computes the logits is handed in.

A score of a text is the sum of its log-probabilities over (new tokens ** length penalty). Choices,
their order and when a search ends are those of transformers' `generate` 5.23, so that a text and
its score can be compared with it; the definition of the search is section 1.5 of
`shared/specs/vision-encoder-decoder.md`.

Legend: B prompts, K rows of each (beams, or texts that are sampled), R = B * K rows, V ids,
L tokens of a row so far, P of them prompt, M candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

NEVER_CHOSEN = -1.0e9
"""Added to a score it loses against all others, and unlike -inf leaves no NaN behind."""

Process = Callable[[Tensor, Tensor], Tensor]
"""(ids [R,L], scores [R,V]) -> scores [R,V]: rules about what may come next."""
Ended = Callable[[Tensor, "tuple[Tensor, ...] | None"], Tensor]
"""(ids [N,L], scores of all steps if they are kept) -> bool [N]: whether a row ends with its id."""


class NextLogits(Protocol):
    """What a search needs of a language model: it keeps the past of every row itself."""

    def prefill(self, ids: Tensor) -> Tensor:
        """Prompts [B,P] -> logits [B,V] behind each; all K rows of a prompt begin with it."""
        ...

    def step(self, ids: Tensor, parents: Tensor | None) -> Tensor:
        """ids [R] -> logits [R,V] behind each.

        Row r continues what row parents[r] (of the same prompt) was until now; None: what r was.
        """
        ...


@dataclass
class Record:
    """What a caller wants to see of every step; each is left None that is not wanted."""

    scores: list[Tensor] | None = None
    """[R,V] a step, what was chosen from: processed logits, or log-probabilities with beams."""
    logits: list[Tensor] | None = None
    """[R,V] a step, float32."""

    def add(self, logits: Tensor, scores: Tensor) -> None:
        """Keeps what is wanted."""
        if self.logits is not None:
            self.logits.append(logits.clone())
        if self.scores is not None:
            self.scores.append(scores.clone())

    def seen(self) -> tuple[Tensor, ...] | None:
        """The scores of all steps so far."""
        return None if self.scores is None else tuple(self.scores)


@torch.no_grad()
def write_rows(
    model: NextLogits,
    prompts: Tensor,
    copies: int,
    process: Process,
    ended: Ended,
    *,
    sample: bool = False,
    filler: int | None = None,
    record: Record | None = None,
    show: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continues prompts [B,P] until all rows have ended: ids [R,L].

    Args:
        copies: K, texts for each prompt.
        process: sees logits in float32.
        sample: draws with torch's generator instead of taking the likeliest id.
        filler: follows the end of a row; None lets it go on.
        show: sees the new ids [R] of every step.
    """
    record = record or Record()
    ids = spread(prompts, copies)
    logits = spread(model.prefill(prompts), copies)
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    while True:
        logits = logits.float()
        scores = process(ids, logits)
        record.add(logits, scores)
        new = scores.softmax(-1).multinomial(1)[:, 0] if sample else scores.argmax(-1)
        if filler is not None:
            new = new.masked_fill(~running, filler)
        ids = torch.cat((ids, new[:, None]), dim=1)
        running &= ~ended(ids, record.seen())
        if show is not None:
            show(new)
        if not running.any():
            return ids
        logits = model.step(new, None)


def spread(rows: Tensor, copies: int) -> Tensor:
    """[B,...] -> [R,...]: each row K times, one behind the other."""
    return rows if copies == 1 else rows.repeat_interleave(copies, dim=0)


@dataclass(frozen=True)
class Beams:
    """How a beam search chooses."""

    count: int
    """K."""
    longest: int
    """Tokens of a text, its prompt included."""
    length_penalty: float = 1.0
    """Above 0 long texts are favoured, below it short ones."""
    early_stopping: bool | Literal["never"] = False
    """True: ends when K texts are there. False: when the best beam as it is cannot beat the worst
    text. "never": when no continuation of it could."""
    end_ids: int = 1
    """How many ids end a text: so many candidates more must be looked at."""
    filler: int = -1
    """Follows the end of a text."""
    sample: bool = False
    """Draws the candidates instead of taking the best."""

    @property
    def candidates(self) -> int:
        """Enough that K of them go on, however many ids end a text."""
        return max(2, 1 + self.end_ids) * self.count


@dataclass(frozen=True)
class Texts:
    """What a search found; the best text of a prompt first."""

    ids: Tensor
    """int64 [N,L], filled up behind the end."""
    scores: Tensor
    """float32 [N]."""
    rows: Tensor
    """int32 [N,L-P]: in which row of its step each new id was chosen, -1 behind the end."""


@torch.no_grad()
def search_beams(
    model: NextLogits,
    prompts: Tensor,
    beams: Beams,
    process: Process,
    ended: Ended,
    *,
    returned: int = 1,
    record: Record | None = None,
) -> Texts:
    """Continues prompts [B,P] with K beams each; `returned` texts of each prompt.

    Args:
        process: sees log-probabilities.
        ended: sees candidates [B*M,L].
    """
    record = record or Record()
    search = _Search(prompts, beams)
    logits = spread(model.prefill(prompts), beams.count)
    while True:
        logits = logits.float()
        scores = process(search.running.flat_ids(search.length), logits.log_softmax(-1))
        record.add(logits, scores)
        found = search.candidates(scores)
        hits = ended(found.flat_ids(search.length + 1), record.seen())
        search.advance(found, hits.view(found.scores.shape))
        if search.over:
            return search.best(returned)
        parents = search.running.rows[..., search.length - search.prompt - 1].flatten()
        logits = model.step(search.running.ids[..., search.length - 1].flatten(), parents.long())


@dataclass
class _Texts:
    """Some texts of each prompt: [B,n] scores, [B,n,longest] ids, [B,n,longest-P] rows."""

    ids: Tensor
    scores: Tensor
    rows: Tensor
    finished: Tensor = field(default_factory=lambda: torch.empty(0))
    """bool [B,n]."""

    def flat_ids(self, length: int) -> Tensor:
        """[B*n,length]."""
        return self.ids[..., :length].flatten(0, 1)

    def take(self, index: Tensor) -> "_Texts":
        """The texts at index [B,m] of each prompt."""
        long = index[..., None]
        return _Texts(
            self.ids.take_along_dim(long, 1),
            self.scores.take_along_dim(index, 1),
            self.rows.take_along_dim(long, 1),
            self.finished.take_along_dim(index, 1),
        )

    def with_(self, other: "_Texts") -> "_Texts":
        """These, then the other's."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Texts(*(torch.cat(pair, dim=1) for pair in pairs))


class _Search:
    """The state of a beam search."""

    def __init__(self, prompts: Tensor, beams: Beams) -> None:
        self.beams, self.prompt = beams, prompts.shape[1]
        self.length, self.over = self.prompt, False
        size = (len(prompts), beams.count)
        ids = prompts.new_full((*size, beams.longest), beams.filler)
        ids[..., : self.prompt] = prompts[:, None]
        rows = prompts.new_full((*size, beams.longest - self.prompt), -1, dtype=torch.int32)
        scores = torch.full(size, NEVER_CHOSEN, device=prompts.device)
        finished = torch.zeros(size, dtype=torch.bool, device=prompts.device)
        self.running = _Texts(ids, scores.clone(), rows, finished)
        self.running.scores[:, 0] = 0.0  # the beams are still equal: only the first may continue
        self.done = _Texts(ids.clone(), scores, rows.clone(), finished)
        self.hopeful = torch.ones_like(finished[:, :1])
        """[B,1]: whether a running beam can still become one of the texts."""

    def candidates(self, scores: Tensor) -> _Texts:
        """Log-probabilities [R,V] of the next id -> the M best continuations of each prompt."""
        total = (self.running.scores.view(-1, 1) + scores).unflatten(0, self.running.scores.shape)
        ids = total.shape[-1]
        flat = total.flatten(1)  # [B,K*V]
        if self.beams.sample:
            index = flat.softmax(-1).multinomial(self.beams.candidates)
            best = flat.take_along_dim(index, 1)
        else:
            best, index = flat.topk(self.beams.candidates)
        beam = index // ids
        found = self.running.take(beam)
        first = torch.arange(len(beam), device=beam.device)[:, None] * self.beams.count
        found.scores = best
        found.ids[..., self.length] = index % ids
        found.rows[..., self.length - self.prompt] = (beam + first).int()
        return found

    def advance(self, found: _Texts, hits: Tensor) -> None:
        """Goes on with the K best that have not ended; keeps those that have. hits: [B,M]."""
        self._keep_ended(found, hits)
        found.scores = found.scores + hits * NEVER_CHOSEN
        self.running = found.take(found.scores.topk(self.beams.count).indices)
        self.length += 1
        self._judge(hits)

    def _keep_ended(self, found: _Texts, hits: Tensor) -> None:
        """An ended text counts only among the K best candidates: the others are spare beams."""
        ended = hits.clone()
        ended[:, self.beams.count :] = False
        full = self.done.finished.all(1, keepdim=True) & (self.beams.early_stopping is True)
        scores = found.scores / self._weight(self.length + 1)
        scores = scores + (full | ~self.hopeful) * NEVER_CHOSEN + ~ended * NEVER_CHOSEN
        both = self.done.with_(_Texts(found.ids, scores, found.rows, ended))
        self.done = both.take(both.scores.topk(self.beams.count).indices)

    def _judge(self, hits: Tensor) -> None:
        """Whether anything is left to be found."""
        beams = self.beams
        patient = beams.early_stopping == "never" and beams.length_penalty > 0
        possible = self.running.scores[:, :1] / self._weight(
            beams.longest if patient else self.length
        )
        worst = self.done.scores.amin(1, keepdim=True)
        worst = worst.where(self.done.finished, NEVER_CHOSEN)  # [B,K]
        self.hopeful = self.hopeful & (possible > worst).any(1, keepdim=True)
        enough = beams.early_stopping is True and bool(self.done.finished.all())
        self.over = enough or not self.hopeful.any() or bool(hits.all())

    def _weight(self, length: int) -> float:
        return (length - self.prompt) ** self.beams.length_penalty

    def best(self, count: int) -> Texts:
        """The texts, cut to the longest of them."""
        new = int((self.done.rows[:, :count] >= 0).sum(-1).max())
        return Texts(
            self.done.ids[:, :count, : self.prompt + new].flatten(0, 1),
            self.done.scores[:, :count].flatten(),
            self.done.rows[:, :count, :new].flatten(0, 1),
        )
