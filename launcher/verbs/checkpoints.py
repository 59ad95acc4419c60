"""`hvdm checkpoint …`: what is there, whether it is whole, how far two are apart."""

import json
from pathlib import Path
from typing import Any

import torch

from hvdm import building, opening
from hvdm.checkpoint import checkpoint, places, retention
from hvdm.checkpoint.checkpoint import Checkpoint, Reader
from hvdm.checkpoint.choosing import candidates
from hvdm.checkpoint.storage import Folder
from hvdm.errors import UserError
from launcher.arguments import Arguments


def list_(given: Arguments) -> int:
    run = _run(given)
    given.done()
    rows = [_row(found, hashed=given.json) for found in checkpoint.listed(run)]
    if given.json:
        print(json.dumps(rows, indent=1))
    elif not rows:
        print(f"{run} has no checkpoint yet")
    for row in () if given.json else rows:
        print(f"step {row['step']:>8}  {row['bytes'] / 2**20:8.1f} MiB  {row['path']}")
    return 0


def _run(given: Arguments) -> Path:
    run = Path(given.need("run", "runs/tiny/hvdm_autoencoder"))
    if not run.is_dir():
        raise UserError(f"run={run}: there is no such folder")
    return run


def _row(found: Checkpoint, hashed: bool) -> dict[str, Any]:
    row = {
        "step": found.step,
        "bytes": found.bytes,
        "world": found.manifest["world"],
        "time": found.manifest["time"],
        "path": found.where,
    }
    return row | ({"sha256": checkpoint.hashes(found)} if hashed else {})


def verify(given: Arguments) -> int:
    run = _run(given)
    given.done()
    rows = [_verified(found) for found in reversed(candidates(run))]
    damaged = [row for row in rows if row["damage"]]
    if given.json:
        print(json.dumps(rows, indent=1))
    for row in () if given.json else rows:
        print(f"step {row['step']}: {row['damage'] or 'whole'}")
    return 1 if damaged else 0


def _verified(found: Checkpoint | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"step": None, "damage": found}
    return {"step": found.step, "damage": checkpoint.damage(found)}


def prune(given: Arguments) -> int:
    """The same rule as training's, at once: pins and leases hold, the newest verified one stays."""
    run = _run(given)
    rule = _rule(given, run)
    dry = given.flag("dry")
    given.done()
    place = places.storage_of(run)
    if dry:
        steps = [found.step for found in retention.removable(run, place, rule)[0]]
    else:
        steps = retention.prune(run, place, rule)
        if isinstance(place, Folder):
            place.sweep()
    left = [found.step for found in checkpoint.listed(run)]
    if given.json:
        print(json.dumps({"dry": dry, "removed": steps, "left": left}, indent=1))
        return 0
    verb = "would be removed" if dry else "removed"
    print(f"{verb}: {_steps(steps)}; there are: {_steps(left)}")
    return 0


def _rule(given: Arguments, run: Path) -> retention.Rule:
    """The run's own, but for what was typed."""
    own = opening.read_config(run).checkpoint
    keep = given.integer("keep", own.keep)
    every = given.integer("keep_every", own.keep_every)
    typed = given.take("pinned")
    pinned = tuple(own.pinned)
    if typed is not None:
        if not all(word.isdigit() for word in typed.split(",")):
            raise UserError(f"pinned={typed!r}: steps are expected, such as pinned=4000,8000")
        pinned += tuple(int(word) for word in typed.split(","))
    rule = retention.Rule(own.keep if keep is None else keep, every, pinned)
    rule.check()
    return rule


def _steps(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"


def diff(given: Arguments) -> int:
    if len(given.words) != 2:
        raise UserError("two runs are expected: hvdm checkpoint diff A B [base=C]")
    kind = given.take("kind", "master") or "master"
    base = given.take("base")
    given.done()
    rows = difference(given.words[0], given.words[1], base, kind)
    if given.json:
        print(json.dumps(rows, indent=1))
    for net, row in () if given.json else rows.items():
        travel = "-" if row["of_travel"] is None else f"{row['of_travel']:.3e}"
        print(f"{net}: relative {row['relative']:.3e}  of_travel {travel}")
    return 0


def difference(a: str, b: str, base: str | None = None, kind: str = "master") -> dict[str, Any]:
    """Per network ‖a−b‖/‖a‖, ‖a−b‖/‖a−a0‖ and ‖a−a0‖/‖a0‖, over all elements together."""
    first, second = _open(a), _open(b)
    begin = _open(base) if base else None
    if set(first.nets) != set(second.nets):
        raise UserError(f"{a} has networks {sorted(first.nets)}, {b} has {sorted(second.nets)}")
    initial = None if begin or kind != "master" else _initial_weights(a)
    return {net: _distances(first, second, begin, initial, net, kind) for net in first.nets}


def _open(reference: str) -> Checkpoint:
    run, step = opening.split_reference(reference)
    if not run.is_dir():
        raise UserError(f"{run}: there is no such run folder")
    return checkpoint.choose(run, step)


def _initial_weights(reference: str) -> dict[str, dict[str, torch.Tensor]]:
    """The weights that the run's seed began with."""
    run, _ = opening.split_reference(reference)
    config = opening.read_config(run)
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
