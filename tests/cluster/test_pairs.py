"""Two networks against each other on two hosts, of which one is lost; then they are measured."""

import json
from pathlib import Path
from typing import Any

from tests.cluster.hosts import Cluster
from tests.cluster.test_losing import LIMIT_S, START_S, without
from tests.paced.holding import Held, hashes, hvdm
from tests.support.ranks import Ranks
from tests.whole.test_losses import straight

STEPS = 80
SIZES = [
    "model.width=8", "model.multipliers=[1,2]", "model.labels=0", "model.critic_width=4",
    "model.mapping=1", "model.over_time=[4]", "model.penalty_every=2", "data.frames=4",
    "data.height=16", "data.width=16", "data.lanes=4", "data.window=4", "data.threads=1",
    "batch=8", "micro_batch=4", f"steps={STEPS}", "checkpoint.every=8", "log.tensorboard=false",
]  # fmt: skip


def test_a_generator_and_its_critic_lose_a_host(
    three_hosts: Cluster, shapes: Path, tmp_path: Path, two_ranks: Ranks
) -> None:
    held = Held(tmp_path, shapes)
    where = three_hosts.where(2, limit_s=LIMIT_S)
    run = [f"run={held.run}", f"data.path={shapes}"]
    held.typed = ["train", "config=tiny/wavediff_video", *run, *SIZES, *where]
    held.environment = three_hosts.environment()
    process = held.start(three_hosts.head.inside)
    held.happened("saved", 3, process)
    lost = without(process, three_hosts)
    lost.kill()
    held.happened("lost", 1, process)
    _, errors = process.communicate(timeout=START_S * 3)
    assert process.returncode == 0, errors
    assert hashes(held.run)[STEPS] == straight(held, tmp_path / "straight", two_ranks)
    three_hosts.start_ray(lost)
    found = [measured(three_hosts, held.run, tmp_path / str(n), n) for n in (1, 2, 3)]
    assert found[0] == found[1] == found[2]


def measured(hosts: Cluster, run: Path, out: Path, workers: int) -> dict[str, Any]:
    """Without when it was, how long it took, and where it lies."""
    asked = ["protocol=fvd/tf-reference@1", "detector=untrained", "clips=12", "again=true"]
    typed = hvdm("evaluate", f"run={run}", f"out={out}", *asked, *hosts.where(workers), "--json")
    found: dict[str, Any] = json.loads(hosts.run(hosts.head, *typed))
    return {k: v for k, v in found.items() if k not in ("time", "seconds", "path")}
