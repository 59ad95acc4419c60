"""The second stage: diffusion of latent frequencies, told the picture (2309.07906, section 4.2).

Stage A learns frequencies one by one; `prediction: volume`, for comparison, all in one pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
from hvdm.ops.schedule import alpha_bars, q_sample, sqrt_linear_betas
from hvdm.recipe import (
    Batch,
    Coder,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Recipe,
    SampleKind,
    SampleRequest,
)
from hvdm.recipes.image_dynamics import spectra
from hvdm.recipes.image_dynamics.autoencoder import MotionAutoencoder, slices_of
from hvdm.recipes.image_dynamics.generation import Generation, Settings, kinds
from hvdm.recipes.image_dynamics.networks import PictureEncoder, SpectrumUNet, UNetShape

TRAINED_STEPS = 1000

stages = ("autoencoder",)


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's; `slices` frequencies of each row make a step."""

    bins: int = 16
    prediction: Literal["slices", "volume"] = "slices"
    width: int = 128
    multipliers: tuple[int, ...] = (1, 4, 8)
    blocks: int = 2
    attending: tuple[int, ...] = (1, 2)
    picture_width: int = 64
    picture_channels: int = 16
    slices: int = 1
    untold: float = 0.1
    sampling_steps: int = 250
    eta: float = 0.0
    guidance: float = 1.0


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    picture = spectra.from_first(video(data, 1))
    return picture, spectra.volume(config.bins, data.height, data.width)


def build(config: Config, given: Given) -> Recipe:
    below = given.stages["autoencoder"]
    if not isinstance(below, MotionAutoencoder):
        raise UserError("first_stage is no autoencoder of motion: name an image_dynamics one")
    check(config, below)
    return MotionDiffusion(config, below)


def check(config: Config, below: MotionAutoencoder) -> None:
    if config.bins != below.config.bins:
        raise UserError(
            f"model.bins={config.bins}, and the autoencoder has {below.config.bins}: set "
            f"model.bins={below.config.bins}"
        )
    if not 1 <= config.slices <= config.bins:
        raise UserError(f"model.slices={config.slices}: from 1 to model.bins={config.bins}")
    if not 0 <= config.untold <= 1:
        raise UserError(f"model.untold={config.untold}: it is a share, from 0 to 1")
    unit = 2 ** (len(config.multipliers) - 1)
    _, height, width = below.latent_shape
    if height % unit or width % unit:
        raise UserError(
            f"the latent is {height}x{width}, which {len(config.multipliers)} levels "
            f"(model.multipliers) cannot halve: both must be multiples of {unit}"
        )


class Denoiser(nn.Module):
    """Noisy slices and the picture -> the slices' noise."""

    def __init__(self, config: Config, below: MotionAutoencoder, coordinated: bool) -> None:
        super().__init__()
        self.volume = config.prediction == "volume"
        latent, _, _ = below.latent_shape
        channels = latent * (config.bins if self.volume else 1)
        halvings = len(below.config.multipliers) - 1
        self.picture = PictureEncoder(config.picture_width, halvings, config.picture_channels)
        self.unet = SpectrumUNet(
            UNetShape(
                channels + config.picture_channels,
                channels,
                config.width,
                config.multipliers,
                config.blocks,
                config.attending,
                config.bins,
                coordinated,
            )
        )

    def forward(self, x: Tensor, t: Tensor, k: Tensor, picture: Tensor, told: Tensor) -> Tensor:
        """`B S E h w`, `B`, `B S`, `B 3 H W`, and whether each is told it, `B` -> `B S E h w`."""
        beside = self.picture(picture) * told.to(picture)[:, None, None, None]
        if self.volume:
            made = self.unet(torch.cat((x.flatten(1, 2), beside), 1), t, torch.zeros_like(t))
            return made.unflatten(1, x.shape[1:3])
        count = x.shape[1]
        rows = torch.cat((x.flatten(0, 1), beside.repeat_interleave(count, 0)), 1)
        out: Tensor = self.unet(rows, t.repeat_interleave(count), k.flatten().to(t.device))
        return out.unflatten(0, x.shape[:2])


class MotionDiffusion:
    """Mean squared error of the noise; the picture is withheld from some rows, for guidance."""

    averaged: tuple[str, ...] = ("denoiser",)
    coder: Coder | None = None
    coordinated = False

    def __init__(self, config: Config, below: MotionAutoencoder) -> None:
        self.config, self.below, self.clip = config, below, below.clip
        self.samples: Mapping[str, SampleKind] = kinds(below.config.frames)
        self.alpha_bar = alpha_bars(sqrt_linear_betas(TRAINED_STEPS))
        self.trained = nn.ModuleDict({"denoiser": Denoiser(config, below, self.coordinated)})
        self.frozen = nn.ModuleDict(dict(below.trained.items()))
        self.frozen.requires_grad_(False).eval()
        self.phases: tuple[Phase, ...] = (Phase("denoiser", self.loss),)

    @property
    def whole(self) -> bool:
        """Whether a step sees all frequencies of a row."""
        return self.coordinated or self.config.prediction == "volume"

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        config, channels = self.config, spectra.channels_of(batch)
        chosen = self._chosen(context, channels)
        with torch.no_grad():
            clean = self.below.encode(self.frozen, channels, chosen).to(channels)
        t = context.randint(TRAINED_STEPS, "t")
        noise = context.randn(tuple(clean.shape[1:]), "noise").to(clean)
        told = context.uniform((), "untold") >= config.untold
        picture = batch.pixels()[:, :, 0]
        noisy = q_sample(clean, t, noise, self.alpha_bar)
        found = self.trained["denoiser"](noisy, t, chosen, picture, told)
        error = (found - noise).square().mean((1, 2, 3, 4))
        return error, {"mse": error.detach()}

    def _chosen(self, context: Context, like: Tensor) -> Tensor:
        bins = self.config.bins
        if self.whole:
            return torch.arange(bins, device=like.device).expand(len(like), -1)
        return slices_of(context, bins, self.config.slices, "k").to(like.device)

    # Sampling

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> object:
        settings = Settings(self.config.sampling_steps, self.config.eta, self.config.guidance)
        return Generation(self, nets, settings, request, noise).made()

    def predict(self, nets: nn.ModuleDict, x: Tensor, t: Tensor, picture: Tensor,
                told: bool) -> Tensor:  # fmt: skip
        """The noise of all frequencies `B K E h w`."""
        chosen = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        tells = torch.full((len(x),), told, device=x.device)
        found: Tensor = nets["denoiser"](x, t, chosen, picture, tells)
        return found

    def to_spectrum(self, latent: Tensor) -> Tensor:
        return self.below.decode(self.frozen, latent)
