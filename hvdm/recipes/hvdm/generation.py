"""From noise to videos: a clip, a clip that begins with a picture, clips that follow another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.ops.sampler import Denoise, ddim, ddpm, dpm_solver_2m
from hvdm.ops.tiling import tiled
from hvdm.recipe import Clip, Noise, to_model
from hvdm.recipes.hvdm.conditions import still_of
from hvdm.recipes.hvdm.requests import Asked, in_turn

Predict = Callable[..., Tensor]
"""`predict(x, t, condition, motion, label)` -> eps."""


class Model(Protocol):
    """What is sampled from: the recipe."""

    clip: Clip
    latent_shape: tuple[int, ...]
    alpha_bar: Tensor
    bound: float

    @property
    def in_planes(self) -> bool: ...

    def predict(self, nets: nn.ModuleDict) -> Predict: ...

    def to_latent(self, video: Tensor) -> Tensor: ...

    def to_video(self, latent: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class One:
    """One thing that the network is told: its argument, its guidance."""

    argument: str
    value: Tensor
    weight: float


def guided(predict: Predict, told: Sequence[One]) -> Denoise:
    """eps = e_0 + sum over k of (1 + w_k) (e_k - e_(k-1)), where e_k is told the first k things.

    With equal weights it is (1 + w) e_n - w e_0 (classifier-free guidance, arXiv 2207.12598, eq.
    6). Terms that cancel are not computed.
    """
    weights = [0.0, *(1 + one.weight for one in told), 0.0]
    shares = [weights[k] - weights[k + 1] for k in range(len(told) + 1)]
    shares[0] = 1 - weights[1] if told else 1.0

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        total: Tensor | None = None
        for k, share in reversed(list(enumerate(shares))):
            if share:
                known = {one.argument: one.value for one in told[:k]}
                term = share * predict(x, t, **known)
                total = term if total is None else total + term
        assert total is not None
        return total

    return denoise


def joined(pieces: Sequence[Tensor], fade: int, bound: float) -> Tensor:
    """Latents `B E T H W` one after the other; the jump between two is spread over `fade` frames.

    A clip is drawn near the one before, not as its continuation to the last digit. So it is moved
    to where the last two frames before it lead, and let go little by little.
    """
    whole = [pieces[0]]
    for piece in pieces[1:]:
        last, before = whole[-1][:, :, -1:], whole[-1][:, :, -2:-1]
        jump = piece[:, :, :1] - (2 * last - before)
        times = torch.arange(piece.shape[2], device=piece.device)
        share = (1 - times / max(1, fade)).clamp_min(0).to(piece) * (fade > 0)
        whole.append((piece - jump * share[:, None, None]).clamp(-bound, bound))
    return torch.cat(whole, 2)


@dataclass
class Generation:
    """One batch of videos as they are made: row i is a function of draw i."""

    model: Model
    nets: nn.ModuleDict
    asked: Asked
    noise: Noise
    progress: Callable[[float], None] | None = None
    _done: int = field(default=0, init=False)

    @torch.no_grad()
    def videos(self) -> Tensor:
        """`B C T H W`."""
        pieces = self.pieces()
        if self.model.in_planes:
            video = torch.cat([self.model.to_video(piece) for piece in pieces], 2)
        else:
            video = self.decode(joined(pieces, self.asked.fade, self.model.bound))
        return video[:, :, : self.asked.frames]

    def pieces(self) -> list[Tensor]:
        """Latents of clips one after the other, each told the one before."""
        beside, what = self._picture(), "image"
        pieces: list[Tensor] = []
        for number in range(self.count):
            pieces.append(self.latent(number, beside, what))
            beside, what = pieces[-1], "past"
            if self.asked.reuse == "pixels" and number + 1 < self.count:
                beside = self.model.to_latent(self.model.to_video(beside).clamp(-1, 1))
        return pieces

    @property
    def count(self) -> int:
        return -(-self.asked.frames // self.model.clip.frames)

    def latent(self, number: int, beside: Tensor | None, what: str) -> Tensor:
        """The latent of clip `number` of each video. The first has the noise of a lone clip."""
        asked, model = self.asked, self.model
        scope = f"{self.noise.scope}, clip {number}" if number else self.noise.scope
        noise = replace(self.noise, scope=scope)
        start = noise.randn(self.latent_shape, "start")
        denoise = self._ticking(guided(model.predict(self.nets), self._told(beside, what)))

        def fresh(k: int) -> Tensor:
            return noise.randn(self.latent_shape, f"step {k}")

        given = (denoise, start, model.alpha_bar, asked.steps)
        if asked.sampler == "dpm++2m":
            return dpm_solver_2m(*given, model.bound)
        if asked.sampler == "ddpm":
            return ddpm(*given, fresh, model.bound)
        return ddim(*given, asked.eta, fresh, model.bound)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """That of the model's own clips, or of larger ones."""
        if self.asked.size is None:
            return self.model.latent_shape
        return (*self.model.latent_shape[:2], *self._sides(self.asked.size))

    def _sides(self, size: tuple[int, int]) -> list[int]:
        """The latent's sides; they are whole numbers of times the model's own, as it was trained
        to halve those."""
        own = (self.model.clip.height, self.model.clip.width)
        if self.model.in_planes:
            raise UserError("size=: latents of planes have one size, that of the model's clips")
        if any(side < trained or side % trained for side, trained in zip(size, own, strict=True)):
            raise UserError(
                f"size={size[0]}x{size[1]}: this model makes clips of {own[0]}x{own[1]}, and of "
                "whole numbers of times that"
            )
        latent = self.model.latent_shape[2:]
        return [s // o * n for s, o, n in zip(size, own, latent, strict=True)]

    def _told(self, beside: Tensor | None, what: str) -> list[One]:
        rows: Mapping[str, Tensor | None] = {
            "condition": beside,
            "label": self._in_turn(self.asked.label),
            "motion": self._in_turn(self.asked.motion),
        }
        weights = self.asked.guidance
        return [
            One(name, value, weights[what if name == "condition" else name])
            for name, value in rows.items()
            if value is not None
        ]

    def _in_turn(self, values: Sequence[float] | Sequence[int]) -> Tensor | None:
        """`B`, by the number of the clip."""
        if not values:
            return None
        chosen = [in_turn(values, draw) for draw in self.noise.draws]
        return torch.tensor(chosen, device=self.noise.device)

    def _picture(self) -> Tensor | None:
        """The latent of a clip in which the picture does not move."""
        image, clip, rows = self.asked.image, self.model.clip, len(self.noise.draws)
        if image is None:
            return None
        if image.shape[1:3] != (clip.height, clip.width) or len(image) not in (1, rows):
            raise UserError(
                f"image: {len(image)} of {image.shape[1]}x{image.shape[2]} for {rows} clips of "
                f"{clip.height}x{clip.width}; give one of the clips' size"
            )
        frame = to_model(image[:, None])[:, :, 0].to(self.noise.device)
        latent = self.model.to_latent(still_of(frame, clip.frames))
        return latent.expand(rows, *[-1] * (latent.ndim - 1))

    def decode(self, latent: Tensor) -> Tensor:
        """What is longer or larger than the model's clips, by tiles of their size."""
        tile = self.model.latent_shape[1:]
        shared = [side // 4 for side in tile]
        if self.asked.overlap is not None:
            shared[0] = self.asked.overlap
        return tiled(self.model.to_video, latent, tile, shared)

    def _ticking(self, denoise: Denoise) -> Denoise:
        """Tells how far it is at every step."""
        tell = self.progress
        if tell is None:
            return denoise

        def told(x: Tensor, t: Tensor) -> Tensor:
            eps = denoise(x, t)
            self._done += 1
            tell(self._done / (self.count * self.asked.steps))
            return eps

        return told
