"""WildFusion's first stage: 3D of single pictures (arXiv 2311.13570).

A picture and its depth become a latent, that a triplane, and that pictures from any side near the
first. No number of the paper could be verified but its topology; what is chosen here is ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.config import DataConfig
from hvdm.data.depth import DEPTH_SUFFIX
from hvdm.data.fields import Field, array, video
from hvdm.data.moves import DEPTH
from hvdm.errors import UserError
from hvdm.nets.perceptual import Perceptual, perceptual
from hvdm.ops.cameras import Lens
from hvdm.ops.volume import aligned_error, non_flatness, off_surface
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
from hvdm.recipes.wildfusion.asking import KINDS, OF_ROWS, YAWS, batch_of, sides
from hvdm.recipes.wildfusion.critics import Critics, made_pair, real_pair
from hvdm.recipes.wildfusion.networks import (
    DecoderShape,
    PointNetwork,
    PyramidEncoder,
    SuperResolution,
    TriplaneDecoder,
)
from hvdm.recipes.wildfusion.scene import Camera, Look, SceneNetwork, drawn, exact, middle, straight
from hvdm.recipes.wildfusion.showing import SHOWN, warped_film

DEPTH_MADE_BY = (
    "`hvdm data synthetic kind=scenes` writes it; of pictures `hvdm data derive depth DIR out=OUT` "
    "makes it, data.beside=[OUT] reads it"
)


@dataclass(frozen=True)
class Config:
    """The defaults are for pictures of 256x256."""

    latent_channels: int = 4
    stride: int = 8
    trunk: tuple[int, ...] = (64, 64, 128, 256, 512)
    pyramid: int = 256
    width: int = 512
    heads: int = 8
    blocks: tuple[int, int] = (5, 2)
    doubling: tuple[int, ...] = (512, 256)
    patch: int = 2
    reduce: int = 4
    plane_channels: int = 32
    hidden: int = 64
    features: int = 32
    rays: int = 64
    coarse: int = 48
    fine: int = 48
    enlarging: tuple[int, ...] = (128, 64)
    radius: float = 2.7
    degrees: float = 18.0
    inner: float = 1.0
    yaw: float = 35.0
    pitch: float = 15.0
    first_yaw: float = 10.0
    yaw_steps: int = 80_000
    pixels: float = 10.0
    perceptual: Perceptual = "untrained"
    perceptual_weights: tuple[str, ...] = ()
    perceptual_sha256: tuple[str, ...] = ()
    perceptual_weight: float = 10.0
    depth_2d: float = 1.0
    depth_3d: float = 1.0
    band: float = 0.03
    kl: float = 1e-6
    critics: bool = True
    critics_from: int = 50_000
    critics_ramp: int = 10_000
    critic_widths: tuple[int, ...] = (32, 64, 128, 256, 512, 512)
    depth_critic_widths: tuple[int, ...] = (32, 64, 128, 256)
    image_penalty: float = 5.0
    depth_penalty: float = 1.0
    penalty_every: int = 16
    plane_kept: float = 0.9


def depth_field(data: DataConfig) -> Field:
    """Depth `H W` along the camera's axis, in units of view space."""
    shape = (data.height, data.width)
    return array("depth", DEPTH_SUFFIX, shape, DEPTH, made_by=DEPTH_MADE_BY)


def reads(config: Config, data: DataConfig) -> tuple[Field, ...]:
    return video(data), depth_field(data)


def measured_by(data: DataConfig) -> tuple[Field, ...]:
    """True views from other sides, and which of their pixels the picture shows."""
    shape = (len(YAWS), data.height, data.width)
    scenes = "`hvdm data synthetic kind=scenes` writes it of held-out scenes"
    views = array("views", "views.npy", (*shape, 3), dtype="uint8", made_by=scenes)
    return views, array("seen", "seen.npy", shape, dtype="bool", made_by=scenes)


def build(config: Config, given: Given) -> Recipe:
    _check(config, given.clip)
    return WildAutoencoder(config, given.clip)


