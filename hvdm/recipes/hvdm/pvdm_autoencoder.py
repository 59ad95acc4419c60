"""PVDM's first stage, the baseline: a clip as three planes of few channels (arXiv 2302.07685)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
from hvdm.ops.triplane import flat, planes_of
from hvdm.recipe import Batch, Clip, Coder, Context, Given, Logs, Phase, Recipe
from hvdm.recipes.hvdm import triplane
from hvdm.recipes.hvdm.critics import ClipCritic, FrameCritic, feature_distance, hinge, says_real
from hvdm.recipes.hvdm.networks import Autoencoder, Pixels, TriplaneBranch, volume_of
from hvdm.recipes.hvdm.reconstruction import ClipCoder, Reconstruction, distances, one_frame
from hvdm.recipes.hvdm.triplane import TriplaneConfig


@dataclass(frozen=True)
class Config(TriplaneConfig):
    """The defaults are the paper's size for 16x256x256 clips; `adversarial` is its second stage."""

    depth: int = 8
    adversarial: bool = False
    adversarial_weight: float = 1.0
    feature_weight: float = 4.0
    alternate: int = 3
    critic_width: int = 64
    critic_layers: int = 3
    critic_norm: Literal["group", "batch"] = "group"


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return (video(data),)


def build(config: Config, given: Given) -> Recipe:
    """The recipe for clips of `given.clip`'s shape."""
    triplane.check_patch(config.patch, config.head_dim)
    triplane.check_clip(config.patch, given.clip, even=False)
    if config.alternate < 1:
        raise UserError(f"model.alternate={config.alternate}: at least 1 step each")
    return AutoencoderRecipe(config, given.clip)


# Networks


class PlaneEncoder(nn.Module):
    """Video -> three planes in (-1, 1), flattened one behind the other."""

    def __init__(self, planes: TriplaneBranch, width: int, channels: int) -> None:
        super().__init__()
        self.planes = planes
        self.bottlenecks = nn.ModuleList(nn.Linear(width, channels) for _ in range(3))

    def forward(self, video: Tensor) -> Tensor:
        """`B C T H W` -> `B E N`: planes hw, tw, th."""
        planes = zip(self.bottlenecks, self.planes(video), strict=True)
        return flat([squeeze(plane).tanh().movedim(-1, 1) for squeeze, plane in planes])


class PlaneDecoder(nn.Module):
    """Planes -> video in (-1, 1), through the sum of all three broadcast."""

    def __init__(
        self, shapes: tuple[tuple[int, int], ...], channels: int, width: int, pixels: Pixels
    ) -> None:
        super().__init__()
        self.shapes = shapes
        self.enter = nn.ModuleList(nn.Linear(channels, width) for _ in range(3))
        self.pixels = pixels

    def forward(self, latent: Tensor) -> Tensor:
        """`B E N` -> `B C T H W`."""
        planes = zip(self.enter, planes_of(latent, self.shapes), strict=True)
        hw, tw, th = (widen(plane.movedim(1, -1)) for widen, plane in planes)
        out: Tensor = self.pixels(volume_of((hw, tw, th)))
        return out


def _autoencoder(config: Config, clip: Clip, shapes: tuple[tuple[int, int], ...]) -> Autoencoder:
    return Autoencoder(
        PlaneEncoder(triplane.branch(config, clip), config.width, config.latent_channels),
        PlaneDecoder(shapes, config.latent_channels, config.width, triplane.pixels(config, clip)),
        clip.frames if config.released else None,
    )


# The recipe


class AutoencoderRecipe(Reconstruction):
    """L1 and perceptual; in the second stage also two critics, of a frame and of the clip."""

    averaged: tuple[str, ...] = ()

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config = config
        self.clip = clip
        t, h, w = triplane.axes(config, clip)
        planes = ((h, w), (t, w), (t, h))
        shape = (config.latent_channels, h * w + t * w + t * h)
        self.coder: Coder | None = ClipCoder(clip, shape, planes)
        nets = {"autoencoder": _autoencoder(config, clip, planes)}
        self.trained = nn.ModuleDict({**nets, **self._critics()})
        self.untrained_at_start: tuple[str, ...] = tuple(n for n in self.trained if n not in nets)
        self.frozen = nn.ModuleDict({"perceptual": triplane.distance(config, clip)})
        self.phases: tuple[Phase, ...] = self._phases()

    def _critics(self) -> dict[str, nn.Module]:
        c = self.config
        if not c.adversarial:
            return {}
        sizes = (self.clip.channels, c.critic_width, c.critic_layers, c.critic_norm)
        return {"frame_critic": FrameCritic(*sizes), "clip_critic": ClipCritic(*sizes)}

    def _phases(self) -> tuple[Phase, ...]:
        """Autoencoder and critics take turns of `alternate` steps."""
        if not self.config.adversarial:
            return (Phase("autoencoder", self.loss),)
        turn = self.config.alternate
        return (
            Phase("autoencoder", self.loss, lambda step: step // turn % 2 == 0),
            Phase("frame_critic", self.frame_critic_loss, lambda step: step // turn % 2 == 1),
            Phase("clip_critic", self.clip_critic_loss, lambda step: step // turn % 2 == 1),
        )

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """w_p |dx| + w_f perceptual, and in the second stage what the critics say."""
        video = batch.pixels()
        output = self.trained["autoencoder"](video)
        frames = one_frame(context, "frame", output, video)
        logs = {**distances(video, output), "perceptual": self.frozen["perceptual"](*frames)}
        c = self.config
        total = c.pixel_weight * logs["l1"] + c.perceptual_weight * logs["perceptual"]
        if c.adversarial:
            logs |= self._judged(output, video, frames)
            total = total + c.adversarial_weight * logs["adversarial"]
            total = total + c.feature_weight * logs["features"]
        return total, {name: value.detach() for name, value in logs.items()}

    def _judged(
        self, output: Tensor, video: Tensor, frames: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        """Both critics' views: their scores, and how far apart their features are."""
        fake_frame, fake_clip = self._views(frames[0], output)
        real_frame, real_clip = self._views(frames[1], video)
        return {
            "adversarial": says_real(fake_frame[-1]) + says_real(fake_clip[-1]),
            "features": feature_distance(real_frame, fake_frame)
            + feature_distance(real_clip, fake_clip),
        }

    def _views(self, frame: Tensor, clip: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.trained["frame_critic"](frame), self.trained["clip_critic"](clip)

    def frame_critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        video = batch.pixels()
        fake, real = one_frame(context, "frame", self._output(video), video)
        return self._critic_loss("frame_critic", real, fake)

    def clip_critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        video = batch.pixels()
        return self._critic_loss("clip_critic", video, self._output(video))

    def _output(self, video: Tensor) -> Tensor:
        output: Tensor = self.trained["autoencoder"](video)
        return output.detach()

    def _critic_loss(self, name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Logs]:
        critic = self.trained[name]
        loss, logs = hinge(critic(real)[-1], critic(fake)[-1])
        return loss, logs
