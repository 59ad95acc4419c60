"""HVDM's second stage: diffusion on the autoencoder's latent (arXiv 2402.13729)."""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.ops.sampler import ddim
from hvdm.ops.schedule import alpha_bars, q_sample, sqrt_linear_betas
from hvdm.recipe import (
    Batch,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Recipe,
    Reconstructs,
    SampleRequest,
)
from hvdm.recipes.hvdm.unet import UNet

TRAINED_STEPS = 1000


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's size for latents of 4x16x32x32."""

    width: int = 192
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    sampling_steps: int = 50
    eta: float = 0.0
    activation_checkpointing: bool = False


class FirstStage(Recipe, Reconstructs, Protocol):
    """What this stage builds on: a recipe that encodes and decodes."""


def build(config: Config, given: Given) -> Recipe:
    """The recipe on the latents of `given.first_stage`."""
    first_stage = given.first_stage
    if first_stage is None:
        raise UserError("first_stage is not set: this model needs the run of an autoencoder")
    if not hasattr(first_stage, "latent_shape"):
        raise UserError("first_stage is a run without an encoder: name the run of an autoencoder")
    stage = cast(FirstStage, first_stage)
    _check_levels(config.multipliers, stage.latent_shape)
    return DiffusionRecipe(config, stage)


def _check_levels(multipliers: tuple[int, ...], latent_shape: tuple[int, ...]) -> None:
    if not multipliers:
        raise UserError("model.multipliers is empty: the U-Net needs at least one level")
    unit = 2 ** (len(multipliers) - 1)
    for name, side in zip(("height", "width"), latent_shape[-2:], strict=True):
        if side % unit:
            raise UserError(
                f"data.{name} gives a latent {name} of {side}, which {len(multipliers)} levels "
                f"(model.multipliers) cannot halve: it must be a multiple of {unit}"
            )


class DiffusionRecipe:
    """Predicts the noise, mean squared error (DDPM, arXiv 2006.11239, eq. 14); samples by DDIM."""

    averaged: tuple[str, ...] = ("denoiser",)

    def __init__(self, config: Config, first_stage: FirstStage) -> None:
        self.config = config
        self.first_stage = first_stage
        self.latent_shape = first_stage.latent_shape
        self.alpha_bar = alpha_bars(sqrt_linear_betas(TRAINED_STEPS))
        self.trained = nn.ModuleDict({"denoiser": self._denoiser()})
        self.frozen = nn.ModuleDict(dict(first_stage.trained.items()))
        self.frozen.requires_grad_(False).eval()
        self.phases: tuple[Phase, ...] = (Phase("denoiser", self.loss),)

    def _denoiser(self) -> UNet:
        c = self.config
        channels = self.latent_shape[0]
        return UNet(channels, c.width, c.multipliers, c.blocks, c.activation_checkpointing)

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """|eps - eps_theta(x_t, t, 0)|^2, mean over the latent."""
        latent = self._latent(batch.video)
        t = context.randint(TRAINED_STEPS, "t")
        eps = context.randn(self.latent_shape, "eps").to(latent)
        noisy = q_sample(latent, t, eps, self.alpha_bar)
        predicted = self.trained["denoiser"](noisy, t, torch.zeros_like(noisy))
        error = (predicted - eps).square().mean((1, 2, 3, 4))
        return error, {"mse": error.detach()}

    @torch.no_grad()
    def _latent(self, video: Tensor) -> Tensor:
        # under autocast the encoder answers in bf16; the noise is to be added in the video's dtype
        return self.first_stage.encode(self.frozen, video).to(video)

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """Clips `B C T H W`; `nets` holds the weights to sample with."""
        _check_request(request)
        start = noise.randn(self.latent_shape, "start")
        condition = torch.zeros_like(start)
        latent = ddim(
            denoise=lambda x, t: nets["denoiser"](x, t, condition).to(x),
            start=start,
            alpha_bar=self.alpha_bar,
            steps=self.config.sampling_steps if request.steps is None else request.steps,
            eta=self.config.eta,
            noise=lambda k: noise.randn(self.latent_shape, f"step {k}"),
        )
        return self.first_stage.decode(self.frozen, latent)


def _check_request(request: SampleRequest) -> None:
    if request.what != "clip":
        raise UserError(f"what={request.what}: this model samples what=clip")
    for name in request.options or {}:
        raise UserError(f"{name}: sampling clips takes no such option")
