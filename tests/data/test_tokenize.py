"""Samples hold exactly the ids that the model meets when it is used."""

import torch

from dromaius.data.tokenize import answers_sample, generation_sample
from dromaius.models.emu3.config import PromptSettings
from dromaius.models.emu3.prompt import generation_prompt, layout, understanding_parts
from dromaius.models.emu3.vocabulary import Vocabulary

IDS = Vocabulary(
    pad=256, bos=257, eos=258, image_token=259, image_start=260, image_end=261,
    end_of_line=262, end_of_frame=263, visual_start=264, codebook_size=16,
)  # fmt: skip


class Bytes:
    def encode(self, text: str) -> list[int]:
        return list(text.encode())


CODES = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def test_a_drawing_is_the_prompt_and_then_the_grid_by_hand() -> None:
    sample = generation_sample(Bytes(), IDS, "ab", CODES)
    prompt = [257, 97, 98, 260, 51, 42, 51, 259]  # [bos] a b [start] 3 * 3 [token]
    rows = [265, 266, 267, 262, 268, 269, 270, 262, 271, 272, 273, 262, 263, 261, 258]
    assert sample.ids == prompt + rows
    assert sample.targets == [False] * 8 + [True] * 15
    assert set(sample.segments) == {0}
    assert generation_prompt(Bytes(), IDS, "ab", 3, 3) == prompt


def test_every_answer_stands_behind_the_prompt_that_is_used_to_ask() -> None:
    settings = PromptSettings(system="")
    pairs = [("What is it?", "red apple"), ("这是什么？", "红苹果"), ("Count", "1")]
    sample = answers_sample(Bytes(), IDS, settings, CODES, pairs)
    ids, segments = torch.tensor(sample.ids), torch.tensor(sample.segments)
    targets = torch.tensor(sample.targets)
    for number, (question, answer) in enumerate(pairs, start=1):
        own = (segments == 0) | (segments == number)
        prompt = layout(Bytes(), IDS, understanding_parts(settings, [CODES], question))
        assert ids[own].tolist() == [*prompt, *answer.encode(), IDS.eos]
        learnt = ids[targets & (segments == number)].tolist()
        assert learnt == [*answer.encode(), IDS.eos]
    assert not targets[segments == 0].any()
    # The beginning is stored once: it ends with the picture.
    assert ids[segments == 0][-2:].tolist() == [IDS.end_of_frame, IDS.image_end]
