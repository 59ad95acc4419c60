"""`hvdm train`: checks what can be checked here, then runs the worker function somewhere."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hvdm import building, opening, trust
from hvdm import config as configs
from hvdm.checkpoint import checkpoint, places
from hvdm.config import RunConfig, Samples
from hvdm.data.schema import read_manifest
from hvdm.data.store import is_remote, join
from hvdm.errors import RunError, UserError
from hvdm.events import JsonLines, Sink, newest_first
from hvdm.progress import Onlooker, repeating, timed
from hvdm.run import claims, failing, resuming, stopping
from hvdm.run.ledger import ENDS
from launcher.workers import cluster, group, sharing, stop_file, worker
from launcher.workers.follow import Follower

STOPPED_BY_SIGNAL = 75
STOPPING = "stopping after this step, with a checkpoint"
Gone = Callable[[], bool]
"""Whether nobody looks at the run any more, so that it is to stop."""


def train(config: RunConfig, background: bool = False) -> int:
    """Exit code 0 when finished, 75 when a signal stopped it and the same command goes on.

    The run also stops when nobody reads its output any more, unless it is in the background.
    """
    shown = Onlooker("it trains on" if background else STOPPING)
    gone = (lambda: False) if background else (lambda: shown.gone)
    folder = Path(config.run)
    folder.mkdir(parents=True, exist_ok=True)
    way = _inline if config.cluster.name == "inline" else _on_ray
    # the claim comes before anything of another command is touched
    with claims.claim(folder / ".command"), _beside(config):
        return way(config, shown, gone)


@contextmanager
def _beside(config: RunConfig) -> Iterator[None]:
    """The process that measures and draws beside training, from the first checkpoint that is due.

    A run that ends well waits for its last look; one that does not ends it.
    """
    every = [each for each in (config.held_out.every, config.preview.every) if each]
    if not every:
        yield
        return
    run, begun = Path(config.run), list[subprocess.Popen[bytes]]()
    before = _newest(run)

    def look() -> None:
        if begun:
            return
        reached = [step * config.batch for step in (before, _newest(run))]
        if any(reached[0] // each < reached[1] // each for each in every):
            begun.append(_begin_beside(run, before))

    try:
        with repeating(look, places.pause_s(config.checkpoint.path)):
            yield
        if _finished(run):
            look()
            for child in begun:
                child.wait()
    finally:
        for child in begun:
            child.terminate()
            child.wait()


def _newest(run: Path) -> int:
    return max((found.step for found in checkpoint.listed(run)), default=0)


def _begin_beside(run: Path, before: int) -> "subprocess.Popen[bytes]":
    log = run / "logs" / "beside.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "launcher.beside", str(run), str(before), str(os.getpid())]
    with log.open("ab") as out:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def preflight(config: RunConfig, typed: Set[str]) -> RunConfig:
    """Refuses before anything starts: model keys, data, runs below.

    Held-out losses that nobody typed are not missed where a data set has no such split.
    """
    module = building.recipe_module(config.recipe)
    configs.parse(module.Config, config.model, "model")
    trust.remember(config.recipe)
    read_manifest(join(config.data.path, config.data.train))
    opening.stages_of(config)
    if config.held_out.every:
        try:
            read_manifest(join(config.data.path, config.data.held_out))
        except UserError:
            if typed & {"held_out.every", "data.held_out"}:
                raise
            return replace(config, held_out=replace(config.held_out, every=Samples(0)))
    return config


def _inline(config: RunConfig, shown: Sink, gone: Gone) -> int:
    from hvdm.run import run

    folder = Path(config.run)
    resuming.forget_request(folder)
    with _told(config), failing.alone():
        source = lambda: stopping.ASKED if gone() else ""  # noqa: E731
        outcome = run.train(config, [shown], [source])
    return 0 if outcome.finished else STOPPED_BY_SIGNAL


def _on_ray(config: RunConfig, shown: Sink, gone: Gone) -> int:
    folder = Path(config.run)
    worker.taken_note(config.run)
    stop_file.clear(folder)
    failing.forget(folder)
    config = replace(config, resume=resuming.leave_request(folder, config.resume))
    with _told(config), _connected(config), _followed(folder, shown, gone):
        _tell(folder, event="note", text=worker.STARTING)
        try:
            group.fit(
                worker.train,
                configs.plain(config),
                config.cluster,
                folder,
                on_signal=lambda: _ask_to_stop(folder, shown),
            )
        except RunError as error:
            raise worker.taken_note(config.run) or error from None
        left = worker.taken_note(config.run)
        if left:
            raise left
    return STOPPED_BY_SIGNAL if stop_file.asked(folder) and not _finished(folder) else 0


def _finished(run: Path) -> bool:
    events = (row.get("event") for row in newest_first(run / "events.jsonl"))
    return next((event for event in events if event in ENDS), None) == "finished"


def _ask_to_stop(folder: Path, shown: Sink) -> None:
    stop_file.ask(folder, stopping.ASKED)
    shown.event({"event": "note", "text": f"{STOPPING}; a second signal stops at once"})


@contextmanager
def _told(config: RunConfig) -> Iterator[None]:
    """The command's beginning, and its end where no worker can tell of it, as events of the run."""
    run = Path(config.run)
    where = {"cluster": config.cluster.name, "workers": config.cluster.workers}
    _tell(run, event="launched", **where)
    try:
        yield
    except (UserError, RunError) as error:
        _tell(run, event="failed", reason=str(error))
        raise


def _tell(run: Path, **values: Any) -> None:
    lines = JsonLines(run)
    lines.event({"time": time.time(), **values})
    lines.close()


@contextmanager
def _connected(config: RunConfig) -> Iterator[None]:
    where = config.cluster
    with ExitStack() as stack:
        with timed("starting Ray here" if where.name == "local" else "joining the Ray cluster"):
            stack.enter_context(cluster.session(where))
        if where.name == "existing":
            data = [] if is_remote(config.data.path) else [config.data.path]
            sharing.check(cluster.ray_module(), where, config.run, data)
        yield


@contextmanager
def _followed(folder: Path, shown: Sink, gone: Gone) -> Iterator[None]:
    """Shows the run's lines while workers elsewhere write them, and has them stop at its end."""
    follower, asked = Follower(folder, shown), threading.Event()

    def watch() -> None:
        follower.poll()
        if gone() and not asked.is_set():
            asked.set()
            stop_file.ask(folder, stopping.ASKED)

    try:
        with repeating(watch, 0.2):
            yield
    finally:
        follower.poll()
