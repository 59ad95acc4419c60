"""Actors that share a list of items; the items of one that is lost are done again by others."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hvdm.config import ClusterConfig
from hvdm.errors import RunError, UserError

MOST_LOSSES = 3
"""Of one item: what kills three workers kills the fourth."""


class Caller:
    """Calls one function, and lives as long as the job: its caches stay warm between items."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        import torch

        torch.set_num_threads(1)
        self._function = function

    def ready(self) -> None:
        return None

    def call(self, item: Any) -> Any:
        return self._function(item)


class Crew:
    """The actors of one job. Only those that answered get work, so none waits for a lost node."""

    def __init__(self, ray: Any, cluster: ClusterConfig, function: Callable[[Any], Any]) -> None:
        self._ray, self._cluster, self._function = ray, cluster, function
        self._make = ray.remote(num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker)(
            Caller
        )
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, int | None]] = {}

    def results(self, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(place, result) as they come."""
        waiting, losses = deque(range(len(items))), [0] * len(items)
        for _ in range(min(self._cluster.workers, len(items))):
            self._hire()
        left = len(items)
        while left:
            while self._idle and waiting:
                actor, place = self._idle.pop(), waiting.popleft()
                self._running[actor.call.remote(items[place])] = (actor, place)
            actor, at, found = self._next()
            if found is None:
                self._replace(actor, at, waiting, losses)
                continue
            self._idle.append(actor)
            if at is not None:
                left -= 1
                yield at, found[0]

    def _hire(self) -> None:
        actor = self._make.remote(self._function)
        self._actors.append(actor)
        self._running[actor.ready.remote()] = (actor, None)

    def _next(self) -> tuple[Any, int | None, tuple[Any] | None]:
        """The actor that answers next, its item, and the answer; none where it was lost."""
        done, _ = self._ray.wait(
            list(self._running), num_returns=1, timeout=self._patience(), fetch_local=True
        )
        if not done:
            raise RunError(
                f"no worker could be started for {self._cluster.timeout_s} s: the cluster has no "
                "room left; free some, or use fewer workers"
            )
        actor, place = self._running.pop(done[0])
        try:
            return actor, place, (self._ray.get(done[0]),)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayActorError:
            return actor, place, None

    def _patience(self) -> float | None:
        """Work may take as long as it takes; a start may not."""
        busy = any(place is not None for _, place in self._running.values())
        return None if busy else float(self._cluster.timeout_s)

    def _replace(
        self, actor: Any, place: int | None, waiting: deque[int], losses: list[int]
    ) -> None:
        self._actors.remove(actor)
        if place is not None:
            losses[place] += 1
            waiting.appendleft(place)
        if place is None or losses[place] >= MOST_LOSSES:
            what = "starting" if place is None else f"on one item {MOST_LOSSES} times"
            raise RunError(f"a worker died {what}: out of memory, or killed? The logs of Ray say")
        self._hire()

    def dismiss(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)


def _cause(error: Any) -> Exception:
    if isinstance(error.cause, UserError | RunError):
        return error.cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return RunError(f"a worker failed: {lines[-1] if lines else type(error).__name__}")
