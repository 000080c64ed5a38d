"""Native multimodal next-token models: one transformer that reads and draws pictures.

Importing this package touches no file, environment variable, logger or GPU, and imports neither
torch nor transformers; `load` does, when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from dromaius.pipelines.emu3 import Emu3
    from dromaius.pipelines.reading.image_to_text import ImageToText

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(
    source: str | Path,
    vision_tokenizer: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    memory: str = "resident",
) -> Emu3 | ImageToText:
    """Load a model: one that draws pictures and answers questions, or one that describes or reads.

    ```python
    model = dromaius.load("nano")
    image = model.generate_image("a red apple", seed=7)
    model.answer(image, "What is in the image?")
    reader = dromaius.load("nano-reader")
    reader.read("line.png").text
    ```

    Args:
        source: `"nano"`, `"nano-reader"` or `"nano-captioner"` (the models inside this package), a
            folder, or a hub id. The layout is recognised: that of the BAAI repositories
            (`"BAAI/Emu3-Gen"`), transformers' composite one (`"Emu3-community/Emu3-Chat-hf"`), our
            own, or a VisionEncoderDecoder of any framework. Code in a checkpoint is never run.
        vision_tokenizer: folder or hub id of the vision tokenizer. Only the BAAI layout keeps it
            apart from the language model, as `"BAAI/Emu3-VisionTokenizer"`.
        device: where the model lives; None is the first GPU, or the CPU where there is none.
        dtype: the language model's `torch.dtype` or its name; None is float32 on a CPU and bfloat16
            on a GPU, `"auto"` bfloat16 wherever the processor multiplies it. The vision tokenizer
            is float32 always.
        memory: where the two halves are while they do not work. `"resident"`: both on the device.
            `"staged"`: language model and vision tokenizer are never there together; each is read
            again from its file when its turn comes. `"low"`: staged, and the tables of embedding
            and head stay in the host's memory. `"auto"`: the first of these that fits the device
            (see `dromaius plan`). Pictures and answers are the same in each.

    Returns:
        The model, frozen and in evaluation mode. Of the Emu3 family: an `Emu3` with
        `language_model`, `vision_tokenizer`, `tokenizer`, `vocabulary` and `config` as its parts.
        Of a VisionEncoderDecoder: an `ImageToText` with `caption` and `read`.

    Raises:
        dromaius.errors.CheckpointError: a file is absent, or a tensor is missing, unexpected or of
            the wrong shape; the message names it.
        dromaius.errors.ConfigError: the configuration asks for a computation that is not supported.
    """
    from dromaius.pipelines.load import load as _load

    return _load(
        source, vision_tokenizer=vision_tokenizer, device=device, dtype=dtype, memory=memory
    )