def _check(config: Config, clip: Clip) -> None:
    if clip.frames != 1 or clip.height != clip.width:
        raise UserError(
            f"data.frames={clip.frames} data.height={clip.height} data.width={clip.width}: this "
            "model is of square pictures; set data.frames=1 and equal sides"
        )
    tap = config.stride.bit_length() - 1
    if config.stride != 2**tap or not 1 <= tap <= len(config.trunk):
        raise UserError(
            f"model.stride={config.stride}: a power of 2, at most that of model.trunk, "
            f"{2 ** len(config.trunk)}"
        )
    if clip.height % 2 ** len(config.trunk):
        raise UserError(
            f"data.height={clip.height}: {len(config.trunk)} stages (model.trunk) need a multiple "
            f"of {2 ** len(config.trunk)}"
        )
    if config.rays * 2 ** len(config.enlarging) != clip.height:
        raise UserError(
            f"model.rays={config.rays}: doubled {len(config.enlarging)} times (model.enlarging) "
            f"it has to be data.height={clip.height}"
        )
    if not 0 < config.inner < config.radius:
        raise UserError(f"model.inner={config.inner}: above 0, below model.radius={config.radius}")
    if not config.enlarging or not config.doubling:
        raise UserError("model.enlarging and model.doubling have at least one width each")
    if config.features < 3 or config.coarse < 2:
        raise UserError("model.features is at least 3, model.coarse at least 2")
    if not 0 < config.plane_kept <= 1:
        raise UserError(f"model.plane_kept={config.plane_kept}: a share, above 0 and at most 1")
    if config.penalty_every < 1:
        raise UserError(f"model.penalty_every={config.penalty_every}: at least 1")
    if config.heads < 1 or config.width % config.heads or config.doubling[-1] % config.heads:
        raise UserError(
            f"model.heads={config.heads}: it has to divide model.width={config.width} and the last "
            f"of model.doubling, {config.doubling[-1]}"
        )


class WildNetwork(nn.Module):
    """Encoder, decoder and scene; `spread` is the latent's root mean square over training."""

    square: Tensor
    seen: Tensor

    def __init__(self, config: Config, clip: Clip) -> None:
        super().__init__()
        tap = config.stride.bit_length() - 2
        camera = Camera(
            Lens(config.radius, config.degrees), config.rays, config.coarse, config.fine,
            config.inner,
        )  # fmt: skip
        self.encoder = PyramidEncoder(config.trunk, tap, config.pyramid, config.latent_channels)
        shape = DecoderShape(
            config.latent_channels, clip.height // config.stride, config.width, config.heads,
            config.blocks, config.doubling, config.patch, config.reduce, config.plane_channels,
        )  # fmt: skip
        self.decoder = TriplaneDecoder(shape)
        point = PointNetwork(config.plane_channels, config.hidden, config.features)
        self.scene = SceneNetwork(camera, point, SuperResolution(config.features, config.enlarging))
        self.register_buffer("square", torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))

    @property
    def camera(self) -> Camera:
        return self.scene.camera

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent."""
        picture, depth = batch.pixels()[:, :, 0], batch["depth"]
        nearness = self.camera.nearness(depth)[:, None].to(picture)
        found: tuple[Tensor, Tensor] = self.encoder(picture, nearness)
        return found

    def look(self, planes: Tensor, angles: Tensor | None = None) -> Look:
        """Without anything drawn; from the input's own side unless told."""
        where = straight(planes) if angles is None else angles
        found: Look = self.scene(planes, where, middle(self.camera, planes))
        return found


