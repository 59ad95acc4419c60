"""`make bench-overhead`: what the loop, metrics, accounts and EMA add to a bare step of PyTorch.

The same network, loss, optimizer and batch size, in turn in one process, on one thread; the bare
loop has its batch in memory, so that reading clips is in the difference too. Figures are medians
over all steps of all rounds.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import experiment
from data_tools.synthetic.making import make
from hvdm import building
from hvdm.config import RunConfig
from hvdm.events import read_lines
from hvdm.run import run
from launcher import compose

ROOT = Path(__file__).parents[1]
BATCH = 4


def config(place: Path, width: int, steps: int, name: str) -> RunConfig:
    typed = [
        f"data.path={place}/shapes", f"run={place}/{name}", "cluster=inline", f"steps={steps}",
        f"model.width={width}", f"batch={BATCH}", f"micro_batch={BATCH}", "data.frames=8",
        "data.height=64", "data.width=64", f"log.every={BATCH}", "log.tensorboard=false",
        "checkpoint.every=100000", "data.threads=1", "optimizer=adamw",
    ]  # fmt: skip
    return compose.run_config(str(ROOT / "tests/sixth/toy_flow.yaml"), typed)


def ours(asked: RunConfig) -> list[float]:
    """Between two lines of metrics: everything is in it."""
    run.train(asked, sinks=())
    times = [row["time"] for row in read_lines(Path(asked.run) / "metrics.jsonl")]
    return [after - before for before, after in zip(times[1:-1], times[2:])]


def bare(asked: RunConfig) -> list[float]:
    recipe = building.build_recipe(asked)
    net = recipe.trained["velocity"]
    optimizer = torch.optim.AdamW(net.parameters(), lr=asked.optimizer.lr)
    video = torch.rand(BATCH, 3, asked.data.frames, asked.data.height, asked.data.width)
    times = [time.perf_counter()]
    for _ in range(asked.total_steps):
        noise, at = torch.randn_like(video), torch.rand(BATCH, 1, 1, 1, 1)
        guess = net(at * video + (1 - at) * noise, at.flatten())
        loss = (guess - (video - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        times.append(time.perf_counter())
    return [after - before for before, after in zip(times[1:-1], times[2:])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    sys.path.append(str(ROOT / "tests/sixth"))
    torch.set_num_threads(1)
    about = experiment.about("--write")
    took: dict[str, list[float]] = {"bare": [], "hvdm": []}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make(place / "shapes", train=64, test=8, per_shard=16, frames=8, height=64, width=64)
        for number in range(asked.rounds):
            wanted = config(place, asked.width, asked.steps, f"run-{number}")
            took["bare"] += bare(wanted)
            took["hvdm"] += ours(wanted)
    medians = {name: statistics.median(values) for name, values in took.items()}
    report = {
        "step_s": {name: round(value, 4) for name, value in medians.items()},
        "added": round(medians["hvdm"] / medians["bare"] - 1, 4),
        **about,
    }
    print(json.dumps(report, indent=1))
    if asked.write:
        experiment.write("overhead", report)


if __name__ == "__main__":
    main()
