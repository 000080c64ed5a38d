"""`dromaius info`: what a model is, or how a picture was made."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dromaius.cli import console, inputs, options

Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help='"nano", a folder, a hub id, or a picture (- on stdin).'),
]


def info(
    source: Source,
    vision_tokenizer: options.VisionTokenizer = None,
    as_json: options.Json = False,
) -> None:
    """Describe a model (family, sizes, settings, hash), or say how a picture was made."""
    is_picture = source == "-" or Path(source).is_file()
    facts = _picture(source) if is_picture else _model(source, vision_tokenizer)
    if as_json:
        console.result_json(facts)
    else:
        console.result("\n".join(_lines(facts)))


def _model(source: str, vision_tokenizer: str | None) -> dict[str, Any]:
    """What the model says of itself; on the meta device, so no weights are read into memory."""
    from dromaius.io.checkpoint import list_tensors

    model: Any = console.load_any(source, device="meta", vision_tokenizer=vision_tokenizer)
    facts = model.describe()
    del facts["device"]
    if console.is_image_to_text(model):
        return facts
    stored = {info.dtype for folder in model.folders for info in list_tensors(folder).values()}
    names = sorted(str(dtype).removeprefix("torch.") for dtype in stored if dtype.is_floating_point)
    return facts | {"dtype": " and ".join(names)}


def _picture(source: str) -> dict[str, Any]:
    from dromaius.errors import InputError
    from dromaius.io.images import MAX_FILE_BYTES
    from dromaius.io.provenance import read_provenance

    made = read_provenance(inputs.read_stdin(MAX_FILE_BYTES) if source == "-" else source)
    if made is None:
        name = "the picture" if source == "-" else source
        raise InputError(f"{name} does not say how it was made")
    return asdict(made)


def _lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """`name: value` lines; a table within is indented. Line ends in a value do not end its line."""
    lines = []
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}:"
        if isinstance(value, Mapping):
            if name == "parameters":  # long numbers that are read as amounts
                value = {k: f"{v:,}" if isinstance(v, int) else v for k, v in value.items()}
            lines += [label, *_lines(value, indent + "  ")]
        else:
            lines.append(f"{label} {_shown(value)}".rstrip())
    return lines


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return console.one_line(value)
