"""Distributed training of generative video models. `hvdm.load(RUN)` gives a run's networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor, nn

    from hvdm.errors import NoNetwork
    from hvdm.opening import Opened
    from hvdm.recipe import Clip, Coder


def load(run: str | Path, averaged: bool = True, device: str = "cpu") -> Loaded:
    """The networks of RUN[@STEP], averaged weights where the run keeps them."""
    from hvdm import opening

    return Loaded(opening.open_run(run, averaged, device), device)


@dataclass(frozen=True)
class OpenedCoder:
    """An autoencoder with its weights, for clips of the size that it was trained on."""

    coder: Coder
    nets: nn.ModuleDict
    clip: Clip

    def encode(self, video: Tensor | npt.NDArray[Any]) -> Tensor:
        """Of uint8 `T H W 3` or `B T H W 3`, or of float `B C T H W` in [-1, 1]."""
        from hvdm.given import as_video
        from hvdm.recipe import as_batch

        device = next(self.nets.parameters()).device
        return self.coder.encode(self.nets, as_batch(as_video(video, self.clip).to(device)))

    def decode(self, latent: Tensor) -> Tensor:
        return self.coder.decode(self.nets, latent)["video"]


@dataclass(frozen=True, repr=False)
class Loaded:
    """What a run folder holds, ready to be called."""

    opened: Opened
    device: str

    def __repr__(self) -> str:
        """Ten lines of what it is and what it can be asked for."""
        from hvdm import ten_lines

        return ten_lines.of(self.opened, self.device)

    @property
    def step(self) -> int:
        return self.opened.step

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.autoencoder.coder.latent_shape

    @cached_property
    def autoencoder(self) -> OpenedCoder:
        """The run's own, or the one that its diffusion works on."""
        from hvdm import building

        coder, below = self.opened.recipe.coder, self.opened.config.first_stage
        if coder is not None:
            return OpenedCoder(coder, self.opened.nets, building.clip_of(self.opened.config))
        if below is None:
            raise self._without("autoencoder")
        return load(below, device=self.device).autoencoder

    def __getattr__(self, name: str) -> nn.Module:
        """A network of the run by its name, such as `denoiser` or `generator`."""
        if name.startswith("_") or name == "opened":  # half made, or probed for what is Python's
            raise AttributeError(name)
        if name not in self.opened.nets:
            raise self._without(name)
        return self.opened.nets[name]

    def sample(
        self,
        count: int = 1,
        seed: int = 0,
        steps: int | None = None,
        what: str | None = None,
        **options: Any,
    ) -> Any:
        """Videos, float `B C T H W`, or what the kind gives; each is a function of the seed and
        of its number.

        `what` and `options` are those of `hvdm sample`; an image is a file, or uint8 `H W 3` of
        the clips' size.
        """
        from hvdm import sampling

        _, kind = sampling.kind_of(self.opened.recipe, what)
        shown = sampling.pictures_of(kind, options, self.opened.config.data)
        request = sampling.ask(self.opened.recipe, what, steps, {**options, **shown})
        return sampling.draw(self.opened, request, seed, tuple(range(count)))

    def _without(self, what: str) -> NoNetwork:
        from hvdm.errors import NoNetwork

        have = ", ".join(self.opened.nets)
        return NoNetwork(f"{self.opened.run} has no {what}; it has: {have}")
