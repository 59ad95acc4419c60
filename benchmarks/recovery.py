"""`make bench-recovery`: from SIGKILL of a worker to the next finished step, beside Ray's defaults.

Two workers on this machine, ZeRO-2, the toy family of the tests. In each way a run is started once
and loses a worker in several steps, one after the other; figures are medians over the losses.
`defaults` are Ray's own intervals and, as in containers that set PYTHONDONTWRITEBYTECODE, no cached
bytecode; `defaults, cached` the same with bytecode.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import experiment
from data_tools.synthetic.making import make
from hvdm.events import read_lines
from tests.paced.holding import Held, until, workers

RAY_INTERVALS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
}
NO_CACHE = {"PYTHONPYCACHEPREFIX": "/dev/null"}
WAYS: dict[str, tuple[dict[str, str], list[str]]] = {
    "defaults": ({**RAY_INTERVALS, **NO_CACHE}, []),
    "defaults, cached": (RAY_INTERVALS, []),
    "hvdm": ({}, []),
    "hvdm, spares": ({}, ["cluster.spares=true"]),
}


def measure(folder: Path, data: Path, way: str, losses: int) -> dict[str, Any]:
    environment, more = WAYS[way]
    typed = ["cluster=local", "cluster.workers=2", "engine=deepspeed", "engine.zero=2"]
    limits = [f"steps={4 * losses + 4}", "checkpoint.every=6", f"cluster.max_failures={losses}"]
    held = Held(folder, data, *typed, *limits, *more)
    held.environment = {**held.environment, **environment}
    steps = [4 * i + 4 for i in range(losses)]
    for step in steps:
        held.hold(step)
    process = held.start()
    killed = []
    for number, step in enumerate(steps):
        held.reached(step, process)
        if "spares" in way:
            _spares_are_ready(process)
        victim = workers(process)[-1]
        killed.append(time.time())
        victim.kill()
        held.happened("lost", number + 1, process)
        held.release(step)
    _, errors = process.communicate(timeout=600)
    ended = time.time()
    assert process.returncode == 0, errors
    finished = held.events("finished")[-1]["time"]
    phases = [_phases(held, at) for at in killed]
    return {
        "seconds": [round(sum(row.values()), 2) for row in phases],
        "phases": {name: _median([row[name] for row in phases]) for name in phases[0]},
        "median_s": _median([sum(row.values()) for row in phases]),
        "finish_to_prompt_s": round(ended - finished, 2),
    }


def _spares_are_ready(process: Any) -> None:
    """Two idle processes that have stopped importing; where none come, it is measured without."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        idle = [p for p in psutil.Process(process.pid).children(recursive=True) if _is_idle(p)]
        if len([p for p in idle if p.memory_info().rss > 250e6]) >= 2:
            until(lambda idle=idle: all(p.cpu_percent(0.3) < 5 for p in idle))
            return
        time.sleep(0.1)


def _is_idle(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "ray::IDLE" in " ".join(process.cmdline())
    return False


def _phases(held: Held, killed: float) -> dict[str, float]:
    """From the events after a kill: what each of them had waited for."""
    lines = read_lines(held.run / "events.jsonl")

    def first(*names: str) -> dict[str, Any]:
        return next(e for e in lines if e["time"] > killed and e["event"] in names)

    lost, group, resumed, recovered = (
        first("lost"), first("group"), first("started", "resumed"), first("recovered")
    )  # fmt: skip
    return {
        "noticed": lost["time"] - killed,
        "torn down": group["time"] - group["seconds"] - lost["time"],
        "new processes": group["seconds"],
        "imports, networks, engine, checkpoint": resumed["time"] - group["time"],
        "first step": recovered["time"] - resumed["time"],
    }


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses", type=int, default=5)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    about = experiment.about("--write")
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "shapes"
        make(data, seed=3, train=40, test=8, per_shard=8, frames=8, height=16, width=16, fps=8)
        found = {}
        for way in asked.ways:
            found[way] = measure(Path(place) / way.replace(", ", "-"), data, way, asked.losses)
            print(f"{way}: {json.dumps(found[way])}", flush=True)
    report = {
        **about,
        "losses": asked.losses,
        "ways": found,
    }
    print(json.dumps(report, indent=1))
    if asked.write:
        experiment.write("recovery", report)


if __name__ == "__main__":
    main()
