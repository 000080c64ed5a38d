"""`dromaius read`: the text in pictures of lines and pages."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dromaius.cli import console, options, picture_list, texts
from dromaius.cli.results import Results
from dromaius.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dromaius.pipelines.reading.image_to_text import Reading

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help='"nano-reader", a folder or hub id of a VisionEncoderDecoder.'
    ),
]
Layout = Annotated[
    Literal["auto", "line", "page"],
    typer.Option(
        help="line: each picture is one line of text. page: its lines are found and read in order. "
        "auto: whichever it looks like."
    ),
]

MOST_PIXELS = 2 * 2**20
"""Of pictures that are taken together: lines go in batches; a page, which is a batch of lines, goes
alone, and its text is seen once it is read."""


def read(
    images: texts.Sources,
    output_to: texts.Output = None,
    layout: Layout = "auto",
    beams: texts.Beams = None,
    max_tokens: options.MaxTokens = None,
    number: texts.Alternatives = 1,
    temperature: texts.Temperature = 0.0,
    seed: texts.Seed = None,
    prompt: texts.Prompt = None,
    batch: texts.Batch = 16,
    model_name: Model = "nano-reader",
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read the text in pictures, line by line; print it as it comes.

    A PDF is read page by page (pip install 'dromaius[pdf]'). Scans may be skewed a little. A score
    is the mean log-probability of a text's tokens: 0 is certain.
    """
    texts.check_flags(output_to, as_json, seed, temperature, beams)
    todo = picture_list.items(images, pdf=True)
    results = Results(output_to, as_json, len(todo) > 1, model_name)
    texts.check_single(todo)
    loaded: Any = console.load_any(model_name, device, dtype, quiet)
    if not console.is_image_to_text(loaded):
        raise InputError(
            f"{model_name} is an Emu3 model, which is asked: dromaius ask IMAGE 'What is written?'"
        )

    def answer(pictures: "list[Image]", first: int, share: texts.Share) -> "list[Reading]":
        return loaded.read(
            pictures,
            max_new_tokens=max_tokens,
            beams=beams,
            layout=layout,
            temperature=temperature,
            seed=(seed or 0) + first,
            prompt=prompt,
            alternatives=number,
            batch_size=batch,
            progress=lambda done, total: share(done / total),
        )

    together = 1 if temperature else batch
    texts.write_all(todo, results, answer, together, MOST_PIXELS, quiet, "reading")
