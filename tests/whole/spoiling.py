"""What the workers of a test do: several runs in one group, some of them spoiled."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from hvdm import config as configs
from hvdm import dist, rng
from hvdm.data.order import DrawOrder, Place
from hvdm.recipe import Noise
from hvdm.recipes.hvdm import diffusion
from hvdm.run import run
from launcher.workers import worker


def train_each(argument: Mapping[str, Any]) -> None:
    """The launcher's own worker function, once for each config, spoiled as it says beside it."""
    for config, spoil in argument["runs"]:
        with _spoiled(spoil):
            worker.train(config)


def train_each_here(argument: Mapping[str, Any]) -> None:
    """The same in this process, as one of a group or alone, without Ray."""
    for config, spoil in argument["runs"]:
        with _spoiled(spoil), _few_rows_read():
            run.train(configs.load(config), sinks=())


def _few_rows_read() -> Any:
    """How strongly clips move is looked for in a few of them; the rest costs what a run does."""
    return mock.patch.object(diffusion, "READ_FOR_MOTION", diffusion.READ_AT_ONCE)


@contextmanager
def _spoiled(how: str) -> Iterator[None]:
    if how == "swapped sample":
        with mock.patch.object(DrawOrder, "locate", _swapping(DrawOrder.locate)):
            yield
    elif how == "noise by rank":
        with mock.patch.object(Noise, "_rows", _rows_of_rank):
            yield
    else:
        yield


def _swapping(honest: Any) -> Any:
    def locate(self: DrawOrder, draw: int) -> Place:
        place: Place = honest(self, 4 if draw == 3 else draw)
        return place

    return locate


def _rows_of_rank(self: Noise, use: str, draw_row: Any) -> torch.Tensor:
    generator = rng.generator(self.seed, dist.rank(), self.draws[0], use)
    return torch.stack([draw_row(generator) for _ in self.draws])
