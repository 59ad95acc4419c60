"""Optimizers by name, their learning rate over samples, and their state from the first step on."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hvdm.config import OptimizerConfig

STATE = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each optimizer keeps for every element of a parameter."""
FLOOR = 0.01
"""The share of lr that a decay leaves, unless told otherwise."""


def build(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def create_state(name: str, optimizer: torch.optim.Optimizer, masters: Iterable[Tensor]) -> None:
    """Zero state before the first step, so that saving and loading need no special first step."""
    for master in masters:
        state = optimizer.state[master]
        for key in STATE[name]:
            if not isinstance(state.get(key), Tensor):
                state[key] = torch.zeros_like(master, memory_format=torch.preserve_format)
        if name == "adamw" and "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)


def steps_taken(optimizer: torch.optim.Optimizer) -> int:
    """How many steps the optimizer has taken, by its own count; 0 where it keeps none."""
    return max(
        (int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0
    )


def set_steps_taken(optimizer: torch.optim.Optimizer, count: int) -> None:
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(count)


def learning_rate(config: OptimizerConfig, samples_seen: int) -> float:
    """Linear warm-up over `warmup` samples, then constant; between the two counts of `decay` it
    falls in a line, or half a cosine, to the floor.

    Of the samples seen and of nothing else, so that a run that is trained further goes on as it
    would have.
    """
    if samples_seen < config.warmup:
        return config.lr * (samples_seen + 1) / (config.warmup + 1)
    if config.decay is None:
        return config.lr
    first, last = config.decay
    fallen = min(1.0, max(0.0, (samples_seen - first) / (last - first)))
    if config.schedule == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    floor = FLOOR if config.floor is None else config.floor
    return config.lr * (1 - (1 - floor) * fallen)
