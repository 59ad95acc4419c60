"""A group of workers under Ray Train, which starts it again when one is lost."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hvdm.config import ClusterConfig
from hvdm.errors import RunError, UserError
from hvdm.redaction import redacted
from launcher.workers import reaching, spares
from launcher.workers.cluster import ray_module

_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
_WATCHES_DRAINS = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
Worker = Callable[[Mapping[str, Any]], None]


def fit(
    function: Worker,
    argument: Mapping[str, Any],
    cluster: ClusterConfig,
    folder: Path,
    on_signal: Callable[[], None] = lambda: None,
) -> None:
    """Runs the function on every worker. The first signal calls `on_signal`, the second one ends.

    Ray Train runs in a thread of its own: in the main one it would take SIGINT for itself.
    """
    ray = ray_module()
    alone = cluster.name == "local"
    os.environ[_WATCHES_DRAINS] = "0" if alone else "1"  # no node of this machine's own is drained
    if alone:
        spares.ahead(cluster.workers, _own(argument, cluster))
    trainer = _trainer(function, argument, cluster, folder)
    watch = _Head(ray.get_runtime_context().gcs_address) if cluster.name == "existing" else None
    try:
        with _heard(on_signal):
            _in_thread(trainer.fit, watch or (lambda: None))
    except ray.train.TrainingFailedError as error:
        refused = getattr(error, "controller_failure", None)
        if isinstance(refused, UserError):
            raise refused from None
        raise _first_cause(error, folder) from None


def _trainer(
    function: Worker, argument: Mapping[str, Any], cluster: ClusterConfig, folder: Path
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from launcher.workers import backend

    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    return backend.Trainer(
        function,
        alone=cluster.name == "local",
        train_loop_config=dict(argument),
        backend_config=backend.GroupConfig(
            library="nccl" if cluster.gpus_per_worker else "gloo", timeout_s=cluster.timeout_s
        ),
        scaling_config=ScalingConfig(
            num_workers=_count(cluster),
            elastic_resize_monitor_interval_s=cluster.resize_s,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=f"{folder.name}-{time.time_ns()}",
            storage_path=str(folder / "logs" / "ray"),
            worker_runtime_env={"env_vars": _own(argument, cluster)},
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            callbacks=[backend.Watch(str(folder), cluster.timeout_s)],
        ),
    )


def _own(argument: Mapping[str, Any], cluster: ClusterConfig) -> dict[str, str]:
    """By which a worker's process knows that it is one, before it is told what to train."""
    if not spares.begin_warm(cluster):
        return {}
    engine = argument.get("engine", {}).get("name", "local")
    return spares.environment(engine, cluster.gpus_per_worker)


def _count(cluster: ClusterConfig) -> int | tuple[int, int]:
    """A range where the group may shrink and grow with the cluster."""
    if cluster.fewest_workers is None:
        return cluster.workers
    return cluster.fewest_workers, cluster.workers


class _Head:
    """Ends this process when nobody answers at the head any more.

    Ray waits for about as long and then aborts the process from inside, without a word.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._patience_s = 0.8 * float(os.environ.get(_RECONNECT, "60"))
        self._heard = self._looked = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._looked < 1.0:
            return
        answers = reaching.answers(self._address, 1.0)
        self._looked = time.monotonic()
        if answers:
            self._heard = self._looked
        elif self._looked - self._heard > self._patience_s:
            self._end()

    def _end(self) -> None:
        silent = self._looked - self._heard
        text = (
            f"the Ray head at {self._address} has not answered for {silent:.0f} s: start Ray "
            "again, and then the same command goes on"
        )
        print(f"hvdm: {text}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # every way out through Ray waits for the head


def _in_thread(action: Callable[[], Any], watch: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        watch()
    if failures:
        raise failures[0]


@contextmanager
def _heard(on_signal: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            if number == signal.SIGTERM:
                sys.exit(128 + number)
            raise KeyboardInterrupt
        on_signal()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_cause(error: Any, folder: Path) -> RunError:
    """One line of what went wrong first; the whole story goes to the run's logs."""
    from launcher.workers import backend

    log = folder / "logs" / "failure.txt"
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(redacted(str(error)))
    failures = getattr(error, "worker_failures", None) or {}
    if failures:
        rank, cause = backend.first_cause(failures)
        return RunError(f"training failed: worker {rank}: {cause} (all of it: {log})")
    return RunError(f"training failed: {backend.last_line(error)} (all of it: {log})")
