"""Emu3 with the classes, arguments and results of seed 000 (transformers' documentation of Emu3).

The classes are transformers' own kinds (PreTrainedModel, GenerationMixin, ProcessorMixin, ...)
around our modules; transformers' Emu3 code is never imported. Values equal transformers 5.23's,
except where that is silently wrong: see docs of `generation`, `processing` and `loading`.
"""

from dromaius.compat.transformers.configuration import (
    Emu3Config,
    Emu3TextConfig,
    Emu3VQVAEConfig,
)
from dromaius.compat.transformers.image_processing import Emu3ImageProcessor
from dromaius.compat.transformers.modeling import Emu3ForConditionalGeneration, Emu3Model
from dromaius.compat.transformers.processing import Emu3Processor
from dromaius.compat.transformers.text_model import Emu3ForCausalLM, Emu3TextModel
from dromaius.compat.transformers.vqvae import Emu3VQVAE

__all__ = [
    "Emu3Config",
    "Emu3ForCausalLM",
    "Emu3ForConditionalGeneration",
    "Emu3ImageProcessor",
    "Emu3Model",
    "Emu3Processor",
    "Emu3TextConfig",
    "Emu3TextModel",
    "Emu3VQVAE",
    "Emu3VQVAEConfig",
]
