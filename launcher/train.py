"""`hvdm train`: checks what can be checked here, then runs the worker function somewhere."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hvdm import build
from hvdm import config as configs
from hvdm.config import RunConfig
from hvdm.data.schema import read_manifest
from hvdm.errors import RunError
from hvdm.report import Console
from hvdm.train import resuming
from launcher import cluster, worker
from launcher.follow import Follower


def train(config: RunConfig) -> int:
    """Exit code 0 when finished, 75 when a signal stopped it and the same command goes on."""
    preflight(config)
    if config.cluster.name == "inline":
        return _inline(config)
    return _on_ray(config)


def preflight(config: RunConfig) -> None:
    """Refuses before anything starts: model keys, data, first stage."""
    module = build.recipe_module(config.recipe)
    configs.parse(module.Config, config.model, "model")
    read_manifest(Path(config.data.path) / config.data.train)
    build.first_stage_of(config)


def _inline(config: RunConfig) -> int:
    from hvdm import run

    resuming.forget_request(Path(config.run))
    outcome = run.train(config)
    return 0 if outcome.finished else run.STOPPED_BY_SIGNAL


def _on_ray(config: RunConfig) -> int:
    folder = Path(config.run)
    folder.mkdir(parents=True, exist_ok=True)
    worker.taken_note(config.run)
    config = replace(config, resume=resuming.leave_request(folder, config.resume))
    with cluster.session(config.cluster):
        try:
            with _followed(folder):
                cluster.fit(worker.train, configs.plain(config), config.cluster, folder)
        except RunError as error:
            raise worker.taken_note(config.run) or error from None
    left = worker.taken_note(config.run)
    if left:
        raise left
    return 0


@contextmanager
def _followed(folder: Path) -> Iterator[None]:
    """Shows the run's lines while workers elsewhere write them."""
    follower = Follower(folder, Console())
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            follower.poll()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        follower.poll()
