"""Two workers on two of three hosts: one is cut off or killed, the network is slow, the head dies.

Whatever happens, the run ends with the weights of an undisturbed one, and nobody waits for longer
than the configured limits.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_tools.synthetic.making import make
from hvdm.events import read_lines
from hvdm.run.ledger import ledger
from launcher.cli import main
from tests.cluster.hosts import RAY, Clock, Cluster, Host, cluster
from tests.paced.holding import Held, hashes, hvdm, until
from tests.support.ranks import Ranks
from tests.whole.test_losses import straight

LIMIT_S, CLIPS = 20, 1200
START_S = 90.0
"""A start of the group on a busy machine."""


@pytest.fixture
def held(three_hosts: Cluster, shapes: Path, tmp_path: Path) -> Held:
    made = Held(tmp_path, shapes, *three_hosts.where(2, limit_s=LIMIT_S))
    made.environment = three_hosts.environment()
    return made


@pytest.fixture(scope="module")
def undisturbed(
    shapes: Path, tmp_path_factory: pytest.TempPathFactory, two_ranks: Ranks
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return straight(Held(folder, shapes), folder / "straight", two_ranks)


def without(process: Any, hosts: Cluster) -> Host:
    """A host with a worker that is not the command's own."""
    return until(lambda: [h for h in hosts.hosts[1:] if h.workers()], process)[0]


def test_the_doctor_looks_at_every_node(three_hosts: Cluster, tmp_path: Path) -> None:
    where = ["cluster=existing", f"cluster.address={three_hosts.address}", f"storage={tmp_path}"]
    told = three_hosts.run(three_hosts.head, *hvdm("doctor", *where, "--json"))
    found = {line["name"]: line for line in json.loads(told)["checks"]}
    assert set(found) == {"nodes", "versions", "clocks", "storage", "decoders", "all-reduce"}
    assert all(host.address in found["nodes"]["text"] for host in three_hosts.hosts)
    assert "same folder on 3 nodes" in found["storage"]["text"]
    assert "through each of 3 nodes" in found["all-reduce"]["text"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["cut", "kill"])
def test_a_host_is_lost_in_a_collective_call(
    harm: str, three_hosts: Cluster, held: Held, undisturbed: dict[str, Any]
) -> None:
    """The first rank computes on, and then waits for a peer that does not answer any more."""
    held.hold(5)
    process = held.start(three_hosts.head.inside)
    held.reached(5, process)
    lost = without(process, three_hosts)
    clock = Clock()
    getattr(lost, harm)()
    held.release(5)
    held.happened("lost", 1, process)
    assert clock.seconds() < LIMIT_S + 10
    _, errors = process.communicate(timeout=START_S * 2)
    assert process.returncode == 0, errors
    assert hashes(held.run)[12] == undisturbed
    assert [e["lost_steps"] for e in held.events("resumed")] == [1]
    if harm == "cut":
        lost.mend()
    lost.kill()
    three_hosts.start_ray(lost)


def test_a_host_that_comes_with_a_folder_of_its_own_ends_the_run(
    three_hosts: Cluster, held: Held
) -> None:
    """It is there when the group starts again, and sees nothing of the run."""
    _, lost, late = three_hosts.hosts
    late.kill()
    held.hold(5)
    process = held.start(three_hosts.head.inside)
    held.reached(5, process)
    late.boot()
    three_hosts.run(late, "mount", "-t", "tmpfs", "none", str(held.run))
    three_hosts.start_ray(late)
    lost.kill()
    held.release(5)
    _, errors = process.communicate(timeout=START_S * 2)
    assert process.returncode == 2, errors
    told = errors.splitlines()[-1]
    assert f"run={held.run} is another folder on node {late.address}" in told
    assert [e["step"] for e in held.events("started")] == [0]
    late.kill()
    three_hosts.start_ray(lost, late)


def test_a_node_that_is_drained_loses_no_step(
    three_hosts: Cluster, shapes: Path, tmp_path: Path, two_ranks: Ranks
) -> None:
    """The workers hear of it within a second or so, while many steps go by."""
    more = ["steps=600", "checkpoint.every=6000"]
    held = Held(tmp_path / "drained", shapes, *three_hosts.where(2, limit_s=LIMIT_S), *more)
    held.environment = three_hosts.environment()
    held.hold(5)
    process = held.start(three_hosts.head.inside)
    held.reached(5, process)
    left = without(process, three_hosts)
    drain(three_hosts, left)
    held.release(5)
    held.happened("stopped", 1, process)
    _, errors = process.communicate(timeout=START_S * 2)
    assert process.returncode == 0, errors
    (stopped,), (resumed,) = held.events("stopped"), held.events("resumed")
    assert stopped["reason"] == "drained" and resumed["step"] == stopped["step"]
    assert "lost_steps" not in resumed
    assert hashes(held.run)[600] == straight(held, tmp_path / "straight", two_ranks)
    left.kill()
    three_hosts.start_ray(left)


def drain(hosts: Cluster, host: Host) -> None:
    where = ["cluster", "status", f"address={hosts.address}", "--json"]
    rows = json.loads(hosts.run(hosts.head, *hvdm(*where)))
    (node,) = [row["id"] for row in rows if row["address"] == host.address]
    why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test"]
    end = ["--deadline-remaining-seconds=120"]
    hosts.run(hosts.head, RAY, "drain-node", f"--address={hosts.address}", f"--node-id={node}",
              *why, *end)  # fmt: skip


def test_a_slow_network_changes_no_weights(
    three_hosts: Cluster, held: Held, undisturbed: dict[str, Any]
) -> None:
    for host in three_hosts.hosts:
        host.slow("20mbit")
    process = held.start(three_hosts.head.inside)
    _, errors = process.communicate(timeout=START_S * 2)
    for host in three_hosts.hosts:
        host.fast()
    assert process.returncode == 0, errors
    assert hashes(held.run)[12] == undisturbed and held.events("lost") == []


