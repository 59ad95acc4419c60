"""WildFusion's second stage: class-conditional diffusion of the latent (arXiv 2311.13570).

One sample is an object: every view of it is then only rendered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, label, latent, video
from hvdm.errors import UserError
from hvdm.ops.sampler import ddim, inverse_ddim, timesteps
from hvdm.ops.schedule import alpha_bars, eps_from_v, q_sample, sqrt_linear_betas, v_from
from hvdm.options import option
from hvdm.recipe import (
    Batch,
    Coder,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Picture,
    Recipe,
    SampleKind,
    SampleRequest,
)
from hvdm.recipes.wildfusion.asking import (
    FilmOptions,
    MeshOptions,
    OfPicture,
    OrbitOptions,
    PlacedOptions,
    PlacesOptions,
    batch_of,
    depth_option,
    picture_option,
    sides,
)
from hvdm.recipes.wildfusion.autoencoder import PictureCoder, WildNetwork, depth_field, network_of
from hvdm.recipes.wildfusion.showing import SHOWN, beside
from hvdm.recipes.wildfusion.unet import LatentUNet, UNetShape, unit_of

TRAINED_STEPS = 1000
UNBOUND = float("inf")
STRAIGHT = 0.9995
"""Above this cosine two noises are as good as one direction, and are mixed evenly."""


@dataclass(frozen=True)
class Config:
    """The defaults are latent diffusion's for 4x32x32 latents with classes."""

    width: int = 256
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (32, 16, 8)
    heads: int = 8
    labels: int = 0
    untold: float = 0.1
    predicts: Literal["eps", "v"] = "eps"
    sampling_steps: int = 200
    eta: float = 0.0
    guidance: float = 2.0
    yaw: float = 35.0
    pitch: float = 15.0


stages = ("first_stage",)


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    """Latents where the data set holds them, else pictures with their depth."""
    fields = [latent(), video(data, unless="latent"), replace(depth_field(data), unless="latent")]
    return [*fields, *([label(config.labels)] if config.labels else [])]


def build(config: Config, given: Given) -> Recipe:
    below = given.stages["first_stage"]
    if not isinstance(below.coder, PictureCoder):
        raise UserError("first_stage is no autoencoder of this family: name a run of that")
    _check(config, below.coder)
    clip = below.coder.clip
    if (given.clip.height, given.clip.width) != (clip.height, clip.width):
        raise UserError(
            f"data.height={given.clip.height}: first_stage was trained on {clip.height}; set "
            f"data.height={clip.height} data.width={clip.width}"
        )
    return WildDiffusion(config, below.coder, below.trained)


def _check(config: Config, coder: PictureCoder) -> None:
    side, unit = coder.latent_shape[-1], unit_of(config.multipliers)
    if not config.multipliers or side % unit:
        raise UserError(
            f"model.multipliers has {len(config.multipliers)} levels, and the latent's side {side} "
            "has to be halved between them"
        )
    if not 0 <= config.untold <= 1:
        raise UserError(f"model.untold={config.untold}: it is a share, from 0 to 1")
    if config.labels < 0:
        raise UserError(f"model.labels={config.labels}: the number of classes, or 0")


# What can be asked for


def _labels(name: str, value: Any) -> tuple[int, ...]:
    values = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(int(one) for one in (values if isinstance(values, tuple | list) else [values]))
    except ValueError:
        raise UserError(f"{name}={value!r}: expected numbers of classes") from None


@dataclass(frozen=True)
class ToldOptions:
    label: tuple[int, ...] = option(
        (), "the class; several with commas in turn; all in turn unless told", read=_labels
    )
    guidance: float | None = option(None, "untold + W (told - untold); default the run's")


@dataclass(frozen=True)
class Telling(ToldOptions):
    eta: float | None = option(None, "noise of DDIM, 0 to 1; default the run's")


@dataclass(frozen=True)
class SampleOptions(OrbitOptions, Telling):
    pass


@dataclass(frozen=True)
class SampledMesh(MeshOptions, Telling):
    pass


@dataclass(frozen=True)
class SampledPlaces(PlacesOptions, Telling):
    pass


@dataclass(frozen=True)
class SampledPage(MeshOptions, OrbitOptions, Telling):
    pass


@dataclass(frozen=True)
class InterpolateOptions(FilmOptions, PlacedOptions, ToldOptions):
    """Seen from the front, and without fresh noise: the way has to be that of the inversion."""

    begin: Picture | None = picture_option("from", "the picture it begins with")
    begin_depth: Tensor | None = depth_option("from_depth")
    end: Picture | None = picture_option("to", "the picture it ends with")
    end_depth: Tensor | None = depth_option("to_depth")


