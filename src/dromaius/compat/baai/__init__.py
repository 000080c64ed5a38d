"""The Python surface of the BAAI repositories on today's transformers.

Scripts written for the code in BAAI/Emu3-* run with their import lines changed to this module.
Differences, each announced by one warning where it shows: left padding of a negative prompt is not
attended to, grids under three codes wide end properly, the vision tokenizer stays float32.
Pictures that `generate` is asked for are drawn by the engine (`dromaius.compat.drawing`).
"""

from dromaius.compat.baai.auto import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from dromaius.compat.baai.configuration import Emu3Config, Emu3VisionVQConfig
from dromaius.compat.baai.image_processing import Emu3VisionVQImageProcessor
from dromaius.compat.baai.language_model import Emu3ForCausalLM
from dromaius.compat.baai.processing import STAGE1_TEMPLATE, Emu3Processor
from dromaius.compat.baai.tokenization import Emu3Tokenizer
from dromaius.compat.baai.vision import Emu3VisionVQModel
from dromaius.compat.grid_rule import GridRule

# What the repositories call the object that build_prefix_constrained_fn returns
Emu3PrefixConstrainedLogitsHelper = GridRule

__all__ = [
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "Emu3Config",
    "Emu3ForCausalLM",
    "Emu3PrefixConstrainedLogitsHelper",
    "Emu3Processor",
    "Emu3Tokenizer",
    "Emu3VisionVQConfig",
    "Emu3VisionVQImageProcessor",
    "Emu3VisionVQModel",
    "STAGE1_TEMPLATE",
]
