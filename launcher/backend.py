"""What Ray Train calls of ours: on each worker before its process group, on the controller after a
loss. Imported only once Ray is, with its environment set (`cluster`)."""

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.exceptions
from ray.train import UserCallback
from ray.train.torch import TorchConfig

from hvdm.report import JsonLines
from hvdm.train import stopping
from launcher import interfaces

_RayBackend: Any = TorchConfig().backend_cls
LOSSES = "losses"


class Backend(_RayBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """The workers' main threads run this: only there a signal handler can be set."""
        worker_group.execute(prepare_worker)
        super().on_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """The processes end next, and the group with them.

        Ray would destroy it first, which can wait for a lost peer, and which makes a world of one
        for a thread that still trains.
        """


class Config(TorchConfig):
    @property
    def backend_cls(self) -> Any:
        return Backend


def prepare_worker() -> None:
    stopping.listen((signal.SIGTERM,))
    interfaces.use(ray.util.get_node_ip_address())


class Losses(UserCallback):
    """An event for each loss of workers; the tracebacks go to the logs of the run."""

    def __init__(self, run: str) -> None:
        self._run, self._told = run, ""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        told = json.dumps({rank: str(error) for rank, error in worker_exceptions.items()})
        if told == self._told:  # a drained group is looked at until all of it has ended
            return
        self._told = told
        now = time.time()
        log = Path(self._run) / "logs" / LOSSES / f"{now:.3f}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("\n\n".join(f"worker {r}:\n{e}" for r, e in worker_exceptions.items()))
        rank, cause = first_cause(worker_exceptions)
        lines = JsonLines(Path(self._run))
        lines.event(
            {
                "event": "lost",
                "time": now,
                "workers": sorted(worker_exceptions),
                "reason": f"worker {rank}: {cause}",
                "log": str(log.relative_to(self._run)),
            }
        )
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