def round_trip(one: Host, other: Host) -> float:
    """Seconds until a connection that nobody takes is refused."""
    asking = (
        "import socket, time\nbegan = time.monotonic()\n"
        f"socket.socket().connect_ex(({other.address!r}, 9))\nprint(time.monotonic() - began)"
    )
    command = [*one.inside, sys.executable, "-c", asking]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_long_way_to_a_host_changes_no_weights(
    three_hosts: Cluster, held: Held, undisturbed: dict[str, Any]
) -> None:
    """Every answer comes 40 ms later, as from the other side of a continent."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("a wire with a delay needs /dev/net/tun")
    near, *far = three_hosts.hosts
    for host in far:
        host.delay(0.02)
    try:
        assert 0.04 <= round_trip(near, far[0]) < 1.0
        process = held.start(near.inside)
        _, errors = process.communicate(timeout=START_S * 2)
    finally:
        for host in far:
            host.prompt()
    assert round_trip(near, far[0]) < 0.04
    assert process.returncode == 0, errors
    assert hashes(held.run)[12] == undisturbed and held.events("lost") == []


def test_the_head_is_lost_and_the_same_command_resumes(
    three_hosts: Cluster, held: Held, undisturbed: dict[str, Any]
) -> None:
    held.hold(5)
    process = held.start(three_hosts.hosts[1].inside)
    held.reached(5, process)
    clock = Clock()
    three_hosts.head.kill()
    _, errors = process.communicate(timeout=120)
    assert clock.seconds() < LIMIT_S + 40
    assert process.returncode == 1, errors
    assert "the same command" in errors.splitlines()[-1], errors
    held.release(5)
    for host in three_hosts.hosts:
        host.kill()
    three_hosts.start_ray(*three_hosts.hosts)
    again = held.start(three_hosts.hosts[1].inside)
    _, errors = again.communicate(timeout=START_S * 2)
    assert again.returncode == 0, errors
    assert hashes(held.run)[12] == undisturbed
    (resumed,) = held.events("resumed")
    assert (resumed["step"], resumed["lost_steps"]) == (3, 1)


def test_random_kills_of_workers_and_nodes(
    three_hosts: Cluster, shapes: Path, tmp_path: Path, two_ranks: Ranks
) -> None:
    """HVDM_KILLS of them, three unless told; each at a step that is drawn."""
    kills = int(os.environ.get("HVDM_KILLS", "3"))
    chance = random.Random(7)
    more = [f"steps={3 * kills + 6}", f"cluster.max_failures={kills}"]
    held = Held(tmp_path / "killed", shapes, *three_hosts.where(2, limit_s=LIMIT_S), *more)
    held.environment = three_hosts.environment()
    steps = [3 * i + 3 + chance.randrange(3) for i in range(kills)]
    for step in steps:
        held.hold(step)
    process = held.start(three_hosts.head.inside)
    for number, step in enumerate(steps):
        held.reached(step, process)
        host = without(process, three_hosts)
        whole = chance.random() < 0.5
        host.kill() if whole else chance.choice(host.workers()).kill()
        held.happened("lost", number + 1, process)
        held.release(step)
        if whole:
            three_hosts.start_ray(host)
    _, errors = process.communicate(timeout=START_S * 2)
    assert process.returncode == 0, errors
    last = max(hashes(held.run))
    assert hashes(held.run)[last] == straight(held, tmp_path / "straight", two_ranks)
    found = ledger(read_lines(held.run / "events.jsonl"), read_lines(held.run / "metrics.jsonl"))
    assert found is not None and len(found["recoveries"]) == kills
    assert abs(sum(found["shares"].values()) - 1) < 0.01, found


def test_an_evaluation_beside_it_goes_on(
    shapes: Path, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers on two of three hosts and one evaluating; a host of the training is killed."""
    for name, seed in (("real", 1), ("made", 2)):
        make(tmp_path / name, seed=seed, train=0, test=CLIPS, frames=16, height=32, width=32)
    sides = [f"real={tmp_path}/real/test", f"generated={tmp_path}/made/test"]
    asked = ["evaluate", *sides, "protocol=fvd/videogpt@1", "detector=untrained", "--json"]
    with cluster(3, cpus=2) as three:
        held = Held(tmp_path, shapes, *three.where(2, cpus=1.5, limit_s=LIMIT_S))
        held.environment = {**three.environment(), "HVDM_CACHE": str(tmp_path / "cache")}
        held.hold(5)
        training = held.start(three.head.inside)
        held.reached(5, training)
        where = three.where(1, cpus=0.5, limit_s=LIMIT_S)
        evaluation = held.start(three.head.inside, [*asked, f"out={tmp_path}/there", *where])
        until(lambda: measured(tmp_path) > 1, evaluation)
        without(training, three).kill()
        held.release(5)
        held.happened("lost", 1, training)
        assert evaluation.poll() is None, "it was over before the host was lost"
        told, errors = evaluation.communicate(timeout=240)
        assert evaluation.returncode == 0, errors
        _, errors = training.communicate(timeout=START_S * 2)
        assert training.returncode == 0, errors
    assert hashes(held.run)[12] == undisturbed
    monkeypatch.setenv("HVDM_CACHE", str(tmp_path / "another"))
    assert main([*asked, f"out={tmp_path}/here"]) == 0
    here, there = (result(tmp_path / name) for name in ("here", "there"))
    same = ("values", "standard_error", "controls", "counts")
    assert [here[key] for key in same] == [there[key] for key in same]


def measured(folder: Path) -> int:
    return len(list((folder / "cache/features").rglob("block-*.npz")))


def result(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found
