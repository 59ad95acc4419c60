"""Ray: a session on this machine or in a running cluster, a worker group, an executor."""

import logging
import os
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from hvdm import trust
from hvdm.config import ClusterConfig
from hvdm.data import child
from hvdm.disk import locked
from hvdm.errors import RunError, UserError
from launcher.workers import reaching, spares

Item = TypeVar("Item")
Result = TypeVar("Result")
Stream = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Executor = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]

# Set before Ray is imported: `uv run` would have Ray build the environment anew on every worker;
# processes started ahead are not of our jobs' environment, so nothing would ever run in them; slow
# polling is most of the time from a lost worker to the next step; and an elastic group waits
# for the room of a lost node as long as a start may take, before it goes on with fewer workers.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def session(cluster: ClusterConfig) -> Iterator[None]:
    """A connection to Ray with room for the workers."""
    with connected(cluster):
        check_room(cluster)
        yield


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """Connects to Ray, starting it here for cluster=local, and leaves no process behind."""
    ray = ray_module()
    if ray.is_initialized():
        yield
        return
    with _folder() if cluster.name == "local" else nullcontext() as folder:
        _connect(ray, cluster, folder)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _folder() -> Iterator[str]:
    """For Ray's files, ours alone; those of sessions that nobody holds any more are removed.

    It is under /tmp whatever TMPDIR is: Ray's socket paths have to be short. Ray opens its own
    folder to everybody, so it lies in one that is not.
    """
    for old in reaching.sessions(Path("/tmp")):
        if not reaching.is_held(old):
            shutil.rmtree(old, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="hvdm-new-", dir="/tmp"))
    with locked(new / reaching.SESSION_LOCK):
        folder = new.rename(new.with_name(new.name.replace("new", f"ray-{os.getpid()}", 1)))
        try:
            yield str(folder / "r")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def ray_module() -> Any:
    """Ray, imported with our environment set."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Without cached bytecode, a worker's imports are two thirds of a restart.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def _connect(ray: Any, cluster: ClusterConfig, folder: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # the command judges the run folders that it hands to its workers
    runtime: dict[str, Any] = {"env_vars": {trust.TOLD: "1"}}
    if spares.begin_warm(cluster):
        runtime["worker_process_setup_hook"] = spares.HOOK
    if cluster.name == "existing":
        options["address"] = cluster.address or "auto"
        problem = reaching.silent_cluster(options["address"])
        if problem:
            raise RunError(f"cluster=existing: {problem}, or use cluster=local")
    else:
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": folder}
        runtime["env_vars"] |= {"PYTHONPATH": os.pathsep.join(_import_path())}
    options["runtime_env"] = runtime
    try:
        with _bare_node() if cluster.name == "local" else nullcontext():
            ray.init(**options)
        _keep_to_ourselves(Path.home() / ".ray" / "auth_token")
    except (ConnectionError, RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise RunError(
            f"cluster={cluster.name} address={options['address']}: no connection ({line}); start "
            "Ray there with `ray start`, or use cluster=local; a cluster that wants a token needs "
            "RAY_AUTH_MODE=token here, and the head's ~/.ray/auth_token"
        ) from None
    except Exception as error:
        if type(error) is not Exception:  # this very class is Ray's for processes that are slow
            raise
        raise RunError(
            f"cluster={cluster.name}: Ray's processes did not begin in the time that it gives "
            "them, so this machine is busy: run the same command again, or use cluster=inline"
        ) from None


@contextmanager
def _bare_node() -> Iterator[None]:
    """What Ray starts here is without dashboard, autoscaler and forwarding of logs.

    `ray.init` takes no such wish, and waits for the first of them.
    """
    from ray._private import node

    class Bare(node.Node):
        def _spared(self, **wishes: Any) -> None:
            """A process that nobody would ask anything."""

        start_api_server = start_monitor = start_log_monitor = _spared

    whole, node.Node = node.Node, Bare
    try:
        yield
    finally:
        node.Node = whole


def _keep_to_ourselves(token: Path) -> None:
    """Ray makes it for all to read, and who has it runs code as us."""
    with suppress(OSError):
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


def _import_path() -> list[str]:
    """What this process added to its path, so that a module of the user's own is found too."""
    return [p for p in sys.path if p and "site-packages" not in p and p != sys.prefix]


def check_room(cluster: ClusterConfig) -> None:
    """More workers than the cluster has is said at once; Ray would wait for them forever."""
    ray = ray_module()
    have = ray.cluster_resources()
    fewest = cluster.fewest_workers or cluster.workers
    for resource, each in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        wanted, there = fewest * each, have.get(resource, 0)
        if wanted > there:
            raise UserError(
                f"cluster.workers={fewest} with {each:g} {resource}s each need "
                f"{wanted:g}, and cluster={cluster.name} has {there:g}; use fewer workers, or "
                f"less of cluster.{resource.lower()}s_per_worker"
            )


# Executors: map a function over items, here or elsewhere, results in the order of the items


def in_process(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    return [function(item) for item in items]


def executor(cluster: ClusterConfig) -> Executor:
    """What the cluster config says: this process, or actors of a Ray job of its own."""
    return in_process if cluster.name == "inline" else over_ray(cluster)


def over_ray(cluster: ClusterConfig) -> Executor:
    """One actor for each worker, fed item by item; results keep the order of the items."""

    def run_all(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        whole = list(items)
        found = dict(_as_they_come(cluster, function, whole))
        return [found[place] for place in range(len(whole))]

    return run_all


def stream(
    cluster: ClusterConfig,
) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]:
    """Like `map`, here or on actors, but results in the order in which they are done."""
    if cluster.name == "inline":
        return map
    return lambda function, items: (
        result for _, result in _as_they_come(cluster, function, list(items))
    )


def _as_they_come(
    cluster: ClusterConfig, function: Callable[[Any], Any], items: list[Any]
) -> Iterator[tuple[int, Any]]:
    from launcher.workers.crew import Crew

    with session(cluster):
        crew = Crew(ray_module(), cluster, function)
        try:
            yield from crew.results(items)
        finally:
            crew.dismiss()


def over_processes(workers: int) -> Executor:
    """Fresh processes on this machine, without Ray; they stay for the next call, never longer."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    if workers == 1:
        return in_process
    pool = ProcessPoolExecutor(workers, get_context("spawn"), child.end_with_parent)

    def run_all(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        return list(pool.map(function, items))

    # Left to the process's end, a child of multiprocessing may wait for a pool nobody tells to end.
    weakref.finalize(run_all, pool.shutdown)
    return run_all
