"""One real training step at the paper's size, batch 1, on a CPU: loss, gradient norm, memory.

    python -m benchmarks.full_size config=hvdm_ucf101_256/diffusion

It needs minutes and up to 24 GiB. The result goes into benchmarks/results/full_size.jsonl.
"""

import json
import math
import os
import resource
import sys
import time
from typing import Any

import torch

from benchmarks import experiment
from hvdm import building
from hvdm.config import RunConfig
from hvdm.recipe import Batch, Context, Recipe
from launcher import arguments, compose
from launcher.sizing import models

RESULTS = experiment.RESULTS / "full_size.jsonl"
ON_A_CPU = (
    "engine=local",
    "engine.zero=0",
    "cluster=inline",
    "cluster.workers=1",
    "cluster.gpus_per_worker=0",
    "model.activation_checkpointing=true",
    "data.path=unused",
)


def main(typed: list[str]) -> None:
    values = dict(arguments.parse(typed).values)
    name = values.pop("config", "hvdm_ucf101_256/autoencoder")
    torch.set_num_threads(os.cpu_count() or 1)
    settings = [*ON_A_CPU, *arguments.overrides(values)]
    config = compose.run_config(name, settings)
    recipe = building.build_recipe(config, stages(config))
    row = {"config": name, "settings": settings, **measured(config, recipe)}
    row |= experiment.about(f"config={name}")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


def stages(config: RunConfig) -> dict[str, Recipe]:
    """At its full size, with the weights it begins with: what it costs, not what it gives."""
    if config.first_stage_config is None:
        return {}
    stage = compose.run_config(
        config.first_stage_config, ["data.path=unused", "model.perceptual=none"]
    )
    recipe = building.build_recipe(stage)
    recipe.trained.eval().requires_grad_(False)
    return {"first_stage": recipe}


def measured(config: RunConfig, recipe: Recipe) -> dict[str, Any]:
    engines = building.build_engines(config, recipe)
    phase = recipe.phases[0]
    engine = engines[phase.net]
    began = time.monotonic()
    with engine.autocast():
        loss, _ = phase.loss(clip_of_noise(config), Context(config.seed, (0,), "phase0"))
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


def clip_of_noise(config: RunConfig) -> Batch:
    clip = models.blank(config, 1)
    clip["video"].random_(0, 256, generator=torch.Generator().manual_seed(0))
    return clip


if __name__ == "__main__":
    main(sys.argv[1:])
