"""transformers' Auto classes for Emu3 checkpoints.

They find the class by what the folder holds, in BAAI's, the -hf or our own layout. They accept
`trust_remote_code` and run no repository's code.
"""

from typing import Any

from dromaius.compat.baai.image_processing import Emu3VisionVQImageProcessor
from dromaius.compat.baai.language_model import Emu3ForCausalLM
from dromaius.compat.baai.tokenization import Emu3Tokenizer
from dromaius.compat.baai.vision import Emu3VisionVQModel
from dromaius.io import hub
from dromaius.models.emu3.layouts import detect


class AutoModelForCausalLM:
    """`from_pretrained` gives an `Emu3ForCausalLM`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Emu3ForCausalLM:
        return Emu3ForCausalLM.from_pretrained(pretrained_model_name_or_path, **kwargs)


class AutoModel:
    """`from_pretrained` gives the vision tokenizer, or of a language model's folder that model."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Emu3VisionVQModel | Emu3ForCausalLM:
        layout = detect(hub.resolve(pretrained_model_name_or_path, kwargs.get("revision")))
        if layout in ("baai", "hf-text"):
            return Emu3ForCausalLM.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return Emu3VisionVQModel.from_pretrained(pretrained_model_name_or_path, **kwargs)


class AutoTokenizer:
    """`from_pretrained` gives an `Emu3Tokenizer`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Emu3Tokenizer:
        return Emu3Tokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)


class AutoImageProcessor:
    """`from_pretrained` gives an `Emu3VisionVQImageProcessor`."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Emu3VisionVQImageProcessor:
        return Emu3VisionVQImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
