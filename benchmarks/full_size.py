"""One real training step at the paper's size, batch 1, on a CPU: loss, gradient norm, memory.

    python -m benchmarks.full_size config=hvdm_ucf101_256/diffusion

It needs minutes and up to 24 GiB. The result goes into benchmarks/results/full_size.jsonl.
"""

import json
import math
import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hvdm import build
from hvdm.config import RunConfig
from hvdm.recipe import Batch, Context, Recipe
from hvdm.run import commit, versions
from launcher import arguments, compose

RESULTS = Path(__file__).parent / "results" / "full_size.jsonl"
ON_A_CPU = (
    "engine=local",
    "cluster=inline",
    "model.activation_checkpointing=true",
    "data.path=unused",
)


def main(typed: list[str]) -> None:
    given = arguments.parse(typed)
    name = given.need("config", "hvdm_ucf101_256/autoencoder")
    torch.set_num_threads(os.cpu_count() or 1)
    config = compose.run_config(name, [*ON_A_CPU, *given.rest()])
    row = {"config": name, **measured(config, build.build_recipe(config, first_stage(config)))}
    row |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}
    row |= {"machine": machine(), "versions": versions()}
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


def first_stage(config: RunConfig) -> Recipe | None:
    """At its full size, with the weights it begins with: what it costs, not what it gives."""
    if config.first_stage_config is None:
        return None
    stage = compose.run_config(
        config.first_stage_config, ["data.path=unused", "model.perceptual=none"]
    )
    recipe = build.build_recipe(stage)
    recipe.trained.eval().requires_grad_(False)
    return recipe


def measured(config: RunConfig, recipe: Recipe) -> dict[str, Any]:
    engines = build.build_engines(config, recipe)
    phase = recipe.phases[0]
    engine = engines[phase.net]
    began = time.monotonic()
    with engine.autocast():
        loss, _ = phase.loss(row_of_noise(config), Context(config.seed, (0,), "phase0"))
    engine.backward(loss.mean(), last=True)
    norm = engine.grad_norm()
    engine.step(config.optimizer.lr)
    assert math.isfinite(norm) and bool(torch.isfinite(loss).all())
    return {
        "precision": config.engine.precision,
        "loss": loss.item(),
        "grad_norm": norm,
        "seconds": round(time.monotonic() - began, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def row_of_noise(config: RunConfig) -> Batch:
    data = config.data
    shape = (1, data.frames + data.before, data.height, data.width, 3)
    video = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    return Batch({"video": video.to(torch.uint8)}, ("noise",), (0,), torch.ones(1))


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, no GPU"


if __name__ == "__main__":
    main(sys.argv[1:])
