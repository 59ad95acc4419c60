"""What experiments share: a data set, runs by the code of `hvdm train`, results as files."""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_tools.synthetic.making import make
from hvdm import building, opening
from hvdm.config import RunConfig
from hvdm.run import run
from hvdm.run.run import commit, versions
from launcher import compose
from launcher.verbs.training import STOPPED_BY_SIGNAL

RESULTS = Path(__file__).with_name("results")
torch.set_num_threads(1)
INLINE = ("cluster=inline", "log.tensorboard=false", "checkpoint.keep=1")


def folder() -> Path:
    """Where data and runs lie; what is there already is used."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/experiments").absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def shapes(where: Path, train: int = 512, test: int = 64) -> Path:
    """32x32 clips of 16 frames."""
    out = where / f"shapes-{train}"
    if not out.exists():
        make(out, seed=0, train=train, test=test, per_shard=32, frames=16, height=32, width=32)
    return out


def trained(config: str, where: Path, overrides: Sequence[str]) -> RunConfig:
    """A run, from its newest checkpoint if it was begun already."""
    wanted = compose.run_config(config, [*INLINE, f"run={where}", *overrides])
    if not run.train(wanted, sinks=[]).finished:
        sys.exit(STOPPED_BY_SIGNAL)
    return opening.read_config(where)


def held_out(config: RunConfig) -> torch.Tensor:
    """uint8 `B T H W C`, every held-out clip."""
    with building.build_loader(config, config.data.held_out) as loader:
        return loader.sequential(range(len(loader))).fields["video"]


def about(arguments: str) -> dict[str, Any]:
    """Where and how figures were measured; `arguments` as the command's own help has them."""
    return {
        "command": f"python -m benchmarks.{Path(sys.argv[0]).stem} {arguments}".rstrip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, CPU only",
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": versions(),
    }


def write(name: str, found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def read(name: str) -> dict[str, Any]:
    """What an earlier call has found; one that was stopped goes on from there."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found
