"""One pair of models a run, of random shape."""

import pytest

from tests.compat.transformers.pairs import Pair, make_pair


@pytest.fixture(scope="session")
def pair(rng_seed: int, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"), rng_seed)
