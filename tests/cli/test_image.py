"""`dromaius image`: what reaches the model, where pictures go, what they carry."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Calls, Cli
from tests.cli.fake import picture


def test_a_picture_goes_where_it_should_and_its_path_is_printed(cli: Cli, tmp_path: Path) -> None:
    done = cli("image", "a red apple", "--seed", "7", "-o", "new/apple.png")
    assert (done.code, done.out) == (0, "new/apple.png\n")
    expected = picture({"prompt": "a red apple", "seed": 7, "height": 64, "width": 64}, 1.0)
    with Image.open(tmp_path / "new/apple.png") as found:
        assert found.tobytes() == expected.tobytes()
    assert "seed 7" in done.error
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["apple.png"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(cli: Cli, tmp_path: Path) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        cli("image", "a red apple", "--seed", seed, "-o", f"{name}.png")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_seed_is_drawn_said_and_can_be_given_back(cli: Cli, tmp_path: Path) -> None:
    first, second = (cli("image", "x", "--json") for _ in range(2))
    one, two = json.loads(first.out), json.loads(second.out)
    assert one["seed"] != two["seed"]
    assert f"seed {one['seed']}" in first.error
    cli("image", "x", "--seed", str(one["seed"]), "-o", "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / one["path"]).read_bytes()


def test_provenance_comes_back_through_info(cli: Cli) -> None:
    flags = ["--negative", "worms", "--guidance", "2.5", "--top-k", "9", "--temperature", "0.5"]
    cli("image", "un œuf\n蛋", "-o", "egg.png", "--seed", "3", "--size", "48x32", *flags)
    made = json.loads(cli("info", "egg.png", "--json").out)
    from dromaius import __version__

    assert made == {
        "model": "fake",
        "model_hash": "0123abcd",
        "prompt": "un œuf\n蛋",
        "negative_prompt": "worms",
        "seed": 3,
        "height": 32,
        "width": 48,
        "version": __version__,
        "sampler": {
            "guidance": 2.5,
            "temperature": 0.5,
            "top_k": 9,
            "top_p": None,
            "min_p": None,
        },
    }
    shown = cli("info", "egg.png").out.splitlines()
    assert "prompt: un œuf 蛋" in shown and "seed: 3" in shown and "  top k: 9" in shown


def test_several_pictures_are_numbered_and_count_seeds_up(cli: Cli) -> None:
    done = cli("image", "an apple", "a pear", "-n", "2", "--seed", "5", "-o", "out.png", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["path"], row["prompt"], row["seed"]) for row in rows] == [
        ("out-1.png", "an apple", 5),
        ("out-2.png", "an apple", 6),
        ("out-3.png", "a pear", 7),
        ("out-4.png", "a pear", 8),
    ]
    assert "seeds 5 to 8" in done.error


def test_ten_pictures_sort_by_name(cli: Cli) -> None:
    assert cli("image", "x", "-n", "10", "-o", "out.png").out.startswith("out-01.png\nout-02.png\n")


def test_names_come_from_prompts_and_never_overwrite(cli: Cli, tmp_path: Path) -> None:
    assert cli("image", "A red apple!").out == "a-red-apple.png\n"
    assert cli("image", "a red, apple").out == "a-red-apple-2.png\n"
    assert cli("image", "../../etc/passwd").out == "etc-passwd.png\n"
    assert cli("image", "红苹果").out == "红苹果.png\n"
    assert cli("image", "?").out == "picture.png\n"
    assert cli("image", "a", "b", "-o", "folder").out == "folder/1-a.png\nfolder/2-b.png\n"
    long = cli("image", "长" * 500, "-o", str(tmp_path)).out.strip()
    assert Path(long).exists()


def test_batches_hold_as_many_as_said_and_change_nothing(cli: Cli, calls: Calls) -> None:
    flags = "-n 5 --seed 1 --json -o a.png --batch-size"
    together = cli("image", "x", *flags.split(), "3").out
    assert [len(call["prompt"]) for call in calls] == [3, 2]
    assert [json.loads(row)["seed"] for row in together.splitlines()] == [1, 2, 3, 4, 5]
    assert cli("image", "x", *flags.split(), "1").out == together
    assert calls[0]["seed"] == [1, 2, 3]


def test_flags_reach_the_model(cli: Cli, calls: Calls) -> None:
    flags = "--ratio 16:9 --area 4096 --negative n --guidance 4 --top-k 5 --top-p .9 --min-p .05"
    cli("image", "x", "--seed", "1", "--temperature", "0.7", *flags.split())
    assert calls == [
        {
            "prompt": ["x"],
            "seed": [1],
            "height": None,
            "width": None,
            "ratio": "16:9",
            "area": 4096,
            "negative_prompt": "n",
            "guidance": 4.0,
            "top_k": 5,
            "top_p": 0.9,
            "min_p": 0.05,
            "temperature": 0.7,
            "accelerate": "off",
        }
    ]


def test_what_is_not_said_is_left_to_the_checkpoint(cli: Cli, calls: Calls) -> None:
    cli("image", "x", "--seed", "1")
    said = {"prompt": ["x"], "seed": [1], "ratio": "1:1", "temperature": 1.0, "accelerate": "off"}
    assert {key: value for key, value in calls[0].items() if value is not None} == said


def test_prompts_from_a_file_of_lines(cli: Cli, calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffan apple\r\n\n  # a pear \n".encode())
    cli("image", "first", "--prompts", "p.txt", "--seed", "0")
    assert calls[0]["prompt"] == ["first", "an apple", "  # a pear "]


def test_prompts_from_jsonl_set_what_they_name(cli: Cli, calls: Calls, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "seed": 40, "negative_prompt": "b", "guidance": 1},
        {"prompt": "c", "height": 32, "width": 64},
        {"prompt": "d", "ratio": "1:2"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    cli(
        "image",
        "--prompts",
        "p.jsonl",
        "-n",
        "2",
        "--seed",
        "7",
        "--guidance",
        "5",
        "--ratio",
        "2:1",
    )
    first, second = calls
    assert first["prompt"] == ["a", "a", "c", "c"] and second["prompt"] == ["d", "d"]
    assert first["seed"] == [40, 41, 9, 10] and second["seed"] == [11, 12]
    assert first["guidance"] == [1, 1, 5.0, 5.0] and second["guidance"] == 5.0
    assert first["negative_prompt"] == ["b", "b", None, None]
    assert first["height"] == [None, None, 32, 32] and first["width"] == [None, None, 64, 64]
    assert first["ratio"][:2] == ["2:1", "2:1"] and second["ratio"] == "1:2"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prompt": "a"}\n{"prompt": 3}', 'p.jsonl, object 2: "prompt" must be a text'),
        ('{"seed": 3}', 'p.jsonl, object 1: "prompt" must be a text'),
        ('{"prompt": "a", "seed": "3"}', "seed must be a whole number, got '3'"),
        ('{"prompt": "a", "seed": true}', "seed must be a whole number, got True"),
        ('{"prompt": "a", "guidance": []}', "guidance must be a number, got []"),
        ('{"prompt": "a", "ratio": 1}', "ratio must be a text, got 1"),
        ("", "p.jsonl holds no prompts"),
    ],
)
def test_a_wrong_jsonl_is_named(cli: Cli, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    done = cli("image", "--prompts", "p.jsonl")
    assert done.code == 1 and says in done.error and done.out == ""


def test_a_prompt_on_stdin_and_a_picture_on_stdout(program: Cli, tmp_path: Path) -> None:
    done = program("image", "-", "-o", "-", "--seed", "7", input=b"a red\napple\n")
    assert done.code == 0
    image = Image.open(io.BytesIO(done.raw))
    image.load()
    assert json.loads(image.text["dromaius"])["prompt"] == "a red\napple"
    assert list(tmp_path.iterdir()) == []
    assert json.loads(program("info", "-", "--json", input=done.raw).out)["seed"] == 7
    nothing = program("info", "-", input=b"no picture")
    assert nothing.error == "dromaius: error: the picture is not a picture that can be read"


def test_prompts_on_stdin(program: Cli) -> None:
    done = program("image", "--prompts", "-", "-q", input=b"an apple\na pear\n")
    assert done.out == "1-an-apple.png\n2-a-pear.png\n" and done.err == ""


def test_an_argument_that_is_not_utf8(cli: Cli) -> None:
    done = cli("image", "x\udcff")
    assert (done.code, done.out) == (1, "") and "not valid UTF-8" in done.error
