"""`dromaius reconstruct`: a picture through the vision tokenizer and back."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dromaius.cli import console, options, output

if TYPE_CHECKING:
    from PIL.Image import Image

Source = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture; - reads it from stdin.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="name.png, a folder, or - for stdout. Default: a new file in this folder.",
    ),
]


def reconstruct(
    source: Source,
    output_to: Output = None,
    model: options.Model = "nano",
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "resident",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode a picture into codes and decode them; print the path of the result.

    Shows what the model sees. PSNR compares the result with the picture at the size at which the
    model reads it.
    """
    if output_to == "-" and as_json:
        raise typer.BadParameter("-o - and --json cannot share stdout")
    from dromaius.io.images import open_image, resize

    original = open_image(source)
    title = "picture" if source == "-" else Path(source).stem
    [path] = output.picture_paths(output_to, [f"{title} again"])
    loaded = console.load_model(model, vision_tokenizer, device, dtype, quiet, memory)
    with console.status("reading and drawing", quiet):
        codes = loaded.encode_image(original)
        again = loaded.decode_image(codes)
    quality = psnr(resize(original, again.height, again.width), again)
    output.write_picture(again, path)
    rows, columns = codes.shape
    if as_json:
        console.result_json(
            {
                "path": str(path),
                "psnr": round(quality, 3) if math.isfinite(quality) else None,
                "rows": rows,
                "columns": columns,
                "width": again.width,
                "height": again.height,
            }
        )
    elif output_to != "-":
        console.result(str(path))
    if not quiet:
        size = f"{again.width}x{again.height} pixels"
        console.remark(f"{size}, {rows}x{columns} codes, PSNR {quality:.2f} dB")


def psnr(one: "Image", other: "Image") -> float:
    """Peak signal-to-noise ratio in dB of two 8-bit RGB pictures of one size; equal ones: inf."""
    import numpy as np

    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = float((difference**2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
