"""Shared by all tests: one small data set, and processes that outlive a test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data_tools.synthetic.making import make
from hvdm.config import ClusterConfig
from launcher.workers import cluster
from tests.support.ranks import Ranks

torch.set_num_threads(1)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["HVDM_TRUST"] = "1"  # the families of tests are none of hvdm's


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty clips to train on and twelve held out, 8 frames of 16x16."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    make(out, seed=3, train=40, test=12, per_shard=8, frames=8, height=16, width=16, fps=8)
    return out


@pytest.fixture(scope="session")
def one_rank() -> Iterator[Ranks]:
    ranks = Ranks(1)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def three_ranks() -> Iterator[Ranks]:
    ranks = Ranks(3)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """As `cluster=local` starts it; what runs inside finds it and starts none of its own.

    Its workers find the sixth family, as those of a command would.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).with_name("sixth")))
        with cluster.session(ClusterConfig("local", workers=3, cpus_per_worker=0.5)):
            yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the golden curves anew")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `make test` on two cores: a file stays whole, what starts processes begins first.

    Ray is started in one of the two, and the ranks that live through the session in the other.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _FIRST.get(_group(item), len(_FIRST)))


_FIRST = {"ray": 0, "ranks": 1}


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("ray"):
        return "ray"
    return "ranks" if item.get_closest_marker("processes") else item.path.name
