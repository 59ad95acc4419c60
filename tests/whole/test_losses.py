"""Signals and losses under Ray on one machine: nothing is lost that could be kept, all is told."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hvdm.config import ClusterConfig
from hvdm.events import read_lines
from hvdm.run import run
from hvdm.run.ledger import ledger
from launcher import compose
from tests.paced.holding import Held, hashes, workers
from tests.support.ranks import Ranks

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        not os.environ.get("HVDM_CLUSTER"), reason="kills under Ray are for make test-cluster"
    ),
]
WORKERS = ["cluster=local", "cluster.workers=2"]


def straight(held: Held, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """The same run, undisturbed, on as many ranks."""
    config = compose.run_config(held.typed[1].removeprefix("config="), held.typed[2:])
    inline = ClusterConfig("inline", workers=2)
    ranks.run(_train, replace(config, run=str(folder), cluster=inline))
    return hashes(folder)[config.total_steps]


def _train(config: Any) -> None:
    import sys

    sys.path.append(str(Path(__file__).parents[1] / "paced"))
    run.train(config, sinks=())


@pytest.fixture(scope="module")
def disturbed(
    shapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Held, list[int], str]]:
    """Twelve steps, saved every three: SIGTERM to a worker, SIGKILL to one, SIGTERM to the command,
    and the same command again."""
    held = Held(tmp_path_factory.mktemp("disturbed"), shapes, *WORKERS)
    for step in (2, 6, 8):
        held.hold(step)
    first = held.start()
    held.reached(2, first)
    workers(first)[1].send_signal(signal.SIGTERM)
    held.release(2)
    held.reached(6, first)
    workers(first)[1].send_signal(signal.SIGKILL)
    held.happened("lost", 2, first)
    held.release(6)
    held.reached(8, first)
    first.send_signal(signal.SIGTERM)
    held.release(8)
    out, _ = first.communicate(timeout=120)
    second = held.start()
    second.communicate(timeout=240)
    yield held, [first.returncode, second.returncode], out


def test_the_command_stops_with_its_own_code_and_then_goes_on(disturbed: Any) -> None:
    held, codes, out = disturbed
    assert codes == [75, 0]
    assert "stopping after this step, with a checkpoint" in out
    assert held.events("stopped")[-1]["reason"] == "asked"


def test_what_is_lost_is_what_came_after_the_last_save(disturbed: Any) -> None:
    """A signal costs nothing; SIGKILL in step 6 costs steps 4 and 5, since step 3 was saved."""
    held, _, _ = disturbed
    starts = [(e["step"], e.get("lost_steps", 0)) for e in held.events("resumed")]
    assert starts == [(2, 0), (3, 2), (8, 0)]
    assert [e["reason"] for e in held.events("stopped")] == ["signal", "asked"]
    assert "its process died" in held.events("lost")[1]["reason"]
    assert len(held.events("recovered")) == 2
    for event in held.events("lost"):
        assert (held.run / event["log"]).read_text()


def test_the_weights_are_those_of_an_undisturbed_run(
    disturbed: Any, tmp_path: Path, two_ranks: Ranks
) -> None:
    held, _, _ = disturbed
    assert hashes(held.run)[12] == straight(held, tmp_path / "straight", two_ranks)


def test_the_ledger_of_it_adds_up(disturbed: Any) -> None:
    held, _, _ = disturbed
    found = ledger(read_lines(held.run / "events.jsonl"), read_lines(held.run / "metrics.jsonl"))
    assert found is not None and (found["launches"], found["attempts"]) == (2, 4)
    assert abs(sum(found["shares"].values()) - 1) < 0.01, found
    assert found["lost_steps"] == 2 and len(found["recoveries"]) == 2
    assert sum(row["seconds"] for row in found["recoveries"]) < found["seconds"]["restart"]
