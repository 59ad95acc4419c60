"""The tokenizer of pseudo videos (arXiv 2410.20158, section 3), with one frame a VQ-VAE of images.

Against a critic of one frame, the weight of its say is that of the step before: the ratio of the
slopes, over the global batch, at the layer that makes pixels. It is the layer of every frame, so
that one frame is judged as many are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hvdm.config import DataConfig
from hvdm.data.fields import Field, video
from hvdm.errors import UserError
from hvdm.nets.perceptual import Perceptual, perceptual
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
from hvdm.recipes.pseudo_video.codebook import CodebookShape
from hvdm.recipes.pseudo_video.critic import Critic, halvings, hinge
from hvdm.recipes.pseudo_video.diffusion import check_images, check_least
from hvdm.recipes.pseudo_video.frames import Corruption, Ladder, check_ladder
from hvdm.recipes.pseudo_video.vivit import Tokenizer, TokenizerShape

ALL_AXES = (1, 2, 3, 4)
AT_LEAST_1 = (
    "codes", "codes_each", "code_width", "width", "heads", "head_dim", "spatial", "penalty_every",
    "patch", "patch_frames", "critic_width",
)  # fmt: skip


@dataclass(frozen=True)
class Config(Ladder):
    """The defaults are the paper's for eight frames; durations of the loss are in steps.

    Phenaki's code norms the pixels of each patch (`norm_patches`), and so forgets how bright it is.
    With one frame and `codes_each=4`, or half of `patch`, an image has as many tokens as eight
    frames: a control that tells frames from bits, which the paper does not have.
    """

    frames: int = 8
    corruption: Corruption = "blur"
    patch: int = 4
    patch_frames: int = 2
    norm_patches: bool = True
    width: int = 512
    heads: int = 8
    head_dim: int = 64
    spatial: int = 4
    temporal: int = 4
    codes: int = 1024
    codes_each: int = 1
    code_width: int = 32
    decay: float = 0.99
    kmeans: int = 10
    dead: float = 2.0
    commitment: float = 1.0
    perceptual: Perceptual = "untrained"
    perceptual_weights: tuple[str, ...] = ()
    perceptual_weight: float = 0.1
    adversarial: bool = False
    adversarial_weight: float = 0.1
    adversarial_from: int = 10_000
    critic_width: int = 64
    gradient_penalty: float = 1.0
    penalty_every: int = 16


def reads(config: Config, data: DataConfig) -> Sequence[Field]:
    return [video(data)]


def previews(config: Config, batch: Batch, noise: Noise) -> Tensor:
    """What it makes of rows: `B C T H W`."""
    return config.made(batch.pixels()[:, :, 0], noise)


def build(config: Config, given: Given) -> Recipe:
    _check(config, given.clip)
    return TokenizerRecipe(config, given.clip)


def _check(config: Config, clip: Clip) -> None:
    check_images(clip)
    check_ladder(config, clip.height, clip.width)
    check_least(config, AT_LEAST_1)
    if clip.height % config.patch:
        raise UserError(
            f"data.height={clip.height}: tokens of {config.patch} pixels (model.patch) need a "
            "multiple of them"
        )
    if config.frames > 1 and config.frames % config.patch_frames:
        raise UserError(
            f"model.frames={config.frames}: tokens of {config.patch_frames} frames "
            "(model.patch_frames) need a multiple of them"
        )
    if config.adversarial and clip.height % (unit := 2 ** halvings(clip.height)):
        raise UserError(
            f"data.height={clip.height}: the critic (model.adversarial) halves it down to "
            f"{clip.height / unit:g}; expected a multiple of {unit}"
        )
    if not 0 <= config.decay < 1:
        raise UserError(f"model.decay={config.decay}: expected at least 0 and below 1")


def _shape(config: Config, clip: Clip) -> TokenizerShape:
    single = config.frames == 1
    return TokenizerShape(
        frames=config.frames,
        side=clip.height,
        channels=clip.channels,
        patch=(1 if single else config.patch_frames, config.patch, config.patch),
        width=config.width,
        heads=config.heads,
        head_dim=config.head_dim,
        spatial=config.spatial,
        temporal=0 if single else config.temporal,
        norm_patches=config.norm_patches,
        book=CodebookShape(
            config.codes, config.code_width, config.decay, config.kmeans, config.dead
        ),
        each=config.codes_each,
    )


class Judged(nn.Module):
    """The tokenizer, and the weight of what the critic says."""

    say: Tensor

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.register_buffer("say", torch.zeros(()))


@dataclass(frozen=True)
class TokenCoder:
    """Images as codes `D T H W` of their frames; what is decoded is the last frame."""

    config: Config
    shape: TokenizerShape

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.shape.book.width, *self.shape.tokens)

    @property
    def bits(self) -> float:
        """Of an image."""
        return math.prod(self.shape.tokens) * math.log2(self.shape.book.codes)

    def numbers(self, nets: nn.ModuleDict, images: Tensor, noise: Noise) -> Tensor:
        """`B C H W` -> the codes' numbers `B N`."""
        net = tokenizer_of(nets)
        return net.book.look_up(net.encode(self.config.made(images, noise)))

    def frames(self, nets: nn.ModuleDict, codes: Tensor) -> Tensor:
        """Codes `B N D` -> `B C T H W`."""
        return tokenizer_of(nets).decode(codes)

    def encode(self, nets: nn.ModuleDict, batch: Batch) -> Tensor:
        """Noise, where frames are made with it, is that of the rows' draws."""
        images = batch.pixels()[:, :, 0]
        noise = Noise(0, batch.draws, "coder", images.device)
        numbers = self.numbers(nets, images, noise)
        codes = tokenizer_of(nets).book.code(numbers, images)
        return codes.transpose(1, 2).unflatten(2, self.shape.tokens)

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Mapping[str, Tensor]:
        return {"video": self.frames(nets, latent.flatten(2).transpose(1, 2))[:, :, -1:]}


