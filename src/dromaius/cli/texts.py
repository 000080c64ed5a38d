"""What `caption` and `read` share: their flags, and the work batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dromaius.cli import console, inputs
from dromaius.cli.picture_list import Item, open_item
from dromaius.cli.results import Results
from dromaius.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dromaius.pipelines.reading.image_to_text import Reading

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        help="Pictures, folders of them, quoted patterns such as 'scans/**/*.png'; - is one on "
        "stdin.",
    ),
]
Beams = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Texts followed at a time. Default: what the model says."),
]
Temperature = Annotated[
    float,
    typer.Option(
        min=0, callback=inputs.finite, help="0 takes the likeliest token; above, tokens are drawn."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        callback=inputs.seed, help="With --temperature: the same seed draws the same texts."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(help='What the text begins with: a task of a Donut model, as "<s_cord-v2>".'),
]
Alternatives = Annotated[
    int, typer.Option("--number", "-n", min=1, max=64, help="Texts of each picture, best first.")
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, max=1024, help="Pictures computed at a time.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write JSON to FILE.jsonl, one picture a line, as it comes; pictures that it already "
        "holds are skipped.",
    ),
]

Share = Callable[[float], None]
Answer = Callable[[list["Image"], int, Share], Iterable["Reading"]]
"""Texts of some pictures in their order. The number is the place of the first among all; the
function may be told which share of these pictures is done."""


def check_flags(
    output_to: str | None, as_json: bool, seed: int | None, temperature: float, beams: int | None
) -> None:
    """Raises BadParameter for flags that exclude each other."""
    if output_to is not None and as_json:
        raise typer.BadParameter("-o writes JSON already: leave out --json")
    if seed is not None and not temperature:
        raise typer.BadParameter("--seed is for --temperature above 0: without it nothing is drawn")
    if temperature and (beams or 1) > 1:
        raise typer.BadParameter("--temperature draws texts, --beams search for the best: give one")


def check_single(todo: Sequence[Item]) -> None:
    """Raises InputError for the only picture of a command if it cannot be read.

    A slip is said at once: importing torch and loading a model take a while. What can be read only
    once (standard input, a pipe) is left alone.
    """
    if len(todo) == 1 and todo[0].name != "-":
        path = Path(todo[0].name)
        if path.is_file() or not path.exists():
            open_item(todo[0])


def write_all(
    todo: Sequence[Item],
    results: Results,
    answer: Answer,
    batch: int,
    most_pixels: int,
    quiet: bool,
    doing: str,
) -> None:
    """Answers all pictures, writing each text as it comes.

    A picture that cannot be read is said and left out; the exit code is then 1. If it is the only
    one, the error itself is raised.

    Args:
        batch, most_pixels: pictures that are taken together at most; one is always taken.
    """
    failed = done = 0
    total = len(todo)
    places = [i for i, item in enumerate(todo) if (item.name, item.page) not in results.held]
    with console.Meter(doing, "pictures", quiet) as meter, results:
        for opened in _opened(todo, places, batch, most_pixels):

            def share(part: float, before: int = done + failed, size: int = len(opened)) -> None:
                meter.update(before + part * size, len(places))

            for place, found in _answers(opened, answer, share):
                if isinstance(found, InputError):
                    if total == 1:
                        raise found
                    console.remark(f"error: {_named(found, todo[place])}")
                    failed += 1
                else:
                    results.add(todo[place], found)
                    done += 1
                meter.update(done + failed, len(places))
    if results.path is not None:
        console.result(str(results.path))
    if not quiet:
        skipped = total - len(places)
        held = f", {skipped} were there already" if skipped else ""
        pictures = "1 picture" if done == 1 else f"{done} pictures"
        console.remark(f"{pictures} in {meter.seconds:.1f} s{held}")
    if failed:
        raise typer.Exit(1)


def _opened(
    todo: Sequence[Item], places: Sequence[int], batch: int, most_pixels: int
) -> Iterator[list[tuple[int, Image | InputError]]]:
    """(place, picture or what is wrong with it), so many at a time as fit together."""
    held: list[tuple[int, Image | InputError]] = []
    pixels = 0
    for place in places:
        try:
            image = open_item(todo[place])
        except InputError as error:
            held.append((place, error))
        else:
            held.append((place, image))
            pixels += image.width * image.height
        if len(held) >= batch or pixels >= most_pixels:
            yield held
            held, pixels = [], 0
    if held:
        yield held


def _answers(
    opened: Sequence[tuple[int, Image | InputError]], answer: Answer, share: Share
) -> Iterator[tuple[int, Reading | InputError]]:
    """(place, text or what is wrong). If one picture spoils a batch, each is tried alone."""
    good: list[tuple[int, Image]] = []
    for place, image in opened:
        if isinstance(image, InputError):
            yield place, image
        else:
            good.append((place, image))
    if not good:
        return
    try:
        found = list(answer([image for _, image in good], good[0][0], share))
    except InputError as error:
        if len(good) == 1:
            yield good[0][0], error
            return
        for one in good:
            yield from _answers([one], answer, lambda part: None)
        return
    yield from ((place, text) for (place, _), text in zip(good, found, strict=True))


def _named(error: InputError, item: Item) -> str:
    """What is wrong, with the picture's name if it is not in it already."""
    text = str(error)
    return text if item.name in text else f"{item.shown}: {text}"
