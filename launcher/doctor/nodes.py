"""`hvdm doctor cluster=existing`: what has to hold on every node of a cluster, and between them."""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from hvdm.config import ClusterConfig
from launcher.doctor import probing
from launcher.doctor.checks import Line
from launcher.workers import cluster, interfaces, sharing

MEGABYTES = 32
ROUNDS = 3
CLOCK_S = 1.0
PATIENCE_S = 120.0
SLOW_GBIT = 1.0
Facts = dict[str, Any]


def check(where: ClusterConfig, folder: str) -> list[Line]:
    with cluster.connected(where):
        ray = cluster.ray_module()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        with sharing.StorageCheck(Path(folder)) as shared:
            facts = [_asked(ray, node, shared) for node in nodes]
            lines = [Line("nodes", "ok", ", ".join(_name(node) for node in nodes))]
            lines += answered(nodes, facts)
            found = [one for one in facts if one]
            lines += [*versions(found), *clocks(found), storage(shared, found), *decoders(found)]
        return lines + [bandwidth(ray, nodes)]


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"


# Each node


def storage(shared: sharing.StorageCheck, facts: Sequence[Facts]) -> Line:
    blind = [found["address"] for found in facts if not shared.came(found["token"])]
    where = str(shared.folder.parent)
    if blind:
        remedy = "mount it there under the same path; runs and data have to lie on such storage"
        return Line("storage", "failed", f"{where} is not shared by {', '.join(blind)}", remedy)
    return Line("storage", "ok", f"{where} is the same folder on {len(facts)} nodes")


def _asked(ray: Any, node: Mapping[str, Any], shared: sharing.StorageCheck) -> Facts | None:
    """None from a node that cannot run our code."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        remote = ray.remote(function).options(**sharing.on_node(node))
        return ray.get(remote.remote(*arguments), timeout=PATIENCE_S)

    with suppress(ray.exceptions.RayError, TimeoutError):
        found: Facts = call(facts_of, str(shared.folder))
        began = time.time()
        there, ended = call(clock), time.time()
        off = max(0.0, began - there, there - ended)
        return {**found, "address": node["NodeManagerAddress"], "clock_off_s": round(off, 3)}
    return None


def clock() -> float:
    return time.time()


def facts_of(folder: str) -> Facts:
    """On a node."""
    from hvdm.run.run import versions

    return {
        "versions": versions(),
        "token": sharing.left(folder),
        "decoders": [(line.state, line.text) for line in probing.probe("video")],
        "bytecode": not os.environ.get("PYTHONDONTWRITEBYTECODE"),
    }


def answered(nodes: Sequence[Mapping[str, Any]], facts: Sequence[Facts | None]) -> list[Line]:
    silent = [_name(node) for node, found in zip(nodes, facts) if found is None]
    if not silent:
        return []
    remedy = "is hvdm installed there, in the environment that Ray was started from?"
    return [Line("nodes", "failed", f"no answer from {', '.join(silent)}", remedy)]


def versions(facts: Sequence[Facts]) -> list[Line]:
    """Equal to ours on all nodes."""
    from hvdm.run.run import versions as own_versions

    own, lines = own_versions(), []
    for found in facts:
        there = found["versions"]
        apart = [f"{n} {there.get(n)} (here {v})" for n, v in own.items() if there.get(n) != v]
        if apart:
            text = f"{found['address']} has {', '.join(apart)}"
            lines.append(Line("versions", "failed", text, "one image, or one environment, for all"))
        if not found["bytecode"]:
            text = f"{found['address']}: PYTHONDONTWRITEBYTECODE is set: slow starts"
            lines.append(Line("versions", "warning", text, "unset it where Ray is started"))
    return lines or [Line("versions", "ok", f"equal on {len(facts)} nodes")]


def clocks(facts: Sequence[Facts]) -> list[Line]:
    """How far outside of question and answer a node's time was."""
    wrong = [f"{f['address']} by {f['clock_off_s']} s" for f in facts if f["clock_off_s"] > CLOCK_S]
    if wrong:
        text = f"off from this machine's: {', '.join(wrong)}"
        return [Line("clocks", "warning", text, "let NTP set them: logs and ledgers compare times")]
    return [Line("clocks", "ok", f"within {CLOCK_S:g} s on {len(facts)} nodes")]


def decoders(facts: Sequence[Facts]) -> list[Line]:
    bad = [
        f"{found['address']}: {text}"
        for found in facts
        for state, text in found["decoders"]
        if state != "ok"
    ]
    if bad:
        return [Line("decoders", "failed", "; ".join(bad), "hvdm doctor on that node says more")]
    return [Line("decoders", "ok", f"work on {len(facts)} nodes")]


# Between them


class Peer:
    """One rank of an all-reduce over the nodes."""

    def address(self) -> tuple[str, int]:
        import ray

        with socket.socket() as s:
            s.bind(("", 0))
            return ray.util.get_node_ip_address(), s.getsockname()[1]

    def reduce(self, rank: int, world: int, address: str, port: int, own: str) -> float:
        """Seconds of the quickest round."""
        import torch
        import torch.distributed as group

        interfaces.use(own)
        group.init_process_group(
            "gloo", f"tcp://{address}:{port}", timedelta(seconds=60), world_size=world, rank=rank
        )
        tensor = torch.ones(MEGABYTES * 2**20 // 4)
        took = [_timed(lambda: group.all_reduce(tensor)) for _ in range(ROUNDS)]
        group.destroy_process_group()
        return min(took)


def _timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def bandwidth(ray: Any, nodes: Sequence[Mapping[str, Any]]) -> Line:
    """Of a ring: each node sends and receives 2 (n - 1) / n of the bytes."""
    world = len(nodes)
    if world < 2:
        return Line("all-reduce", "ok", "one node: nothing to measure")
    peers = [ray.remote(Peer).options(**sharing.on_node(node)).remote() for node in nodes]
    try:
        address, port = ray.get(peers[0].address.remote(), timeout=PATIENCE_S)
        took = ray.get(
            [
                peer.reduce.remote(rank, world, address, port, node["NodeManagerAddress"])
                for rank, (peer, node) in enumerate(zip(peers, nodes))
            ],
            timeout=PATIENCE_S,
        )
    except (ray.exceptions.RayError, TimeoutError) as error:
        line = str(error).strip().splitlines()[-1]
        remedy = "open all ports between the nodes; GLOO_SOCKET_IFNAME names their interface"
        return Line("all-reduce", "failed", line, remedy)
    finally:
        for peer in peers:
            ray.kill(peer)
    gbit = 2 * (world - 1) / world * MEGABYTES * 2**20 * 8 / max(took) / 1e9
    text = f"{gbit:.2f} Gbit/s through each of {world} nodes (gloo, {MEGABYTES} MiB)"
    if gbit < SLOW_GBIT:
        return Line("all-reduce", "warning", text, "is the fast network's interface the one used?")
    return Line("all-reduce", "ok", text)
