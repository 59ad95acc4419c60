"""What a live engine holds, counted from outside: every tensor that Python can reach, once."""

import gc
import warnings
from collections.abc import Mapping

import torch

from hvdm import building
from hvdm.config import RunConfig
from hvdm.recipe import Batch, Context
from hvdm.train import zero


def storages() -> dict[int, torch.UntypedStorage]:
    """By address; gradients included. Who holds them keeps their addresses from being used anew."""
    gc.collect()
    found: dict[int, torch.UntypedStorage] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    for tensor in tensors:
        try:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage
        except (NotImplementedError, RuntimeError):
            continue
    return found


def after_backward(config: RunConfig, below: Mapping[str, RunConfig], last: bool = True) -> int:
    """Bytes after a backward pass, before the step, without communication buckets."""
    zero.prepare(torch.device("cpu"), 60, print)
    before = storages()
    recipe = building.build_recipe(
        config, {name: building.build_recipe(each) for name, each in below.items()}
    )
    engines = building.build_engines(config, recipe)
    averages = building.build_averages(config, recipe, engines)
    _backward(config, recipe, engines, last)
    bucket = config.engine.bucket_mb * 2**20
    now = [one.nbytes() for place, one in storages().items() if place not in before]
    del recipe, engines, averages
    return sum(size for size in now if size != bucket)


def _backward(config, recipe, engines, last):
    data = config.data
    video = torch.zeros(1, data.frames, data.height, data.width, 3, dtype=torch.uint8)
    batch = Batch({"video": video}, ("a",), (0,), torch.ones(1))
    (phase,) = recipe.phases
    engine = engines[phase.net]
    with engine.autocast():
        losses, _ = phase.loss(batch, Context(0, (0,), "phase0"))
    engine.backward(losses.sum(), last=last)
