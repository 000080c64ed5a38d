"""`dromaius plan`: what a model will take on a device, before anything is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dromaius.cli import console, options

if TYPE_CHECKING:
    from dromaius.pipelines.planning.plan import Plan

Source = Annotated[
    str, typer.Argument(metavar="MODEL", help='"nano", a folder (config.json is enough), a hub id.')
]
Task = Annotated[
    Literal["image", "ask", "reconstruct", "video"], typer.Option(help="What is to be done.")
]
Height = Annotated[int | None, typer.Option(min=1, help="Pixels, a multiple of 8.")]
Width = Annotated[int | None, typer.Option(min=1, help="Pixels, a multiple of 8.")]
Ratio = Annotated[str | None, typer.Option(metavar="W:H", help="Shape, as in 16:9. Default: 1:1.")]
Area = Annotated[
    int | None, typer.Option(min=1, help="Pixels in all, about. Default: the model's own.")
]
Batch = Annotated[int, typer.Option(min=1, help="Pictures drawn at a time.")]
Guidance = Annotated[
    Literal["on", "off"] | None,
    typer.Option(help="Whether an unwanted prompt runs along. Default: what the model says."),
]


def plan(
    source: Source,
    device: options.Device = None,
    task: Task = "image",
    height: Height = None,
    width: Width = None,
    ratio: Ratio = None,
    area: Area = None,
    batch: Batch = 1,
    guidance: Guidance = None,
    vision_tokenizer: options.VisionTokenizer = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Say what a model will take: memory mode by mode, what fits, and the time at best.

    No weights are read. --device also takes a card that is not here by its name, such as
    "RTX 4090", "A100-80" or "H200".
    """
    if (height or width) and (ratio or area):
        raise typer.BadParameter("--height and --width leave nothing for --ratio and --area to say")
    from dromaius.io import hub

    for name in (source, vision_tokenizer):  # a slip is said at once: importing torch takes a while
        if name is not None:
            hub.local_folder(name)
    from dromaius.pipelines.planning.plan import plan as make_plan

    made = make_plan(
        source,
        device,
        task,
        height,
        width,
        ratio,
        area,
        batch,
        None if guidance is None else guidance == "on",
        dtype,
        vision_tokenizer,
    )
    if as_json:
        console.result_json(made.to_json())
    else:
        console.result("\n".join(_lines(made)))


def _lines(plan: "Plan") -> list[str]:
    facts = plan.to_json()
    lines = [
        f"{facts['model']}, {plan.task}: {_work(plan)}, {facts['dtype']}",
        f"on {plan.card.name}: {_size(plan.card.memory)}, "
        f"{plan.card.bandwidth / 1e9:,.1f} GB/s ({plan.card.source})",
        "",
        *_parts(plan, facts),
        "",
        *_table(_modes(plan)),
    ]
    if plan.speeds:
        lines += ["", "at best, memory being read at full speed:", *_table(_speeds(plan))]
    return lines


def _work(plan: "Plan") -> str:
    size = f"{plan.width}x{plan.height} pixels"
    if plan.task != "image":
        return size
    pictures = "1 picture" if plan.batch == 1 else f"{plan.batch} pictures"
    return f"{pictures} of {size}, guidance {'on' if plan.guidance else 'off'}"


def _parts(plan: "Plan", facts: dict[str, Any]) -> list[str]:
    """One line for each thing that takes memory."""
    weights = facts["weights"]
    rows: list[tuple[str, str, str]] = []
    if "language_model" in facts["parameters"]:
        count = f"{facts['parameters']['language_model']:,} parameters"
        rows.append(("language model", _size(weights["language_model"]), count))
        rows.append(("  its embedding", _size(weights["embedding"]), ""))
        rows.append(("  its head", _size(weights["head"] or weights["embedding"]), ""))
        if not weights["head"]:
            rows[-1] = ("  its head", _size(0), "the embedding's own tensor")
        rows.append(("  its head, visual ids", _size(weights["visual_head"]), ""))
    count = f"{facts['parameters']['vision_tokenizer']:,} parameters, float32"
    rows.append(("vision tokenizer", _size(weights["vision"]), count))
    rows.append(("while loading", _size(plan.loading), "and one tensor as stored"))
    if plan.decoding:
        rows.append(("keys and values", _size(plan.decoding.cache), ""))
    steps = {
        "prefill": plan.decoding and plan.decoding.prefill,
        "a pass": plan.decoding and plan.decoding.step,
        "pixels to codes": plan.encode,
        "codes to pixels": plan.decode,
    }
    rows += [(name, _size(peak.bytes), f"at {peak.where}") for name, peak in steps.items() if peak]
    return _table(rows, notes=True)


def _modes(plan: "Plan") -> list[tuple[str, ...]]:
    from dromaius.pipelines.planning.plan import SIZES

    rows: list[tuple[str, ...]] = [
        ("", "peak", *(f"{size} GB" for size in SIZES), plan.card.name),
    ]
    for mode, total in plan.totals.items():
        sizes = [size * 10**9 for size in SIZES] + [plan.card.memory]
        fits = (plan.fits(mode, size).replace("no", "-") for size in sizes)
        rows.append((mode, _size(total), *fits))
    return rows


def _speeds(plan: "Plan") -> list[tuple[str, ...]]:
    whole = "s a picture" if plan.task == "image" else "s an answer"
    rows: list[tuple[str, ...]] = [("weights", "guidance", "GB a pass", "ms", "tokens/s", whole)]
    for one in plan.speeds:
        rows.append(
            (
                one.weights,
                "on" if one.guidance else "off",
                f"{one.bytes / 1e9:.3f}",
                f"{one.milliseconds:.3f}",
                f"{one.tokens_per_second:,.1f}",
                f"{one.seconds / plan.batch:,.2f}",
            )
        )
    return rows


def _table(rows: Sequence[Sequence[str]], notes: bool = False) -> list[str]:
    """Columns side by side: a name, then numbers, which stand to the right; notes end the line."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if notes:
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    return lines


def _size(count: int) -> str:
    """Bytes in words: 16.98 GB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count / 1000:.1f} kB"
