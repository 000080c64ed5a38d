"""What README and docs show is run: Python blocks as they stand, `sh` blocks line by line.

Blocks marked `text` show what needs a network or a shell of the reader's own; nothing else is
skipped.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[object]:
    found = [
        pytest.param(match[2], id=f"{page.stem}-{number}")
        for page in PAGES
        for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), start=1)
        if match[1] == kind
    ]
    assert found, f"no {kind} block in the documentation"
    return found


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        kinds = {match[1] for match in BLOCK.finditer(page.read_text(encoding="utf-8"))}
        assert kinds <= {"python", "sh", "text", "toml", "json"}, f"{page}: {kinds}"


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("lines", blocks("sh"))
def test_shell_block(lines: str, tmp_path: Path) -> None:
    for line in lines.splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "dromaius", f"a shell block may run dromaius only, not {words[0]}"
        command = [sys.executable, "-m", "dromaius.cli.main", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
