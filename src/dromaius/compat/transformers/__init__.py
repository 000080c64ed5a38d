"""Emu3 with the classes, arguments and results of seed 000 (transformers' documentation of Emu3).

The classes are transformers' own kinds (PreTrainedModel, GenerationMixin, ProcessorMixin, ...)
around our modules; transformers' Emu3 code is never imported. Values equal transformers 5.23's.
Where that is silently wrong, ours is right, and one warning says so where a caller could be
surprised:

| call | transformers 5.23 | here |
|---|---|---|
| negative_prompt_ids, no guidance_scale | ignored | guidance 3.0, warning |
| negative prompt without picture header | never sees the header | appended, warning |
| guidance in a bfloat16 model | one softmax in bfloat16 | both in float32 |
| batch of prompts of different lengths | padded right: broken picture| padded left |
| decode_image_tokens of shifted rows | a broken picture | ValueError |
| Emu3ForCausalLM.from_pretrained(whole model)| random weights | loaded, warning |
| vision tokenizer in a bfloat16 model | bfloat16, other codes | float32 |
| model.train() | moves its batch norms | it stays frozen |
| codes of clips with image_sizes | cut on the wrong axes | cut to h, w |
| size= of the image processor | ignored | bounds in pixels |
| postprocess to arrays | channels of all pictures | one picture an entry |
| an unknown argument | often ignored | TypeError |

Pictures that `generate` is asked for are drawn by the engine (`dromaius.compat.drawing`): the same
ids when greedy, the same distribution when sampled.
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
