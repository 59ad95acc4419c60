"""A small data set of rendered clips, shared by all tests of reading."""

from pathlib import Path

import pytest

from data_tools.synthetic.making import make


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 clips of 12 frames at 32 x 32 in shards of 7, 7, 7 and 5."""
    out = tmp_path_factory.mktemp("clips") / "set"
    make(out, seed=3, train=26, test=5, per_shard=7, frames=12, height=32, width=32, fps=8)
    return out
