"""The family's second stage: diffusion on an autoencoder's latent (HVDM, arXiv 2402.13729).

On HVDM's latent, a volume, works a 3D U-Net; on PVDM's, three planes, a 2D one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, label, latent, number, video
from hvdm.errors import UserError
from hvdm.ops import motion
from hvdm.ops.schedule import alpha_bars, eps_from_v, q_sample, sqrt_linear_betas, v_from
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
    as_batch,
)
from hvdm.recipes.hvdm.conditions import (
    Conditions,
    choose,
    frames_from,
    some_untold,
    still_of,
)
from hvdm.recipes.hvdm.generation import Generation, Predict
from hvdm.recipes.hvdm.latents import Memory, check_clip, check_levels
from hvdm.recipes.hvdm.plane_unet import PlaneUNet
from hvdm.recipes.hvdm.reconstruction import ClipCoder
from hvdm.recipes.hvdm.requests import KINDS, Abilities, asked
from hvdm.recipes.hvdm.unet import UNet

TRAINED_STEPS = 1000
READ_FOR_MOTION, READ_AT_ONCE = 512, 32
"""The first draws of a run stand for its data set where motion is ranked."""


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
    before: int = 0
    conditional: float = 0.3
    still: float = 0.0
    motion: Literal["none", "stored", "measured"] = "none"
    labels: int = 0
    untold: float = 0.1
    remember: int = 0
    begin_every: int = 1
    latent_scale: float = 1.0
    sampler: Literal["ddim", "ddpm", "dpm++2m"] = "ddim"
    sampling_steps: int = 100
    eta: float = 1.0
    guidance: float = 0.0
    activation_checkpointing: bool = False


stages = ("first_stage",)


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    """Latents where the data set holds them, else clips with their past in front."""
    clip = video(data, config.before + data.frames, unless="latent")
    stored = (number("motion"),) if config.motion == "stored" else ()
    return (latent(), clip, *stored, *((label(config.labels),) if config.labels else ()))


def build(config: Config, given: Given) -> Recipe:
    """The recipe on the latents of its first stage."""
    first_stage = given.stages["first_stage"]
    coder = first_stage.coder
    if not isinstance(coder, ClipCoder):
        raise UserError(
            "first_stage is a run without an encoder of clips: name the run of an autoencoder"
        )
    _check_numbers(config)
    _check_past(config, given.clip)
    check_clip(given.clip, coder.clip)
    check_levels(config.multipliers, coder)
    return DiffusionRecipe(config, coder, first_stage.trained, given.from_data)


def from_data(
    config: Config, clip: Clip, rows: Callable[[Sequence[int]], Batch]
) -> Mapping[str, Any]:
    """Whether rows have a past, and quantiles of how strongly clips move, over the first rows."""
    found: dict[str, Any] = {"past": _past_frames(rows((0,)), clip) > 0}
    if config.motion == "none":
        return found
    values: list[float] = []
    for first in range(0, READ_FOR_MOTION, READ_AT_ONCE):
        batch = rows(range(first, first + READ_AT_ONCE))
        video = None if "latent" in batch.fields else batch.pixels()[:, :, -clip.frames :]
        values += _strengths(config, batch, video).tolist()
    return {**found, "motion_levels": list(motion.quantiles(values))}


def _past_frames(batch: Batch, clip: Clip) -> int:
    return 0 if "latent" in batch.fields else batch["video"].shape[1] - clip.frames


def _strengths(config: Config, batch: Batch, video: Tensor | None) -> Tensor:
    """Of each row: what its data set says, or what its own frames show."""
    if config.motion == "stored":
        return batch["motion"]
    if video is None:
        raise UserError(
            "model.motion=measured needs the clips, and the data set holds latents; use "
            "model.motion=stored"
        )
    return motion.strength(video)


def _check_numbers(config: Config) -> None:
    if not config.multipliers:
        raise UserError("model.multipliers is empty: the U-Net needs at least one level")
    for key in ("conditional", "still", "untold"):
        if not 0 <= getattr(config, key) <= 1:
            raise UserError(f"model.{key}={getattr(config, key)}: it is a share, from 0 to 1")
    if config.conditional + config.still > 1:
        raise UserError(
            f"model.conditional={config.conditional} and model.still={config.still} are shares of "
            "all rows: together at most 1"
        )
    if config.labels < 0:
        raise UserError(f"model.labels={config.labels}: the number of classes, or 0")
    if config.variant == "released" and (config.motion != "none" or config.labels):
        raise UserError("model.variant=released is told no motion and no labels; use figure")
    if config.latent_scale <= 0:
        raise UserError(f"model.latent_scale={config.latent_scale}: it must be above 0")
    if config.begin_every < 1:
        raise UserError(f"model.begin_every={config.begin_every}: a number of frames, at least 1")


def _check_past(config: Config, clip: Clip) -> None:
    if config.before < 0 or 0 < config.before < clip.frames:
        raise UserError(
            f"model.before={config.before}: the past is a clip too, of {clip.frames} frames; use "
            f"model.before={clip.frames}, or 0 to train without it"
        )


def _denoiser(config: Config, coder: ClipCoder) -> nn.Module:
    planes, channels = coder.planes, coder.latent_shape[0]
    sizes = (config.width, config.multipliers, config.blocks)
    positions = torch.Size(coder.latent_shape[1:]).numel()
    kept = (channels, positions) if config.variant == "released" else None
    checkpointing = config.activation_checkpointing
    told = (config.motion != "none", config.labels)
    if planes is not None:
        return PlaneUNet(channels, planes, *sizes, config.heads, checkpointing, kept, *told)
    attending = config.heads if config.attention else 0
    return UNet(channels, *sizes, checkpointing, attending, kept, *told)


class DiffusionRecipe:
    """Mean squared error on what the network predicts (DDPM, arXiv 2006.11239, eq. 14)."""

    averaged: tuple[str, ...] = ("denoiser",)
    coder: Coder | None = None
    samples: Mapping[str, SampleKind] = KINDS

    def __init__(
        self,
        config: Config,
        below: ClipCoder,
        nets: nn.ModuleDict,
        from_data: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.below = below
        self.clip = below.clip
        self.latent_shape = below.latent_shape
        found = from_data or {}
        self.motion_levels = tuple(found.get("motion_levels", ()))
        self.has_past: bool = config.conditional > 0 and found.get("past", True)
        self.bound = config.latent_scale
        self.alpha_bar = alpha_bars(sqrt_linear_betas(TRAINED_STEPS))
        self.trained = nn.ModuleDict({"denoiser": _denoiser(config, below)})
        self.frozen = nn.ModuleDict(dict(nets.items()))
        self.frozen.requires_grad_(False).eval()
        self.phases: tuple[Phase, ...] = (Phase("denoiser", self.loss),)
        remembering = config.remember > 0
        self._encoded = Memory(self.to_latent, config.remember) if remembering else self.to_latent

    @property
    def in_planes(self) -> bool:
        return self.below.planes is not None

    # Training

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """|eps - eps_theta(x_t, t, c)|^2, or the same of v, mean over the latent."""
        latent, told = self._target(batch, context)
        t = context.randint(TRAINED_STEPS, "t")
        eps = context.randn(self.latent_shape, "eps").to(latent)
        noisy = q_sample(latent, t, eps, self.alpha_bar)
        predicted = self.trained["denoiser"](noisy, t, told.beside, told.motion, told.label)
        target = eps if self.config.predicts == "eps" else v_from(latent, t, eps, self.alpha_bar)
        error = (predicted - target).square().flatten(1).mean(1)
        return error, {"mse": error.detach()}

    def _target(self, batch: Batch, context: Context) -> tuple[Tensor, Conditions]:
        """The latent to learn, and what each row is told."""
        if "latent" in batch.fields:
            told = self._numbers(batch, None, context)
            return batch["latent"] * self.config.latent_scale, told
        video, beside = self._clips(batch.pixels(), context)
        told = self._numbers(batch, video, context)
        return self._encoded(video), replace(told, beside=beside)

    def _clips(self, video: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """The clip to learn, and the latent of what is told beside it: the clip before (PVDM, 3.3),
        or its first frame as a clip that does not move."""
        config, frames = self.config, self.clip.frames
        before = video.shape[2] - frames
        if before <= 0 and not config.still:
            return video, None
        shares = (config.conditional, config.still)
        choice = choose(video, before, *shares, context, config.begin_every)
        target = frames_from(video, choice.first, frames)
        shown = still_of(target[:, :, 0], frames)
        if before > 0:
            past = video[:, :, before - frames : before]
            shown = torch.where(_rows(choice.past, past), past, shown)
        latent = self._encoded(shown)
        told = _rows(choice.past | choice.still, latent)
        return target, torch.where(told, latent, torch.zeros_like(latent))

    def _numbers(self, batch: Batch, video: Tensor | None, context: Context) -> Conditions:
        config = self.config
        level = kind = None
        if config.motion != "none":
            strengths = _strengths(config, batch, video).double()
            level = motion.rank(strengths, self.motion_levels)
            level = some_untold(level, config.untold, context, "motion untold")
        if config.labels:
            kind = some_untold(batch["label"], config.untold, context, "label untold")
        return Conditions(motion=level, label=kind)

    @torch.no_grad()
    def to_latent(self, video: Tensor) -> Tensor:
        """`B C T H W` -> what the diffusion works on."""
        # under autocast the encoder answers in bf16; the noise is to be added in the video's dtype
        latent = self.below.encode(self.frozen, as_batch(video))
        return latent.to(video) * self.config.latent_scale

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        """Videos `B C T H W`; `nets` holds the weights to sample with."""
        wanted = asked(request, self.abilities)
        return Generation(self, nets, wanted, noise, request.progress).videos()

    def taken(self, request: SampleRequest) -> Mapping[str, Any]:
        """What a sample is drawn with, defaults included."""
        return vars(asked(request, self.abilities))

    @property
    def abilities(self) -> Abilities:
        config = self.config
        return Abilities(
            past=self.has_past,
            image=config.still > 0,
            motion=config.motion != "none",
            classes=config.labels,
            sampler=config.sampler,
            steps=config.sampling_steps,
            eta=config.eta,
            guidance=config.guidance,
            frames=self.clip.frames,
        )

    def predict(self, nets: nn.ModuleDict) -> Predict:
        """eps, whatever the network predicts."""

        def eps(x: Tensor, t: Tensor, **told: Tensor) -> Tensor:
            answer: Tensor = nets["denoiser"](x, t, **told).to(x)
            if self.config.predicts == "eps":
                return answer
            return eps_from_v(x, t, answer, self.alpha_bar)

        return eps

    def to_video(self, latent: Tensor) -> Tensor:
        return self.below.decode(self.frozen, latent / self.config.latent_scale)["video"]


def _rows(chosen: Tensor, like: Tensor) -> Tensor:
    """`B` -> `B 1 1 …`, to be broadcast over `like`."""
    return chosen.reshape(-1, *[1] * (like.ndim - 1))
