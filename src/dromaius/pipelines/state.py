"""Half-made pictures in a file: what they are to be, and their codes so far.

The file is safetensors: a tensor `codes`, int32 [B, most codes], -1 where nothing is drawn, and
what the codes depend on as JSON in the metadata. A drawing in the coupled form with a window of K
drafts also has `last_pass`, int32 [B, 3+2K]: how many codes were certain before its last pass and
behind it, the drafts that it was fed, the codes that it drew. It needs no torch to be read.
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
TENSORS = ("codes", "last_pass")
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
    last_pass: NDArray[np.int32] | None = None
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
        content, entries = b"", {}
        for name in TENSORS:
            if (tensor := getattr(state, name)) is not None:
                start, content = len(content), content + tensor.astype("<i4").tobytes()
                place = {"shape": tensor.shape, "data_offsets": [start, len(content)]}
                entries[name] = {"dtype": "I32", **place}
        head = json.dumps({"__metadata__": metadata, **entries}).encode()
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
            return _state(json.loads(metadata["state"]), head, content)
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

    def last_pass(
        self,
        found: State,
        begun: Sequence[Sequence[int]],
        drawn: Sequence[int],
        codebook: int,
        window: int,
    ) -> NDArray[np.int32] | None:
        """The last pass of a drawing in the coupled form; None if there was only the prefill.

        Raises InputError if it is not one behind which the codes `begun` stand.
        """
        if (numbers := found.last_pass) is None:
            return None
        if numbers.shape == (len(drawn), 3 + 2 * window):
            drafts_and_drawn = numbers[:, 2:]
            fits = 0 <= drafts_and_drawn.min() and drafts_and_drawn.max() < codebook
            for row, codes, most in zip(numbers.tolist(), begun, drawn, strict=True):
                before, after = row[:2]
                new = row[2 + window :][: max(0, after - before)]
                fits &= 1 <= before <= after <= most and codes[before:after] == new
            if fits:
                return numbers
        raise InputError(f"{self.path} is damaged: its last pass does not fit its codes")


def _state(facts: dict[str, Any], head: dict[str, Any], content: bytes) -> State:
    """Raises ValueError, KeyError or TypeError for facts of other kinds or a wrong length."""
    content = content[8 + int.from_bytes(content[:8], "little") :]
    tensors: dict[str, NDArray[np.int32]] = {}
    end = 0
    for name in TENSORS:
        if name == "codes" or name in head:
            start, end = end, head[name]["data_offsets"][1]
            if head[name]["dtype"] != "I32" or head[name]["data_offsets"] != [start, end]:
                raise ValueError(f"{name} are not where they should be")
            values = np.frombuffer(content[start:end], "<i4").reshape(head[name]["shape"])
            tensors[name] = values.astype(np.int32)
    if end != len(content):
        raise ValueError("the file has another length")
    values = tensors["codes"]
    state = State(codes=values, last_pass=tensors.get("last_pass"), **facts)
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
