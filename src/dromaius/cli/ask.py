"""`dromaius ask`: a question about one or more pictures."""

import time
from typing import Annotated

import typer

from dromaius.cli import console, inputs, options
from dromaius.pipelines import presets

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE... [QUESTION]",
        help="Pictures (- is one on stdin), then the question (- reads it from stdin) or --preset.",
    ),
]


def ask(
    arguments: Arguments,
    preset: options.Preset = None,
    lang: options.Language = None,
    max_tokens: options.MaxTokens = None,
    model: options.Model = "nano",
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: options.Memory = "resident",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer a question about pictures; print the answer as it comes."""
    if preset is None and len(arguments) < 2:
        raise typer.BadParameter("give at least one IMAGE, then the QUESTION")
    if preset is None and lang is not None:
        raise typer.BadParameter("--lang is the language of --preset; ask in any language")
    inputs.at_most_one_stdin(arguments)
    from dromaius.io.images import open_image

    if preset is None:
        *sources, last = arguments
        question = inputs.text_argument(last)
    else:
        sources, question = arguments, presets.question(preset, lang or "en")
    images = [open_image(source) for source in sources]
    loaded = console.load_model(model, vision_tokenizer, device, dtype, quiet, memory)
    start = time.perf_counter()
    pieces = loaded.stream_answer(images, question, max_new_tokens=max_tokens)
    answer = "".join(pieces if as_json else console.shown(pieces)).rstrip()
    seconds = time.perf_counter() - start
    tokens = len(loaded.require_tokenizer().encode(answer))
    if as_json:
        console.result_json(
            {
                "answer": answer,
                "question": question,
                "images": sources,
                "model": loaded.name,
                "tokens": tokens,
                "seconds": round(seconds, 3),
            }
        )
    if not quiet:
        console.remark(f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")
