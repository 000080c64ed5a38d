"""`dromaius eval`: the figures of the models in the package, with intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dromaius.cli import console, options

if TYPE_CHECKING:
    from dromaius.evaluation.cases import EvaluationSet
    from dromaius.evaluation.figures import Figure

ASSETS = Path(__file__).parents[1] / "assets"
FULL = Path("runs/nano/full/evaluation")
BUILD = (
    "python recipes/nano/build_data.py",
    "python recipes/nano/build_data.py --styles twemoji --out runs/nano/twemoji",
    "python recipes/nano/make_evaluation.py",
)
MEASURED = {"nano": "nano", "reader": "nano-reader", "captioner": "nano-captioner"}
"""What is measured, and by default of which model."""
QUICK_LINES = 100

What = Annotated[
    str, typer.Argument(metavar="WHAT", help="What is measured: nano, reader or captioner.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A folder or hub id. Default: the model in the package."),
]
Beside = Annotated[
    str | None,
    typer.Option(help="captioner: an Emu3 model that is asked for the same names, such as nano."),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="The small set that is part of the package: a minute.")
]
Data = Annotated[
    Path | None,
    typer.Option(help=f"Folder of an evaluation set. Default: {FULL} (a script writes it)."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most so many cases of each kind. Default: all.")
]
Rows = Annotated[
    str | None,
    typer.Option(help='nano: rows such as "1,2,wordings". Default: all; 7 is in 2.'),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")]
Check = Annotated[
    bool, typer.Option("--check", help='Exit with 1 if a "must" lies above its interval.')
]


def eval(  # a verb's function has the verb's name; nothing here needs the builtin
    what: What,
    quick: Quick = False,
    data: Data = None,
    limit: Limit = None,
    rows: Rows = None,
    beside: Beside = None,
    markdown: Markdown = False,
    check: Check = False,
    model_name: Model = None,
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "resident",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a model of the package: a table of figures with 95 % intervals, must and goal."""
    if what not in MEASURED:
        raise typer.BadParameter(f"there are figures for {', '.join(MEASURED)}, not for {what!r}")
    if quick and data is not None:
        raise typer.BadParameter("--quick has its own data: give --quick or --data")
    if as_json and markdown:
        raise typer.BadParameter("give --json or --markdown")
    if rows is not None and what != "nano":
        raise typer.BadParameter(f"--rows are nano's; {what} has few")
    if beside is not None and what != "captioner":
        raise typer.BadParameter("--beside is for the captioner")
    chosen = model_name or MEASURED[what]
    meter = console.Meter(f"measuring {chosen}", "cases", quiet)
    placed = {"device": device, "dtype": dtype, "quiet": quiet}
    if what == "reader":
        figures, about = _reader(chosen, quick, data, limit, placed, meter)
    elif what == "captioner":
        figures, about = _captioner(chosen, quick, data, limit, beside, placed, meter)
    else:
        placed |= {"vision_tokenizer": vision_tokenizer, "memory": memory}
        figures, about = _nano(chosen, quick, data, limit, rows, placed, meter)
    _show(figures, about, as_json, markdown)
    if not quiet:
        console.remark(f"{meter.done:,.0f} cases in {meter.seconds:.0f} s")
    if check and (bad := [one for one in figures if one.met == "no"]):
        names = "; ".join(f"{one.name} {one.value:.2f} of {one.must:g}" for one in bad)
        console.remark(f"below must: {names}")
        raise typer.Exit(1)


def _show(figures: "Sequence[Figure]", about: str, as_json: bool, markdown: bool) -> None:
    from dromaius.evaluation import table

    if as_json:
        for figure in figures:
            console.result_json(table.as_json(figure))
        return
    console.result((table.markdown if markdown else table.text)(figures))
    console.result(f"\n{about}")


Measured = tuple["Sequence[Figure]", str]
"""Figures, and a line about the model and the set."""


def _nano(
    model: str,
    quick: bool,
    data: Path | None,
    limit: int | None,
    rows: str | None,
    placed: dict[str, Any],
    meter: console.Meter,
) -> Measured:
    cases = _read(quick, data)
    from dromaius.evaluation import nano

    chosen = None if rows is None else [row.strip() for row in rows.split(",")]
    if unknown := sorted(set(chosen or ()) - nano.ROWS.keys()):
        raise typer.BadParameter(f"no row {unknown[0]!r}; rows are {', '.join(nano.ROWS)}")
    loaded = console.load_model(model, **placed)
    loaded.require_language_model()
    loaded.require_vision_tokenizer()
    with meter:
        figures = nano.evaluate(loaded, cases, limit, chosen, meter.update)
    sizes = ", ".join(f"{name} {len(one.pictures):,}" for name, one in cases.galleries.items())
    return figures, f"Model {loaded.name} {loaded.hash}; set {cases.name}; galleries: {sizes}."


def _reader(
    model: str,
    quick: bool,
    data: Path | None,
    limit: int | None,
    placed: dict[str, Any],
    meter: console.Meter,
) -> Measured:
    from dromaius.evaluation import reader

    lines = reader.read_lines(data or ASSETS / "nano-reader" / "heldout")
    loaded = _image_to_text(model, placed)
    with meter:
        first = min(limit or QUICK_LINES, QUICK_LINES) if quick else limit
        figures = reader.evaluate(loaded, lines, first, meter.update)
    return figures, f"Model {loaded.name} {loaded.hash}; set {lines.name}."


def _captioner(
    model: str,
    quick: bool,
    data: Path | None,
    limit: int | None,
    beside: str | None,
    placed: dict[str, Any],
    meter: console.Meter,
) -> Measured:
    cases = _read(quick, data)
    from dromaius.evaluation import captioner

    loaded = _image_to_text(model, placed)
    other = None if beside is None else console.load_model(beside, **placed)
    if other is not None:
        other.require_language_model()
        other.require_vision_tokenizer()
    with meter:
        figures = captioner.evaluate(loaded, cases, limit, other, meter.update)
    names = "; beside it ".join(f"{one.name} {one.hash}" for one in (loaded, other) if one)
    return figures, f"Model {names}; set {cases.name}."


def _image_to_text(model: str, placed: dict[str, Any]) -> Any:
    """A VisionEncoderDecoder. Raises InputError for a model of another kind."""
    from dromaius.errors import InputError

    loaded = console.load_any(model, **placed)
    if not console.is_image_to_text(loaded):
        raise InputError(
            f"{model} is no VisionEncoderDecoder: it is measured by dromaius eval nano"
        )
    return loaded


def _read(quick: bool, data: Path | None) -> "EvaluationSet":
    """The set asked for. Raises InputError that says how to make the full one where it lacks."""
    from dromaius.errors import InputError
    from dromaius.evaluation.cases import read_set

    if quick:
        return read_set(ASSETS / "nano" / "quick")
    folder = FULL if data is None else data
    if not (folder / "set.json").is_file():
        commands = " && ".join(BUILD)
        raise InputError(f"no evaluation set in {folder}: use --quick, or build it: {commands}")
    return read_set(folder)
