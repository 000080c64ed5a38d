"""`dromaius caption`: what is to be seen in pictures."""

from typing import TYPE_CHECKING, Annotated, Any

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
        "--model",
        "-m",
        help='"nano-captioner", a folder or hub id of a VisionEncoderDecoder, or an Emu3 model '
        'such as "nano".',
    ),
]

MOST_PIXELS = 128 * 2**20
"""Of pictures that are open at a time: 400 MB."""


def caption(
    images: texts.Sources,
    output_to: texts.Output = None,
    beams: texts.Beams = None,
    max_tokens: options.MaxTokens = None,
    number: texts.Alternatives = 1,
    temperature: texts.Temperature = 0.0,
    seed: texts.Seed = None,
    prompt: texts.Prompt = None,
    batch: texts.Batch = 8,
    model_name: Model = "nano-captioner",
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Describe pictures; print each description as it comes.

    A score is the mean log-probability of a text's tokens: 0 is certain.
    """
    texts.check_flags(output_to, as_json, seed, temperature, beams)
    todo = picture_list.items(images, pdf=False)
    results = Results(output_to, as_json, len(todo) > 1, model_name)
    texts.check_single(todo)
    loaded: Any = console.load_any(model_name, device, dtype, quiet)
    given = {"beams": beams, "prompt": prompt, "temperature": temperature, "number": number - 1}
    is_emu3 = not console.is_image_to_text(loaded)
    if is_emu3 and (asked := [f"--{name}" for name, value in given.items() if value]):
        raise InputError(f"{model_name} is an Emu3 model, which describes without {asked[0]}")

    def answer(pictures: "list[Image]", first: int, share: texts.Share) -> "list[Reading]":
        if is_emu3:
            return [_described(loaded, picture, max_tokens) for picture in pictures]
        return loaded.caption(
            pictures,
            max_new_tokens=max_tokens,
            beams=beams,
            temperature=temperature,
            seed=(seed or 0) + first,
            prompt=prompt,
            alternatives=number,
            batch_size=len(pictures),
        )

    # one by one where tokens are drawn: a text then follows from its seed, not its neighbours
    together = 1 if temperature or is_emu3 else batch
    texts.write_all(todo, results, answer, together, MOST_PIXELS, quiet, "looking")


def _described(model: Any, picture: "Image", max_tokens: int | None) -> "Reading":
    """An Emu3 model's description, which has no score."""
    from dromaius.pipelines.reading.image_to_text import Reading

    text = model.caption(picture, max_tokens)
    return Reading(text, None, len(model.require_tokenizer().encode(text)))
