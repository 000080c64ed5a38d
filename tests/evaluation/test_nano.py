"""The table of figures, with models whose hits are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dromaius.errors import InputError
from dromaius.evaluation.cases import View, read_set
from dromaius.evaluation.nano import evaluate, missed
from dromaius.evaluation.nearest import nearest
from tests.evaluation.fake import NAMES, SIDE, Noise, Oracle, write_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


CONTROLS = ("control", "seconds", "known emoji in another style: nearest")


def test_an_oracle_scores_one_everywhere(folder: Path) -> None:
    model = Oracle(folder)
    figures = evaluate(model, read_set(folder))  # type: ignore[arg-type]  # a model by its methods
    by_name = {one.name: one for one in figures}
    shares = [n for n in by_name if not n.startswith((*CONTROLS, "reconstruction"))]
    assert len(shares) == 4 + 1 + 2 + 5 + 1 + 6 * 3 + 2
    assert {by_name[name].value for name in shares} == {1.0}
    assert missed(figures) == []
    assert by_name["text to image, sampled, zh"].cases == 12
    assert by_name["question: category"].cases == 24
    assert by_name["question: skin tone"].cases == 8
    assert by_name["control: the names of other prompts"].value == 0
    assert by_name["control, white picture: category"].value == 0
    assert by_name["reconstruction, unseen emoji: SSIM"].value == pytest.approx(1)
    # three random pictures of 64 numbers each cannot show 256 codes: reported only
    assert by_name["reconstruction, unseen emoji: codes in use"].must is None


def test_noise_scores_nothing(folder: Path) -> None:
    figures = evaluate(Noise(folder), read_set(folder))  # type: ignore[arg-type]  # as above
    by_name = {one.name: one for one in figures}
    assert by_name["reconstruction, unseen emoji: PSNR in dB"].value < 12
    for name, figure in by_name.items():
        if name.startswith(("question", "picture to name", "unseen skin tone: name", "known")):
            assert figure.value == 0, name
        if name.startswith("text to image"):
            assert figure.value <= 2 / len(NAMES), name
    assert {one.row for one in missed(figures)} >= {"1", "2", "3", "4", "6"}


def test_half_a_hit_is_half(folder: Path) -> None:
    class Toned(Oracle):
        """Knows the tone, never the person; draws the other hand."""

        def answer(self, picture: object, question: str, max_new_tokens: int) -> str:
            return super().answer(picture, question, max_new_tokens).replace("hand", "foot")

    figures = evaluate(Toned(folder), read_set(folder), rows=["4"])  # type: ignore[arg-type]  # "
    values = {one.name.removeprefix("unseen skin tone: "): one.value for one in figures}
    assert values == {
        "name exact, en": 0,
        "tone named, en": 1,
        "person named, en": 0,
        "tone drawn, greedy, en": 1,
        "person drawn, greedy, en": 1,
    }


def test_greedy_is_greedy_and_sampling_has_fixed_seeds(folder: Path) -> None:
    model = Oracle(folder)
    evaluate(model, read_set(folder), rows=["2"])  # type: ignore[arg-type]  # as above
    greedy = {"temperature": 0.0, "guidance": 1.0, "seed": 7}
    sampled = {"temperature": 1.0, "seed": 7}
    assert model.options == [greedy, sampled, greedy, sampled]


def test_limit_and_progress_count_cases(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = Oracle(folder)
    figures = evaluate(
        model,  # type: ignore[arg-type]  # as above
        read_set(folder),
        limit=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert {one.cases for one in figures if one.row in ("2", "3", "7")} == {3}
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(d for d, _ in seen)


def test_both_files_of_pictures_are_the_same_set(tmp_path: Path) -> None:
    one = read_set(write_set(tmp_path / "npy"))
    other = read_set(write_set(tmp_path / "webp", webp=True))
    for index in range(len(one.pictures)):
        view = View(index, (10, 20, 30), (1, -2))
        assert np.array_equal(one.show(view), other.show(view))
    assert (one.draws, one.questions) == (other.draws, other.questions)


def test_a_shifted_view_is_the_picture_moved(folder: Path) -> None:
    cases = read_set(folder)
    still = cases.show(View(0, (1, 2, 3)))
    moved = cases.show(View(0, (1, 2, 3), (2, -1)))
    assert np.array_equal(moved[:-1, 2:], still[1:, :-2])
    assert (moved[-1] == (1, 2, 3)).all() and (moved[:, :2] == (1, 2, 3)).all()


def test_nearest_is_the_least_squared_difference(folder: Path) -> None:
    cases = read_set(folder)
    gallery = tuple(range(len(cases.pictures)))
    queries = np.random.default_rng(1).integers(0, 256, (9, SIDE, SIDE, 3)).astype(np.uint8)
    shown = np.stack([cases.show(View(i)) for i in gallery]).astype(np.int64)
    squares = np.square(queries[:, None].astype(np.int64) - shown[None]).sum(axis=(2, 3, 4))
    rows, distances = nearest(queries, cases, gallery, (255, 255, 255))
    assert rows.tolist() == squares.argmin(axis=1).tolist()
    assert distances.tolist() == squares.min(axis=1).tolist()


def test_names_come_apart(folder: Path) -> None:
    cases = read_set(folder)
    assert cases.parts("hand: dark skin") == ("hand", ("dark skin",))
    assert cases.parts("man: dark skin, beard") == ("man, beard", ("dark skin",))
    assert cases.parts("kiss: light skin, dark skin") == ("kiss", ("light skin", "dark skin"))
    assert cases.parts("thing") == ("thing", ())


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("set.json", '"format_version": 1', '"format_version": 2', "version 1"),
        ("set.json", '"count": 16', '"count": 15', "not as set.json says"),
        ("set.json", '"pictures.npy"', '"../pictures.npy"', "impossible pictures"),
        ("set.json", '"thing 5"]', '"thing 5", "x"]', "lacks names"),
        ("set.json", '"attributes"', '"other"', "attributes"),
        ("cases.jsonl", '"task": "draw"', '"task": "dance"', "dance"),
        ("cases.jsonl", '"picture": 0', '"picture": 16', "0..15"),
        ("cases.jsonl", "[1, -2]", "[1, -12]", "out of sight"),
        ("cases.jsonl", '["plain"]', '["absent"]', "absent"),
    ],
)
def test_a_damaged_set_is_one_clear_line(
    folder: Path, file: str, old: str, new: str, said: str
) -> None:
    path = folder / file
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(InputError, match=".") as caught:
        read_set(folder)
    assert said in str(caught.value) and "\n" not in str(caught.value)
