"""How a picture was made, kept inside its PNG file."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import PngImagePlugin

from dromaius.errors import InputError
from dromaius.files import read_bytes
from dromaius.io.images import MAX_FILE_BYTES, open_raw

KEY = "dromaius"  # keyword of the PNG text chunk


@dataclass(frozen=True)
class Provenance:
    """All that is needed to make the same picture again. No time stamp: same seed, same file."""

    model: str
    """What the model was loaded from: "nano", a folder's name or a hub id."""
    model_hash: str
    """`io.shards.file_hash` of its folders."""
    prompt: str
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    version: str
    """Version of dromaius."""
    negative_prompt: str | None = None
    seed: int | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    """Guidance, temperature, top_k, top_p, min_p and whatever else chose the ids."""

    def to_json(self) -> str:
        """One line, keys in a fixed order."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """Reads `to_json`; keys that a later version may add are ignored."""
        try:
            values = json.loads(text)
            known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
            made = cls(**known)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError("the picture's provenance cannot be read") from error
        wrong = [f.name for f in dataclasses.fields(cls) if not _fits(getattr(made, f.name), f)]
        if wrong:
            raise InputError(f"the picture's provenance has a wrong value for {wrong[0]}")
        return made

    def png_info(self) -> dict[str, str]:
        """The text chunks for `io.images.save_png`."""
        return {KEY: self.to_json()}


def read_provenance(source: str | Path | bytes) -> Provenance | None:
    """Returns what a PNG (a path, or the file's bytes) says of its making; None for nothing.

    Raises InputError when the file is not a picture or its text is damaged.
    """
    if isinstance(source, bytes):
        name, content = "the picture", source
    else:
        name, content = str(source), read_bytes(Path(source), MAX_FILE_BYTES)
    with open_raw(content, name) as image:
        if not isinstance(image, PngImagePlugin.PngImageFile):
            return None
        try:
            text = image.text.get(KEY)
        except Exception as error:  # Pillow's readers raise many kinds for damaged files
            raise InputError(f"{name} is damaged") from error
    return None if text is None else Provenance.from_json(str(text))


def _fits(value: object, described: "dataclasses.Field[Any]") -> bool:
    if value is None:
        return described.default is None
    kinds = {"height": int, "width": int, "seed": int, "sampler": dict}
    return type(value) is kinds.get(described.name, str)
