"""Processes that have imported all that a training worker needs, before one is asked for.

On this machine's own Ray, the first group's begin while Ray Train's controller still does. Warm
spares are idle ones beside each worker: a new group then starts without new processes and without
imports. Raylets are asked for them by a call that is not in Ray's public API, so spares are behind
`cluster.spares`, and where it fails the group starts as it would without.
"""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress

from hvdm.config import ClusterConfig

VARIABLE = "HVDM_TRAINING_WORKER"
HOOK = "launcher.workers.spares.warm"
KEEP_S = 30 * 24 * 3600
AHEAD_S = 120


def begin_warm(cluster: ClusterConfig) -> bool:
    """Whether processes begin before they are asked for: the first group's here, or spares."""
    return cluster.spares or cluster.name == "local"


def warm() -> None:
    """In every process of the job as it starts, and of use in those that will train.

    Nothing here may touch a GPU: which one is the worker's own is not decided yet.
    """
    if VARIABLE not in os.environ:
        return
    import torch._dynamo  # noqa: F401
    from ray.train.v2._internal.execution.worker_group import worker  # noqa: F401

    import hvdm.run.run  # noqa: F401
    import launcher.workers.backend  # noqa: F401

    if os.environ[VARIABLE] == "deepspeed":
        with suppress(ImportError):
            from hvdm.train import zero

            zero.preload()


def environment(engine: str, gpus: float) -> dict[str, str]:
    """Of training workers and their spares: by it Ray knows that one may become the other."""
    device = {"DS_ACCELERATOR": "cuda" if gpus else "cpu"}
    return {VARIABLE: engine, **device, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def ahead(workers: int, own: Mapping[str, str]) -> None:
    """The first group's processes, on the one node of this machine's own Ray.

    They are given what Ray Train will give its workers; others would be left idle for a while.
    """
    handed_on = {key: value for key, value in os.environ.items() if key.startswith("RAY_TRAIN_")}
    told = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **handed_on, **own}
    threading.Thread(target=_ahead, args=(workers, told), daemon=True).start()


def _ahead(workers: int, told: Mapping[str, str]) -> None:
    with suppress(Exception):  # best effort: without it, workers begin when the controller has
        import ray

        environment = json.loads(ray.get_runtime_context().get_runtime_env_string())
        environment["env_vars"].update(told)
        # Ray compares the text: sorted, and without blanks
        text = json.dumps(environment, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        _prestart(text, workers, AHEAD_S)


class Spare:
    """Asked like a reason to stop, between two steps: the first time it has a spare started."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> str:
        if not self._asked:
            self._asked = True
            threading.Thread(target=_one_more, daemon=True).start()
        return ""


def _one_more() -> None:
    """One idle worker on this node, of this worker's job and environment."""
    with suppress(Exception):  # best effort: without it, the next group starts cold
        import ray

        _prestart(ray.get_runtime_context().get_runtime_env_string(), 1, KEEP_S)


def _prestart(environment: str, workers: int, keep_s: int) -> None:
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

    context = ray.get_runtime_context()
    request = node_manager_pb2.PrestartWorkersRequest(
        job_id=bytes.fromhex(context.get_job_id()),
        num_workers=workers,
        keep_alive_duration_secs=keep_s,
    )
    request.runtime_env_info.serialized_runtime_env = environment
    (node,) = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    with init_grpc_channel(address) as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=30)