def tokenizer_of(nets: nn.ModuleDict) -> Tokenizer:
    net = nets["tokenizer"]
    assert isinstance(net, Judged)
    return net.tokenizer


class TokenizerRecipe:
    averaged: tuple[str, ...] = ()
    samples: Mapping[str, SampleKind] = {}

    def __init__(self, config: Config, clip: Clip) -> None:
        self.config, self.clip = config, clip
        self.shape = _shape(config, clip)
        self.net = Judged(Tokenizer(self.shape))
        self.book = self.net.tokenizer.book
        coder = TokenCoder(config, self.shape)
        self.coder: Coder | None = coder
        self.bits = coder.bits
        self.trained = nn.ModuleDict({"tokenizer": self.net})
        self.frozen = nn.ModuleDict(
            {"perceptual": perceptual(config.perceptual, clip.channels, config.perceptual_weights)}
        )
        self.phases: tuple[Phase, ...] = (Phase("tokenizer", self.loss, after=self.after),)
        if config.adversarial:
            width = config.critic_width
            self.trained["critic"] = Critic(clip.channels, clip.height, width, 8 * width)
            self.phases = (*self.phases, Phase("critic", self.critic_loss, when=self._judges))

    def _judges(self, step: int) -> bool:
        return step >= self.config.adversarial_from

    # Losses

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs, Sums]:
        """Squared error of all frames, of one frame what it looks like, and the codes' distance."""
        frames = self._frames(batch, context)
        directions, numbers, made = self._made(frames)
        codes = self.book.code(numbers, directions)
        near = (directions - codes).square().sum(2).mean(1)
        logs = {"squared": (made - frames).square().mean(ALL_AXES), "commitment": near}
        real, fake = _one_frame(context, frames, made)
        logs["perceptual"] = self.frozen["perceptual"](fake, real)
        config = self.config
        seen = logs["squared"] + config.perceptual_weight * logs["perceptual"]
        total = seen + config.commitment * near
        sums = dict(self.book.sums(batch, directions, numbers, context))
        if config.adversarial and self._judges(context.step):
            logs["adversarial"] = -self.trained["critic"](fake)
            sums |= self._slopes(batch, seen, logs["adversarial"])
            total = total + config.adversarial_weight * self.net.say * logs["adversarial"]
        logs["psnr"] = _decibels(made[:, :, -1], frames[:, :, -1])
        logs["perplexity"] = self.book.perplexity().expand(len(total))
        logs["dead"] = self.book.dead().to(total).expand(len(total))
        return total, {name: value.detach() for name, value in logs.items()}, sums

    def _frames(self, batch: Batch, context: Context) -> Tensor:
        return self.config.made(batch.pixels()[:, :, 0], context)

    def _made(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Directions, the codes' numbers, and frames of the codes: slopes go past them."""
        net = self.net.tokenizer
        directions = net.encode(frames)
        numbers = self.book.look_up(directions)
        codes = self.book.code(numbers, directions)
        return directions, numbers, net.decode(directions + (codes - directions).detach())

    def _slopes(self, batch: Batch, seen: Tensor, judged: Tensor) -> Mapping[str, Tensor]:
        """Of what is seen and of what the critic says, at the weights that make pixels."""
        if not torch.is_grad_enabled():  # as where operations are counted
            return {}
        last = self.net.tokenizer.head.weight
        found = {}
        for name, loss in (("seen", seen), ("judged", judged)):
            (slope,) = torch.autograd.grad((loss * batch.weight).sum(), last, retain_graph=True)
            found[name] = slope.double()
        return found

    def after(self, sums: Sums) -> None:
        self.book.move(sums)
        if "judged" in sums:
            ratio = sums["seen"].norm() / sums["judged"].norm().clamp_min(1e-8)
            self.net.say.copy_(ratio.clamp(max=1.0))

    def critic_loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs]:
        """Hinge, and now and then the penalty on the slope at real frames (R1, 1801.04406)."""
        config, critic = self.config, self.trained["critic"]
        frames = self._frames(batch, context)
        with torch.no_grad():
            _, _, made = self._made(frames)
        real, fake = _one_frame(context, frames, made)
        due = context.step % config.penalty_every == 0 and torch.is_grad_enabled()
        penalized = due and config.gradient_penalty > 0
        real = real.detach().requires_grad_(penalized)
        of_real, of_fake = critic(real), critic(fake)
        loss = hinge(of_real, of_fake)
        logs = {"real": of_real.detach(), "fake": of_fake.detach()}
        if not penalized:
            return loss, logs
        (slope,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
        penalty = slope.square().sum((1, 2, 3))
        return loss + config.penalty_every * config.gradient_penalty / 2 * penalty, logs

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Tensor:
        raise UserError(
            "a tokenizer does not sample: reconstruct with it (protocol=reconstruction), or train "
            "a prior on top (first_stage=RUN) and sample that"
        )


def _one_frame(noise: Noise, *videos: Tensor) -> tuple[Tensor, ...]:
    """`B C H W` of each: the last one half of the time, else any; the same in all of them."""
    count = videos[0].shape[2]
    any_frame = noise.randint(count, "frame")
    last = noise.uniform((), "last") < 0.5
    frame = torch.where(last, torch.full_like(any_frame, count - 1), any_frame)
    rows = torch.arange(len(frame), device=frame.device)
    return tuple(video[rows, :, frame] for video in videos)


def _decibels(made: Tensor, image: Tensor) -> Tensor:
    """PSNR of images in [-1, 1]."""
    error = (made.clamp(-1, 1) - image).square().mean((1, 2, 3)) / 4
    return -10 * error.clamp_min(1e-10).log10()
