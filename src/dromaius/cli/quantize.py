"""`dromaius quantize`: a checkpoint whose language model is stored in few bits."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dromaius.cli import console, options
from dromaius.io import hub

Source = Annotated[str, typer.Argument(metavar="MODEL", help='"nano", a folder, or a hub id.')]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The folder to write; it must not exist yet.")
]
Weights = Annotated[
    Literal["int8", "int4", "fp8"],
    typer.Option(help="How the matrices of the layers are stored. Head and embedding are int8."),
]
Group = Annotated[
    Literal["0", "32", "64", "128"] | None,
    typer.Option(help="Numbers that share a scale; 0: a row. Default: 64 for int4, else 0."),
]
Cost = Annotated[bool, typer.Option(help="Measure how far it is from the full model.")]


def quantize(
    source: Source,
    output: Output,
    weights: Weights = "int8",
    group: Group = None,
    cost: Cost = True,
    vision_tokenizer: options.VisionTokenizer = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Store a model's language half in few bits: near-exact, smaller, faster to read.

    The vision tokenizer stays as it is. What it costs (how far next-token distributions and
    pictures drawn without chance are from the full model's) is printed and kept in config.json;
    `dromaius info` shows it.
    """
    hub.local_folder(source)  # a slip is said at once: importing torch takes a while
    from dromaius.evaluation import quantization

    with console.Meter("quantizing", "MB", quiet) as meter:
        folder = quantization.quantize(
            source,
            output,
            weights,
            None if group is None else int(group),
            vision_tokenizer,
            cost,
            progress=lambda done, total: meter.update(done / 1e6, total / 1e6),
            on_measuring=lambda: meter.update(meter.done, meter.done, "measuring the cost"),
        )
    told = quantization.cost_of(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if as_json:
        facts = {"folder": str(folder), "weights": weights, "bytes": size, "cost": told or None}
        console.result_json(facts)
        return
    console.result(str(folder))
    if told:
        console.result(_words(told))
    if not quiet:
        before = f"{meter.done:,.0f} MB became {size / 1e6:,.0f} MB"
        console.remark(f"{before} in {meter.seconds:.1f} s")


def _words(cost: dict[str, float]) -> str:
    words = (
        f"divergence from the full model: {cost['kl_mean']:.4g} nats in the mean, "
        f"{cost['kl_p95']:.4g} at the 95th percentile; same likeliest id: {cost['top1']:.1%}"
    )
    return words + (f"; same codes without chance: {cost['greedy']:.1%}" if cost["codes"] else "")
