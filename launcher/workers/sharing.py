"""Whether a folder of this machine is the same one on the other nodes of a cluster."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hvdm.config import ClusterConfig
from hvdm.errors import UserError

PATIENCE_S = 60.0
MARK = "ours"


class StorageCheck:
    """A folder that all nodes have to see: each looks for our file, and leaves one for us."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute() / f".hvdm-shared-{uuid.uuid4().hex[:8]}"
        self.mark = self.folder / MARK

    def __enter__(self) -> "StorageCheck":
        self.folder.mkdir(parents=True)
        self.mark.write_text("here")
        return self

    def __exit__(self, *_: object) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def came(self, token: str) -> bool:
        """Whether what a node left is here; no node leaves an empty one."""
        return any(path.name == token for path in self.folder.iterdir())


def left(folder: str) -> str:
    """On a node: what it left where it saw our file, else nothing."""
    token = f"node-{uuid.uuid4().hex[:8]}"
    if not (Path(folder) / MARK).is_file():
        return ""
    (Path(folder) / token).write_text("here")
    return token


def on_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Options of what is to run there, beside whatever runs there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    }


def check(ray: Any, cluster: ClusterConfig, run: str, data: Sequence[str]) -> None:
    """Refuses a run folder, or data, that another node has not; one that is silent is not judged.

    Without it each node would write into a folder of its own, and the run would end in pieces.
    Nodes without room for a worker, such as a head of no CPUs, need nothing.
    """
    own = ray.get_runtime_context().get_node_id()
    others = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own and _has_room(node["Resources"], cluster)
    ]
    if not others:
        return
    with StorageCheck(Path(run)) as shared:
        asked = ray.remote(_seen)
        answers = {
            node["NodeManagerAddress"]: asked.options(**on_node(node)).remote(
                str(shared.mark), list(data)
            )
            for node in others
        }
        for address, answer in answers.items():
            with suppress(ray.exceptions.RayError, TimeoutError):
                same, missing = ray.get(answer, timeout=PATIENCE_S)
                _refuse(run, address, same, missing)


def check_group(group: Any, run: str) -> None:
    """Refuses the same of a group's nodes: some came after the command began, for lost ones.

    A first rank there would find no checkpoint, and begin at step 0 where nobody looks.
    """
    with StorageCheck(Path(run)) as shared:
        answers = group.execute(_seen, str(shared.mark), [])
    for worker, (same, missing) in zip(group.get_workers(), answers, strict=True):
        _refuse(run, worker.metadata.node_ip, same, missing)


def _has_room(resources: Mapping[str, float], cluster: ClusterConfig) -> bool:
    asked = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    return all(resources.get(name, 0.0) >= amount for name, amount in asked.items())


def _seen(mark: str, data: Sequence[str]) -> tuple[bool, list[str]]:
    """On a node. It leaves nothing: NFS may show that to others only after a while."""
    return Path(mark).is_file(), [path for path in data if not Path(path).exists()]


def _refuse(run: str, address: str, same: bool, missing: Sequence[str]) -> None:
    if not same:
        raise UserError(
            f"run={run} is another folder on node {address}: give run=DIR on what all nodes share; "
            "hvdm doctor cluster=existing storage=DIR looks whether a folder is"
        )
    if missing:
        raise UserError(
            f"data.path={missing[0]} is not there on node {address}: give data.path=DIR on what "
            "all nodes share, or an address such as s3://bucket/data"
        )
