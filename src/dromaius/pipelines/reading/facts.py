"""What a loaded VisionEncoderDecoder says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from dromaius.io.checkpoint import list_tensors
from dromaius.models.vision_encoder_decoder import folders, parts

if TYPE_CHECKING:
    from dromaius.pipelines.reading.image_to_text import ImageToText

_FRAMEWORKS = {"pt": "PyTorch", "tf": "TensorFlow", "flax": "Flax"}


def describe(model: ImageToText) -> dict[str, Any]:
    """Family, parts, sizes, settings, hash: what `dromaius info` prints."""
    whole, folder = model.model, model.folders[0]
    encoder, decoder = whole.encoder.config, whole.decoder.config
    projection = getattr(whole, "enc_to_dec_proj", None)
    halves = {"encoder": whole.encoder, "decoder": whole.decoder, "projection": projection}
    framework = folders.choose(folder)
    if framework == "pt":  # a safetensors file may be another's
        framework = folders.safetensors_format(folder)
    shape = model.pictures.shape
    return {
        "name": model.name,
        "family": "vision-encoder-decoder",
        "hash": model.hash,
        "parameters": {name: _count(half) for name, half in halves.items() if half is not None},
        "encoder": {
            "kind": encoder.model_type,
            "width": whole.encoder_width,
            "layers": _first(encoder, "num_hidden_layers", "depths"),
            "patch": getattr(encoder, "patch_size", None),
        },
        "decoder": {
            "kind": decoder.model_type,
            "width": decoder.hidden_size,
            "layers": _first(decoder, "decoder_layers", "num_hidden_layers"),
            "vocabulary": whole.decoder.get_input_embeddings().num_embeddings,
            "positions": parts.max_positions(whole.decoder),
        },
        "pictures": "each at its own size" if shape is None else f"{shape[1]}x{shape[0]} pixels",
        "text": {
            "start": model.rules.start,
            "end": ", ".join(map(str, model.rules.end)) or None,
            "beams": model.rules.beams,
            "longest": model.rules.max_new_tokens,
        },
        "framework": _FRAMEWORKS.get(framework, framework),
        "dtype": _stored(model, framework),
        "device": str(model.device),
        "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
    }


def _stored(model: ImageToText, framework: str) -> str:
    """The types that the weights are stored in; TensorFlow's and Flax's are read as they are."""
    if framework != "pt":
        return str(model.dtype).removeprefix("torch.")
    types = {info.dtype for info in list_tensors(model.folders[0]).values()}
    names = sorted(str(t).removeprefix("torch.") for t in types if t.is_floating_point)
    return " and ".join(names)


def _first(config: Any, *names: str) -> Any:
    return next((v for name in names if (v := getattr(config, name, None)) is not None), None)


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())