@dataclass(frozen=True)
class ResampleOptions(OfPicture, Telling):
    levels: int = option(11, "from none of the noise to all of it", least=2)


OBJECTS = {
    "sample": "views", "depth": "depth", "places": "places", "mesh": "mesh", "page": "page",
}  # fmt: skip
"""Kinds that show a drawn object, by how it is shown."""
WILD_KINDS: Mapping[str, SampleKind] = {
    "sample": SampleKind(
        "an orbit around an object, its depth beside it", SampleOptions, steps=True
    ),
    "image": SampleKind("objects from the front", Telling, "images", steps=True),
    "novel": SampleKind("objects from a random side", Telling, "images", steps=True),
    "depth": SampleKind("how far objects are, from the front", Telling, "depth", steps=True),
    "places": SampleKind(
        "where on its ray each pixel ends, 0 to 1", SampledPlaces, "depth", steps=True
    ),
    "mesh": SampleKind("solids, by marching cubes", SampledMesh, "mesh", steps=True),
    "page": SampleKind("a page on which an object can be turned", SampledPage, "page", steps=True),
    "interpolate": SampleKind("from one picture to another", InterpolateOptions, steps=True),
    "resample": SampleKind(
        "a picture, more and more of it drawn anew", ResampleOptions, "images", steps=True
    ),
}


class WildDiffusion:
    """Mean squared error on what the network predicts, over latents of size 1."""

    averaged: tuple[str, ...] = ("denoiser",)
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = WILD_KINDS

    def __init__(self, config: Config, below: PictureCoder, nets: nn.ModuleDict) -> None:
        self.config, self.below, self.clip = config, below, below.clip
        self.latent_shape = below.latent_shape
        self.alpha_bar = alpha_bars(sqrt_linear_betas(TRAINED_STEPS))
        channels, _, side = below.latent_shape
        shape = UNetShape(
            channels, side, config.width, config.multipliers, config.blocks, config.attention,
            config.heads, config.labels,
        )  # fmt: skip
        self.trained = nn.ModuleDict({"denoiser": LatentUNet(shape)})
        self.frozen = nn.ModuleDict({"autoencoder": nets["autoencoder"]})
        self.frozen.requires_grad_(False).eval()
        self.phases: tuple[Phase, ...] = (Phase("denoiser", self.loss),)

    @property
    def net(self) -> WildNetwork:
        return network_of(self.frozen)

    # Training

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        clean = self.to_latent(batch)
        t = context.randint(TRAINED_STEPS, "t")
        eps = context.randn(self.latent_shape, "eps").to(clean)
        noisy = q_sample(clean, t, eps, self.alpha_bar)
        predicted = self.trained["denoiser"](noisy, t, self._told(batch, context))
        target = eps if self.config.predicts == "eps" else v_from(clean, t, eps, self.alpha_bar)
        error = (predicted - target).square().flatten(1).mean(1)
        return error, {"mse": error.detach()}

    def _told(self, batch: Batch, context: Context) -> Tensor | None:
        """Classes, of some rows left out, so that there is something to guide away from."""
        if not self.config.labels:
            return None
        untold = context.uniform((), "label untold") < self.config.untold
        return torch.where(untold, -1, batch["label"])

    @torch.no_grad()
    def to_latent(self, batch: Batch) -> Tensor:
        if "latent" in batch.fields:
            return batch["latent"]
        # under autocast the encoder answers in bf16; noise is added in the pictures' dtype
        return self.below.encode(self.frozen, batch).to(batch.pixels())

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Any:
        asked = request.options or WILD_KINDS[request.what].options()
        drawing = Drawing(self, nets, asked, noise, request)
        if request.what == "interpolate":
            return drawing.interpolated()
        if request.what == "resample":
            return drawing.resampled()
        planes = self.planes(drawing.latent())
        if request.what in OBJECTS:
            return SHOWN[OBJECTS[request.what]](self.net, planes, asked)
        turned = sides(noise, self.config.yaw, self.config.pitch)
        angles = turned if request.what == "novel" else None
        return self.net.look(planes, angles).image.clamp(-1, 1)

    def planes(self, latent: Tensor) -> Tensor:
        return self.below.planes(self.frozen, latent)


