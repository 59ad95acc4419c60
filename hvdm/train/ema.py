"""Averages of the weights in fp32, kept on the slices that a rank owns."""

import torch
from torch import Tensor

from hvdm.config import EmaConfig
from hvdm.train.engine import Engine


class Ema:
    """Decay with warm-up min(decay, (1 + n) / (10 + n)) after n updates."""

    def __init__(self, engine: Engine, config: EmaConfig) -> None:
        self._config = config
        self._masters = [piece.master for piece in engine.owned()]
        self.averages: list[Tensor] = [master.detach().clone() for master in self._masters]
        self.updates = 0

    def decay(self) -> float:
        warm = (1 + self.updates) / (10 + self.updates)
        return min(self._config.decay, warm) if self._config.warmup else self._config.decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        if (step + 1) % self._config.every:
            return
        if self.averages:
            torch._foreach_lerp_(self.averages, self._masters, 1 - self.decay())
        self.updates += 1
