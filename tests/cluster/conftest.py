"""Hosts for the tests of this folder, which only `make test-cluster` runs."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster import hosts

collect_ignore_glob = [] if os.environ.get("HVDM_CLUSTER") else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def able() -> None:
    """Says why where this machine can make no hosts."""
    missing = hosts.why_not()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module")
def three_hosts() -> Iterator[hosts.Cluster]:
    """Of one core each, as Ray counts: two workers are on two hosts, and the third one is spare."""
    with hosts.cluster(3, cpus=1) as made:
        yield made
