"""A group that shrinks when nodes are lost and grows when they return, on one trajectory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvdm.data.batches import read_keys
from hvdm.run import run
from launcher import compose
from launcher.verbs.distance import difference
from launcher.workers import stop_file
from tests.cluster import hosts
from tests.paced import paced
from tests.paced.holding import Held, until

MORE = ("data.log_keys=true", "engine.precision=fp32")


@pytest.fixture(scope="module")
def four_hosts() -> Iterator[hosts.Cluster]:
    with hosts.cluster(4, cpus=1) as made:
        yield made


def assert_as_alone(held: Held, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights and the keys of the same run in one process."""
    monkeypatch.syspath_prepend(str(Path(paced.__file__).parent))
    typed = [*held.typed[2:], f"run={alone}", "cluster=inline"]
    typed = [o for o in typed if not o.startswith(("cluster.", "cluster=existing"))]
    run.train(compose.run_config(held.typed[1].removeprefix("config="), typed), sinks=())
    (row,) = difference(str(alone), str(held.run)).values()
    assert row["travelled"] >= 0.01 and row["of_travel"] <= 1e-5, row
    assert read_keys(held.run / "logs/keys") == read_keys(alone / "logs/keys")


def test_four_workers_are_as_one(
    four_hosts: hosts.Cluster, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(tmp_path, shapes, *four_hosts.where("4", limit_s=20), *MORE)
    held.environment = four_hosts.environment()
    process = held.start(four_hosts.head.inside)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert [e["workers"] for e in held.events("started")] == [4]
    assert_as_alone(held, tmp_path / "alone", monkeypatch)


def test_four_workers_two_and_then_three(
    four_hosts: hosts.Cluster, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts are killed in step 5; one comes back in step 8, and the group saves and grows."""
    # the first rank is held while a host starts: longer than the others may have to wait for it
    where = four_hosts.where("2..4", limit_s=90)
    held = Held(tmp_path, shapes, *where, "cluster.resize_s=1", *MORE)
    held.environment = four_hosts.environment()
    held.hold(5)
    held.hold(8)
    process = held.start(four_hosts.head.inside)
    held.reached(5, process)
    for host in four_hosts.hosts[2:]:
        host.kill()
    held.happened("lost", 1, process)
    held.release(5)
    held.reached(8, process)
    four_hosts.start_ray(four_hosts.hosts[2])
    until(lambda: stop_file.asked(held.run) == "resized", process)
    held.release(8)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    starts = held.events("started") + held.events("resumed")
    assert [e["workers"] for e in starts] == [4, 2, 3]
    assert [e.get("lost_steps", 0) for e in starts] == [0, 1, 0]
    assert_as_alone(held, tmp_path / "alone", monkeypatch)
