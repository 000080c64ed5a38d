"""`dromaius image`: draw pictures of prompts."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dromaius.cli import console, inputs, options, output
from dromaius.cli.inputs import PictureSpec
from dromaius.errors import InputError

if TYPE_CHECKING:
    from dromaius.io.provenance import Provenance
    from dromaius.pipelines.emu3 import Drawing, Emu3

SEEDS = 2**31
"""A seed that is drawn, not given, is below this: short enough to type."""
MOST = 100_000
"""Pictures of one command; each has its path, which is tried before the first is drawn."""

Prompts = Annotated[
    list[str] | None, typer.Argument(help="What to draw; - reads it from stdin.", metavar="PROMPT")
]
PromptFile = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        help="A file of prompts, one a line, or *.jsonl of objects with prompt and optionally "
        "seed, height, width, ratio, negative_prompt, guidance; - for lines on stdin.",
        metavar="FILE",
    ),
]
Count = Annotated[
    int, typer.Option("--number", "-n", min=1, max=MOST, help="Pictures of each prompt.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="name.png (several pictures are numbered), a folder, or - for stdout. Default: a new "
        "file in this folder, named after the prompt.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="Pixels, multiples of 8. Default: the model's own size."),
]
Ratio = Annotated[str | None, typer.Option(metavar="W:H", help="Shape, as in 16:9. Default: 1:1.")]
Area = Annotated[
    int | None, typer.Option(min=1, help="Pixels in all, about. Default: the model's own.")
]
Negative = Annotated[str | None, typer.Option(help="What to keep out of the picture.")]
Guidance = Annotated[
    float | None,
    typer.Option(
        callback=inputs.finite, help="How closely to follow the prompt; 1 turns guidance off."
    ),
]
Temperature = Annotated[
    float,
    typer.Option(min=0, callback=inputs.finite, help="Below 1 safer, above 1 wilder."),
]
TopK = Annotated[
    int | None, typer.Option(min=0, help="Choose among this many likeliest codes; 0 is all.")
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        callback=inputs.finite,
        help="Choose among the likeliest codes with this share in all.",
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        callback=inputs.finite,
        help="Drop codes below this share of the likeliest one's chance.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        callback=inputs.seed,
        help="The same seed draws the same pictures; picture i has seed + i.",
    ),
]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures drawn at a time.")]


@dataclass(frozen=True)
class Sampling:
    """What holds for all pictures of a command; None is what the checkpoint says."""

    area: int | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    temperature: float


def image(
    prompts: Prompts = None,
    prompt_file: PromptFile = None,
    number: Count = 1,
    output_to: Output = None,
    size: Size = None,
    ratio: Ratio = None,
    area: Area = None,
    negative: Negative = None,
    guidance: Guidance = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    batch_size: Batch = 4,
    model: options.Model = "nano",
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw pictures of prompts; print their paths.

    A picture carries its prompt, seed and settings: see them with `dromaius info picture.png`.
    Ctrl-C keeps what is drawn so far as name.partial.png.
    """
    if size and (ratio or area):
        raise typer.BadParameter("--size leaves nothing for --ratio and --area to say")
    if output_to == "-" and as_json:
        raise typer.BadParameter("-o - and --json cannot share stdout")
    height, width = inputs.size(size) if size else (None, None)
    shared = PictureSpec("", seed, height, width, ratio, negative, guidance)
    specs = _all_pictures(_specs(prompts or [], prompt_file), shared, number)
    paths = output.picture_paths(output_to, [spec.prompt for spec in specs])
    sampling = Sampling(area, top_k, top_p, min_p, temperature)
    loaded = console.load_model(model, vision_tokenizer, device, dtype, quiet)
    loaded.require_vision_tokenizer()  # absent, it would be missed only once all is drawn
    with console.Meter("drawing", "tokens", quiet) as meter:
        for start in range(0, len(specs), batch_size):
            batch = slice(start, start + batch_size)
            # the pictures still to come are taken to be as large as those so far
            more = len(specs) / min(start + batch_size, len(specs))
            for row in _draw(loaded, specs[batch], paths[batch], sampling, meter, more):
                if as_json:
                    console.result_json(row)
                elif output_to != "-":
                    console.result(row["path"])
    if not quiet:
        console.remark(_summary(specs, meter))


def _specs(prompts: Sequence[str], prompt_file: str | None) -> list[PictureSpec]:
    inputs.at_most_one_stdin([*prompts, prompt_file or ""])
    specs = [PictureSpec(inputs.text_argument(prompt)) for prompt in prompts]
    if prompt_file is not None:
        specs += inputs.read_prompts(prompt_file)
    if not specs:
        raise typer.BadParameter("give a PROMPT or --prompts FILE")
    return specs


