"""Writing the graphs, and comparing what onnxruntime computes with them with what PyTorch does."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dromaius.errors import CheckpointError, ConfigError, InputError
from dromaius.models.vision_encoder_decoder import parts
from dromaius.models.vision_encoder_decoder.model import VisionEncoderDecoder
from dromaius.models.vision_encoder_decoder.onnx.graphs import (
    Graph,
    examples,
    graphs,
    layer_count,
)

OPSET = 17
TOLERANCE = 1e-3
"""Largest difference of an output that counts as equal, relative to its largest value."""
SIZES = ((1, 2), (2, 4), (3, 7))
"""(images, tokens) at which the graphs are compared; they are made at the second."""

Differences = dict[str, dict[str, float]]
"""File -> output -> largest absolute difference over all sizes."""


def require_onnx() -> None:
    """Raises InputError that names the extra unless onnx and onnxruntime are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"export to ONNX needs {error.name} (pip install 'dromaius[onnx]')"
        ) from error


def export(
    model: VisionEncoderDecoder,
    folder: Path,
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Differences:
    """Writes the three graphs into a folder and compares them.

    Args:
        shape: (channels, height, width) of the pixels; images of another size need other graphs.
        progress: (graphs done, graphs).

    Returns:
        The largest difference of every output.

    Raises:
        InputError: onnx or onnxruntime is absent.
        ConfigError: PyTorch's exporter cannot write this decoder.
        CheckpointError: a graph computes something else.
    """
    require_onnx()
    found: Differences = {}
    inputs = [_inputs(model, shape, *size) for size in SIZES]
    layers, width = layer_count(model, inputs[0][0])
    every = graphs(model, layers, width)
    with parts.eager_attention(model.encoder, model.decoder):
        for done, graph in enumerate(every):
            _write(graph, examples(graph, model, *inputs[1]), folder / graph.file)
            given = [examples(graph, model, *each) for each in inputs]
            found[graph.file] = compare(graph, folder / graph.file, given)
            progress(done + 1, len(every))
    return found


def session(path: Path) -> Any:
    """onnxruntime's session of a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its remarks are for its developers
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(graph: Graph, path: Path, inputs: Sequence[tuple[Tensor, ...]]) -> dict[str, float]:
    """Largest difference of each output over some inputs.

    Raises CheckpointError if one is above TOLERANCE, or an output has another shape.
    """
    run = session(path)
    largest = dict.fromkeys(graph.outputs, 0.0)
    for given in inputs:
        with torch.no_grad():
            expected = graph.module(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        fed = {n: t.numpy() for n, t in zip(graph.inputs, given, strict=True)}
        known = {node.name for node in run.get_inputs()}  # what a graph never reads is left out
        outputs = run.run(list(graph.outputs), {n: v for n, v in fed.items() if n in known})
        for name, wanted, value in zip(graph.outputs, expected, outputs, strict=True):
            wanted = wanted.numpy()
            if wanted.shape != value.shape:
                raise CheckpointError(f"{path}: {name} is {value.shape}, not {wanted.shape}")
            difference = float(np.abs(wanted - value).max())
            if not difference <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
                raise CheckpointError(f"{path}: {name} differs by {difference:.3g} from PyTorch's")
            largest[name] = max(largest[name], difference)
    return largest


def _inputs(
    model: VisionEncoderDecoder, shape: tuple[int, int, int], images: int, tokens: int
) -> tuple[Tensor, Tensor]:
    """Noise [images, *shape] and ids [images, tokens]."""
    drawn = torch.Generator().manual_seed(images)
    vocabulary = model.decoder.get_input_embeddings().num_embeddings
    pixels = torch.randn(images, *shape, generator=drawn)
    return pixels, torch.randint(0, vocabulary, (images, tokens), generator=drawn)


def _write(graph: Graph, inputs: tuple[Tensor, ...], path: Path) -> None:
    # PyTorch has two exporters. The newer one takes minutes for a graph of this kind and wants
    # onnxscript; this one takes seconds, and `compare` shows that its graphs are right.
    import onnx

    with _quietly():
        try:
            torch.onnx.export(
                graph.module,
                inputs,
                str(path),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_axes=graph.axes,
                opset_version=OPSET,
                dynamo=False,
            )
            onnx.checker.check_model(str(path))
        except Exception as error:  # the exporter raises many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"{path.name} cannot be exported: {reason}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside, tracing does not warn of each number that it takes to be a constant."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
