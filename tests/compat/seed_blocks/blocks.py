"""Where the code blocks of the seeds are, and how their lost indentation is restored.

The texts are read from the seeds' folder when a test runs; nothing of them lies in the repository
but the few words that anchor a block: how its first and its last line begin.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.compat.seed_blocks.substitutions import SUBSTITUTIONS, Substitution

INDENT = "    "


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a seed that are code."""

    name: str
    first: str
    """How its first line begins, without a prompt sign."""
    last: str
    """How its last line begins; without `indents` the first such line from there on."""
    occurrence: int = 1
    """Which line that begins like `first`."""
    indents: str = ""
    """Depth of each line, e.g. "0x12 1 2x3": 12 lines at depth 0, one at 1, three at 2.

    Their number is the block's. Empty: the seed kept the indentation, or there is none.
    """

    @property
    def seed(self) -> str:
        return self.name[:3]


BLOCKS = [
    # --- 000: the documentation page of transformers ---
    Block("000 padding side", "processor.tokenizer.padding_side", "processor.tokenizer"),
    Block("000 chat template", "processor.apply_chat_template(my", "processor.apply_chat"),
    Block("000 chat", "from transformers import Emu3Processor", "print(processor.decode"),
    Block(
        "000 generation",
        "processor = Emu3Processor.from_pretrained",
        "image.save(",
        occurrence=2,
        indents="0x15 1x11 2 1 2 1 2 1 2 1 2 1 2 0x11 1",
    ),
    Block(
        "000 vision configuration", "from transformers import Emu3VQVAE,", "configuration = model"
    ),
    Block(
        "000 model configuration", "from transformers import Emu3Model,", "configuration = model"
    ),
    Block(
        "000 causal language model",
        "from transformers import Emu3Processor",
        "processor.batch_decode",
        occurrence=2,
    ),
    Block(
        "000 conditional generation",
        "from transformers import Emu3Processor",
        "processor.batch_decode",
        occurrence=3,
    ),
    # --- 001: the README of mindone's Emu3 ---
    Block("001 generation", "from emu3.mllm import Emu3ForCausalLM, Emu3P", "    im.save("),
    Block("001 understanding", "from emu3.mllm import Emu3ForCausalLM, Emu3T", "    print(ans)"),
    Block("001 autoencoding", "import os", "    im.save("),
    # --- 002: a blog that walks through BAAI's scripts and code ---
    Block(
        "002 generation",
        "# -*- coding: utf-8 -*-",
        "im.save(",
        indents="0x86 1x2 2 3 2",
    ),
    Block("002 generate call", "# generate", ")", occurrence=2),
    Block("002 generate branch", "elif generation_mode in", ")", indents="0 1x17"),
    Block(
        "002 expand inputs",
        "def _expand_inputs_for_generation",
        "return input_ids, model_kwargs",
        indents="0x6 1x4 2 1 2 3x5 4 2 1 2 1 1 2 3 2 1",
    ),
    Block("002 maximum length", "max_length = generation_config", "max_length"),
    Block(
        "002 sampling loop",
        "while self._has_unfinished_sequences( ",
        "del outputs",
        indents="0x3 1x8 2 1x7 2 3 2 3 2 3x3 2 3 2 3x5 1x2 2x3 1 2 1x2 2 1x3 2 1x11",
    ),
    Block(
        "002 saving pictures",
        "for idx_i, out in enumerate(outputs)",
        "im.save(",
        occurrence=2,
        indents="0 1x2 2 3 2",
    ),
    Block("002 decode", "def decode(self", "return self.multimodal_decode", indents="0 1x2"),
    Block(
        "002 multimodal decode",
        "def multimodal_decode(self",
        "multimodal_output.append(c)",
        indents="0 1x4 2 3 2 3x4 4x2 5x2 3x5 2 3",
    ),
    Block("002 understanding", "# -*- coding: utf-8 -*-", "print(ans)", 2, "0x53 1"),
    Block("002 tokenize image", "image_tokens = self.tokenize_image", "image_tokens"),
    Block("002 encode image", "if is_all_same_size", "image_tokens", indents="0 1x3"),
    Block(
        "002 encode",
        "def encode(self, x",
        "return codes",
        indents="0 1x2 2x3 1 2 1x8 2 1",
    ),
    Block(
        "002 vector quantizer",
        "class Emu3VisionVQVectorQuantizer",
        "return indices",
        indents="0 1 2x3 1 2x11",
    ),
    Block(
        "002 prompts",
        "prompt_list, size_list = [], []",
        "size_list.append",
        indents="0x2 1x2 2x12 1 2x7 1x2",
    ),
    Block("002 picture as text", "def to_imgstr(self", "return imgstr", indents="0 1x11"),
    Block("002 tokenizer call", "text_inputs = self.tokenizer(", "text_inputs"),
    Block("002 input ids", "def get_input_ids(text)", "return self.convert", indents="0 1 2x2"),
    Block("002 tokens", "tokens = []", "tokens.append", indents="0x6 1"),
    Block("002 ids", "ids = []", "ids.append(self.mergeable", indents="0x2 1 2 1 2"),
    Block("002 generate branch again", "elif generation_mode in", ")", 2, "0 1x17"),
    Block("002 maximum length again", "max_length = generation_config", "max_length", 2),
]
BY_NAME = {block.name: block for block in BLOCKS}


def seed_lines(folder: Path, seed: str) -> list[str]:
    """Lines of a seed, without the prompt signs of interactive sessions."""
    (path,) = folder.glob(f"{seed}_*.txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line[4:] if line.startswith((">>> ", "... ")) else line for line in lines]


def raw_source(folder: Path, block: Block) -> str:
    """The block as it stands in the seed, its indentation restored."""
    lines = seed_lines(folder, block.seed)
    starts = [i for i, line in enumerate(lines) if line.startswith(block.first)]
    start = starts[block.occurrence - 1]
    depths = list(expand(block.indents))
    if not depths:
        stop = next(i for i in range(start, len(lines)) if lines[i].startswith(block.last))
        return "".join(line + "\n" for line in lines[start : stop + 1])
    picked = lines[start : start + len(depths)]
    if not picked[-1].startswith(block.last):
        raise ValueError(f"{block.name}: the seed has changed, it now ends with {picked[-1]!r}")
    return "".join(INDENT * depth + line + "\n" for depth, line in zip(depths, picked, strict=True))


def expand(indents: str) -> Iterator[int]:
    """ "0x2 1" -> 0, 0, 1."""
    for part in indents.split():
        depth, _, count = part.partition("x")
        yield from [int(depth)] * int(count or 1)


def applies(substitution: Substitution, block: Block) -> bool:
    return any(block.name.startswith(prefix) for prefix in substitution.blocks)


def source(folder: Path, name: str, places: dict[str, Path]) -> str:
    """The block as it is run: indentation restored, substitutions made, `places` filled in."""
    block = BY_NAME[name]
    text = raw_source(folder, block)
    for substitution in SUBSTITUTIONS:
        if applies(substitution, block):
            text = substitution.apply(text)
    for place, path in places.items():
        text = text.replace("{" + place + "}", repr(str(path)))
    return text