def _all_pictures(
    specs: Sequence[PictureSpec], shared: PictureSpec, number: int
) -> list[PictureSpec]:
    """`number` pictures of each prompt, prompt-major, with what the flags say where it is silent.

    A prompt's own seed counts up over its pictures, the command's over all pictures.
    """
    first = secrets.randbelow(SEEDS) if shared.seed is None else shared.seed
    flags = {key: value for key, value in asdict(shared).items() if key not in ("prompt", "seed")}
    if len(specs) * number > MOST:
        raise InputError(f"{len(specs)} prompts, {number} pictures each: at most {MOST} in all")
    pictures: list[PictureSpec] = []
    for spec in specs:
        own = asdict(spec)
        if spec.ratio:  # a prompt's own shape is of one kind
            flags_here = flags | {"height": None, "width": None}
        elif spec.height or spec.width:
            flags_here = flags | {"ratio": None}
        else:
            flags_here = flags
        own |= {k: v for k, v in flags_here.items() if own[k] is None}
        for i in range(number):
            seed = first + len(pictures) if spec.seed is None else spec.seed + i
            pictures.append(replace(PictureSpec(**own), seed=seed))
    return pictures


def _draw(
    model: "Emu3",
    specs: Sequence[PictureSpec],
    paths: Sequence[Path],
    sampling: Sampling,
    meter: console.Meter,
    more: float,
) -> Iterator[dict[str, Any]]:
    """Draws one batch and writes it; yields what is to be said of each picture that is written.

    `more` is the work of the whole command over that up to the end of this batch. Ctrl-C writes
    what there is of the other pictures and goes on up.
    """
    before, cells, written, drawing = meter.done, 0, 0, None
    try:
        for drawing in model.stream_image(**_arguments(specs), **asdict(sampling)):
            cells = cells or sum(codes.numel() for codes in drawing.codes)
            done = cells * drawing.step / max(drawing.steps, 1)
            meter.update(before + done, (before + cells) * more)
        assert drawing is not None, "the model drew nothing"
        for picture, record, path in zip(drawing.pictures(), drawing.records, paths, strict=True):
            made = _provenance(model, record)
            output.write_picture(picture, path, made.png_info())
            written += 1
            yield {"path": str(path), **asdict(made)}
    except KeyboardInterrupt:
        _keep_partial(model, drawing, paths, written)
        raise


def _arguments(specs: Sequence[PictureSpec]) -> dict[str, Any]:
    """Arguments of `stream_image`: one value where all pictures share it, else one for each."""
    columns: dict[str, list[Any]] = {
        key: [getattr(spec, key) for spec in specs] for key in asdict(specs[0])
    }
    columns["ratio"] = [ratio or "1:1" for ratio in columns["ratio"]]
    each = {"prompt", "seed"}
    return {
        key: column if key in each or any(v != column[0] for v in column) else column[0]
        for key, column in columns.items()
    }


def _keep_partial(
    model: "Emu3", drawing: "Drawing | None", paths: Sequence[Path], written: int
) -> None:
    """Writes what is drawn of the pictures that are not yet written, and says so."""
    kept = []
    if drawing is not None and drawing.step:
        whole = zip(drawing.pictures(), drawing.records, paths, strict=True)
        for picture, record, path in list(whole)[written:]:
            if path != output.STDOUT:
                partial = output.partial_path(path)
                output.write_picture(picture, partial, _provenance(model, record).png_info())
                kept.append(str(partial))
    console.remark(f"interrupted; kept {', '.join(kept)}" if kept else "interrupted; nothing kept")


def _provenance(model: "Emu3", record: dict[str, Any]) -> "Provenance":
    from dromaius import __version__
    from dromaius.io.provenance import Provenance

    chooses = ("guidance", "temperature", "top_k", "top_p", "min_p")
    return Provenance(
        model=model.name,
        model_hash=model.hash,
        prompt=record["prompt"],
        height=record["height"],
        width=record["width"],
        version=__version__,
        negative_prompt=record["negative_prompt"],
        seed=record["seed"],
        sampler={key: record[key] for key in chooses},
    )


def _summary(specs: Sequence[PictureSpec], meter: console.Meter) -> str:
    pictures = "1 picture" if len(specs) == 1 else f"{len(specs)} pictures"
    seeds = [spec.seed for spec in specs]
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{pictures} in {meter.seconds:.1f} s, {meter.rate:,.0f} tokens/s, {seed}"
