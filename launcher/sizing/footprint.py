"""What a run needs per GPU: bytes of state by ZeRO stage, bytes and operations of a step.

Networks are built of tensors without storage, so nothing is allocated, whatever their size.
"""

import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from hvdm import building
from hvdm.config import RunConfig
from hvdm.data.order import share
from hvdm.recipe import Context, Recipe, group_of, part_of
from hvdm.train import optim
from hvdm.train.part import Part, moves
from launcher.sizing import models


@dataclass(frozen=True)
class State:
    """Bytes on one GPU between backward and optimizer step, when most is held."""

    weights: int
    master: int
    moments: int
    gradients: int
    average: int
    frozen: int
    buckets: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Step:
    """One training step of one clip."""

    fixed: int
    per_clip: int
    operations: int


def recipe_without_storage(config: RunConfig) -> Recipe:
    """Built inside a FakeTensorMode; the runs below need not be trained."""
    below = models.configs_below(config)
    stages = {name: recipe_without_storage(each) for name, each in below.items()}
    return building.build_recipe(config, stages)


def state(config: RunConfig, recipe: Recipe, stage: int) -> State:
    """By the engines' own layout: hvdm/train/engine.py and hvdm/train/zero.py."""
    ranks = config.cluster.workers
    nets = recipe.trained
    count = sum(_count(net) for net in nets.values())
    moving = {name: _count(net, part_of(recipe, name)) for name, net in nets.items()}
    moved = sum(moving.values())
    averaged = sum(moving[name] for name in recipe.averaged)
    low = config.engine.precision == "bf16" and stage > 0
    full = 8 if config.engine.precision == "fp64" else 4
    width = 2 if low else full
    shared = ranks if stage else 1
    kept = {name: len(optim.STATE[config.optimizer.of_net(name).name]) for name in nets}
    moments = sum(kept[name] * moving[name] for name in nets)
    return State(
        weights=count * width // (ranks if stage == 3 else 1),
        master=moved * full // ranks if stage else 0,
        moments=moments * full // shared,
        gradients=_gradients(config, recipe, stage, low, moved) * full,
        average=averaged * full // ranks,
        frozen=sum(_count(net) for net in recipe.frozen.values()) * full,
        buckets=config.engine.bucket_mb * 2**20 if ranks > 1 else 0,
    )


def _count(net: nn.Module, part: Part = None) -> int:
    return sum(p.numel() for name, p in net.named_parameters() if moves(part, name))


def _gradients(config: RunConfig, recipe: Recipe, stage: int, low: bool, count: int) -> int:
    """Elements: stage 1 shares them too once they are summed, and with micro-steps has to wait."""
    share = -(-count // config.cluster.workers)
    if stage == 0 or (stage == 1 and (low or micro_steps(config, group_of(recipe)) > 1)):
        return count
    return share


def micro_steps(config: RunConfig, group: int) -> int:
    return len(share(config.batch, config.micro_batch, 0, config.cluster.workers, group))


def step(config: RunConfig, checkpointing: bool | None = None) -> Step:
    """Peak bytes beside the weights, and floating-point operations, of the dearest phase."""
    if checkpointing is not None:
        model = {**config.model, "activation_checkpointing": checkpointing}
        config = replace(config, model=model)
    with FakeTensorMode():
        recipe = recipe_without_storage(config)
        if config.engine.precision == "bf16":
            _to_bf16(recipe.trained)
        _drop_gradients(recipe.trained)
        group = group_of(recipe)
        one, two = (_run(config, recipe, rows) for rows in (group, 2 * group))
    per_clip = max(1, (two[0] - one[0]) // group)
    return Step(max(0, one[0] - group * per_clip), per_clip, one[1] // group)


def _to_bf16(nets: nn.Module) -> None:
    """As `nets.to` would, which tensors without storage refuse."""
    for module in nets.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(p.detach().to(torch.bfloat16)))


def _drop_gradients(nets: nn.Module) -> None:
    """As soon as they are there: they are counted with the state."""

    def drop(p: torch.Tensor) -> None:
        p.grad = None

    for p in nets.parameters():
        p.register_post_accumulate_grad_hook(drop)


def _run(config: RunConfig, recipe: Recipe, rows: int) -> tuple[int, int]:
    """Peak bytes over all phases, and the operations of all of them together."""
    peak = operations = 0
    for index, phase in enumerate(recipe.phases):
        for name, net in recipe.trained.items():
            for parameter, p in net.named_parameters():
                p.requires_grad_(name == phase.net and moves(phase.part, parameter))
        context = Context(config.seed, tuple(range(rows)), f"phase{index}", "cpu")
        live = _Live()
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _Unwatched()
        with counter, live, _autocast(config):
            losses, *_ = phase.loss(models.blank(config, rows), context)
            losses.sum().backward()
        peak, operations = max(peak, live.peak), operations + counter.get_total_flops()
    return peak, operations


class _Unwatched(ModuleTracker):
    """Leaves modules alone: its hooks fail where a loss differentiates what a network is given."""

    def __enter__(self) -> "_Unwatched":
        return self

    def __exit__(self, *args: Any) -> None:
        pass


def _autocast(config: RunConfig) -> AbstractContextManager[Any]:
    if config.engine.precision != "bf16":
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


class _Live(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage(), args)
        self.peak = max(self.peak, self.now)
        return out

    def _count(self, storage: Any, args: Any) -> None:
        if storage._cdata in self._known or any(
            isinstance(a, torch.Tensor) and a.untyped_storage()._cdata == storage._cdata
            for a in tree_leaves(args)
        ):
            return
        place, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            self._known.pop(place, None)

        self._known[place] = weakref.ref(storage, gone)
        self.now += size
