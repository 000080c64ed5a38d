"""The flags that several verbs share, each written once, so that they are the same everywhere."""

from typing import Annotated, Literal

import typer

from dromaius.pipelines import presets

Model = Annotated[
    str, typer.Option("--model", "-m", help='The model: "nano", a folder, or a hub id.')
]
VisionTokenizer = Annotated[
    str | None,
    typer.Option(help="Folder or hub id of the vision tokenizer, where the model lacks its own."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: the first GPU, else the CPU.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16, or auto: bfloat16 where the processor multiplies it. "
        "Default: bfloat16 on a GPU, else float32."
    ),
]
Memory = Annotated[
    Literal["resident", "staged", "low", "auto"],
    typer.Option(
        help="resident: all on the device. staged: language model and vision tokenizer in turn. "
        "low: and their tables on the host. auto: the first that fits (see plan)."
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Longest answer. Default: what the model says."),
]
Preset = Annotated[
    presets.Preset | None, typer.Option(help="Ask this standard question about the pictures.")
]
Language = Annotated[
    presets.Language | None, typer.Option("--lang", help="Language of presets. Default: en.")
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, one object a line.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Nothing on stderr but warnings and errors.")
]