@dataclass(frozen=True)
class PictureCoder:
    """Coding with the network `autoencoder`: the latent's mean, in units of its spread."""

    clip: Clip
    latent_shape: tuple[int, ...]
    reads: tuple[str, ...] = OF_ROWS

    def encode(self, nets: nn.ModuleDict, batch: Batch) -> Tensor:
        if "depth" not in batch.fields:
            raise UserError(
                "this autoencoder reads depth beside the picture, and is given pictures alone; use "
                "hvdm sample what=views image=FILE depth=FILE"
            )
        net = network_of(nets)
        return net.encoded(batch)[0] / net.square.sqrt()

    def planes(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        net = network_of(nets)
        planes: Tensor = net.decoder(latent * net.square.sqrt().to(latent))
        return planes

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Mapping[str, Tensor]:
        look = network_of(nets).look(self.planes(nets, latent))
        side = self.clip.height
        depth = functional.interpolate(look.depth[:, None], (side, side), mode="bilinear")[:, 0]
        return {"video": look.image.clamp(-1, 1).unsqueeze(2), "depth": depth}


def network_of(nets: nn.ModuleDict) -> WildNetwork:
    net = nets["autoencoder"]
    assert isinstance(net, WildNetwork)
    return net


class WildAutoencoder:
    """Input view: reconstruction and depth. Novel view: two critics."""

    averaged: tuple[str, ...] = ("autoencoder",)
    samples: Mapping[str, SampleKind] = KINDS

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        net = WildNetwork(config, clip)
        self.trained = nn.ModuleDict({"autoencoder": net})
        files = (config.perceptual_weights, config.perceptual_sha256)
        self.frozen = nn.ModuleDict({"perceptual": perceptual(config.perceptual, 3, *files)})
        side = clip.height // config.stride
        self.coder: Coder | None = PictureCoder(clip, (config.latent_channels, side, side))
        self.phases: tuple[Phase, ...] = (
            Phase("autoencoder", self.autoencoder_loss, after=self.remember),
        )
        if config.critics:
            self.trained["critics"] = Critics(config.critic_widths, config.depth_critic_widths)
            self.phases = (Phase("critics", self.critics_loss, self.judged), *self.phases)

    @property
    def net(self) -> WildNetwork:
        return network_of(self.trained)

    @property
    def camera(self) -> Camera:
        return self.net.camera

    def judged(self, step: int) -> bool:
        return self.config.critics and step >= self.config.critics_from

    # Views

    def novel(self, context: Context) -> Tensor:
        """Yaw and pitch of each row, evenly within the range, which widens as training goes on."""
        config = self.config
        share = min(1.0, context.step / config.yaw_steps) if config.yaw_steps else 1.0
        yaw = config.first_yaw + share * (config.yaw - config.first_yaw)
        reach = [math.radians(yaw), math.radians(config.pitch)]
        at = context.uniform((2,), "novel view")
        return (2 * at - 1) * at.new_tensor(reach)

    def coded(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Planes of a latent that is drawn, its mean and its log-variance."""
        mean, log = self.net.encoded(batch)
        noise = context.randn(self.latent_shape, "latent").to(mean)
        planes = self.net.decoder(mean + (log / 2).exp() * noise)
        kept = context.keep((planes.shape[2],), self.config.plane_kept, "plane").to(planes)
        front = planes[:, :1] * kept[:, None, :, None, None]
        return torch.cat([front, planes[:, 1:]], 1), mean, log

    @property
    def latent_shape(self) -> tuple[int, ...]:
        assert self.coder is not None
        return self.coder.latent_shape

    def seen(self, planes: Tensor, context: Context, angles: Tensor | None, use: str) -> Look:
        where = straight(planes) if angles is None else angles.to(exact(planes))
        look: Look = self.net.scene(planes, where, drawn(self.camera, context, use))
        return look

    def target(self, batch: Batch) -> Tensor:
        """Places of the depth on the rays that are rendered, `B r r`."""
        places = self.camera.spacing.of(batch["depth"])[:, None]
        side = (self.config.rays, self.config.rays)
        return functional.interpolate(places, side, mode="nearest-exact")[:, 0]

    # Losses

    def autoencoder_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs, Sums]:
        config, picture = self.config, batch.pixels()[:, :, 0]
        planes, mean, log = self.coded(batch, context)
        look = self.seen(planes, context, None, "input rays")
        terms = self.reconstruction(look, picture, self.target(batch))
        kl = (mean.square() + log.exp() - 1 - log).flatten(1).sum(1) / 2
        loss = config.kl * kl
        for name, share in self.weights.items():
            loss = loss + share * terms[name]
        places = self.camera.spacing.of(look.depth.detach()).flatten(1)
        logs = {**terms, "kl": kl, "psnr": _decibels(look.image, picture)}
        logs["non_flatness"] = non_flatness(places)
        if self.judged(context.step):
            score, of_depth = self.judgement(planes, context)
            fooled = functional.softplus(-score) + functional.softplus(-of_depth)
            loss = loss + self.ramp(context.step) * fooled
            logs |= {"score": score, "depth_score": of_depth}
        weight = batch.weight.double()
        square = mean.detach().double().square().flatten(1).mean(1)
        sums = {"rows": weight.sum(), "square": (square * weight).sum()}
        return loss, {name: value.detach() for name, value in logs.items()}, sums

    @property
    def weights(self) -> dict[str, float]:
        config = self.config
        return {
            "l1": config.pixels,
            "perceptual": config.perceptual_weight,
            "depth_2d": config.depth_2d,
            "depth_3d": config.depth_3d,
        }

    def reconstruction(self, look: Look, picture: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Distances of the input view, each a mean over it."""
        rendered = self.camera.spacing.of(look.depth).flatten(1)
        small = functional.interpolate(picture, look.small.shape[2:], mode="area")
        return {
            "l1": (look.image - picture).abs().mean((1, 2, 3))
            + (look.small - small).abs().mean((1, 2, 3)),
            "perceptual": self.frozen["perceptual"](look.image, picture),
            "depth_2d": aligned_error(rendered, places.flatten(1)),
            "depth_3d": off_surface(look.weights, look.places, places.flatten(1), self.config.band),
        }

    def ramp(self, step: int) -> float:
        gone = step - self.config.critics_from + 1
        return min(1.0, gone / max(1, self.config.critics_ramp))

    def judgement(self, planes: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Scores of a novel view."""
        look = self.seen(planes, context, self.novel(context), "novel rays")
        found: tuple[Tensor, Tensor] = self.trained["critics"](
            made_pair(look.image, look.small), self.camera.nearness(look.depth)[:, None]
        )
        return found

    def critics_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Softplus of both scores of both critics; now and then the slope at what is real."""
        config, critics = self.config, self.trained["critics"]
        with torch.no_grad():
            planes, _, _ = self.coded(batch, context)
            look = self.seen(planes, context, self.novel(context), "novel rays")
            fake = made_pair(look.image, look.small), self.camera.nearness(look.depth)[:, None]
        # without gradients, as where operations are counted, there is no slope
        due = context.step % config.penalty_every == 0 and torch.is_grad_enabled()
        pair = real_pair(batch.pixels()[:, :, 0], config.rays).requires_grad_(due)
        nearness = (1 - 2 * self.target(batch))[:, None].requires_grad_(due)
        real, made = critics(pair, nearness), critics(*fake)
        scores = zip(real, made, strict=True)
        loss = sum(functional.softplus(-r) + functional.softplus(f) for r, f in scores)
        assert isinstance(loss, Tensor)
        logs = {"real": real[0].detach(), "fake": made[0].detach()}
        if due:
            gammas = (config.image_penalty, config.depth_penalty)
            for score, given, gamma in zip(real, (pair, nearness), gammas, strict=True):
                loss = loss + config.penalty_every * gamma / 2 * _slope(score, given)
        return loss, logs

    @torch.no_grad()
    def remember(self, sums: Sums) -> None:
        """The latent's mean square, so that what is built on it finds it of size 1."""
        net = self.net
        net.seen.add_(1)
        rate = max(0.01, 1 / float(net.seen))
        net.square.lerp_((sums["square"] / sums["rows"]).to(net.square), rate)

    # Sampling

    @torch.no_grad()
    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Any:
        """A picture from other sides: one for all draws, or that of each draw's row."""
        asked = request.options or KINDS[request.what].options()
        batch = request.rows
        if batch is None:
            batch = batch_of(asked.image, asked.depth, asked.placing, "image", self.clip.height)
            batch = batch.to(torch.device(noise.device), torch.get_default_dtype())
        if request.what == "warped":
            film = warped_film(self.camera, batch, asked)
            return film.expand(len(noise.draws), *film.shape[1:])
        coder, net = self.coder, network_of(nets)
        assert isinstance(coder, PictureCoder)
        planes = coder.planes(nets, coder.encode(nets, batch))
        planes = planes.expand(len(noise.draws), *planes.shape[1:])
        if request.what in SHOWN:
            return SHOWN[request.what](net, planes, asked)
        turned = sides(noise, self.config.yaw, self.config.pitch).to(planes)
        angles = turned if request.what == "novel" else None
        return net.look(planes, angles).image.clamp(-1, 1)


def _slope(score: Tensor, given: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(score.sum(), given, create_graph=True)
    return slope.square().sum((1, 2, 3))


def _decibels(image: Tensor, picture: Tensor) -> Tensor:
    error = (image.detach().clamp(-1, 1) - picture).square().mean((1, 2, 3)) / 4
    return -10 * error.clamp_min(1e-10).log10()
