"""The family's second stage: diffusion on an autoencoder's latent (HVDM, arXiv 2402.13729).

On HVDM's latent, a volume, works a 3D U-Net; on PVDM's, three planes, a 2D one.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.ops.sampler import Denoise, ddim, ddpm, dpm_solver_2m
from hvdm.ops.schedule import alpha_bars, eps_from_v, q_sample, sqrt_linear_betas, v_from
from hvdm.recipe import (
    Batch,
    Clip,
    Context,
    Given,
    Logs,
    Noise,
    Phase,
    Recipe,
    Reconstructs,
    SampleRequest,
)
from hvdm.recipes.hvdm.plane_unet import PlaneUNet
from hvdm.recipes.hvdm.unet import UNet

TRAINED_STEPS = 1000


@dataclass(frozen=True)
class Config:
    """The defaults are the paper's size for latents of 4x16x32x32."""

    variant: Literal["figure", "released"] = "figure"
    width: int = 192
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    heads: int = 8
    attention: bool = False
    predicts: Literal["eps", "v"] = "eps"
    conditional: float = 0.3
    latent_scale: float = 1.0
    sampler: Literal["ddim", "ddpm", "dpm++2m"] = "ddim"
    sampling_steps: int = 100
    eta: float = 1.0
    guidance: float = 0.0
    activation_checkpointing: bool = False


class FirstStage(Recipe, Reconstructs, Protocol):
    """What this stage builds on: a recipe that encodes and decodes clips of its own shape."""

    clip: Clip


def build(config: Config, given: Given) -> Recipe:
    """The recipe on the latents of `given.first_stage`."""
    first_stage = given.first_stage
    if first_stage is None:
        raise UserError("first_stage is not set: this model needs the run of an autoencoder")
    if not hasattr(first_stage, "latent_shape") or not hasattr(first_stage, "clip"):
        raise UserError("first_stage is a run without an encoder: name the run of an autoencoder")
    stage = cast(FirstStage, first_stage)
    _check_numbers(config)
    _check_clip(given.clip, stage.clip)
    _check_levels(config, stage)
    return DiffusionRecipe(config, stage)


def _check_numbers(config: Config) -> None:
    if not config.multipliers:
        raise UserError("model.multipliers is empty: the U-Net needs at least one level")
    if not 0 <= config.conditional <= 1:
        raise UserError(f"model.conditional={config.conditional}: it is a share, from 0 to 1")
    for key in ("latent_scale",):
        if getattr(config, key) <= 0:
            raise UserError(f"model.{key}={getattr(config, key)}: it must be above 0")


def _check_clip(clip: Clip, trained: Clip) -> None:
    """The first stage encodes clips of one shape only."""
    for name in ("frames", "height", "width"):
        wanted, have = getattr(trained, name), getattr(clip, name)
        if wanted != have:
            raise UserError(
                f"data.{name}={have}, and first_stage was trained on {wanted}: set "
                f"data.{name}={wanted}, or name a first_stage of that size"
            )


def _check_levels(config: Config, stage: FirstStage) -> None:
    unit = 2 ** (len(config.multipliers) - 1)
    for name, side in _halved_sides(stage).items():
        if side % unit:
            raise UserError(
                f"data.{name} gives a latent {name} of {side}, which {len(config.multipliers)} "
                f"levels (model.multipliers) cannot halve: it must be a multiple of {unit}"
            )


def _halved_sides(stage: FirstStage) -> dict[str, int]:
    planes = _plane_shapes(stage)
    if planes is None:
        return {"height": stage.latent_shape[-2], "width": stage.latent_shape[-1]}
    (height, width), (frames, _), _ = planes
    return {"height": height, "width": width, "frames": frames}


def _plane_shapes(stage: FirstStage) -> tuple[tuple[int, int], ...] | None:
    return getattr(stage, "plane_shapes", None)


def _denoiser(config: Config, stage: FirstStage) -> nn.Module:
    planes, channels = _plane_shapes(stage), stage.latent_shape[0]
    sizes = (config.width, config.multipliers, config.blocks)
    positions = torch.Size(stage.latent_shape[1:]).numel()
    kept = (channels, positions) if config.variant == "released" else None
    checkpointing = config.activation_checkpointing
    if planes is not None:
        return PlaneUNet(channels, planes, *sizes, config.heads, checkpointing, kept)
    return UNet(channels, *sizes, checkpointing, config.heads if config.attention else 0, kept)


