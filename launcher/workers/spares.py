"""Warm spares: beside each training worker an idle process that has imported all that one needs.

A new group then starts without new processes and without imports. Raylets are asked for them by a
call that is not in Ray's public API, so it is behind `cluster.spares`, and where it fails the group
starts as it would without.
"""

import os
import threading
from contextlib import suppress
from typing import Any

VARIABLE = "HVDM_TRAINING_WORKER"
HOOK = "launcher.workers.spares.warm"
KEEP_S = 30 * 24 * 3600


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


class Spare:
    """Asked like a reason to stop, between two steps: the first time it has a spare started."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> str:
        if not self._asked:
            self._asked = True
            threading.Thread(target=_prestart, daemon=True).start()
        return ""


def _prestart() -> None:
    """One idle worker on this node, of this worker's job and environment."""
    with suppress(Exception):  # best effort: without it, the next group starts cold
        _call(_node())


def _node() -> dict[str, Any]:
    import ray

    own = ray.get_runtime_context().get_node_id()
    (node,) = [node for node in ray.nodes() if node["NodeID"] == own]
    return dict(node)


def _call(node: dict[str, Any]) -> None:
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

    context = ray.get_runtime_context()
    request = node_manager_pb2.PrestartWorkersRequest(
        job_id=bytes.fromhex(context.get_job_id()), num_workers=1, keep_alive_duration_secs=KEEP_S
    )
    request.runtime_env_info.serialized_runtime_env = context.get_runtime_env_string()
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    with init_grpc_channel(address) as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=30)
