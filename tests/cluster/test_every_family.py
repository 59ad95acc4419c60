"""A run of each family on two hosts, of which one is lost: the weights are those of a quiet one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Cluster
from tests.cluster.test_losing import LIMIT_S, START_S, without
from tests.paced.holding import Held, hashes, hvdm
from tests.support.ranks import Ranks
from tests.support.small_runs import SMALL
from tests.whole.test_losses import straight

STEPS = 60


@pytest.mark.parametrize("family", SMALL)
def test_it_loses_a_host(
    family: str, three_hosts: Cluster, tmp_path: Path, two_ranks: Ranks
) -> None:
    small = SMALL[family]
    data = small.data(tmp_path)
    held = Held(tmp_path, data)
    more = [f"steps={STEPS}", "checkpoint.every=8", *three_hosts.where(2, limit_s=LIMIT_S)]
    keys = small.keys(tmp_path, data, held.run, *more)
    held.typed = ["train", f"config={small.config}", *keys]
    held.environment = three_hosts.environment()
    process = held.start(three_hosts.head.inside)
    held.happened("saved", 3, process)
    lost = without(process, three_hosts)
    lost.kill()
    held.happened("lost", 1, process)
    _, errors = process.communicate(timeout=START_S * 3)
    assert process.returncode == 0, errors
    three_hosts.start_ray(lost)
    assert hashes(held.run)[STEPS] == straight(held, tmp_path / "straight", two_ranks)
    if family == "wavediff":
        found = [measured(three_hosts, held.run, tmp_path / str(n), n) for n in (1, 2, 3)]
        assert found[0] == found[1] == found[2]


def measured(hosts: Cluster, run: Path, out: Path, workers: int) -> dict[str, Any]:
    """Without when it was, how long it took, and where it lies.

    That of all families is compared in tests/eval/test_given_rows.py, without Ray.
    """
    asked = ["protocol=fvd/tf-reference@1", "detector=untrained", "clips=12", "again=true"]
    typed = hvdm("evaluate", f"run={run}", f"out={out}", *asked, *hosts.where(workers), "--json")
    found: dict[str, Any] = json.loads(hosts.run(hosts.head, *typed))
    return {k: v for k, v in found.items() if k not in ("time", "seconds", "path")}
