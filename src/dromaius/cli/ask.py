"""`dromaius ask`: a question about one or more pictures."""

import time
from collections.abc import Iterator
from typing import Annotated

import typer

from dromaius.cli import console, inputs, options

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE... QUESTION",
        help="Pictures (- is one on stdin), then the question (- reads it from stdin).",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Longest answer. Default: what the model says."),
]


def ask(
    arguments: Arguments,
    max_tokens: MaxTokens = None,
    model: options.Model = "nano",
    vision_tokenizer: options.VisionTokenizer = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer a question about pictures; print the answer as it comes."""
    if len(arguments) < 2:
        raise typer.BadParameter("give at least one IMAGE, then the QUESTION")
    inputs.at_most_one_stdin(arguments)
    from dromaius.io.images import open_image

    question = inputs.text_argument(arguments[-1])
    images = [open_image(source) for source in arguments[:-1]]
    loaded = console.load_model(model, vision_tokenizer, device, dtype, quiet)
    start = time.perf_counter()
    pieces = loaded.stream_answer(images, question, max_new_tokens=max_tokens)
    answer = "".join(pieces if as_json else _shown(pieces)).rstrip()
    seconds = time.perf_counter() - start
    tokens = len(loaded.require_tokenizer().encode(answer))
    if as_json:
        console.result_json(
            {
                "answer": answer,
                "question": question,
                "images": arguments[:-1],
                "model": loaded.name,
                "tokens": tokens,
                "seconds": round(seconds, 3),
            }
        )
    if not quiet:
        console.remark(f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")


def _shown(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces, each written to stdout as it passes; the line is ended whatever happens."""
    started, blank = False, ""  # blank: white space that is written once a word follows
    try:
        for piece in pieces:
            text = blank + piece
            words = text.rstrip()
            blank = text[len(words) :]
            console.write(console.printable(words))
            started = True
            yield piece
    finally:
        if started:
            console.write("\n")
