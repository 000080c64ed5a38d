"""One tiny checkpoint a run, in each layout, and transformers' own model of it."""

from __future__ import annotations

import pytest

import dromaius
from dromaius.pipelines.emu3 import Emu3
from tests.pipelines.small import Folders, Reference, make_reference, write_checkpoints


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("tiny-tokenizer"))


@pytest.fixture(scope="session")
def folders(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_checkpoints(reference, tmp_path_factory.mktemp("tiny-checkpoints"))


@pytest.fixture(scope="session")
def model(folders: Folders) -> Emu3:
    """The -hf checkpoint as dromaius loads it. Shared: tests must not change it."""
    return dromaius.load(folders.hf)


@pytest.fixture(scope="session")
def baai_model(folders: Folders) -> Emu3:
    """The same weights from BAAI's two folders, with BAAI's tokenizer."""
    return dromaius.load(folders.language, vision_tokenizer=folders.vision)
