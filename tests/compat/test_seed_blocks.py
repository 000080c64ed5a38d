"""The list of blocks and the list of substitutions are whole; the blocks run in `seed_blocks/`."""

from pathlib import Path
from typing import get_args

import pytest

from tests.compat.seed_blocks.blocks import BLOCKS, BY_NAME, raw_source
from tests.compat.seed_blocks.substitutions import SUBSTITUTIONS, Kind


def test_every_substitution_is_needed(seeds_dir: Path) -> None:
    if not seeds_dir.is_dir():
        pytest.skip(f"needs the seeds, which are not at {seeds_dir}")
    sources = {block.name: raw_source(seeds_dir, block) for block in BLOCKS}
    for substitution in SUBSTITUTIONS:
        assert substitution.kind in get_args(Kind) and substitution.reason
        for prefix in substitution.blocks:
            assert any(
                substitution.apply(text) != text
                for name, text in sources.items()
                if name.startswith(prefix)
            ), f"{substitution.find!r} changes nothing in {prefix!r}"


def test_every_block_is_run() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("seed_blocks/test_*"))
    assert [name for name in BY_NAME if f'"{name}"' not in tests] == []
