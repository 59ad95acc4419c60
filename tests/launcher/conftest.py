"""One Ray session for all tests that need one."""

from collections.abc import Iterator

import pytest

from hvdm.config import ClusterConfig
from launcher.workers import cluster


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """As `cluster=local` starts it; what runs inside finds it and starts none of its own."""
    with cluster.session(ClusterConfig("local", workers=3, cpus_per_worker=0.5)):
        yield
