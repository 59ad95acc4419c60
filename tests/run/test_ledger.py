"""The ledger of wall time: every second in one column, whatever was lost, delayed or idle."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdm import dist, events
from hvdm.checkpoint.saver import Saver
from hvdm.config import CheckpointConfig, RunConfig, Samples
from hvdm.data.loader import Loader
from hvdm.events import event_line, read_lines
from hvdm.run import account as accounts
from hvdm.run import ledger as ledgers
from hvdm.run import run
from hvdm.run import steps as stepping
from hvdm.run.account import Account
from hvdm.run.ledger import COLUMNS, ledger
from tests.support.ranks import Ranks
from tests.support.toys import run_config


class Hand:
    """A clock that moves when told, both hands together."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def account(self) -> Account:
        return Account(self, self)


def test_each_second_of_an_attempt_is_in_one_column() -> None:
    hand = Hand()
    account = hand.account()
    for column, seconds in (("compute", 5.0), ("data", 2.0), ("compute", 1.0), ("checkpoint", 1.5)):
        with account.on(column):
            hand.at += seconds
    hand.at += 0.5
    expected = {"compute": 6.0, "data": 2.0, "checkpoint": 1.5, "idle": 0.5}
    assert account.settle(dist.all_gather(account.own())) == {
        "from": 1000.0,
        "to": 1010.0,
        **expected,
    }
    with account.on("compute"):
        hand.at += 1.0
    assert (
        account.settle(dist.all_gather(account.own()))["compute"] == 7.0
        and account.settle(dist.all_gather(account.own()))["to"] == 1011.0
    )


def test_a_wait_within_a_step_is_not_of_the_step() -> None:
    hand = Hand()
    account = hand.account()
    with account.on("compute"):
        hand.at += 3.0
        for seconds in (1.0, 0.5):
            with account.on("checkpoint"):
                hand.at += seconds
        hand.at += 2.0
    spent = account.settle(dist.all_gather(account.own()))
    assert (spent["compute"], spent["checkpoint"], spent["idle"]) == (5.0, 1.5, 0.0)


def slow_second_rank() -> dict[str, float]:
    """Rank 1 waits ten seconds for its rows, and rank 0 for rank 1, in a collective call."""
    hand = Hand()
    account = hand.account()
    waiting = "data" if dist.rank() else "compute"
    with account.on(waiting):
        hand.at += 10.0
    with account.on("compute"):
        hand.at += 4.0
    return account.settle(dist.all_gather(account.own()))


def test_what_one_rank_waits_for_is_no_computing_of_the_others(two_ranks: Ranks) -> None:
    for found in two_ranks.run(slow_second_rank):
        assert (found["data"], found["compute"], found["idle"]) == (10.0, 4.0, 0.0)


def second_rank_held_up_in_the_step() -> dict[str, float]:
    """Rank 1 waits for its copy after the step's last collective call; rank 0 at the boundary."""
    hand = Hand()
    account = hand.account()
    with account.on("compute"):
        hand.at += 4.0
        if dist.rank():
            with account.on("checkpoint"):
                hand.at += 3.0
    with account.on("compute"):
        hand.at += 0.0 if dist.rank() else 3.0
    return account.settle(dist.all_gather(account.own()))


def test_what_one_rank_is_held_up_is_checkpointing_for_all(two_ranks: Ranks) -> None:
    for found in two_ranks.run(second_rank_held_up_in_the_step):
        assert (found["checkpoint"], found["compute"], found["idle"]) == (3.0, 4.0, 0.0)


def spent(begin: float, end: float, **seconds: float) -> dict[str, float]:
    return {
        "from": begin,
        "to": end,
        "compute": 0,
        "data": 0,
        "checkpoint": 0,
        "idle": 0,
        **seconds,
    }


