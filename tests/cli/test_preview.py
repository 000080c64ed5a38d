"""`dromaius image --preview`: files that show pictures while they grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dromaius.cli import drawing, output
from tests.cli.conftest import Cli
from tests.cli.fake import Drawing, picture

RECORD = {"prompt": "x", "seed": 7, "height": 64, "width": 64}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """Every picture that is written: its path and pixels."""
    noted: list[tuple[str, bytes]] = []
    plain = output.write_picture

    def write(image: Any, path: Path, info: Any = None) -> None:
        noted.append((str(path), image.tobytes()))
        plain(image, path, info)

    monkeypatch.setattr(output, "write_picture", write)
    return noted


def test_a_preview_grows_row_by_row(
    cli: Cli, written: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    """The fake model closes a row every third of its twelve steps."""
    flags = ["--preview", "p.png", "--preview-every", "1"]
    done = cli("image", "x", "--seed", "7", "-o", "out.png", *flags)
    assert done.out == "out.png\n"
    shares = [
        (path, picture(RECORD, share).tobytes())
        for path, share in (
            ("p.png", 0.25),
            ("p.png", 0.5),
            ("p.png", 0.75),
            ("out.png", 1.0),
            ("p.png", 1.0),
        )
    ]
    assert written == shares
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "out.png").read_bytes()


@pytest.mark.parametrize(("every", "previews"), [("2", 2), ("3", 2), ("4", 1)])
def test_every_so_many_rows_and_at_the_end(
    cli: Cli, written: list[tuple[str, bytes]], every: str, previews: int
) -> None:
    cli("image", "x", "--preview", "p.png", "--preview-every", every)
    assert [path for path, _ in written].count("p.png") == previews


def test_previews_of_several_pictures(cli: Cli, tmp_path: Path) -> None:
    flags = ["-n", "3", "--batch-size", "2", "--seed", "1"]
    cli("image", "x", *flags, "-o", "out", "--preview", "seen")
    cli("image", "x", *flags, "-o", "out2", "--preview", "p.png")
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert len(names) == 3
    for i, name in enumerate(names, start=1):
        picture = (tmp_path / "out" / name).read_bytes()
        assert (tmp_path / "seen" / name).read_bytes() == picture
        assert (tmp_path / f"p-{i}.png").read_bytes() == picture


def test_by_itself_it_takes_a_tenth_of_the_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A clock by hand: a preview takes 5 s, a row 4 s; two hundred rows."""
    now = [0.0]
    monkeypatch.setattr(drawing.time, "perf_counter", lambda: now[0])
    made = []

    def slow(image: Any, path: Path) -> None:
        now[0] += 5
        made.append(now[0])

    monkeypatch.setattr(output, "write_picture", slow)
    previews = drawing.Previews([tmp_path / "p.png"], None)
    for _ in range(200):
        now[0] += 4
        previews.after_row(Drawing(3, [RECORD]))
    assert made[0] == 9  # the first row is shown
    assert 0.08 < 5 * len(made) / now[0] <= 0.1 + 5 / now[0]
