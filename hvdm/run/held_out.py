"""A recipe's own losses on held-out clips, with nothing that moves."""

from collections.abc import Iterator, Sequence

import torch

from hvdm.config import RunConfig
from hvdm.data.loader import Loader
from hvdm.recipe import Batch, Context, Recipe, group_of
from hvdm.train.loop import Tally


def losses(config: RunConfig, recipe: Recipe, loader: Loader, step: int) -> dict[str, float]:
    """Means over the first clips of the split, by phase and in its order; `step` is what a loss is
    told. Noise is a function of the clip's number: equal weights give equal numbers.
    """
    group = group_of(recipe)
    count = min(config.held_out.clips, len(loader)) // group * group
    size = max(group, config.micro_batch // group * group)
    tallies = {index: Tally() for index in range(len(recipe.phases))}
    for batch in _batches(loader, range(count), size):
        for index, tally in tallies.items():
            _add(config, recipe, index, batch, step, tally)
    means: dict[str, float] = {}
    for index, tally in tallies.items():
        values, _ = tally.over_ranks(count)
        means |= {f"{recipe.phases[index].net}/{name}": value for name, value in values.items()}
    return means


def _batches(loader: Loader, numbers: Sequence[int], size: int) -> Iterator[Batch]:
    for first in range(0, len(numbers), size):
        batch = loader.sequential(numbers[first : first + size])
        yield batch.to(torch.device("cpu"), torch.get_default_dtype())


def _add(
    config: RunConfig, recipe: Recipe, index: int, batch: Batch, step: int, tally: Tally
) -> None:
    """Losses may differentiate what a network is given, so gradients are on; none is kept."""
    context = Context(config.seed, batch.draws, f"held out {index}", "cpu", step)
    values, logs, *_ = recipe.phases[index].loss(batch, context)
    tally.add(batch, values, logs)
