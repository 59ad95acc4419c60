"""A small WildFusion and rows for it, for tests."""

from typing import Any

import torch

from data_tools.synthetic import scenes
from hvdm.recipe import Batch, Clip, Context, Given
from hvdm.recipes.wildfusion import autoencoder
from hvdm.recipes.wildfusion.autoencoder import Config

SIDE = 16
SMALL: dict[str, Any] = {
    "latent_channels": 2, "stride": 4, "trunk": (8, 16, 16), "pyramid": 16, "width": 16, "heads": 2,
    "blocks": (1, 1), "doubling": (16,), "patch": 2, "reduce": 2, "plane_channels": 8, "hidden": 8,
    "features": 8, "rays": 8, "coarse": 8, "fine": 4, "enlarging": (8,), "degrees": 30.0,
    "yaw_steps": 10, "critics_from": 0, "critics_ramp": 2, "critic_widths": (4, 8),
    "depth_critic_widths": (4, 8), "perceptual_weight": 1.0, "penalty_every": 2,
}  # fmt: skip
CLIP = Clip(1, SIDE, SIDE)


def built(clip: Clip = CLIP, **changes: Any) -> Any:
    torch.manual_seed(0)
    return autoencoder.build(Config(**{**SMALL, **changes}), Given(clip))


def rows(count: int = 2) -> Batch:
    made = [scenes.picture(0, index, SIDE, SIDE, views=False) for index in range(count)]
    fields = {
        "video": torch.stack([torch.from_numpy(one.picture.video) for one in made]),
        "depth": torch.stack([torch.from_numpy(one.depth) for one in made]),
        "label": torch.tensor([one.picture.label for one in made]),
    }
    return Batch(fields, ("row",) * count, tuple(range(count)), torch.ones(count))


def context(step: int = 0, count: int = 2, phase: int = 0) -> Context:
    return Context(0, tuple(range(count)), f"phase{phase}", step=step)