STORY: list[dict[str, Any]] = [
    {"event": "launched", "time": 100.0},
    {"event": "started", "time": 106.0, "step": 0},
    {"step": 3, "time": 137.0, "spent": spent(107, 137, compute=25, data=5)},
    {"event": "saved", "time": 148.0, "step": 4, "spent": spent(107, 147, compute=33, data=7)},
    {"step": 5, "time": 160.0, "spent": spent(107, 160, compute=44, data=7, checkpoint=2)},
    {"event": "lost", "time": 165.0},
    {"event": "resumed", "time": 169.0, "step": 4, "lost_steps": 1},
    {"event": "recovered", "time": 180.0, "step": 5, "seconds": 15.0},
    {"event": "stopped", "time": 190.0, "step": 6, "spent": spent(170, 190, compute=19, idle=1)},
    {"event": "launched", "time": 250.0},
    {"event": "resumed", "time": 258.0, "step": 6},
    {"event": "finished", "time": 300.0, "step": 9, "spent": spent(260, 300, compute=36, data=4)},
    {"event": "launched", "time": 900.0},
    {"event": "note", "time": 901.0, "text": "is finished"},
]


def test_a_run_that_lost_a_worker_was_stopped_and_went_on() -> None:
    found = ledger(STORY)
    assert found is not None
    expected = {"compute": 33 + 19 + 36, "data": 7 + 4, "checkpoint": 0, "idle": 1 + 60}
    assert found["seconds"] == {**expected, "restart": 7 + (170 - 147) + 10}
    assert found["wall_s"] == 200.0 == sum(found["seconds"].values())
    assert found["goodput"] == found["shares"]["compute"] == 88 / 200
    assert found["lost_steps"] == 1 and found["recoveries"] == [{"step": 5, "seconds": 15.0}]
    assert (found["launches"], found["attempts"]) == (2, 3)


def test_a_group_that_left_its_node_is_the_same_launch() -> None:
    left = {"event": "stopped", "time": 162.0, "step": 5, "spent": spent(107, 162, compute=55)}
    found = ledger([*STORY[:5], left, *STORY[5:]])
    assert found is not None and (found["launches"], found["attempts"]) == (2, 3)


def test_a_command_that_was_refused_meanwhile_changes_nothing() -> None:
    refused = [{"event": "launched", "time": 130.0}, {"event": "failed", "time": 131.0}]
    assert ledger([*STORY, *refused]) == ledger(STORY)


def test_a_checkpoint_that_turned_out_damaged_makes_its_steps_lost_ones() -> None:
    gone_back = [*STORY[:8], {"event": "resumed", "time": 186.0, "step": 2}]
    found = ledger([*gone_back, {"event": "saved", "time": 200.0, "step": 4,
                                 "spent": spent(190, 200, compute=10)}])  # fmt: skip
    assert found is not None and found["seconds"]["compute"] == 10
    assert sum(found["seconds"].values()) == found["wall_s"] == 100.0


def test_a_loss_is_made_good_once() -> None:
    def lost_at(*events):
        return accounts.lost_at(reversed(events))

    assert lost_at(*STORY[:6]) == 165.0
    assert lost_at(*STORY[:6], {"event": "lost", "time": 167.0}) == 165.0
    assert lost_at(*STORY[:8]) is None
    assert lost_at(*STORY[:6], {"event": "launched", "time": 170.0}) is None


