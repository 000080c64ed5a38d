"""The state of a command that draws: where it stands, so that the same command goes on."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dromaius.cli import output
from dromaius.cli.drawing import Sampling, provenance
from dromaius.cli.inputs import PictureSpec
from dromaius.errors import InputError

if TYPE_CHECKING:
    from dromaius.pipelines.state import State, StateFile

SEEDS = 2**31
"""A seed that is drawn, not given, is below this: short enough to type."""


class Progress:
    """One batch of a command is in the state file; the pictures before it are written.

    Beside the codes the file notes the command's first seed, the number of the batch's first
    picture and a digest of what the command is to draw.
    """

    def __init__(self, path: str | None, seed: int | None) -> None:
        """Raises InputError for a file that cannot be written, or that is no state."""
        self.path, self._found = Path(path) if path else None, None
        if self.path is not None:
            from dromaius.pipelines.state import StateFile

            output.check_writable(self.path)
            self._found = StateFile(self.path).read()
        noted = self._found.note.get("seed") if self._found else None
        if seed is None and type(noted) is int:
            seed = noted
        self.seed = secrets.randbelow(SEEDS) if seed is None else seed
        """The command's first seed: given, or that of the file, or a new one."""
        self.start = 0
        """The first picture that is still to be written."""
        self._digest = ""

    def check(self, specs: Sequence[PictureSpec], sampling: Sampling, batch_size: int) -> None:
        """Raises InputError, naming what differs, if the file is of another command."""
        everything = [[asdict(spec) for spec in specs], sampling.pictures(), batch_size]
        self._digest = hashlib.sha256(json.dumps(everything).encode()).hexdigest()
        if self._found is None:
            return
        start = self._found.note.get("start")
        same = self._found.note.get("command") == self._digest
        places = range(0, len(specs), batch_size)
        if not same or not isinstance(start, int) or start not in places:
            raise InputError(
                f"{self.path} is of another command ({self._difference(specs, sampling)}); "
                "remove it to begin anew"
            )
        self.start = start

    def is_own(self, place: int, path: Path) -> bool:
        """Whether the file at `path` is picture `place`, written before the interruption."""
        from dromaius.io.provenance import read_provenance

        if self._found is None or not 0 <= place - self.start < len(self._found.records):
            return False
        try:
            made = read_provenance(path)
            record = self._found.records[place - self.start]
            wanted = asdict(provenance("", self._found.model_hash, record))
        except (InputError, KeyError, TypeError):
            return False
        same = [key for key in wanted if key not in ("model", "version")]
        return made is not None and all(asdict(made)[key] == wanted[key] for key in same)

    def batch(self, start: int) -> "StateFile | None":
        """Where the state of the batch that begins with picture `start` is kept."""
        if self.path is None:
            return None
        from dromaius.pipelines.state import StateFile

        return StateFile(self.path, {"seed": self.seed, "start": start, "command": self._digest})

    def finish(self) -> None:
        """Removes the file: all pictures are written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _difference(self, specs: Sequence[PictureSpec], sampling: Sampling) -> str:
        found: State | None = self._found
        record: dict[str, Any] = found.records[0] if found and found.records else {}
        start = found.note.get("start") if found else 0
        place = start if type(start) is int and 0 <= start < len(specs) else 0
        wanted = sampling.pictures()
        given = {k: v for k, v in (asdict(specs[place]) | wanted).items() if v is not None}
        given |= {"accelerate": wanted["accelerate"]}  # None is a value of its own here
        for key, value in given.items():
            if key in record and record[key] != (list(value) if key == "guided" else value):
                was, now = f"{record[key]!r}"[:60], f"{value!r}"[:60]
                return f"its picture {place + 1} has {key} {was}, not {now}"
        return "number, batch size or settings differ"
