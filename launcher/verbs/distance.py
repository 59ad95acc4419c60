"""How far two runs are apart, network by network."""

from contextlib import ExitStack
from typing import Any

import torch

from hvdm import building, opening
from hvdm.checkpoint import checkpoint
from hvdm.checkpoint.checkpoint import Checkpoint, Reader
from hvdm.errors import UserError


def difference(a: str, b: str, base: str | None = None, kind: str = "master") -> dict[str, Any]:
    """Per network ‖a−b‖/‖a‖, ‖a−b‖/‖a−a0‖ and ‖a−a0‖/‖a0‖, over all elements together."""
    for reference in filter(None, (a, b, base)):
        _check_there(reference)
    with ExitStack() as stack:
        for reference in filter(None, (a, b, base)):
            stack.enter_context(opening.kept(reference))
        return _difference(a, b, base, kind)


def _difference(a: str, b: str, base: str | None, kind: str) -> dict[str, Any]:
    first, second = _open(a), _open(b)
    begin = _open(base) if base else None
    if set(first.nets) != set(second.nets):
        raise UserError(f"{a} has networks {sorted(first.nets)}, {b} has {sorted(second.nets)}")
    initial = None if begin or kind != "master" else _initial_weights(a)
    return {net: _distances(first, second, begin, initial, net, kind) for net in first.nets}


def _check_there(reference: str) -> None:
    run, _ = opening.split_reference(reference)
    if not run.is_dir():
        raise UserError(f"{run}: there is no such run folder")


def _open(reference: str) -> Checkpoint:
    return checkpoint.choose(*opening.split_reference(reference))


def _initial_weights(reference: str) -> dict[str, dict[str, torch.Tensor]]:
    """The weights that the run's seed began with."""
    run, _ = opening.split_reference(reference)
    config = opening.trusted_config(run)
    recipe = building.build_recipe(config, opening.stages_of(config))
    return {
        net: {name: p.detach() for name, p in module.named_parameters()}
        for net, module in recipe.trained.items()
    }


def _distances(
    a: Checkpoint,
    b: Checkpoint,
    base: Checkpoint | None,
    initial: dict[str, dict[str, torch.Tensor]] | None,
    net: str,
    kind: str,
) -> dict[str, Any]:
    one, two = Reader(a, net), Reader(b, net)
    if kind not in one.kinds():
        raise UserError(f"kind={kind} is not in the checkpoint; it has: {', '.join(one.kinds())}")
    begin = Reader(base, net) if base else None
    apart = norm = travel = start = 0.0
    for name in one.names(kind):
        left, right = one.whole(kind, name).double(), two.whole(kind, name).double()
        apart += float((left - right).square().sum())
        norm += float(left.square().sum())
        zero = begin.whole(kind, name) if begin else initial[net][name] if initial else None
        if zero is not None:
            travel += float((left - zero.double()).square().sum())
            start += float(zero.double().square().sum())
    known = begin is not None or initial is not None
    return {
        "relative": (apart / norm) ** 0.5 if norm else 0.0,
        "of_travel": (apart / travel) ** 0.5 if known and travel else None,
        "travelled": (travel / start) ** 0.5 if known and start else None,
    }