class DiffusionRecipe:
    """Mean squared error on what the network predicts (DDPM, arXiv 2006.11239, eq. 14)."""

    averaged: tuple[str, ...] = ("denoiser",)

    def __init__(self, config: Config, first_stage: FirstStage) -> None:
        self.config = config
        self.first_stage = first_stage
        self.clip = first_stage.clip
        self.latent_shape = first_stage.latent_shape
        self.alpha_bar = alpha_bars(sqrt_linear_betas(TRAINED_STEPS))
        self.trained = nn.ModuleDict({"denoiser": _denoiser(config, first_stage)})
        self.frozen = nn.ModuleDict(dict(first_stage.trained.items()))
        self.frozen.requires_grad_(False).eval()
        self.phases: tuple[Phase, ...] = (Phase("denoiser", self.loss),)

    # Training

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """|eps - eps_theta(x_t, t, c)|^2, or the same of v, mean over the latent."""
        latent, condition = self._target_and_condition(batch, context)
        t = context.randint(TRAINED_STEPS, "t")
        eps = context.randn(self.latent_shape, "eps").to(latent)
        noisy = q_sample(latent, t, eps, self.alpha_bar)
        predicted = self.trained["denoiser"](noisy, t, condition)
        target = eps if self.config.predicts == "eps" else v_from(latent, t, eps, self.alpha_bar)
        error = (predicted - target).square().flatten(1).mean(1)
        return error, {"mse": error.detach()}

    def _target_and_condition(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor | None]:
        """Of rows that begin earlier than the clip, some are told what was before (PVDM, 3.3)."""
        if "latent" in batch.fields:
            return batch["latent"] * self.config.latent_scale, None
        video = batch.video
        before = video.shape[2] - self.clip.frames
        if before <= 0:
            return self.encode(video), None
        if before < self.clip.frames:
            raise UserError(
                f"data.before={before}: the past is a clip too, of {self.clip.frames} frames; use "
                f"data.before={self.clip.frames}, or 0 to train without it"
            )
        told, first = windows(video, before, self.config.conditional, context)
        target = frames_from(video, first, self.clip.frames)
        past = self.encode(video[:, :, before - self.clip.frames : before])
        keep = told.reshape(-1, *[1] * (past.ndim - 1))
        return self.encode(target), torch.where(keep, past, torch.zeros_like(past))

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """`B C T H W` -> what the diffusion works on."""
        # under autocast the encoder answers in bf16; the noise is to be added in the video's dtype
        return self.first_stage.encode(self.frozen, video).to(video) * self.config.latent_scale

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """Clips `B C T H W`; `nets` holds the weights to sample with."""
        _check_request(request)
        latent = self.sample_latent(nets, noise, None, request.steps)
        return self.decode(latent)

    @torch.no_grad()
    def sample_latent(
        self, nets: nn.ModuleDict, noise: Noise, condition: Tensor | None, steps: int | None = None
    ) -> Tensor:
        """A latent for each draw of the noise; `condition` is the latent of what came before."""
        config, bound = self.config, self.config.latent_scale
        start = noise.randn(self.latent_shape, "start")
        count = config.sampling_steps if steps is None else steps
        denoise = self._guided(nets, condition)

        def fresh(k: int) -> Tensor:
            return noise.randn(self.latent_shape, f"step {k}")

        if config.sampler == "dpm++2m":
            return dpm_solver_2m(denoise, start, self.alpha_bar, count, bound)
        if config.sampler == "ddpm":
            return ddpm(denoise, start, self.alpha_bar, count, fresh, bound)
        return ddim(denoise, start, self.alpha_bar, count, config.eta, fresh, bound)

    def _guided(self, nets: nn.ModuleDict, condition: Tensor | None) -> Denoise:
        """(1 + w) eps_c - w eps_0 (classifier-free guidance, arXiv 2207.12598, eq. 6)."""
        w = self.config.guidance

        def eps(x: Tensor, t: Tensor, given: Tensor | None) -> Tensor:
            answer = nets["denoiser"](x, t, given).to(x)
            return answer if self.config.predicts == "eps" else eps_from_v(x, t, answer, alpha_bar)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            told = eps(x, t, condition)
            return told if condition is None or w == 0 else (1 + w) * told - w * eps(x, t, None)

        alpha_bar = self.alpha_bar
        return denoise

    def decode(self, latent: Tensor) -> Tensor:
        return self.first_stage.decode(self.frozen, latent / self.config.latent_scale)


def windows(video: Tensor, before: int, share: float, context: Context) -> tuple[Tensor, Tensor]:
    """Per row: whether it is told its past, and the first frame of its target.

    Told rows end with the row. Others begin anywhere in it, or, where the row begins with padding
    (all pixels 0), behind that.
    """
    padded = (video[:, :, :before] == -1).flatten(1).all(1)
    told = (context.uniform((), "told") < share) & ~padded
    anywhere = context.randint(before + 1, "offset").to(video.device)
    return told, torch.where(told | padded, torch.full_like(anywhere, before), anywhere)


def frames_from(video: Tensor, first: Tensor, count: int) -> Tensor:
    """`B C T H W` -> `B C count H W`, each row from its own first frame."""
    chosen = first[:, None] + torch.arange(count, device=first.device)
    rows = torch.arange(len(video), device=first.device)[:, None]
    return video.transpose(1, 2)[rows, chosen].transpose(1, 2)


def _check_request(request: SampleRequest) -> None:
    if request.what != "clip":
        raise UserError(f"what={request.what}: this model samples what=clip")
    for name in request.options or {}:
        raise UserError(f"{name}: sampling clips takes no such option")
