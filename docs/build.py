"""Makes what the pages show: outputs, pictures and the command line's reference.

    python docs/build.py                  # every page
    python docs/build.py quick-start.md   # one of them

A page is a reader's session: its `python` and `sh` blocks run from top to bottom with one set of
names, in one folder, which is empty at first. What a block prints replaces the text between
`<!-- generated -->` and `<!-- /generated -->` behind it; a picture that the page shows as
images/NAME.png is copied from the folder if a block has written NAME.png there. Run it whenever
nano's weights, the command line or a page's code have changed.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPEN, CLOSE = "<!-- generated -->\n", "<!-- /generated -->\n"
SLOT = re.compile(rf"\s*{OPEN}(.*?){CLOSE}", re.DOTALL)
IMAGE = re.compile(r"images/([\w-]+\.(?:png|svg))")


def pages() -> list[Path]:
    """README and all pages of the site."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    kind: str
    code: str
    line: int
    """Line of the page on which the code begins."""
    end: int
    """Character of the page behind the closing fence and its line end."""


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in FENCE.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1, found.end() + 1)


class Session:
    """Runs the blocks of one page, all in one folder and with one set of names."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.names: dict[str, Any] = {"__name__": page.stem}

    def run(self, block: Block) -> str:
        """What a `python` or `sh` block prints on stdout; nothing for the other kinds."""
        if block.kind not in ("python", "sh"):
            return ""
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            if block.kind == "sh":
                self._shell(block)
            else:  # the empty lines give a traceback the page's own line numbers
                code = compile("\n" * (block.line - 1) + block.code, str(self.page), "exec")
                exec(code, self.names)
        return printed.getvalue()

    def _shell(self, block: Block) -> None:
        """Each line is a dromaius command, with `< FILE` at its end or without.

        Commands run within this process, so torch is imported once.
        """
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            where = f"{self.page.name}, line {block.line}: {line}"
            if words[0] != "dromaius":
                raise ValueError(f"a sh block may run dromaius only: {where}")
            given = self.folder / words.pop() if words[-2:-1] == ["<"] else None
            code, said = command(words[1 : None if given is None else -1], given)
            if code:
                raise ValueError(f"{where}\nexit code {code}: {said}")


def command(words: Sequence[str], given: Path | None = None) -> tuple[int, str]:
    """Runs one dromaius command with a file (or nothing) on stdin: exit code and stderr."""
    from dromaius.cli.main import run

    said, before = io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(given.read_bytes() if given else b""))
    try:
        with contextlib.redirect_stderr(said):
            return run(words), said.getvalue()
    finally:
        sys.stdin = before


def fill(page: Path, folder: Path) -> str:
    """The page's text with every generated part made anew; its pictures are left in `folder`.

    Raises what a block raises, and ValueError for a generated part behind a silent block.
    """
    text, session = page.read_text(encoding="utf-8"), Session(page, folder)
    pieces, done = [], 0
    for block in blocks(text):
        printed = session.run(block)
        slot = SLOT.match(text, block.end)
        if slot and block.kind in ("python", "sh"):
            if not printed:
                raise ValueError(f"{page.name}, line {block.line}: the block prints nothing")
            pieces += [text[done : slot.start(1)], f"```text\n{printed.rstrip()}\n```\n"]
            done = slot.end(1)
    text = "".join(pieces) + text[done:]
    if page.name == "cli.md":
        text = SLOT.sub(lambda found: f"\n\n{OPEN}{reference()}{CLOSE}", text)
    return text


# --- the command line's reference ----------------------------------------------------------------


def reference() -> str:
    """Every verb with its arguments and flags, read from the verbs' own functions."""
    from dromaius.cli.main import make_app

    commands = make_app().registered_commands
    return "\n".join(_verb(f"dromaius {one.name}", one.callback) for one in commands)


def _verb(name: str, function: Any) -> str:
    kinds = get_type_hints(function, include_extras=True)
    given = [
        Parameter(key, one.default, *get_args(kinds[key])[:2])
        for key, one in inspect.signature(function).parameters.items()
    ]
    arguments = [one for one in given if isinstance(one.said, ArgumentInfo)]
    flags = [one for one in given if isinstance(one.said, OptionInfo)]
    usage = " ".join(
        [name, *(one.in_usage() for one in arguments), *(["[OPTIONS]"] if flags else [])]
    )
    about = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    parts = [f"## {name}", f"```text\n{usage}\n```", *(" ".join(one.split()) for one in about)]
    for title, some in (("argument", arguments), ("flag", flags)):
        if some:
            parts.append("\n".join([f"| {title} | |", "|---|---|", *(one.row() for one in some)]))
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a verb's function, as the command line takes it."""

    key: str
    default: Any
    kind: Any
    said: Any
    """typer's Argument(...) or Option(...) of the annotation."""

    @property
    def name(self) -> str:
        """PROMPT, or `--number`, `-n` INTEGER."""
        if isinstance(self.said, ArgumentInfo):
            return self.said.metavar or self.key.upper()
        flag = self.key.replace("_", "-")
        # an annotation's first name stands in the place of a default
        names = [
            one for one in (self.said.default, *(self.said.param_decls or ())) if _is_flag(one)
        ]
        if not names:
            names = [f"--{flag}", f"--no-{flag}"] if self.takes is bool else [f"--{flag}"]
        spelled = ", ".join(f"`{name}`" for name in names)
        return spelled if self.takes is bool else f"{spelled} {self.said.metavar or self._value()}"

    @property
    def takes(self) -> Any:
        """The type of one value: `list[str] | None` takes str."""
        kind = self.kind
        while get_origin(kind) is not Literal and get_args(kind):
            kind = next(one for one in get_args(kind) if one is not type(None))
        return kind

    def in_usage(self) -> str:
        several = get_origin(self.kind) is list or any(
            get_origin(k) is list for k in get_args(self.kind)
        )
        name = self.name + ("..." if several and "..." not in self.name else "")
        return name if self.default is inspect.Parameter.empty else f"[{name}]"

    def row(self) -> str:
        """One row of a table: name, help, and the default where help does not speak of it."""
        name = f"`{self.name}`" if isinstance(self.said, ArgumentInfo) else self.name
        text = " ".join((self.said.help or "").split()).replace("|", "\\|")
        default = getattr(self.default, "value", self.default)
        unsaid = default is None or default is inspect.Parameter.empty or self.takes is bool
        if not unsaid and "Default:" not in text:
            text += f" Default: `{default}`."
        return f"| {name} | {text} |"

    def _value(self) -> str:
        choices = get_args(self.takes)
        if not choices and issubclass(self.takes, Enum):
            choices = tuple(one.value for one in self.takes)
        if choices:
            return " \\| ".join(choices)
        return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(self.takes, "TEXT")


def _is_flag(name: object) -> bool:
    return isinstance(name, str) and name.startswith("-")


# --- writing -------------------------------------------------------------------------------------


def write(page: Path) -> list[Path]:
    """Makes one page and its pictures anew; the files that have changed."""
    from dromaius.files import write_bytes

    changed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = fill(page, folder)
        made = {page: text.encode()}
        for image in sorted(set(IMAGE.findall(text))):
            if (folder / image).exists():
                made[DOCS / "images" / image] = (folder / image).read_bytes()
    for path, content in made.items():
        if not path.exists() or path.read_bytes() != content:
            write_bytes(path, content)
            changed.append(path)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", nargs="*", help="names of pages (default: all of them)")
    names = parser.parse_args().page
    for page in pages():
        if not names or page.name in names:
            for path in write(page):
                print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
