"""`dromaius image`: draw pictures of prompts."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Literal

import typer

from dromaius.cli import console, inputs, options, output
from dromaius.cli.drawing import Previews, Sampling, Tally, draw_batch
from dromaius.cli.inputs import PictureSpec
from dromaius.cli.resume import Progress
from dromaius.errors import InputError

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


Guided = Annotated[
    str | None,
    typer.Option(
        metavar="FROM:TO",
        help="The part of the picture drawn with guidance, as 0:0.5. Default: all of it.",
    ),
]
State = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Keep what is drawn in this file, row by row; the same command goes on from it. It is "
        "removed once all pictures are written.",
    ),
]
Preview = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Show the picture here while it grows: name.png (several are numbered), or a folder.",
    ),
]
PreviewEvery = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="ROWS", help="Default: as often as takes about a tenth of the time."
    ),
]
Accelerate = Annotated[
    Literal["off", "seed-exact", "coupled", "auto"],
    typer.Option(
        help="Draw several codes a pass. seed-exact: the same picture as off, in fewer passes. "
        "auto: the same picture, in the faster of these two ways, once both are tried. coupled: "
        "another picture for the same seed, just as likely."
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="Codes that a pass of --accelerate tries. Default: 16; 4 on a CPU, but for coupled.",
    ),
]


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
    guided: Guided = None,
    state: State = None,
    preview: Preview = None,
    preview_every: PreviewEvery = None,
    accelerate: Accelerate = "off",
    window: Window = None,
    batch_size: Batch = 4,
    model: options.Model = "nano",
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "resident",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw pictures of prompts; print their paths.

    A picture carries its prompt, seed and settings: see them with `dromaius info picture.png`.
    Ctrl-C keeps what is drawn so far as name.partial.png; with --state it can be drawn on.
    """
    if size and (ratio or area):
        raise typer.BadParameter("--size leaves nothing for --ratio and --area to say")
    if output_to == "-" and as_json:
        raise typer.BadParameter("-o - and --json cannot share stdout")
    height, width = inputs.size(size) if size else (None, None)
    if preview_every and preview is None:
        raise typer.BadParameter("--preview-every says how often --preview is made: give both")
    if window and accelerate == "off":
        raise typer.BadParameter("--window says how many codes --accelerate tries: give both")
    part = None if guided is None else inputs.part(guided)
    progress = Progress(state, seed)
    shared = PictureSpec("", progress.seed, height, width, ratio, negative, guidance)
    specs = _all_pictures(_specs(prompts or [], prompt_file), shared, number)
    sampling = Sampling(area, top_k, top_p, min_p, temperature, part, accelerate, window)
    tally = Tally(quiet)
    progress.check(specs, sampling, batch_size)
    paths = output.picture_paths(output_to, [spec.prompt for spec in specs], progress.is_own)
    shown = [] if preview is None else output.preview_paths(preview, paths)
    output.check_apart([*shown, *([progress.path] if progress.path else [])], paths)
    loaded = console.load_model(model, vision_tokenizer, device, dtype, quiet, memory)
    loaded.require_vision_tokenizer()  # absent, it would be missed only once all is drawn
    with console.Meter("drawing", "tokens", quiet) as meter:
        for start in range(progress.start, len(specs), batch_size):
            batch = slice(start, start + batch_size)
            # the pictures still to come are taken to be as large as those so far
            so_far = min(start + batch_size, len(specs)) - progress.start
            more = (len(specs) - progress.start) / so_far
            previews = Previews(shown[batch], preview_every) if shown else None
            given = specs[batch], paths[batch], sampling, tally, meter, more
            for row in draw_batch(loaded, *given, previews, progress.batch(start)):
                if as_json:
                    console.result_json(row)
                elif output_to != "-":
                    console.result(row["path"])
    progress.finish()
    if not quiet:
        console.remark(_summary(specs, tally, meter))


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
    assert shared.seed is not None
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
            seed = shared.seed + len(pictures) if spec.seed is None else spec.seed + i
            pictures.append(replace(PictureSpec(**own), seed=seed))
    return pictures


def _summary(specs: Sequence[PictureSpec], tally: Tally, meter: console.Meter) -> str:
    pictures = "1 picture" if len(specs) == 1 else f"{len(specs)} pictures"
    seeds = [spec.seed for spec in specs]
    seed = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    took = f"{tally.tokens:,} tokens in {tally.passes:,} passes"
    return f"{pictures} in {meter.seconds:.1f} s, {took}, {meter.rate:,.0f} tokens/s, {seed}"
