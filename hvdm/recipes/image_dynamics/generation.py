"""From a picture to its motion, and what is made of it: films, loops, spectra, pages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.media.touch import Feel, touch_page
from hvdm.ops.sampler import ddim, timesteps
from hvdm.ops.schedule import x0_from_eps
from hvdm.ops.spectrum import motion_at, motion_of
from hvdm.options import option
from hvdm.recipe import AnotherRun, Noise, Picture, SampleKind, SampleRequest, read_picture
from hvdm.recipes.image_dynamics.rendering import rendering_of

BOUND = 8.0
"""Of whitened latents, in standard deviations."""


@dataclass(frozen=True)
class MotionOptions:
    """Of everything that is made of a picture."""

    image: Picture | None = option(None, "the picture that moves", shown="FILE", read=read_picture)
    guidance: float | None = option(None, "how much more than learned the picture counts")
    magnify: float = option(1.0, "times the motion")


@dataclass(frozen=True)
class FilmOptions(MotionOptions):
    renderer: AnotherRun | None = option(
        None, "draws the frames; without one the picture's own pixels are splatted",
        shown="RUN", read=AnotherRun.read,
    )  # fmt: skip
    speed: float = option(1.0, "of the motion: 0.5 gives twice the frames")


@dataclass(frozen=True)
class WrapOptions(FilmOptions):
    pull: float = option(200.0, "how strongly the end is drawn to the beginning")
    again: int = option(2, "how often each step is taken", least=1)


@dataclass(frozen=True)
class TouchOptions(MotionOptions):
    rate: float = option(30.0, "frames a second of the clips that it learned from")
    stiffness: float = option(1.0, "where the slider begins: times the frequencies")
    damping: float = option(1.0, "where the slider begins")
    strength: float = option(1.0, "where the slider begins: times the motion")


OF_PICTURES = ("video",)
KINDS: Mapping[str, SampleKind] = {
    "image": SampleKind("a picture that moves", FilmOptions, reads=OF_PICTURES, steps=True),
    "loop": SampleKind(
        "a picture that moves and ends as it began", WrapOptions, reads=OF_PICTURES, steps=True
    ),
    "touch": SampleKind(
        "a page with a picture that can be dragged", TouchOptions, "page", steps=True
    ),
    "spectrum": SampleKind(
        "the spectral volume of a picture", MotionOptions, "spectrum", reads=OF_PICTURES, steps=True
    ),
}


def kinds(frames: int) -> Mapping[str, SampleKind]:
    """With films as long as the clips that the motion is of."""
    return {
        name: replace(kind, frames=frames) if kind.medium == "film" else kind
        for name, kind in KINDS.items()
    }


@dataclass(frozen=True)
class Settings:
    """How a run samples unless it is told."""

    steps: int
    eta: float
    guidance: float


class Predicting(Protocol):
    """The recipe of a motion diffusion, as this module needs it."""

    alpha_bar: Tensor
    below: Any
    clip: Any

    def predict(
        self, nets: nn.ModuleDict, x: Tensor, t: Tensor, picture: Tensor, told: bool
    ) -> Tensor: ...

    def to_spectrum(self, latent: Tensor) -> Tensor: ...


class Generation:
    """One request, for a batch of draws."""

    def __init__(
        self,
        recipe: Predicting,
        nets: nn.ModuleDict,
        settings: Settings,
        request: SampleRequest,
        noise: Noise,
    ) -> None:
        self.recipe, self.nets, self.settings = recipe, nets, settings
        self.request, self.noise = request, noise
        self.options = request.options or KINDS[request.what].options()
        self.frames: int = recipe.below.config.frames
        guidance = self.options.guidance
        self.guidance = settings.guidance if guidance is None else guidance
        self.picture = self._picture()

    def made(self) -> object:
        make = {"image": self.film, "loop": self.film, "touch": self.pages}
        return make.get(self.request.what, self.spectrum)()

    def _picture(self) -> Tensor:
        """`B 3 H W` in [-1, 1]."""
        image, rows = self.options.image, self.request.rows
        if image is None and rows is not None:
            return rows.pixels()[:, :, 0]
        if image is None:
            what = self.request.what
            raise UserError(f"image= is missing; what={what} moves a picture: image=FILE")
        one = image.to(self.noise.device).permute(2, 0, 1).to(torch.get_default_dtype()) / 127.5
        return (one - 1).expand(len(self.noise.draws), -1, -1, -1)

    # Motion

    def spectrum(self) -> Tensor:
        """Complex `B K 2 H W` in pixels."""
        bins, shape = self.recipe.below.config.bins, self.recipe.below.latent_shape
        start = self.noise.randn((bins, *shape), "start")
        steps = self.request.steps or self.settings.steps
        if self.request.what == "loop":
            latent = self._guided(start, steps)
        else:
            fresh = lambda k: self.noise.randn((bins, *shape), f"step {k}")  # noqa: E731
            latent = ddim(
                self._eps, start, self.recipe.alpha_bar, steps, self.settings.eta, fresh, BOUND
            )
        magnify: float = self.options.magnify
        return self.recipe.to_spectrum(latent) * magnify

    def _eps(self, x: Tensor, t: Tensor) -> Tensor:
        """(1 + w) told - w untold (eq. 5)."""
        told = self.recipe.predict(self.nets, x, t, self.picture, True)
        if self.guidance == 0:
            return told
        untold = self.recipe.predict(self.nets, x, t, self.picture, False)
        return (1 + self.guidance) * told - self.guidance * untold

    def _guided(self, x: Tensor, steps: int) -> Tensor:
        """DDIM whose noise is bent so that the motion ends as it began (section 6, eq. 5).

        Each step is taken several times, with fresh noise in between (arXiv 2302.07121).
        """
        level, again = [*self.recipe.alpha_bar.tolist(), 1.0], self.options.again
        shape = tuple(x.shape[1:])
        for t, following in pairwise(timesteps(steps, len(level) - 1)):
            now, after = level[t], level[following]
            for turn in range(again):
                eps, x0 = self._bent(x, t, now)
                lower = after**0.5 * x0 + (1 - after) ** 0.5 * eps
                x = lower
                if turn + 1 < again and after < 1:
                    kept = now / after
                    more = self.noise.randn(shape, f"again {t} {turn}").to(x)
                    x = kept**0.5 * lower + (1 - kept) ** 0.5 * more
            if self.request.progress:
                self.request.progress(1 - max(following, 0) / len(level))
        return x

    def _bent(self, x: Tensor, t: int, now: float) -> tuple[Tensor, Tensor]:
        times = torch.full((len(x),), t, device=x.device)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            eps = self._eps(x, times)
            clean = x0_from_eps(x, times, eps, self.recipe.alpha_bar)
            loss = wrap_loss(self.recipe.to_spectrum(clean), self.frames)
            (slope,) = torch.autograd.grad(loss.sum(), x)
        x, pull = x.detach(), self.options.pull
        eps = eps.detach() + pull * (1 - now) ** 0.5 * slope
        return eps, x0_from_eps(x, times, eps, self.recipe.alpha_bar).clamp(-BOUND, BOUND)

    # What is made of it

    def film(self) -> Tensor:
        """`B C T H W`; the series is exact between frames too."""
        speed: float = self.options.speed
        if not 0 < speed <= self.frames:
            raise UserError(f"speed={speed}: it must be above 0 and leave a frame of {self.frames}")
        spectrum = self.spectrum()
        times = torch.arange(round(self.frames / speed), device=spectrum.device) * speed
        whole = motion_of(spectrum, self.frames)
        motion = whole if speed == 1 else motion_at(spectrum, self.frames, times)
        rendering = rendering_of(self.options.renderer, self.recipe.clip)
        return rendering.film(self.picture, motion, whole, self.noise)

    def pages(self) -> list[str]:
        asked = self.options
        for key in ("rate", "stiffness"):
            if getattr(asked, key) <= 0:
                raise UserError(f"{key}={getattr(asked, key)}: it must be above 0")
        feel = Feel(asked.stiffness, asked.damping, asked.strength)
        seconds = self.frames / asked.rate
        pixels = ((self.picture + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        found = self.spectrum().cpu()
        return [
            touch_page(picture.numpy(), spectrum.numpy(), self.frames, seconds, feel)
            for picture, spectrum in zip(pixels, found, strict=True)
        ]


def wrap_loss(spectrum: Tensor, frames: int) -> Tensor:
    """`B`: how far place and speed at the end are from those at the beginning, mean over pixels."""
    times = torch.tensor([0, 1, frames - 2, frames - 1], device=spectrum.device)
    first, second, before, last = motion_at(spectrum, frames, times).unbind(1)
    place, speed = last - first, (last - before) - (second - first)
    return (place.abs() + speed.abs()).mean((1, 2, 3))
