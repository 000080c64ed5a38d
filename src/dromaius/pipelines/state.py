"""Half-made pictures in a file: what they are to be, and their codes so far.

The file is safetensors: one tensor `codes`, int32 [B, most codes], -1 where nothing is drawn, and
what the codes depend on as JSON in the metadata. It needs no torch to be read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dromaius.errors import InputError
from dromaius.files import read_bytes, write_bytes

FORMAT, VERSION = "dromaius drawing", "1"
MAX_BYTES = 256 * 2**20
"""A larger file is not read: the codes of some 8,000 pictures of 720x720 pixels."""


@dataclass(frozen=True)
class State:
    """Pictures of one call on their way."""

    model_hash: str
    dtype: str
    """Of the language model: other dtypes draw other pictures."""
    records: list[dict[str, Any]]
    """One a picture: every argument that it depends on."""
    codes: NDArray[np.int32]
    finished: bool
    note: dict[str, Any] = field(default_factory=dict)
    """What a caller keeps along with it."""


class StateFile:
    """A path at which a state is kept; `note` goes into every state that is written."""

    def __init__(self, path: str | Path, note: dict[str, Any] | None = None) -> None:
        self.path, self.note = Path(path), note or {}

    @classmethod
    def at(cls, place: "str | Path | StateFile") -> "StateFile":
        """Raises InputError for what is neither a path nor a state file."""
        if isinstance(place, StateFile):
            return place
        if not isinstance(place, (str, Path)):
            raise InputError(f"state must be a path, got {place!r}")
        return cls(place)

    def write(self, state: State) -> None:
        """Replaces the file, whole or not at all."""
        facts = {
            "model_hash": state.model_hash,
            "dtype": state.dtype,
            "records": state.records,
            "finished": state.finished,
            "note": self.note,
        }
        metadata = {"format": FORMAT, "format_version": VERSION, "state": json.dumps(facts)}
        content = state.codes.astype("<i4").tobytes()
        codes = {"dtype": "I32", "shape": state.codes.shape, "data_offsets": [0, len(content)]}
        head = json.dumps({"__metadata__": metadata, "codes": codes}).encode()
        head += b" " * (-len(head) % 8)
        write_bytes(self.path, len(head).to_bytes(8, "little") + head + content)

    def read(self) -> State | None:
        """The state, None where there is no file. Raises InputError for any other content."""
        if not self.path.exists():
            return None
        content = read_bytes(self.path, MAX_BYTES)
        try:
            head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            metadata = head["__metadata__"]
            if metadata["format"] != FORMAT:
                raise InputError(f"{self.path} does not hold a drawing")
            if metadata["format_version"] != VERSION:
                raise InputError(
                    f"{self.path} has format version {metadata['format_version']!r:.20}; "
                    f"this version of dromaius reads {VERSION}"
                )
            return _state(json.loads(metadata["state"]), head["codes"], content)
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{self.path} is damaged, or does not hold a drawing") from error

    def begun(self, found: State, wanted: State, drawn: Sequence[int], codebook: int) -> list[Any]:
        """Codes to go on from, one list a picture; none if a finished state is of other pictures.

        Args:
            found: what the file holds.
            wanted: what is to be drawn.
            drawn: the codes of each picture when it is done.
            codebook: codes lie below.

        Raises:
            InputError: half-made pictures are others than wanted (names what differs), or a code
                is impossible.
        """
        if differs := _difference(found, wanted):
            if found.finished:
                return [[] for _ in drawn]
            raise InputError(
                f"{self.path} holds another drawing, half-made: {differs}; remove it to begin anew"
            )
        if found.codes.shape == (len(drawn), max(drawn)):
            counts = (found.codes >= 0).sum(1).tolist()
            rows = [row[:count] for row, count in zip(found.codes, counts, strict=True)]
            whole = all((row[n:] == -1).all() for row, n in zip(found.codes, counts, strict=True))
            fits = all(n <= most for n, most in zip(counts, drawn, strict=True))
            if whole and fits and found.codes.max() < codebook:
                return [row.tolist() for row in rows]
        raise InputError(f"{self.path} is damaged: its codes do not fit its pictures")


def _state(facts: dict[str, Any], codes: dict[str, Any], content: bytes) -> State:
    """Raises ValueError, KeyError or TypeError for facts of other kinds or a wrong length."""
    start = 8 + int.from_bytes(content[:8], "little")
    if codes["dtype"] != "I32" or codes["data_offsets"] != [0, len(content) - start]:
        raise ValueError("codes are not where they should be")
    values = np.frombuffer(content, "<i4", offset=start).reshape(codes["shape"])
    state = State(**{"codes": values.astype(np.int32), **facts})
    kinds = {"model_hash": str, "dtype": str, "records": list, "finished": bool, "note": dict}
    if not all(isinstance(getattr(state, name), kind) for name, kind in kinds.items()):
        raise TypeError("a fact is of another kind")
    if values.ndim != 2 or values.size == 0 or not all(isinstance(r, dict) for r in state.records):
        raise ValueError("codes or records of no picture")
    return state


def _difference(found: State, wanted: State) -> str:
    """What of the found state is not as wanted, in words; empty if nothing."""
    if found.model_hash != wanted.model_hash:
        return f"of model {found.model_hash!r:.20}, this is {wanted.model_hash!r}"
    if found.dtype != wanted.dtype:
        return f"drawn in {found.dtype!r:.20}, not {wanted.dtype!r}"
    if len(found.records) != len(wanted.records):
        return f"of {len(found.records)} pictures, not {len(wanted.records)}"
    records = json.loads(json.dumps(wanted.records))  # tuples are lists in the file
    for i, (theirs, ours) in enumerate(zip(found.records, records, strict=True), start=1):
        for name in ours:
            if name not in theirs or theirs[name] != ours[name]:
                was = f"{theirs.get(name)!r}"[:60]
                return f"picture {i} has {name} {was}, not {f'{ours[name]!r}'[:60]}"
    return ""
