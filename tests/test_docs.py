"""README and the site: what they show runs, links lead somewhere, the reference is up to date.

docs/build.py runs a page from top to bottom as one session. Blocks marked `text` show what needs
a network or a shell of the reader's own; nothing else is skipped.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def _build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


build = _build()
PAGES: list[Path] = build.pages()


def kinds(page: Path) -> set[str]:
    return {block.kind for block in build.blocks(page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_what_it_is(page: Path) -> None:
    assert kinds(page) <= {"python", "sh", "text", "toml", "json"}


@pytest.mark.parametrize(
    "page", [p for p in PAGES if kinds(p) & {"python", "sh"}], ids=lambda page: page.stem
)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """Outputs that depend on nano's weights may differ in value, not in being there."""
    text, filled = page.read_text(encoding="utf-8"), build.fill(page, tmp_path)
    assert [part[:2] for part in build.SLOT.split(filled)[::2]] == [
        part[:2] for part in build.SLOT.split(text)[::2]
    ]
    assert [block.kind for block in build.blocks(filled)] == [
        block.kind for block in build.blocks(text)
    ], "a generated part is missing: run python docs/build.py"


def test_a_block_that_fails_is_a_failure(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ndromaius ask absent.png what\n```\n")
    with pytest.raises(ValueError, match=r"page.md, line 2.*\n.*absent.png"):
        build.fill(page, tmp_path)
    page.write_text("# A page\n\n```python\nassert 1 + 1 == 3\n```\n")
    with pytest.raises(AssertionError):
        build.fill(page, tmp_path)


def test_outputs_go_where_the_page_has_room_for_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    slot = "<!-- generated -->\n{}<!-- /generated -->\n"
    text = (
        "```python\na = 2\n```\nwords\n\n```python\nprint(a + 1)\n```\n\n"
        + slot.format("old\n")
        + "more\n\n```sh\ndromaius --version\n```\n"
        + slot.format("")
    )
    page.write_text(text)
    from dromaius import __version__

    filled = build.fill(page, tmp_path)
    assert filled == text.replace("old\n", "```text\n3\n```\n").replace(
        slot.format(""), slot.format(f"```text\ndromaius {__version__}\n```\n")
    )
    page.write_text("```python\na = 2\n```\n" + slot.format(""))
    with pytest.raises(ValueError, match="prints nothing"):
        build.fill(page, tmp_path)


def test_the_command_line_reference_is_what_the_commands_say() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    found = build.SLOT.search(text)
    assert found and found[1] == build.reference(), "run python docs/build.py cli.md"


def test_the_reference_knows_every_flag_that_help_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--help is typer's own account of the same functions."""
    from dromaius.cli.main import VERBS, run

    monkeypatch.setenv("COLUMNS", "200")
    sections = re.split(r"^## dromaius ", build.reference(), flags=re.MULTILINE)[1:]
    assert [section.split()[0] for section in sections] == list(VERBS)
    for verb, section in zip(VERBS, sections, strict=True):
        assert run([verb, "--help"]) == 0
        rows = [row.split(" | ")[0] for row in section.splitlines() if row.startswith("| `-")]
        ours = {name for row in rows for name in re.findall(r"`(-[\w-]+)`", row)}
        assert ours == flags_of_help(capsys.readouterr().out) - {"--help", "-h"}, verb


def flags_of_help(text: str) -> set[str]:
    """The flags with which lines of a help text begin, whatever box is drawn around them."""
    found = set()
    for line in text.splitlines():
        for word in line.strip(" │|*").replace(",", " ").split():
            if not re.fullmatch(r"--?[a-z][\w-]*", word):
                break
            found.add(word)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text):
        target = target[0] or target[1]
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_picture_is_shown_somewhere() -> None:
    shown = {name for page in PAGES for name in build.IMAGE.findall(page.read_text("utf-8"))}
    assert shown == {path.name for path in (ROOT / "docs" / "images").iterdir()}


def test_readme_lists_the_prompts_of_the_sheet_in_order() -> None:
    script = ast.parse((ROOT / "recipes" / "nano" / "sheet.py").read_text(encoding="utf-8"))
    [prompts] = [
        ast.literal_eval(node.value)
        for node in script.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PROMPTS"
    ]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    behind_the_sheet = readme[readme.index("docs/images/sheet.png") :]
    assert re.findall(r"`([^`]+)`", behind_the_sheet)[1 : len(prompts) + 1] == list(prompts)
    assert sum(not prompt.isascii() for prompt in prompts) == len(prompts) - 4 == 4


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Strict: no broken link or anchor, every page in the navigation."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "life-of-an-image" / "index.html").exists()
    assert not (tmp_path / "build.py").exists()
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?://[^\"]+)", home)
    assert fetched == [], "a page must not fetch anything from elsewhere"
