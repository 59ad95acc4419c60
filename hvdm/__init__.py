"""Distributed training of generative video models. `hvdm.load(RUN)` gives a run's networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from hvdm.opening import Opened


def load(run: str | Path, averaged: bool = True, device: str = "cpu") -> Loaded:
    """The networks of RUN[@STEP], averaged weights where the run keeps them."""
    from hvdm import opening

    return Loaded(opening.open_run(run, averaged, device), device)


@dataclass(frozen=True)
class Coder:
    """An autoencoder with its weights; video is float `B C T H W` in [-1, 1]."""

    recipe: Any
    nets: nn.ModuleDict

    def encode(self, video: Tensor) -> Tensor:
        latent: Tensor = self.recipe.encode(self.nets, video)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        video: Tensor = self.recipe.decode(self.nets, latent)
        return video


@dataclass(frozen=True)
class Loaded:
    """What a run folder holds, ready to be called."""

    opened: Opened
    device: str

    @property
    def step(self) -> int:
        return self.opened.step

    @property
    def latent_shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._of(self.opened.recipe, "latent_shape", "latent")
        return shape

    @property
    def autoencoder(self) -> Coder:
        """The run's own, or the one that its diffusion works on."""
        recipe: Any = self.opened.recipe
        stage = getattr(recipe, "first_stage", None)
        if stage is not None:
            return Coder(stage, recipe.frozen)
        self._of(recipe, "decode", "autoencoder")
        return Coder(recipe, self.opened.nets)

    @property
    def denoiser(self) -> nn.Module:
        """`denoiser(noisy, step, condition)`, `B ...`, `B`, `B ...` -> `B ...`."""
        nets = self.opened.nets
        if "denoiser" not in nets:
            self._of(None, "denoiser", "denoiser")
        return nets["denoiser"]

    def sample(
        self,
        count: int = 1,
        seed: int = 0,
        steps: int | None = None,
        what: str = "clip",
        **options: Any,
    ) -> Tensor:
        """Videos, float `B C T H W`; video i is a function of the seed and of i.

        `what` and `options` are those of `hvdm sample`; an image is uint8 `H W 3`, of the clips'
        size.
        """
        from hvdm.recipe import Noise, SampleRequest

        noise = Noise(seed, tuple(range(count)), device=self.device)
        request = SampleRequest(what, steps, options or None)
        return self.opened.recipe.sample(self.opened.nets, request, noise)

    def _of(self, owner: Any, name: str, what: str) -> Any:
        from hvdm.errors import UserError

        if not hasattr(owner, name):
            have = ", ".join(self.opened.nets)
            raise UserError(f"{self.opened.run} has no {what}; it has: {have}")
        return getattr(owner, name)
