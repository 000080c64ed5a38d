"""Drawing batch by batch: pictures, previews of them, and what an interruption leaves."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dromaius.cli import console, output
from dromaius.cli.inputs import PictureSpec

if TYPE_CHECKING:
    from dromaius.io.provenance import Provenance
    from dromaius.pipelines.drawing import Drawing
    from dromaius.pipelines.emu3 import Emu3
    from dromaius.pipelines.state import StateFile

PREVIEW_SHARE = 0.1
"""Part of the time that previews take, unless it is said how often they are made."""
WHOLE = (0.0, 1.0)


@dataclass(frozen=True)
class Sampling:
    """What holds for all pictures of a command; None is what the checkpoint says."""

    area: int | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    temperature: float
    guided: tuple[float, float] | None
    accelerate: str = "off"
    window: int | None = None

    def arguments(self) -> dict[str, Any]:
        """For `stream_image`."""
        optional = ("guided", "window")
        return {k: v for k, v in asdict(self).items() if k not in optional or v is not None}

    def pictures(self) -> dict[str, Any]:
        """What the pictures depend on: of the ways to draw them only the coupled one."""
        if self.accelerate == "coupled":
            return asdict(self)
        return asdict(self) | {"accelerate": None, "window": None}


class Tally:
    """What the batches of a command took, and the way to draw that "auto" chose."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self.passes, self.tokens = 0, 0
        self.chosen: str | None = None

    def choose(self, drawing: "Drawing") -> None:
        """Said once; it holds for the batches to come."""
        if drawing.reason and self.chosen is None:
            self.chosen = drawing.accelerate
            if not self._quiet:
                console.remark(f"auto chose {drawing.accelerate}: {drawing.reason}")

    def add(self, drawing: "Drawing") -> None:
        self.passes += drawing.passes
        self.tokens += sum(drawing.tokens)


class Previews:
    """Files that show pictures while they grow: every so many rows, or so often as is cheap."""

    def __init__(self, paths: Sequence[Path], every: int | None) -> None:
        self._paths, self._every = paths, every
        self._rows, self._next = 0, 0.0

    def after_row(self, drawing: "Drawing") -> None:
        """Writes them if it is time."""
        self._rows += 1
        start = time.perf_counter()
        if self._rows % self._every if self._every else start < self._next:
            return
        for picture, path in zip(drawing.pictures(), self._paths, strict=True):
            output.write_picture(picture, path)
        end = time.perf_counter()
        self._next = end + (end - start) * (1 / PREVIEW_SHARE - 1)

    def final(self, picture: Any, place: int, info: dict[str, str]) -> None:
        """The last preview of a picture is the picture itself."""
        output.write_picture(picture, self._paths[place], info)


def draw_batch(
    model: "Emu3",
    specs: Sequence[PictureSpec],
    paths: Sequence[Path],
    sampling: Sampling,
    tally: Tally,
    meter: console.Meter,
    more: float,
    previews: Previews | None = None,
    state: "StateFile | None" = None,
) -> Iterator[dict[str, Any]]:
    """Draws one batch and writes it; yields what is to be said of each picture that is written.

    `more` is the work of the whole command over that up to the end of this batch. Ctrl-C writes
    what there is of the other pictures and goes on up.
    """
    before, cells, begun, written, drawing = meter.done, 0, 0, 0, None
    arguments = _arguments(specs) | sampling.arguments() | ({"state": state} if state else {})
    if tally.chosen:
        arguments["accelerate"] = tally.chosen
    try:
        with closing(model.stream_image(**arguments)) as drawings:
            for drawing in drawings:
                if not cells:
                    cells, begun = sum(codes.numel() for codes in drawing.codes), drawing.step - 1
                here = cells / max(drawing.steps, 1)
                done = before + here * (drawing.step - begun)
                meter.update(done, (before + here * (drawing.steps - begun)) * more)
                tally.choose(drawing)
                if previews and drawing.closes_row and drawing.step < drawing.steps:
                    previews.after_row(drawing)
        assert drawing is not None, "the model drew nothing"
        tally.add(drawing)
        took = {"accelerate": drawing.accelerate, "passes": drawing.passes}
        for picture, record, path in zip(drawing.pictures(), drawing.records, paths, strict=True):
            made = provenance(model.name, model.hash, record)
            output.write_picture(picture, path, made.png_info())
            if previews:
                previews.final(picture, written, made.png_info())
            row = {"path": str(path), **asdict(made), **took, "tokens": drawing.tokens[written]}
            written += 1
            yield row
    except KeyboardInterrupt:
        _keep_partial(model, drawing, paths, written, state)
        raise


def provenance(name: str, model_hash: str, record: dict[str, Any]) -> "Provenance":
    """What the PNG of a picture says of its making."""
    from dromaius import __version__
    from dromaius.io.provenance import Provenance

    chooses = ("guidance", "temperature", "top_k", "top_p", "min_p")
    sampler = {key: record[key] for key in chooses}
    if tuple(record["guided"]) != WHOLE:
        sampler["guided"] = list(record["guided"])
    if record.get("accelerate"):
        sampler |= {key: record[key] for key in ("accelerate", "window")}
    return Provenance(
        model=name,
        model_hash=model_hash,
        prompt=record["prompt"],
        height=record["height"],
        width=record["width"],
        version=__version__,
        negative_prompt=record["negative_prompt"],
        seed=record["seed"],
        sampler=sampler,
    )


def _arguments(specs: Sequence[PictureSpec]) -> dict[str, Any]:
    """Arguments of `stream_image`: one value where all pictures share it, else one for each."""
    columns: dict[str, list[Any]] = {
        key: [getattr(spec, key) for spec in specs] for key in asdict(specs[0])
    }
    columns["ratio"] = [ratio or "1:1" for ratio in columns["ratio"]]
    each = {"prompt", "seed"}
    return {
        key: column if key in each or any(v != column[0] for v in column) else column[0]
        for key, column in columns.items()
    }


def _keep_partial(
    model: "Emu3",
    drawing: "Drawing | None",
    paths: Sequence[Path],
    written: int,
    state: "StateFile | None",
) -> None:
    """Writes what is drawn of the pictures that are not yet written, and says so."""
    kept = []
    if drawing is not None and drawing.step:
        whole = zip(drawing.pictures(), drawing.records, paths, strict=True)
        for picture, record, path in list(whole)[written:]:
            if path != output.STDOUT:
                partial = output.partial_path(path)
                made = provenance(model.name, model.hash, record)
                output.write_picture(picture, partial, made.png_info())
                kept.append(str(partial))
    if state is not None and state.path.exists():
        kept.append(str(state.path))
    console.remark(f"interrupted; kept {', '.join(kept)}" if kept else "interrupted; nothing kept")
