"""The first stage: a variational autoencoder of single frequencies (arXiv 2309.07906, section 7).

It sees one plane of four numbers at a time, of any frequency, and is told none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field
from hvdm.errors import UserError
from hvdm.ops.spectrum import as_complex, denormalised, normalised
from hvdm.recipe import (
    Batch,
    Clip,
    Coder,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Recipe,
    SampleKind,
    SampleRequest,
    Sums,
)
from hvdm.recipes.image_dynamics import spectra
from hvdm.recipes.image_dynamics.networks import SliceAutoencoder

LEAST_SHARE = 0.01
"""Of a step in the average of what latents look like."""
BOUND = 2.0
"""Normalised values that a model makes are held within it."""
GRADIENT_SCALES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's. `frames` is the length of the motion, `slices` how many
    frequencies of a row a step sees; scaling=plain divides by the picture's size."""

    bins: int = 16
    frames: int = 150
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    latent: int = 4
    scaling: Literal["adaptive", "plain"] = "adaptive"
    slices: int = 1
    gradient_weight: float = 0.2
    kl_weight: float = 1e-6


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (spectra.volume(config.bins, data.height, data.width, config.frames),)


def from_manifest(config: Config, measured: Mapping[str, Any]) -> Mapping[str, Any]:
    return spectra.measured_scales(config.bins, measured)


def build(config: Config, given: Given) -> Recipe:
    _check(config, given.clip)
    return MotionAutoencoder(config, given.clip, given.from_data)


def _check(config: Config, clip: Clip) -> None:
    for key in ("bins", "blocks", "latent", "slices"):
        if getattr(config, key) < 1:
            raise UserError(f"model.{key}={getattr(config, key)} is below 1")
    if config.bins > config.frames // 2 + 1:
        raise UserError(
            f"model.bins={config.bins}: motion of model.frames={config.frames} has "
            f"{config.frames // 2 + 1} frequencies"
        )
    if config.slices > config.bins:
        raise UserError(f"model.slices={config.slices} is more than model.bins={config.bins}")
    unit = 2 ** (len(config.multipliers) - 1)
    for name in ("height", "width"):
        if getattr(clip, name) % unit:
            raise UserError(
                f"data.{name}={getattr(clip, name)}: {len(config.multipliers)} levels "
                f"(model.multipliers) need a multiple of {unit}"
            )


