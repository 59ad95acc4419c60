"""The store of shards and checkpoints answers nobody for a while, under Ray: the run waits."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hvdm.events import read_lines
from tests.paced.holding import Held, hashes, workers
from tests.support.object_store import ObjectStore, object_store
from tests.support.ranks import Ranks
from tests.whole.test_losses import straight

pytestmark = [
    pytest.mark.ray,
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
OUTAGE_S = 60.0 if os.environ.get("HVDM_SOAK") else 5.0
"""Longer than the few tries that clients make of their own."""


@pytest.fixture
def store(shapes: Path) -> Iterator[ObjectStore]:
    with object_store() as server:
        import fsspec

        client = fsspec.filesystem("s3")
        for bucket in ("sets", "runs"):
            client.mkdir(bucket)
        client.put(f"{shapes}/train", "sets/shapes/train", recursive=True)
        yield server


def test_a_run_waits_for_its_store_and_is_the_same_run(
    store: ObjectStore, shapes: Path, tmp_path: Path, two_ranks: Ranks
) -> None:
    """It goes out in step 5: the save of step 6 cannot be written, nor what step 9 needs read."""
    remote = ["data.path=s3://sets/shapes", "checkpoint.path=s3://runs/held"]
    where = ["cluster=local", "cluster.workers=2", "cluster.cpus_per_worker=0.5"]
    held = Held(tmp_path / "held", shapes, *remote, *where, "checkpoint.asynchronous=true")
    held.hold(5)
    with held.start() as process:
        try:
            held.reached(5, process)
            assert_begun_ahead(process, 2)
            store.out = True
            held.release(5)
            time.sleep(OUTAGE_S)
            assert process.poll() is None
            assert store.refused > 4
            assert {row["step"] for row in held.events("saved")} <= {3}
            assert read_lines(held.run / "metrics.jsonl")[-1]["step"] < 9
            store.out = False
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == 0, err
    told = {row["event"] for row in read_lines(held.run / "events.jsonl")}
    assert not told & {"lost", "substituted", "save_failed", "skipped"}, out
    assert [row["step"] for row in held.events("saved")] == [3, 6, 9, 12]
    here = Held(tmp_path / "here", shapes)
    assert hashes(held.run)[12] == straight(here, tmp_path / "straight", two_ranks)


def assert_begun_ahead(command: "subprocess.Popen[str]", expected: int) -> None:
    """Workers' processes are older than the controller that asks for them, and none is in vain."""
    below = psutil.Process(command.pid).children(recursive=True)
    began = {process: process.create_time() for process in below}
    named = {process: " ".join(process.cmdline()) for process in below}
    (controller,) = [began[p] for p, name in named.items() if "TrainController" in name]
    own = [began[process] for process in workers(command)]
    assert len(own) == expected and max(own) < controller
    assert not any("IDLE" in name for name in named.values())
