"""`hvdm cluster status`: the nodes of a running cluster; with nodes=N, once there are as many."""

import json
import time
from collections.abc import Sequence
from typing import Any

from hvdm.config import ClusterConfig
from hvdm.errors import RunError
from launcher.arguments import Arguments
from launcher.doctor import checks
from launcher.workers import cluster

Row = dict[str, Any]


def status(given: Arguments) -> int:
    address = given.take("address", "auto") or "auto"
    wanted, wait_s = given.integer("nodes", 0) or 0, given.integer("wait_s", 0) or 0
    given.done()
    until = time.monotonic() + wait_s
    while wait_s and checks.silent_cluster(address) and time.monotonic() < until:
        time.sleep(0.5)
    with cluster.connected(ClusterConfig("existing", address=address)):
        rows = _waited_for(wanted, until)
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        print("\n".join(_line(row) for row in rows))
    if len(rows) < wanted:
        raise RunError(f"{len(rows)} of {wanted} nodes are there; see `ray status` on the head")
    return 0


def _waited_for(wanted: int, until: float) -> Sequence[Row]:
    while True:
        rows = [_row(node) for node in cluster.ray_module().nodes() if node["Alive"]]
        if len(rows) >= wanted or time.monotonic() > until:
            return rows
        time.sleep(0.5)


def _row(node: dict[str, Any]) -> Row:
    room = node["Resources"]
    return {
        "id": node["NodeID"],
        "node": node["NodeManagerHostname"],
        "address": node["NodeManagerAddress"],
        "cpus": room.get("CPU", 0.0),
        "gpus": room.get("GPU", 0.0),
        "memory_gib": round(room.get("memory", 0.0) / checks.GIB, 1),
    }


def _line(row: Row) -> str:
    return (
        f"{row['address']:<16} {row['node']:<24} {row['cpus']:g} CPUs, {row['gpus']:g} GPUs, "
        f"{row['memory_gib']:g} GiB"
    )
