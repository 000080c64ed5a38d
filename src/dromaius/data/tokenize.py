"""Pictures and text to training samples: ids are written once, training reads ids only.

Every id comes from `models.emu3.prompt`, so a sample is exactly what the model meets when it is
used: `generation_prompt` before a picture, `understanding_parts` around a question.
"""

from collections.abc import Sequence

from torch import Tensor

from dromaius.data.samples import Sample
from dromaius.models.emu3.config import PromptSettings
from dromaius.models.emu3.prompt import Encodes, generation_prompt, layout, understanding_parts
from dromaius.models.emu3.vocabulary import Vocabulary


def generation_sample(tokenizer: Encodes, ids: Vocabulary, prompt: str, codes: Tensor) -> Sample:
    """A prompt and the picture it asks for, codes [h,w]; all from the first visual id is learnt.

    Behind the rows come end of frame, end of image and eos, as when Emu3 draws.
    """
    rows, columns = codes.shape
    before = generation_prompt(tokenizer, ids, prompt, rows, columns)
    picture = ids.codes_to_ids(codes).tolist()
    picture += [ids.end_of_frame, ids.image_end, ids.eos]
    total = len(before) + len(picture)
    targets = [False] * len(before) + [True] * len(picture)
    return Sample(before + picture, [0] * total, targets)


def answers_sample(
    tokenizer: Encodes,
    ids: Vocabulary,
    settings: PromptSettings,
    codes: Tensor,
    questions: Sequence[tuple[str, str]],
) -> Sample:
    """One picture, codes [h,w], and several (question, answer) pairs; answers and eos are learnt.

    The picture is the shared beginning; every pair is a continuation that sees no other.
    """
    if not questions:
        raise ValueError("a picture needs at least one question")
    end = [ids.end_of_frame, ids.image_end]
    beginning: list[int] = []
    out: list[int] = []
    segments: list[int] = []
    targets: list[bool] = []
    for number, (question, answer) in enumerate(questions, start=1):
        prompt = layout(tokenizer, ids, understanding_parts(settings, [codes], question))
        cut = _after(prompt, end)
        if not beginning:
            beginning = prompt[:cut]
            out, segments, targets = list(beginning), [0] * cut, [False] * cut
        said = [*tokenizer.encode(answer), ids.eos]
        out += prompt[cut:] + said
        segments += [number] * (len(prompt) - cut + len(said))
        targets += [False] * (len(prompt) - cut) + [True] * len(said)
    return Sample(out, segments, targets)


def _after(sequence: Sequence[int], end: Sequence[int]) -> int:
    """The place right behind the only occurrence of `end`."""
    places = [
        i + len(end)
        for i in range(len(sequence) - len(end) + 1)
        if list(sequence[i : i + len(end)]) == list(end)
    ]
    if len(places) != 1:
        raise ValueError(f"expected one picture in the prompt, found {len(places)}")
    return places[0]