def test_lines_from_the_end_are_the_same_lines(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    lines = [json.dumps({"n": n, "text": "x" * (n % 7)}) for n in range(40)]
    path.write_text("\n".join([*lines[:20], "cut{", "", *lines[20:]]) + '\n{"half": ')
    for piece in (1, 7, 64, 2**16):
        monkeypatch.setattr(events, "_PIECE", piece)
        assert list(events.newest_first(path)) == events.read_lines(path)[::-1]
    assert list(events.newest_first(tmp_path / "nothing")) == []


# Whole runs


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    """Training on this clock: a step takes ten seconds, everything else none."""
    hand = Hand()
    monkeypatch.setattr(Account, "__init__", _with(hand, Account.__init__))
    monkeypatch.setattr("time.time", hand)
    step = stepping.train_step

    def slow_step(*arguments: Any) -> dict[str, float]:
        hand.at += 10.0
        return step(*arguments)

    monkeypatch.setattr(stepping, "train_step", slow_step)
    return hand


def _with(hand: Hand, init: Any) -> Any:
    return lambda self: init(self, hand, hand)


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> RunConfig:
    every = CheckpointConfig(every=Samples(10))
    return run_config(tmp_path / "run", shapes, steps=6, checkpoint=every)


def of(config: RunConfig) -> dict[str, Any]:
    folder = Path(config.run)
    found = ledger(read_lines(folder / "events.jsonl"), read_lines(folder / "metrics.jsonl"))
    assert found is not None
    assert abs(sum(found["shares"].values()) - 1) < 0.01, found
    return found


def delay_data(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Loader.steps

    def slow(self: Loader, *arguments: Any) -> Iterator[Any]:
        for i, rows in enumerate(steps(self, *arguments)):
            hand.at += 10.0 if i == 2 else 0.0
            yield rows

    monkeypatch.setattr(Loader, "steps", slow)


def delay_saving(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Saver.begin

    def slow(self: Saver, step: int, *arguments: Any) -> None:
        hand.at += 10.0 if step == 4 else 0.0
        begin(self, step, *arguments)

    monkeypatch.setattr(Saver, "begin", slow)


@pytest.mark.parametrize("column, delay", [("data", delay_data), ("checkpoint", delay_saving)])
def test_a_delay_of_ten_seconds_is_in_its_column(
    column: str, delay: Any, hand: Hand, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(hand, monkeypatch)
    run.train(config, sinks=())
    seconds = of(config)["seconds"]
    other = {"data": "checkpoint", "checkpoint": "data"}[column]
    assert abs(seconds[column] - 10.0) < 1.0 and seconds[other] < 1.0, seconds
    assert abs(seconds["compute"] - 60.0) < 1.0


def test_work_that_was_lost_counts_as_restart(hand: Hand, config: RunConfig) -> None:
    """Six steps, of which two come after the checkpoint that the run goes on from."""
    run.train(replace(config, steps=6), sinks=())
    hand.at += 30.0
    resumed = replace(config, steps=8, resume=run.Resume("4"))
    run.train(resumed, sinks=())
    found = of(config)
    assert found["lost_steps"] == 2
    assert found["seconds"]["compute"] == 40.0 + 40.0
    assert found["seconds"]["restart"] == 20.0 and found["seconds"]["idle"] == 30.0
    assert found["goodput"] == round(80 / 130, 4)


def test_the_run_says_its_goodput_at_the_end(hand: Hand, config: RunConfig) -> None:
    run.train(config, sinks=())
    last = read_lines(Path(config.run) / "events.jsonl")[-1]
    assert last["event"] == "ledger" and set(last["shares"]) == set(COLUMNS)
    assert event_line(last).startswith("goodput 100.0% of 60 s wall time: compute 100.0%")


def test_of_the_metrics_only_the_lines_that_count_are_held(monkeypatch):
    """Whatever was lost and done again, they give what all lines give."""
    random = np.random.default_rng(0)
    for _ in range(50):
        events, metrics, now, step = [{"time": 0.0, "event": "launched"}], [], 0.0, 0
        for _ in range(int(random.integers(1, 6))):
            now, step = now + 1, max(0, step - int(random.integers(0, 8)))
            kind, began = "resumed" if metrics else "started", now
            events.append({"time": now, "event": kind, "step": step})
            for _ in range(int(random.integers(0, 12))):
                now, step = now + 1, step + 1
                spent = {"from": began, "to": now, "compute": now - began}
                spent |= dict.fromkeys(("data", "checkpoint", "idle"), 0.0)
                metrics.append({"time": now, "step": step, "spent": spent})
        held = ledgers._that_count(events, metrics)
        assert len(held) <= 2 * len(events)
        found = ledgers.ledger(events, metrics)
        with monkeypatch.context() as whole:
            whole.setattr(ledgers, "_that_count", lambda events, lines: list(lines))
            assert ledgers.ledger(events, metrics) == found
