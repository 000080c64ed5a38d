"""recipes/nano: splits, downloads, drawing, prompts and questions. Needs no network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "nano"
sys.path.insert(0, str(RECIPE))

import build_data  # noqa: E402  (the recipe's scripts import each other by name)
import captions  # noqa: E402
import download  # noqa: E402
import duplicates  # noqa: E402
import icons  # noqa: E402
import make_examples  # noqa: E402
import names  # noqa: E402
import questions  # noqa: E402
import render  # noqa: E402
import sources  # noqa: E402
import splits  # noqa: E402
from palette import COLOURS, colour_name  # noqa: E402

WHITE = [255, 255, 255]


def toy(en: str, zh: str, cp: str, **changes: Any) -> dict[str, Any]:
    """A record of pictures.jsonl in the training split."""
    return {
        "style": "noto",
        "cp": cp,
        "base_cp": cp,
        "en": en,
        "zh": zh,
        "group": "food-drink",
        "subgroup": "food-fruit",
        "keywords_en": ["food", "fruit", "ripe"],
        "keywords_zh": ["食物", "水果", "熟"],
        "tone": "",
        "is_base": True,
        "licence": "Apache-2.0",
        "dup_of": None,
        "held_emoji": False,
        "held_pair": False,
        "held_combo": False,
    } | changes


APPLE = toy("red apple", "红苹果", "1f34e")
DOG = toy("dog face", "狗脸", "1f436", group="animals-nature", keywords_en=["animal", "pet", "dog"])
CAR = toy("automobile", "汽车", "1f697", group="travel-places", keywords_en=["car", "drive"])
WAVE = toy(
    "waving hand: dark skin tone",
    "挥手: 较深肤色",
    "1f44b-1f3ff",
    base_cp="1f44b",
    tone="5",
    is_base=False,
    group="people-body",
    keywords_en=["bye", "hello", "wave"],
)


# --- splits ---------------------------------------------------------------------------------------


def test_unit_is_the_first_eight_hex_digits_of_sha256() -> None:
    # Known digests of FIPS 180-4: sha256("abc") = ba7816bf..., sha256("") = e3b0c442...
    assert splits.unit("abc") == 0xBA7816BF / 4294967296
    assert splits.unit("") == 0xE3B0C442 / 4294967296


@pytest.mark.parametrize(
    ("held", "text", "first_digits"),
    [  # the digits were printed by coreutils' sha256sum
        (splits.held_emoji("1f34e"), "emoji:1f34e", "799231b4"),
        (splits.held_emoji("1f356"), "emoji:1f356", "07503394"),
        (splits.held_pair("1f34e", "noto"), "pair:1f34e:noto", "1db37764"),
        (splits.held_pair("1f34b-200d-1f7e9", "noto"), "pair:1f34b-200d-1f7e9:noto", "00b8e629"),
        (splits.held_combo("1f44b", "5", "noto"), "combo:1f44b:5:noto", "49ca5e6a"),
        (splits.held_combo("270b", "1", "noto"), "combo:270b:1:noto", "0e559005"),
    ],
)
def test_split_formula(held: bool, text: str, first_digits: str) -> None:
    # 0.04, 0.05 and 0.10 of 2^32, rounded up, in hexadecimal
    border = {"emoji": "0a3d70a4", "pair": "0ccccccd", "combo": "1999999a"}[text.split(":")[0]]
    assert f"{int(splits.unit(text) * 2**32):08x}" == first_digits
    assert held == (first_digits < border)


def test_an_emoji_without_skin_tone_is_never_a_held_combination() -> None:
    assert not any(splits.held_combo(f"{number:x}", "", "noto") for number in range(200))


def test_code_points_lose_variation_selector_and_leading_zeros() -> None:
    assert names.code_points("0023-FE0F-20E3") == "23-20e3"
    assert names.code_points("1F468-200D-1F692") == "1f468-200d-1f692"


# --- names and icons ------------------------------------------------------------------------------

GROUPS = {"groups": {"1": "people-body"}, "subgroups": {"16": "hand-fingers-open"}}
HAND_EN = {
    "hexcode": "1F44B",
    "label": "waving hand",
    "tags": ["wave"],
    "group": 1,
    "subgroup": 16,
    "skins": [
        {"hexcode": "1F44B-1F3FB", "label": "waving hand: light skin tone", "tone": 1},
        {"hexcode": "1F44B-1F3FF", "label": "waving hand: dark skin tone", "tone": [5, 1]},
    ],
}
HAND_ZH = {
    "hexcode": "1F44B",
    "label": "挥手",
    # in another order than the English list: names are matched by code points
    "skins": [
        {"hexcode": "1F44B-1F3FF", "label": "挥手: 较深肤色"},
        {"hexcode": "1F44B-1F3FB", "label": "挥手: 较浅肤色"},
    ],
}
NAMES = {"en/data.json": [HAND_EN], "zh/data.json": [HAND_ZH], "meta/groups.json": GROUPS}


def test_names_are_read_with_their_skin_tones() -> None:
    base, light, dark = names.parse_names([HAND_EN], [HAND_ZH], GROUPS)
    assert (base.cp, base.tone, base.is_base, base.keywords_en) == ("1f44b", "", True, ("wave",))
    assert (light.cp, light.base_cp, light.tone) == ("1f44b-1f3fb", "1f44b", "1")
    assert (light.zh, dark.zh, dark.tone) == ("挥手: 较浅肤色", "挥手: 较深肤色", "5+1")
    assert (dark.group, dark.subgroup) == ("people-body", "hand-fingers-open")


def test_lists_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="1F44B where Chinese has 1F44C"):
        names.parse_names([HAND_EN], [HAND_ZH | {"hexcode": "1F44C"}], GROUPS)


@pytest.mark.parametrize(
    ("name", "icon"),
    [
        ("Mrs. Claus", "mrs-claus"),
        ("piñata", "pinata"),
        ("woman’s hat", "womans-hat"),
        ("keycap: #", "keycap-hash"),
        ("Bosnia & Herzegovina", "bosnia-and-herzegovina"),
    ],
)
def test_slug(name: str, icon: str) -> None:
    assert names.slug(name) == icon


def test_swapped_tones_of_fluent_3d_are_put_right(tmp_path: Path) -> None:
    light, medium_light, medium = (
        names.Emoji(f"1f44b-{tone}", "1f44b", "hand", "手", "people-body", "", (), ())
        for tone in ("1f3fb", "1f3fc", "1f3fd")
    )
    flag = names.Emoji("1f1e9-1f1ea", "1f1e9-1f1ea", "flag: Germany", "旗", "flags", "", (), ())
    colours = {"1f44b-1f3fb": 10, "1f44b-1f3fc": 20, "1f44b-1f3fd": 30, "1f1e9-1f1ea": 40}
    tarball = make_tarball(
        tmp_path / "art.tgz",
        {f"package/assets/{cp}.webp": webp(value) for cp, value in colours.items()},
    )
    found = icons.webp_drawings(tarball, [light, medium_light, medium, flag])
    drawn = {emoji.cp: int(draw(8)[0, 0, 0]) for emoji, draw in found}
    # the file called 1f3fc shows tone 3 (1f3fd) and the other way round; no flag comes through
    assert drawn == {"1f44b-1f3fb": 10, "1f44b-1f3fc": 30, "1f44b-1f3fd": 20}


def test_icons_are_found_by_code_point_name_and_alias(tmp_path: Path) -> None:
    body = '<rect width="8" height="8" fill="#010203"/>'
    table = {
        "width": 8,
        "height": 8,
        "icons": {"apple": {"body": body}},
        "aliases": {
            "red-apple": {"parent": "apple"},
            "turned": {"parent": "apple", "rotate": 1},
            "loop": {"parent": "loop"},
        },
    }
    assert icons.find_icon(table, "red-apple") == {"body": body}
    assert icons.find_icon(table, "turned") is None
    assert icons.find_icon(table, "loop") is None
    tarball = make_tarball(tmp_path / "a.tgz", {"package/icons.json": json.dumps(table).encode()})
    apple = names.Emoji("1f34e", "1f34e", "red apple", "红苹果", "food-drink", "", (), ())
    pear = replace(apple, cp="1f350", base_cp="1f350", en="pear")
    plum = replace(apple, cp="1fabc", base_cp="1fabc", en="plum")
    found = icons.iconify_drawings(tarball, [apple, pear, plum], {"1fabc": ["nothing", "apple"]})
    assert [emoji.en for emoji, _ in found] == ["red apple", "plum"]


# --- downloads ------------------------------------------------------------------------------------


def make_tarball(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def webp(value: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(file, "webp", lossless=True)
    return file.getvalue()


@pytest.fixture
def served(tmp_path: Path) -> tuple[sources.Package, str, bytes]:
    """A package in a registry made of files: (package, address of the registry, tarball)."""
    folder = tmp_path / "registry" / "@art" / "toy" / "-"
    folder.mkdir(parents=True)
    tarball = make_tarball(folder / "toy-1.0.0.tgz", {"package/a.json": b"{}"}).read_bytes()
    digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    package = sources.Package("@art/toy", "1.0.0", f"sha512-{digest}", "MIT")
    return package, (tmp_path / "registry").as_uri() + "/", tarball


def test_fetch_keeps_the_checked_file(
    served: tuple[sources.Package, str, bytes], tmp_path: Path
) -> None:
    package, registry, tarball = served
    pieces: list[int] = []
    path = download.fetch(package, tmp_path / "cache", registry, pieces.append)
    assert path.read_bytes() == tarball and sum(pieces) == len(tarball)
    # the second time nothing is asked of the registry
    assert download.fetch(package, tmp_path / "cache", "file:///nowhere/") == path
    assert dict(download.members(path)) == {"a.json": b"{}"}


def test_a_wrong_checksum_leaves_nothing(
    served: tuple[sources.Package, str, bytes], tmp_path: Path
) -> None:
    package, registry, _ = served
    wrong = replace(package, integrity="sha512-" + "A" * 86 + "==")
    with pytest.raises(download.DownloadError, match="@art/toy@1.0.0: checksum sha512-"):
        download.fetch(wrong, tmp_path / "cache", registry)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_cache_is_downloaded_again(
    served: tuple[sources.Package, str, bytes], tmp_path: Path
) -> None:
    package, registry, tarball = served
    path = download.fetch(package, tmp_path / "cache", registry)
    path.write_bytes(tarball[:50])
    assert download.fetch(package, tmp_path / "cache", registry).read_bytes() == tarball


def test_too_large_a_package_is_refused(
    served: tuple[sources.Package, str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, registry, _ = served
    monkeypatch.setattr(download, "MAX_BYTES", 10)
    with pytest.raises(download.DownloadError, match="larger than 10 bytes"):
        download.fetch(package, tmp_path / "cache", registry)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_registry_comes_from_the_environment_without_npm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://mirror.example/npm")
    assert download.registry() == "https://mirror.example/npm/"
    monkeypatch.delenv("NPM_CONFIG_REGISTRY")
    assert download.registry() == "https://registry.npmjs.org/"


def test_every_style_is_pinned_and_only_permissive_ones_are_shipped() -> None:
    packages = [sources.NAMES, *(style.package for style in sources.STYLES.values())]
    for package in packages:
        digest = base64.b64decode(package.integrity.removeprefix("sha512-"), validate=True)
        assert len(digest) == 64
    shipped = {style.package.licence for style in sources.STYLES.values() if style.shipped}
    assert shipped == {"Apache-2.0", "MIT"}


# --- pictures -------------------------------------------------------------------------------------


def test_svg_is_drawn_with_straight_alpha() -> None:
    pytest.importorskip("resvg_py")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 4" width="8" height="4">'
        '<rect width="4" height="4" fill="#ff8000" fill-opacity="0.5"/></svg>'
    )
    picture = render.rasterise(svg, 8)  # wide: two empty rows above and below
    assert picture.shape == (8, 8, 4) and picture.dtype == np.uint8
    assert np.abs(picture[2:6, :4].astype(int) - [255, 128, 0, 128]).max() <= 2
    assert (picture[..., 3] > 0).sum() == 16


def test_a_tall_drawing_is_fitted_by_its_height() -> None:
    pytest.importorskip("resvg_py")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 8" width="4" height="8">'
        '<rect width="4" height="8" fill="#000000"/></svg>'
    )
    alpha = render.rasterise(svg, 8)[..., 3]
    assert alpha[:, 2:6].min() == 255 and alpha[:, :2].max() == alpha[:, 6:].max() == 0


def view(**changes: Any) -> render.View:
    return render.plain_view() | changes  # type: ignore[return-value]  # keys are View's own


def test_alpha_is_composited_on_the_background() -> None:
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[0, 0] = [200, 100, 0, 255]
    picture[0, 1] = [200, 100, 0, 51]  # a fifth
    seen = render.render_view(picture, view(background=[0, 50, 100]))
    assert seen[0, 0].tolist() == [200, 100, 0]
    assert seen[0, 1].tolist() == [40, 60, 80]
    assert seen[3, 3].tolist() == [0, 50, 100]


def test_shifts_move_right_and_down_and_cut_off() -> None:
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[1, 2] = [1, 2, 3, 255]
    picture[3, 0] = [4, 5, 6, 255]
    seen = render.render_view(picture, view(dx=1, dy=2))
    assert seen[3, 3].tolist() == [1, 2, 3]
    assert (seen != 255).any(-1).sum() == 1  # the other one left the canvas
    assert (render.render_view(picture, view(dx=9)) == 255).all()


def test_scale_is_about_the_centre() -> None:
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:] = [10, 20, 30, 255]
    seen = render.render_view(picture, view(scale=0.5))
    assert (seen[2:6, 2:6] == [10, 20, 30]).all()
    assert (seen == 255).all(-1).sum() == 64 - 16


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        render.render_view(np.zeros((8, 8, 4), np.uint8), view(scale=scale))


def test_pictures_that_look_the_same_are_found() -> None:
    pictures = np.full((5, 8, 8, 3), 100, np.uint8)
    pictures[1, 0, 0] = 200  # one pixel differs, the means hardly do
    pictures[2, 3, 4, 1] = 106  # not to be seen
    pictures[3] = 0
    pictures[4, 0, 0] = 195
    assert duplicates.first_copies(pictures) == [0, 1, 0, 3, 1]


@pytest.mark.parametrize("copies", [1, 2, 3, 4])
def test_a_composite_shows_every_copy(copies: int) -> None:
    picture = np.full((64, 64, 4), 255, np.uint8)
    picture[:, :, :3] = 0
    seen = render.render_view(picture, view(scale=28 / 64, copies=copies))
    assert (seen == 0).all(-1).sum() == copies * 28 * 28


def test_every_colour_has_its_name() -> None:
    assert [colour_name(value) for value in COLOURS.values()] == list(COLOURS)
    with pytest.raises(ValueError, match=r"\(1, 2, 3\)"):
        colour_name([1, 2, 3])


# --- prompts --------------------------------------------------------------------------------------


def prompts(record: dict[str, Any], language: str, style: bool, background: str) -> set[str]:
    return {captions.prompt(record, language, style, background, Random(i)) for i in range(3000)}


def test_what_people_type_in_english() -> None:
    plain = prompts(APPLE, "en", False, "white")
    assert {"red apple", "a red apple", "the red apple", "Red Apple", "A RED APPLE"} <= plain
    styled = prompts(APPLE, "en", True, "white")
    assert {"red apple, noto style", "a red apple in noto style"} <= styled
    assert all("noto" in text.lower() for text in styled)
    blue = prompts(APPLE, "en", False, "blue")
    assert {"a picture of a red apple on a blue background"} <= blue
    assert all("blue" in text.lower() for text in blue)
    toned = prompts(WAVE, "en", True, "white")
    assert {
        "waving hand: dark skin tone, noto style",
        "a waving hand with dark skin tone, noto style",
    } <= toned
    assert all("dark" in text.lower() for text in toned)


def test_what_people_type_in_chinese() -> None:
    assert {"红苹果", "一个红苹果", "画一个红苹果"} <= prompts(APPLE, "zh", False, "white")
    assert {"红苹果，noto 风格", "noto 风格的红苹果"} <= prompts(APPLE, "zh", True, "white")
    blue = prompts(APPLE, "zh", False, "blue")
    assert {"蓝色背景上的红苹果", "红苹果，蓝色背景"} <= blue
    assert all("蓝色" in text for text in blue)
    toned = prompts(WAVE, "zh", False, "white")
    assert {"挥手: 较深肤色", "较深肤色的挥手"} <= toned
    assert all("较深肤色" in text for text in toned)


def test_prompts_depend_on_the_seed_alone() -> None:
    first, again = (
        [captions.prompt(APPLE, "en", True, "red", Random(i)) for i in range(50)] for _ in "ab"
    )
    assert first == again and len(set(first)) > 20
    assert captions.plain_prompt(APPLE, "en") == "red apple, noto style"
    assert captions.plain_prompt(APPLE, "zh") == "红苹果，noto 风格"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a red apple"),
        ("ear of corn", "an ear of corn"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("chopsticks", "chopsticks"),
        ("bus", "a bus"),
        ("people with bunny ears", "a people with bunny ears"),
    ],
)
def test_articles(name: str, expected: str) -> None:
    assert captions.with_article(name, "a") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "red apples"),
        ("cherry", "cherries"),
        ("monkey", "monkeys"),
        ("fox", "foxes"),
        ("grapes", "grapes"),
        ("maple leaf", "maple leaves"),
        ("woman: dark skin tone", "women: dark skin tone"),
        ("bowl with spoon", "bowls with spoon"),
        ("human", "humans"),
    ],
)
def test_plurals(name: str, expected: str) -> None:
    assert captions.plural(name) == expected


# --- questions ------------------------------------------------------------------------------------


def test_every_answer_is_right_for_the_record() -> None:
    seen = view(background=list(COLOURS["blue"]), copies=3)
    expected = {
        ("name", "en"): "waving hand: dark skin tone",
        ("name", "zh"): "挥手: 较深肤色",
        ("style", "en"): "noto",
        ("style", "zh"): "noto",
        ("category", "en"): "people and body",
        ("category", "zh"): "人物",
        ("tone", "en"): "dark skin tone",
        ("tone", "zh"): "较深肤色",
        ("background", "en"): "blue",
        ("background", "zh"): "蓝色",
        ("count", "en"): "three",
        ("count", "zh"): "三个",
        ("presence", "en"): "yes",
        ("presence", "zh"): "有",
        ("describe", "en"): "These are three waving hands: dark skin tone in noto style"
        " on a blue background.",
        ("describe", "zh"): "这是蓝色背景上的三个挥手: 较深肤色，noto 风格。",
    }
    assert {kind for kind, _ in expected} == {"name", *questions.kinds_for(WAVE, seen)}
    for (kind, language), answer in expected.items():
        assert questions.ask(kind, language, WAVE, seen, None, Random(0))[1] == answer


def test_standard_questions_and_no_answers() -> None:
    asked = {questions.ask("name", "en", APPLE, view(), None, Random(i)) for i in range(300)}
    assert ("What is in the image?", "red apple") in asked
    assert {answer for _, answer in asked} == {"red apple"}
    asked = {questions.ask("presence", "en", APPLE, view(), DOG, Random(i)) for i in range(100)}
    assert ("Is there a dog face in the image?", "no") in asked
    asked = {questions.ask("presence", "zh", APPLE, view(), DOG, Random(i)) for i in range(100)}
    assert ("图里有狗脸吗？", "没有") in asked
    assert questions.describe("en", APPLE, view()) == (
        "This is a red apple in noto style on a white background."
    )


def test_tone_is_asked_of_people_with_one_tone_only() -> None:
    assert "tone" not in questions.kinds_for(APPLE, view())
    assert "tone" in questions.kinds_for(WAVE, view())
    assert "tone" not in questions.kinds_for(WAVE | {"tone": "1+5"}, view())


def test_absent_things_share_no_word_with_the_picture() -> None:
    green = toy("green apple", "青苹果", "1f34f")
    pair = [green, DOG]
    found = [questions.pick_absent(APPLE, pair, Random(i)) for i in range(40)]
    assert all(one is DOG for one in found)
    assert questions.pick_absent(APPLE, [green], Random(0)) is None


# --- examples -------------------------------------------------------------------------------------

HELD = toy("secret pear", "秘密梨", "1f350", held_emoji=True)
TWIN = toy("crimson apple", "深红苹果", "1fabc", dup_of="1f34e")
RECORDS = [APPLE, DOG, CAR, WAVE, HELD, TWIN, CAR | {"style": "noto-v1", "held_pair": True}]


def test_held_out_pictures_and_names_never_leak() -> None:
    made = list(make_examples.training_examples(RECORDS, range(7), variants=60, toned=60, seed=1))
    assert {one["picture"] for one in made} == {0, 1, 2, 3, 5}
    text = json.dumps(made, ensure_ascii=False).lower()
    assert "secret" not in text and "秘密" not in text and "noto-v1" not in text
    # the duplicate can be asked for, but its pixels have another name already
    assert {one["task"] for one in made if one["picture"] == 5} == {"t2i"}


COUNTS = ("How many are there?", "How many things are in the image?")


def test_training_examples_are_right_and_repeatable() -> None:
    def examples(seed: int) -> list[dict[str, Any]]:
        return list(make_examples.training_examples(RECORDS, range(4), 60, 60, seed))

    made = examples(seed=1)
    assert made == examples(seed=1) != examples(seed=2)
    presence = []
    for one in made:
        record = RECORDS[one["picture"]]
        colour = colour_name(one["view"]["background"])
        if one["task"] == "t2i":
            place = (one["view"]["dx"], one["view"]["dy"], one["view"]["scale"])
            assert record["tone"] or place == (0, 0, 1.0)
            assert colour == "white" or colour in one["prompt"].lower() or "背景" in one["prompt"]
            continue
        (_, english), (_, chinese), (is_there, yes_no), (question, answer), (_, style) = one["qa"]
        assert style == record["style"]
        assert (english, chinese) == (record["en"], record["zh"])
        assert yes_no in ("yes", "有", "no", "没有")
        presence.append(yes_no in ("yes", "有"))
        own = (record[language].partition(":")[0] for language in ("en", "zh"))
        assert any(name in is_there for name in own) == presence[-1]
        assert "tone" not in is_there and "肤色" not in is_there
        if question.startswith("How many") and question not in COUNTS:  # of what is there
            assert captions.plural(record["en"].partition(":")[0]) in question
        if answer in ("two", "三个"):
            assert one["view"]["copies"] == {"two": 2, "三个": 3}[answer]
        if "background" in question:
            assert answer == colour
    assert 0.3 < sum(presence) / len(presence) < 0.7
    assert abs(max(abs(one["view"]["dx"]) for one in made)) == 3
    few = list(make_examples.training_examples(RECORDS, range(4), variants=6, toned=2, seed=1))
    counts = Counter((one["picture"], one["task"]) for one in few)
    assert counts[0, "t2i"] == 6 and counts[3, "t2i"] == counts[3, "answer"] == 2


def test_heldout_examples_use_unseen_shifts_and_skip_duplicates() -> None:
    made = list(make_examples.heldout_examples(RECORDS, range(7), seed=1))
    # APPLE and TWIN share their pixels: neither has one right name
    assert {(one["picture"], one["split"]) for one in made} == {
        (1, "shifted"),
        (2, "shifted"),
        (3, "shifted"),
        (4, "held_emoji"),
        (6, "held_pair"),
    }
    for one in made:
        shift = (one["view"]["dx"], one["view"]["dy"])
        if one["task"] == "t2i":
            assert one["prompt"] == captions.plain_prompt(RECORDS[one["picture"]], one["language"])
        else:
            composite = "copies" in one["view"]
            used = make_examples.COMPOSITE_SHIFTS if composite else make_examples.SHIFTS
            assert shift not in used


def test_selection() -> None:
    choose = make_examples.Selection.from_json
    assert choose({"groups": ["food-drink"]}).rows(RECORDS) == [0, 4, 5]
    assert choose({"styles": ["noto-v1"]}).rows(RECORDS) == [6]
    assert choose({"tones": False}).rows(RECORDS) == [0, 1, 2, 4, 5, 6]
    assert choose({"limit": 3}).rows(RECORDS) == [0, 1, 2, 6]  # three emoji, in every style
    parts = [{"groups": ["food-drink"]}, {"styles": ["noto-v1"]}, {"subgroups": ["none"]}]
    assert choose({"parts": parts}).rows(RECORDS) == [0, 4, 5, 6]
    assert choose({"parts": parts, "styles": ["noto-v1"]}).rows(RECORDS) == [6]
    with pytest.raises(ValueError, match="unknown key 'group'"):
        choose({"group": []})


# --- the whole build ------------------------------------------------------------------------------


def test_build_writes_pictures_records_and_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("resvg_py")
    registry = tmp_path / "registry"
    emoji = make_package(registry, "names", NAMES)
    square = '<rect width="4" height="8" fill="#ff0000"/>'
    bodies = {"hand": {"body": square}, "same": {"body": square}, "blank": {"body": ""}}
    table = {"1f44b": "hand", "1f44b-1f3fb": "same", "1f44b-1f3ff": "blank"}
    files = {"chars.json": table, "icons.json": {"width": 8, "height": 8, "icons": bodies}}
    art = make_package(registry, "art", files)
    monkeypatch.setattr(build_data, "registry", lambda: registry.as_uri() + "/")
    monkeypatch.setattr(build_data, "NAMES", emoji)
    monkeypatch.setattr(build_data, "NAME_TABLES", ("toy",))
    monkeypatch.setattr(build_data, "STYLES", {"toy": sources.Style(art, "iconify")})
    arguments = ["--out", str(tmp_path / "data"), "--size", "16"]

    assert build_data.main(arguments) == 0
    pictures = np.load(tmp_path / "data" / "pictures.npy")
    records = build_data.read_lines(tmp_path / "data" / "pictures.jsonl")
    assert pictures.shape == (2, 16, 16, 4)  # the blank one is left out
    assert pictures[0, 8, 3].tolist() == [255, 0, 0, 255] and pictures[0, 8, 12, 3] == 0
    assert [(one["cp"], one["tone"], one["dup_of"]) for one in records] == [
        ("1f44b", "", None),
        ("1f44b-1f3fb", "1", "1f44b"),
    ]
    summary = json.loads((tmp_path / "data" / "data.json").read_text())
    data = (tmp_path / "data" / "pictures.npy").read_bytes()
    assert summary["pictures_sha256"] == hashlib.sha256(data).hexdigest()
    assert summary["total"]["pictures"] == 2 and summary["styles"]["toy"]["duplicates"] == 1
    assert "toy" in capsys.readouterr().out

    # the second run draws nothing: the cached style is used even though drawing would fail
    monkeypatch.setattr(build_data, "draw_style", None)
    assert build_data.main(arguments) == 0
    assert (tmp_path / "data" / "pictures.npy").read_bytes() == data
    leftovers = [path.name for path in tmp_path.rglob("*.part")]
    assert leftovers == []


def make_package(registry: Path, name: str, files: dict[str, Any]) -> sources.Package:
    folder = registry / name / "-"
    folder.mkdir(parents=True)
    content = {f"package/{path}": json.dumps(data).encode() for path, data in files.items()}
    data = make_tarball(folder / f"{name}-1.0.0.tgz", content).read_bytes()
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    return sources.Package(name, "1.0.0", f"sha512-{digest}", "MIT")


def test_an_unknown_group_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "registry"
    emoji = make_package(registry, "names", NAMES)
    monkeypatch.setattr(build_data, "registry", lambda: registry.as_uri() + "/")
    monkeypatch.setattr(build_data, "NAMES", emoji)
    monkeypatch.setattr(build_data, "NAME_TABLES", ())
    monkeypatch.setattr(build_data, "STYLES", {})
    with pytest.raises(SystemExit):
        build_data.main(["--out", str(tmp_path / "data"), "--styles", "none"])
    assert "unknown style 'none'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown group 'food'"):
        build_data.build(tmp_path / "data", [], ["food"], None, 16, tmp_path / "downloads")
