"""The one training loop. It knows phases and engines, and no family."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hvdm import dist
from hvdm.config import RunConfig
from hvdm.errors import RunError
from hvdm.events import Reporter
from hvdm.recipe import Batch, Context, Logs, Phase, Recipe, Sums
from hvdm.train import optim
from hvdm.train.ema import Ema
from hvdm.train.engine import Engine


@dataclass
class Session:
    """What a training step works on."""

    config: RunConfig
    recipe: Recipe
    engines: Mapping[str, Engine]
    averages: Mapping[str, Ema]
    device: torch.device
    report: Reporter
    skipped_in_a_row: int = 0


@contextmanager
def only_trains(engines: Mapping[str, Engine], net: str) -> Iterator[None]:
    """Only this network requires gradients; or ZeRO-0 and 1 would train other weights, silently."""
    for name, engine in engines.items():
        engine.requires_grad(name == net)
    yield


def train_step(
    session: Session, step: int, rows: list[Batch], before_update: Callable[[], None]
) -> dict[str, float]:
    """One global batch through every phase that is due; gives the means over the batch."""
    means: dict[str, float] = {}
    rows = [batch.to(session.device, torch.get_default_dtype()) for batch in rows]
    for index, phase in enumerate(session.recipe.phases):
        if phase.when(step):
            means |= _run_phase(session, index, phase, step, rows, before_update)
    _stop_if_hopeless(session, step)
    return means


def _run_phase(
    session: Session,
    index: int,
    phase: Phase,
    step: int,
    rows: list[Batch],
    before_update: Callable[[], None],
) -> dict[str, float]:
    engine = session.engines[phase.net]
    tally = Tally()
    with only_trains(session.engines, phase.net):
        for i, batch in enumerate(rows):
            context = Context(
                session.config.seed, batch.draws, f"phase{index}", session.device, step
            )
            with engine.autocast():
                losses, logs, *told = phase.loss(batch, context)
            tally.add(batch, losses, logs, *told)
            share = (losses * batch.weight).sum() / session.config.batch
            engine.backward(share, last=i == len(rows) - 1)
    means, bad = tally.over_ranks(session.config.batch)
    sums, norm = tally.sums_over_ranks(), engine.grad_norm()
    problem = "loss not finite" if bad else _not_finite(norm, sums)
    if problem:
        _skip(session, phase, step, problem, tally.bad_keys)
    else:
        before_update()
        _move(session, phase, step, sums)
    return {f"{phase.net}/{name}": value for name, value in {**means, "grad_norm": norm}.items()}


def _not_finite(norm: float, sums: Sums) -> str:
    if not math.isfinite(norm):
        return f"gradient norm {norm}"
    bad = [name for name, value in sums.items() if not bool(torch.isfinite(value).all())]
    return f"sums of {bad[0]} not finite" if bad else ""


def _move(session: Session, phase: Phase, step: int, sums: Sums) -> None:
    engine, seen = session.engines[phase.net], step * session.config.batch
    engine.step(optim.learning_rate(engine.optimizer_config, seen))
    if phase.net in session.averages:
        session.averages[phase.net].update(step)
    if phase.after is not None:
        with torch.no_grad():
            phase.after(sums)
    session.skipped_in_a_row = 0


def _skip(session: Session, phase: Phase, step: int, reason: str, bad_keys: list[str]) -> None:
    """All ranks come here together: the decision was made on sums that all of them hold."""
    session.engines[phase.net].skip()
    session.skipped_in_a_row += 1
    keys = [key for of_rank in dist.all_gather(bad_keys) for key in of_rank]
    session.report.event("skipped", step=step, net=phase.net, reason=reason, samples=keys)


def _stop_if_hopeless(session: Session, step: int) -> None:
    if session.skipped_in_a_row > session.config.skips_allowed:
        raise RunError(
            f"step {step}: {session.skipped_in_a_row} steps in a row were not finite and were "
            "skipped; see events.jsonl for the samples, and lower optimizer.lr or set "
            "optimizer.clip (skips_allowed sets how many are borne)"
        )


@dataclass
class Tally:
    """Sums over the rows of a phase; padding rows count for nothing."""

    bad_keys: list[str] = field(default_factory=list)
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _whole: dict[str, Tensor] = field(default_factory=dict)

    def add(self, batch: Batch, losses: Tensor, logs: Logs, sums: Sums | None = None) -> None:
        if losses.shape != batch.weight.shape:
            raise RunError(
                f"a loss has shape {tuple(losses.shape)}; expected one value per sample, "
                f"{tuple(batch.weight.shape)}"
            )
        for name, values in {"loss": losses, **logs}.items():
            total = (values.detach().double() * batch.weight).sum()
            self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + total
        finite = torch.isfinite(losses.detach()) | (batch.weight == 0)
        if not bool(finite.all()):
            self.bad_keys += [k for k, ok in zip(batch.keys, finite.tolist()) if not ok]
        for name, value in (sums or {}).items():
            if value.dtype != torch.float64:
                raise RunError(f"a loss has sums of {name} in {value.dtype}; expected float64")
            self._whole[name] = self._whole.get(name, torch.zeros_like(value)) + value.detach()

    def sums_over_ranks(self) -> dict[str, Tensor]:
        """Micro-batches in their order, then all ranks in one call: the same order every time."""
        names = sorted(self._whole)
        if not names:
            return {}
        parts = [self._whole[name] for name in names]
        flat = _sum_on_device(torch.cat([part.reshape(-1) for part in parts]))
        cut = flat.split([part.numel() for part in parts])
        return {name: one.view_as(part) for name, one, part in zip(names, cut, parts)}

    def over_ranks(self, batch: int) -> tuple[dict[str, float], bool]:
        """Means over the global batch, and whether any sample's loss was not finite."""
        counted = torch.tensor(float(len(self.bad_keys)), dtype=torch.float64)
        sums = torch.stack([t.cpu() for t in self._sums.values()] + [counted])
        *totals, bad = _sum_on_device(sums).tolist()
        return {name: total / batch for name, total in zip(self._sums, totals)}, bad > 0


def _sum_on_device(sums: Tensor) -> Tensor:
    device = "cuda" if torch.cuda.is_available() and dist.backend() == "nccl" else "cpu"
    return dist.all_sum(sums.to(device)).to(sums.device)
