"""What Ray Train calls of ours: on each worker before its process group, on the controller after a
loss; and what it is to leave out. Imported only once Ray is, its environment set (`cluster`)."""

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.exceptions
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend as RayBackend
from ray.train.backend import BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from hvdm.events import JsonLines, Tail
from hvdm.run import stopping
from hvdm.run.ledger import ENDS
from launcher.workers import interfaces, sharing, stop_file

LOSSES = "losses"


@dataclass(frozen=True)
class GroupConfig(BackendConfig):
    library: str
    timeout_s: int

    @property
    def backend_cls(self) -> Any:
        return Backend


class Backend(RayBackend):
    """Ray's own for torch would have the controller import torch, before it starts any worker."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        """The workers' main threads run this: only there a signal handler can be set."""
        worker_group.execute(prepare_worker)
        address, port = worker_group.execute_single(0, get_address_and_port)
        places = [worker.distributed_context for worker in worker_group.get_workers()]
        joining = []
        for rank, place in enumerate(places):
            told = {
                "MASTER_ADDR": address,
                "MASTER_PORT": str(port),
                "RANK": str(place.world_rank),
                "WORLD_SIZE": str(place.world_size),
                "LOCAL_RANK": str(place.local_rank),
                "LOCAL_WORLD_SIZE": str(place.local_world_size),
                "NODE_RANK": str(place.node_rank),
            }
            joining.append(worker_group.execute_single_async(rank, join, told, backend_config))
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: GroupConfig) -> None:
        """The processes end next, and the group with them.

        Destroyed first, it can wait for a lost peer, and it makes a world of one for a thread that
        still trains.
        """


class Trainer(DataParallelTrainer):
    """Without the processes that nobody here asks for; a start waits for some of them.

    No rows come from Ray Data. Where Ray ends with the command (`alone`), nothing is left to tidy
    up, and no autoscaler to ask for machines.
    """

    def __init__(self, *args: Any, alone: bool, **settings: Any) -> None:
        self._alone = alone
        super().__init__(*args, **settings)

    def _create_default_callbacks(self) -> list[Any]:
        spared: tuple[type, ...] = (DatasetsCallback,)
        if self._alone:
            spared += (PlacementGroupCleanerCallback,)
        return [c for c in super()._create_default_callbacks() if not isinstance(c, spared)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if self._alone and not self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = _AsManyAsAsked(self.scaling_config)
        return super()._initialize_and_run_controller(**parts)


class _AsManyAsAsked(FixedScalingPolicy):
    def after_controller_start(self, train_run_context: Any) -> None:
        """Asks no autoscaler."""

    def _maybe_send_resource_request(self) -> None:
        """Nor later."""


def prepare_worker() -> None:
    stopping.listen((signal.SIGTERM,))
    interfaces.use(ray.util.get_node_ip_address())


def join(told: Mapping[str, str], config: GroupConfig) -> None:
    """The process group, on a worker. A collective that timed out ends its process."""
    from hvdm import dist

    os.environ.update(told)
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.join(config.library, config.timeout_s)


class Watch(WorkerGroupCallback, ControllerCallback):
    """On the controller: looks where a group is, tells of losses, has one save before a resize."""

    def __init__(self, run: str, patience_s: float) -> None:
        self._run, self._patience_s = run, patience_s
        self._trains, self._told, self._began = False, "", 0.0

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        self._began = time.time()

    def after_worker_group_start(self, worker_group: Any) -> None:
        sharing.check_group(worker_group, self._run)

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        self._trains, self._told = True, ""
        seconds = round(time.time() - self._began, 3)
        self._event(event="group", workers=len(worker_group), seconds=seconds)

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        failures = worker_group_status.errors
        if worker_group_status.finished or failures:
            self._trains = False
        told = json.dumps({rank: str(error) for rank, error in failures.items()})
        if failures and told != self._told:  # a drained group is looked at until all has ended
            self._told = told
            self._tell(failures)

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Also called for starts and restarts, when nothing trains that could save."""
        run = Path(self._run)
        if not self._trains or stop_file.asked(run):
            return
        self._trains = False
        until, added = time.monotonic() + self._patience_s, Tail(run / "events.jsonl")
        stop_file.ask(run, stopping.RESIZED)
        while not any(e.get("event") in ENDS for e in added.rows()) and time.monotonic() < until:
            time.sleep(0.05)
        if stop_file.asked(run) == stopping.RESIZED:
            stop_file.clear(run)

    def _tell(self, worker_exceptions: Mapping[int, Exception]) -> None:
        """An event; the tracebacks go to the logs of the run."""
        now = time.time()
        log = Path(self._run) / "logs" / LOSSES / f"{now:.3f}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("\n\n".join(f"worker {r}:\n{e}" for r, e in worker_exceptions.items()))
        rank, cause = first_cause(worker_exceptions)
        self._event(
            event="lost",
            time=now,
            workers=sorted(worker_exceptions),
            reason=f"worker {rank}: {cause}",
            log=str(log.relative_to(self._run)),
        )

    def _event(self, **values: Any) -> None:
        lines = JsonLines(Path(self._run))
        lines.event({"time": time.time(), **values})
        lines.close()


def first_cause(failures: Mapping[int, Exception]) -> tuple[int, str]:
    """A worker that died comes before those that only lost their connection to it."""
    dead = {rank: e for rank, e in failures.items() if _died(e)}
    rank, error = min((dead or failures).items())
    if dead:
        return rank, "its process died, or its node was lost"
    return rank, last_line(error)


def _died(error: BaseException) -> bool:
    """Ray Train wraps what its poll of a worker met."""
    met = getattr(error, "health_check_failure", error)
    return isinstance(met, ray.exceptions.RayActorError)


def last_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
