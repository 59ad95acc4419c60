"""`hvdm cluster status`: the nodes of a running cluster; with nodes=N, once there are as many."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hvdm.config import ClusterConfig
from hvdm.errors import RunError
from hvdm.options import option
from launcher.doctor.checks import GIB
from launcher.verb import tell
from launcher.workers import cluster, reaching

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    address: str = option(
        "auto", "the head; default the cluster that this machine belongs to", shown="HOST:PORT"
    )
    nodes: int = option(0, "as many are waited for, for wait_s=; exit code 1 if they do not come")
    wait_s: int = option(0, "how many seconds", shown="S")
    json: bool = option(False, "as data")
    examples: ClassVar = ("cluster status", "cluster status address=head:6379 nodes=4 wait_s=300")


def status(asked: StatusOptions) -> int:
    address, wanted = asked.address, asked.nodes
    until = time.monotonic() + asked.wait_s
    while asked.wait_s and reaching.silent_cluster(address) and time.monotonic() < until:
        time.sleep(0.5)
    with cluster.connected(ClusterConfig("existing", address=address)):
        rows = _waited_for(wanted, until)
    tell(asked.json, rows, "\n".join(map(_line, rows)))
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
        "memory_gib": round(room.get("memory", 0.0) / GIB, 1),
    }


def _line(row: Row) -> str:
    return (
        f"{row['address']:<16} {row['node']:<24} {row['cpus']:g} CPUs, {row['gpus']:g} GPUs, "
        f"{row['memory_gib']:g} GiB"
    )
