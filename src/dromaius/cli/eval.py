"""`dromaius eval nano`: the figures of nano, with intervals, against what is asked of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dromaius.cli import console, options

if TYPE_CHECKING:
    from dromaius.evaluation.cases import EvaluationSet
    from dromaius.pipelines.emu3 import Emu3

FULL = Path("runs/nano/full/evaluation")
BUILD = (
    "python recipes/nano/build_data.py",
    "python recipes/nano/build_data.py --styles twemoji --out runs/nano/twemoji",
    "python recipes/nano/make_evaluation.py",
)

What = Annotated[str, typer.Argument(metavar="nano", help="What is measured: nano.")]
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
    typer.Option(help='Rows of the table, such as "1,2,wordings". Default: all; 7 is in 2.'),
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
    markdown: Markdown = False,
    check: Check = False,
    model: options.Model = "nano",
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "resident",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure nano: a table of figures with 95 % intervals, must and goal."""
    if what != "nano":
        raise typer.BadParameter(f"there are figures for nano, not for {what!r}")
    if quick and data is not None:
        raise typer.BadParameter("--quick has its own data: give --quick or --data")
    if as_json and markdown:
        raise typer.BadParameter("give --json or --markdown")
    cases = _read(quick, data)
    from dromaius.evaluation import nano, table

    chosen = None if rows is None else [row.strip() for row in rows.split(",")]
    if unknown := sorted(set(chosen or ()) - nano.ROWS.keys()):
        raise typer.BadParameter(f"no row {unknown[0]!r}; rows are {', '.join(nano.ROWS)}")
    loaded = console.load_model(model, vision_tokenizer, device, dtype, quiet, memory)
    loaded.require_language_model()
    loaded.require_vision_tokenizer()
    with console.Meter(f"measuring {loaded.name}", "cases", quiet) as meter:
        figures = nano.evaluate(loaded, cases, limit, chosen, meter.update)
    if as_json:
        for figure in figures:
            console.result_json(table.as_json(figure))
    else:
        console.result((table.markdown if markdown else table.text)(figures))
        console.result(f"\n{about(loaded, cases)}")
    if not quiet:
        console.remark(f"{meter.done:,.0f} cases in {meter.seconds:.0f} s")
    if check and (bad := nano.missed(figures)):
        names = "; ".join(f"{one.name} {one.value:.2f} of {one.must:g}" for one in bad)
        console.remark(f"below must: {names}")
        raise typer.Exit(1)


def _read(quick: bool, data: Path | None) -> "EvaluationSet":
    """The set asked for. Raises InputError that says how to make the full one where it lacks."""
    from dromaius.errors import InputError
    from dromaius.evaluation.cases import read_set

    if quick:
        return read_set(Path(__file__).parents[1] / "assets" / "nano" / "quick")
    folder = FULL if data is None else data
    if not (folder / "set.json").is_file():
        commands = " && ".join(BUILD)
        raise InputError(f"no evaluation set in {folder}: use --quick, or build it: {commands}")
    return read_set(folder)


def about(model: "Emu3", cases: "EvaluationSet") -> str:
    """One line: the model, the set, and among how many pictures the nearest is looked for."""
    sizes = ", ".join(f"{name} {len(one.pictures):,}" for name, one in cases.galleries.items())
    return f"Model {model.name} {model.hash}; set {cases.name}; galleries: {sizes}."
