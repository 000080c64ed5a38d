"""`dromaius convert`: a checkpoint in another layout, or as ONNX graphs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from dromaius.cli import console, options
from dromaius.errors import InputError
from dromaius.io import hub

if TYPE_CHECKING:
    from dromaius.models.emu3.convert import Target


class Layout(StrEnum):
    """The layouts that can be written."""

    dromaius = "dromaius"
    baai = "baai"
    hf = "hf"
    onnx = "onnx"


class Number(StrEnum):
    """The types that weights are written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Source = Annotated[str, typer.Argument(metavar="SOURCE", help='"nano", a folder, or a hub id.')]
Destination = Annotated[
    Path, typer.Argument(metavar="DEST", help="The folder to write; it must not exist yet.")
]
To = Annotated[
    Layout,
    typer.Option(
        "--to",
        help="Our own layout, BAAI's (two folders), or transformers' (-hf). A VisionEncoderDecoder "
        "goes to hf (from TensorFlow, Flax or .bin) or to onnx.",
    ),
]
VisionDestination = Annotated[
    Path | None,
    typer.Option(
        "--vision-dest",
        help="Folder of the vision tokenizer, for --to baai. Default: DEST-VisionTokenizer.",
    ),
]
Dtype = Annotated[
    Number | None, typer.Option(help="The language model's new type. Default: bit for bit.")
]
ShardSize = Annotated[
    str | None, typer.Option(help="Largest file of weights, as in 5GB or 500MB. Default: 5GB.")
]

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def convert(
    source: Source,
    destination: Destination,
    to: To = Layout.dromaius,
    vision_tokenizer: options.VisionTokenizer = None,
    vision_destination: VisionDestination = None,
    dtype: Dtype = None,
    shard_size: ShardSize = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint in another layout, tensor for tensor; print its folders."""
    size = {} if shard_size is None else {"max_shard_size": bytes_of(shard_size)}
    hub.local_folder(source)  # a slip is said at once: importing torch takes a while
    import torch

    from dromaius.models.emu3.convert import convert as convert_checkpoint
    from dromaius.pipelines.load import is_vision_encoder_decoder

    number = None if dtype is None else getattr(torch, dtype.value)
    if is_vision_encoder_decoder(hub.resolve_settings(source)):
        if vision_tokenizer or vision_destination:
            raise InputError(f"{source} is a VisionEncoderDecoder, which has no vision tokenizer")
        return _vision_encoder_decoder(source, destination, to, number, size, as_json, quiet)
    if to is Layout.onnx:
        raise InputError(f"{source} is an Emu3 model; only a VisionEncoderDecoder goes to onnx")

    with console.Meter("converting", "MB", quiet) as meter:
        folders = convert_checkpoint(
            source,
            destination,
            cast("Target", to.value),
            vision_tokenizer=vision_tokenizer,
            vision_destination=vision_destination,
            dtype=number,
            progress=lambda done, total: meter.update(done / 1e6, total / 1e6),
            **size,
        )
    if as_json:
        console.result_json({"folders": [str(folder) for folder in folders], "layout": to.value})
    else:
        for folder in folders:
            console.result(str(folder))
    if not quiet:
        console.remark(f"{meter.done:,.0f} MB in {meter.seconds:.1f} s")


def _vision_encoder_decoder(
    source: str,
    destination: Path,
    to: Layout,
    dtype: Any,
    size: dict[str, int],
    as_json: bool,
    quiet: bool,
) -> None:
    facts: dict[str, Any] = {"folders": [str(destination)], "layout": to.value}
    if to is Layout.onnx:
        if dtype is not None or size:
            raise InputError("graphs are written in float32, one file each: leave out other flags")
        from dromaius.pipelines.reading.export_onnx import export_onnx

        model: Any = console.load_any(source, "cpu", None, quiet)
        with console.Meter("exporting", "graphs", quiet) as meter:
            report = export_onnx(model, destination, progress=meter.update)
        facts["parity"] = report
        texts = report["greedy"]
        said = (
            f"largest difference from PyTorch {report['largest_difference']:.2g}, "
            f"{texts['texts']} texts of {texts['tokens']} tokens equal"
        )
    elif to is Layout.hf:
        from dromaius.pipelines.reading.convert import convert as convert_folder

        with console.Meter("converting", "MB", quiet) as meter:
            written = convert_folder(hub.resolve(source), destination, dtype, **size)
        said = f"{written / 1e6:,.1f} MB"
    else:
        raise InputError(f"{source} is a VisionEncoderDecoder: it goes --to hf or --to onnx")
    if as_json:
        console.result_json(facts)
    else:
        console.result(str(destination))
    if not quiet:
        console.remark(f"{said}, in {meter.seconds:.1f} s")


def bytes_of(text: str) -> int:
    """ "500MB" -> 500000000. Raises BadParameter."""
    number = text.upper().rstrip("BKMG")
    unit = text.upper()[len(number) :]
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise typer.BadParameter(f"--shard-size must look like 5GB or 500MB, got {text!r}")
    return size