@dataclass(frozen=True)
class Drawing:
    """One request: what is told, and how many steps are taken."""

    recipe: WildDiffusion
    nets: nn.ModuleDict
    asked: Any
    noise: Noise
    request: SampleRequest

    @property
    def steps(self) -> int:
        return self.request.steps or self.recipe.config.sampling_steps

    def labels(self) -> Tensor | None:
        """Of each draw; a picture that was given is of no class unless one is told."""
        known = self.recipe.config.labels
        for one in self.asked.label:
            if not 0 <= one < known:
                told = f"knows labels 0 to {known - 1}" if known else "was told no labels"
                raise UserError(f"label={one}: this run {told}")
        of_picture = self.request.what in ("interpolate", "resample")
        if not known or (of_picture and not self.asked.label):
            return None
        labels = self.asked.label or tuple(range(known))
        draws = [labels[draw % len(labels)] for draw in self.noise.draws]
        return torch.tensor(draws, device=self.noise.device)

    def eps(self, guided: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
        """eps, whatever the network predicts: untold + W (told - untold)."""
        label, asked = self.labels(), self.asked.guidance
        scale = self.recipe.config.guidance if asked is None else asked

        def answer(x: Tensor, t: Tensor) -> Tensor:
            told = self._eps(x, t, label)
            if label is None or not guided or scale == 1:
                return told
            untold = self._eps(x, t, None)
            return untold + scale * (told - untold)

        return answer

    def _eps(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        answer: Tensor = self.nets["denoiser"](x, t, label).to(x)
        if self.recipe.config.predicts == "eps":
            return answer
        return eps_from_v(x, t, answer, self.recipe.alpha_bar)

    def denoised(self, start: Tensor, skip: int = 0) -> Tensor:
        return ddim(
            self.eps(), start, self.recipe.alpha_bar, self.steps, self.eta,
            lambda k: self.noise.randn(self.recipe.latent_shape, f"step {k}"), UNBOUND, skip,
        )  # fmt: skip

    @property
    def eta(self) -> float:
        if self.request.what == "interpolate":
            return 0.0
        asked: float | None = self.asked.eta
        return self.recipe.config.eta if asked is None else asked

    def latent(self) -> Tensor:
        return self.denoised(self.noise.randn(self.recipe.latent_shape, "start"))

    def _encoded(self, key: str, image: Tensor | None, depth: Tensor | None) -> Tensor:
        """One picture's latent, for each draw."""
        batch = batch_of(image, depth, self.asked.placing, key, self.recipe.clip.height)
        batch = batch.to(torch.device(self.noise.device), torch.get_default_dtype())
        latent = self.recipe.to_latent(batch)
        return latent.expand(len(self.noise.draws), -1, -1, -1)

    # Between two pictures

    def interpolated(self) -> Tensor:
        """`B 3 T H 2W`: along a great circle between the noises that both pictures come from."""
        asked, net = self.asked, self.recipe.net
        begin = self._inverted(self._encoded("from", asked.begin, asked.begin_depth))
        end = self._inverted(self._encoded("to", asked.end, asked.end_depth))
        frames = []
        for frame in range(asked.frames):
            latent = self.denoised(slerp(begin, end, frame / (asked.frames - 1)))
            frames.append(beside(net, net.look(self.recipe.planes(latent))))
        return torch.stack(frames, 2)

    def _inverted(self, latent: Tensor) -> Tensor:
        return inverse_ddim(self.eps(guided=False), latent, self.recipe.alpha_bar, self.steps)

    # More and more anew

    def resampled(self) -> Tensor:
        """`B 3 H (levels 2W)`: from the reconstruction to what has nothing of the picture."""
        asked, net = self.asked, self.recipe.net
        clean = self._encoded("image", asked.image, asked.depth)
        shown = []
        for level in range(asked.levels):
            taken = round(self.steps * level / (asked.levels - 1))
            shown.append(beside(net, net.look(self.recipe.planes(self._anew(clean, taken)))))
        return torch.cat(shown, -1)

    def _anew(self, clean: Tensor, taken: int) -> Tensor:
        """Made as noisy as it is before the last `taken` steps, and denoised from there."""
        if taken == 0:
            return clean
        skip = self.steps - taken
        t = torch.full((len(clean),), timesteps(self.steps)[skip], device=clean.device)
        eps = self.noise.randn(self.recipe.latent_shape, "start").to(clean)
        return self.denoised(q_sample(clean, t, eps, self.recipe.alpha_bar), skip)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between noises of each row, whose length should not shrink on the way."""
    x, y = a.flatten(1), b.flatten(1)
    cosine = nn.functional.cosine_similarity(x, y, dim=1).clamp(-1, 1)
    angle = torch.where(cosine.abs() > STRAIGHT, 1.0, cosine.acos())
    ways = torch.stack([(1 - share) * angle, share * angle]).sin() / angle.sin()
    even = torch.tensor([1 - share, share]).to(ways)[:, None].expand_as(ways)
    first, second = torch.where(cosine.abs() > STRAIGHT, even, ways)
    shape = (-1, *[1] * (a.ndim - 1))
    return first.reshape(shape) * a + second.reshape(shape) * b