class MotionAutoencoder:
    averaged: tuple[str, ...] = ()
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = {}

    def __init__(self, config: Config, clip: Clip, found: Mapping[str, Any]) -> None:
        self.config, self.clip = config, clip
        self.scales = torch.tensor(spectra.scales_of(config.bins, found), dtype=torch.float64,
                                   device="cpu")  # fmt: skip
        widths = [config.width * factor for factor in config.multipliers]
        net = SliceAutoencoder(config.bins, widths, config.blocks, config.latent)
        self.trained = nn.ModuleDict({"autoencoder": net})
        self.frozen = nn.ModuleDict()
        self.phases: tuple[Phase, ...] = (Phase("autoencoder", self.loss, after=self.move),)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of one slice."""
        unit = 2 ** (len(self.config.multipliers) - 1)
        return self.config.latent, self.clip.height // unit, self.clip.width // unit

    # Numbers that models see

    def normalised(self, channels: Tensor) -> Tensor:
        """`B K 4 H W` of pixels -> about [-1, 1]."""
        if self.config.scaling == "adaptive":
            return normalised(channels, self.scales)
        return channels / self._sizes(channels)

    def denormalised(self, values: Tensor) -> Tensor:
        if self.config.scaling == "adaptive":
            return denormalised(values.clamp(-BOUND, BOUND), self.scales)
        return values * self._sizes(values)

    def _sizes(self, like: Tensor) -> Tensor:
        sizes = (self.clip.width, self.clip.height) * 2
        return like.new_tensor(sizes)[:, None, None]

    # Training

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs, Sums]:
        """L1, how alike slopes are on four scales, and the latent's distance from noise."""
        config, net = self.config, self._net(self.trained)
        chosen = slices_of(context, config.bins, config.slices, "k")
        target = taken(self.normalised(spectra.channels_of(batch)), chosen).flatten(0, 1)
        mean, spread = net.encode(target)
        shape = (config.slices, *self.latent_shape)
        latent = mean + (spread / 2).exp() * context.randn(shape, "latent").flatten(0, 1).to(mean)
        output = net.decode(latent)
        far = (mean.square() + spread.exp() - 1 - spread).sum((1, 2, 3)) / 2
        terms = {
            "l1": (output - target).abs().mean((1, 2, 3)),
            "slope": slopes(output - target),
            "kl": far,
        }
        terms = {name: one.unflatten(0, (-1, config.slices)).mean(1) for name, one in terms.items()}
        loss = terms["l1"] + config.gradient_weight * terms["slope"]
        loss = loss + config.kl_weight * terms["kl"]
        sums = self._moments(mean.detach(), chosen, batch.weight)
        return loss, {name: one.detach() for name, one in terms.items()}, sums

    def _moments(self, mean: Tensor, chosen: Tensor, weight: Tensor) -> Sums:
        """Of latents by frequency, each row times its weight."""
        bins, rows = self.config.bins, mean.double()
        held = weight.double().repeat_interleave(chosen.shape[1])
        picked = nn.functional.one_hot(chosen.flatten(), bins).double() * held[:, None]
        means, squares = rows.mean((2, 3)), rows.square().mean((2, 3))
        return {"count": picked.sum(0), "mean": picked.T @ means, "square": picked.T @ squares}

    @torch.no_grad()
    def move(self, sums: Sums) -> None:
        net = self._net(self.trained)
        net.moved(sums["count"], sums["mean"], sums["square"], LEAST_SHARE)

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        raise UserError("an autoencoder of motion samples nothing; sample a diffusion on it")

    # For the stages above

    def encode(self, nets: nn.ModuleDict, channels: Tensor, chosen: Tensor) -> Tensor:
        """Slices `B S` of `B K 4 H W` in pixels -> whitened `B S E h w`."""
        net = self._net(nets)
        slices = taken(self.normalised(channels), chosen)
        mean, _ = net.encode(slices.flatten(0, 1))
        latent = mean.unflatten(0, slices.shape[:2])
        return (latent - _of(net.mean, chosen)) / _of(net.spread(), chosen)

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        """Whitened `B K E h w` of all frequencies -> complex `B K 2 H W` in pixels."""
        net = self._net(nets)
        chosen = torch.arange(latent.shape[1], device=latent.device).expand(latent.shape[:2])
        coloured = latent * _of(net.spread(), chosen) + _of(net.mean, chosen)
        values = net.decode(coloured.flatten(0, 1)).unflatten(0, latent.shape[:2])
        return as_complex(self.denormalised(values).float())

    def _net(self, nets: nn.ModuleDict) -> SliceAutoencoder:
        net = nets["autoencoder"]
        assert isinstance(net, SliceAutoencoder)
        return net


def slices_of(context: Context, bins: int, count: int, use: str) -> Tensor:
    """`B S`: different frequencies of each row, the first by chance, the others evenly apart."""
    first = context.randint(bins, use)
    apart = torch.arange(count, device=first.device) * bins // count
    return (first[:, None] + apart) % bins


def taken(slices: Tensor, chosen: Tensor) -> Tensor:
    """`B K …`, `B S` -> `B S …`."""
    rows = torch.arange(len(slices), device=slices.device)[:, None]
    return slices[rows, chosen.to(slices.device)]


def slopes(apart: Tensor) -> Tensor:
    """`N C H W` -> `N`: how steep a difference is, summed over four scales."""
    total = apart.new_zeros(len(apart))
    for scale in GRADIENT_SCALES:
        coarse = apart[..., ::scale, ::scale]
        for axis in (-1, -2):
            if coarse.shape[axis] > 1:
                total = total + coarse.diff(dim=axis).abs().mean((1, 2, 3))
    return total


def _of(table: Tensor, chosen: Tensor) -> Tensor:
    """`K E`, `B S` -> `B S E 1 1`."""
    return table[chosen.to(table.device)][..., None, None]
