"""The steps of a run one after the other: what is logged, saved and accounted for on the way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvdm import dist
from hvdm.checkpoint.saver import Saver
from hvdm.config import steps_of
from hvdm.data.loader import Loader, Substitution
from hvdm.recipe import group_of
from hvdm.run import failing, stopping
from hvdm.run.account import Account, marked
from hvdm.run.meter import Meter
from hvdm.train.loop import Session, train_step

Contents = Callable[[int], Mapping[str, Any]]
"""What a checkpoint of a step holds besides the state of the networks."""


@dataclass
class Steps:
    session: Session
    loader: Loader
    saver: Saver
    contents: Contents
    sources: Sequence[stopping.StopSource] = ()
    after_first: Callable[[int], None] = lambda step: None
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        config = self.session.config
        self._total = config.total_steps
        self._save_every = max(1, steps_of(config.checkpoint.every, config.batch))
        self._log_every = max(1, steps_of(config.log.every, config.batch))
        self._meter = Meter(config.batch, self._total)

    def run(self, first: int, folder: Path) -> tuple[int, str]:
        """From the step after `first` on: the last one that was done, and why it was the last."""
        config = self.session.config
        share = (config.batch, config.micro_batch, dist.rank(), dist.world())
        group = group_of(self.session.recipe)
        rows = self.loader.steps(first, self._total, *share, group)
        with stopping.listening(), marked(folder) as mark:
            for done, batches in enumerate(self.account.during("data", rows), start=first + 1):
                with self.account.on("compute"), failing.told(done):
                    means = train_step(self.session, done - 1, batches, self._before_update)
                mark(done)
                if done == first + 1:
                    self.after_first(done)
                reason = self._after_step(done, means)
                if reason and done < self._total:
                    return done, reason
        return self._total, ""

    def _before_update(self) -> None:
        with self.account.on("checkpoint"):
            self.saver.before_update()

    def _after_step(self, done: int, means: Mapping[str, float]) -> str:
        """Two steps."""
        self._meter.tick()
        with self.account.on("checkpoint"):
            self.saver.poll()
        with self.account.on("compute"):  # here ranks wait for those that were held up in the step
            reason = stopping.agreed(self.sources)
        if done % self._log_every == 0 or done == self._total:
            self._log(done, means)
        if done % self._save_every == 0 or done == self._total or reason:
            self._save(done)
        return reason

    def _log(self, done: int, means: Mapping[str, float]) -> None:
        own = (self.loader.new_substitutions(), self.loader.take_wait(), self.account.own())
        lost, waits, spent = zip(*dist.all_gather(own), strict=True)
        tell_substitutions(self.session, self.loader, done, lost)
        waited = max(waits) / self._meter.steps
        speed = {**self._meter.read(done), "wait_s": waited}
        self.session.report.metrics(
            step=done,
            steps=self._total,
            samples=done * self.session.config.batch,
            **means,
            **speed,
            spent=self.account.settle(spent),
        )

    def _save(self, done: int) -> None:
        own = (self.loader.new_substitutions(), self.account.own())
        lost, spent = zip(*dist.all_gather(own), strict=True)
        settled = self.account.settle(spent)
        with self.account.on("checkpoint"):
            tell_substitutions(self.session, self.loader, done, lost)
            self.saver.begin(done, self.contents(done), {"spent": settled})

    def finish(self) -> dict[str, float]:
        """Waits for the last save, and closes the account."""
        with self.account.on("checkpoint"):
            self.saver.finish_last()
        return self.account.settle(dist.all_gather(self.account.own()))


def tell_substitutions(
    session: Session, loader: Loader, step: int, lost: Sequence[Sequence[Substitution]]
) -> None:
    """Every rank's new ones, as events of the run; from now on all ranks know of them."""
    for new in lost:
        loader.remember(new)
        for one in new:
            session.report.event("substituted", step=step, **one._asdict())
