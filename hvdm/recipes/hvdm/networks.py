"""The hybrid autoencoder's networks (HVDM, arXiv 2402.13729; its triplane is PVDM's, 2302.07685).

Tokens are `B T H W D` with H and W counted in patches; a 1x1x1 convolution on them is a Linear.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from hvdm.nets.blocks import group_norm
from hvdm.ops.triplane import broadcast_sum
from hvdm.ops.wavelet import SPACE, SPACE_TIME, TIME, haar
from hvdm.recipes.hvdm.transformer import SpaceTimeTransformer


class Triplane(nn.Module):
    """Tokens -> planes hw, tw, th, all of width D (HVDM, figure 2)."""

    def __init__(self, over_time: nn.Module, over_height: nn.Module, over_width: nn.Module) -> None:
        super().__init__()
        self.over_time = over_time
        self.over_height = over_height
        self.over_width = over_width

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`B T H W D` -> `B H W D`, `B T W D`, `B T H D`."""
        return (
            self.over_time(tokens.permute(0, 2, 3, 1, 4)),
            self.over_height(tokens.permute(0, 1, 3, 2, 4)),
            self.over_width(tokens),  # its fibres already run along W: B T H (W) D
        )


def volume_of(planes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """`B H W D`, `B T W D`, `B T H D` -> `B T H W D`, the sum of all three broadcast."""
    return broadcast_sum(*(plane.movedim(-1, 1) for plane in planes)).movedim(1, -1)


class WaveletEncoder(nn.Sequential):
    """Convolutions within a time step, each with its norm and squashing.

    The DWT has halved space once; `halvings` strided convolutions take it to the patch grid.
    """

    def __init__(
        self,
        bands: int,
        channels: tuple[int, ...],
        width: int,
        halvings: int,
        time_kernel: int = 1,
        instance: bool = True,
    ) -> None:
        super().__init__()
        kernel, padding = (time_kernel, 3, 3), (time_kernel // 2, 1, 1)
        for i, (inputs, outputs) in enumerate(pairwise((bands, *channels, width, width))):
            stride = 2 if i % 2 == 0 and i // 2 < halvings else 1
            self.append(nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), padding))
            self.append(nn.GroupNorm(outputs, outputs) if instance else group_norm(outputs))
            self.append(nn.Tanh() if instance else nn.SiLU())


class Wavelet(nn.Module):
    """Low- and high-frequency features of one clip, as volumes of keys and of values.

    `join`ed, both are one volume made of both; released networks ask the low and take the high.
    """

    def __init__(
        self, low: nn.Module, high: nn.Module, join: nn.Module | None, aligned: bool, in_time: bool
    ) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.join = join
        self.aligned = aligned
        self.dims = SPACE_TIME if in_time else SPACE

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """`B C T H W` -> `B T H/p W/p D` twice."""
        bands = haar(video, self.dims)
        low = self._whole(self.low(bands[:, 0]))
        high = self._whole(self.high(bands[:, 1:].flatten(1, 2)))
        if self.join is None:
            return low, high
        joined = self.join(torch.cat((low, high), -1))
        return joined, joined

    def _whole(self, features: Tensor) -> Tensor:
        """Steps of two frames, each twice in a row; released networks run through them twice."""
        if TIME[0] in self.dims:
            if self.aligned:
                features = features.repeat_interleave(2, 2)
            else:
                features = torch.cat((features, features), 2)
        return features.movedim(1, -1)


def joint(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width))


class Patchify(nn.Module):
    """Patches of each frame, in order row, column, colour, to tokens."""

    def __init__(self, patch: int, colours: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(patch * patch * colours, width)

    def forward(self, video: Tensor) -> Tensor:
        """`B C T H W` -> `B T H/p W/p D`."""
        b, c, t, h, w = video.shape
        p = self.patch
        blocks = video.reshape(b, c, t, h // p, p, w // p, p)
        out: Tensor = self.project(blocks.permute(0, 2, 3, 5, 4, 6, 1).flatten(4))
        return out


class TriplaneBranch(nn.Module):
    """Video -> tokens -> planes."""

    def __init__(
        self, patchify: Patchify, backbone: SpaceTimeTransformer, triplane: Triplane
    ) -> None:
        super().__init__()
        self.patchify = patchify
        self.backbone = backbone
        self.triplane = triplane

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        planes: tuple[Tensor, Tensor, Tensor] = self.triplane(self.backbone(self.patchify(video)))
        return planes


class Sum(nn.Module):
    """Fusion without attention, for comparison."""

    def forward(self, volume: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return volume + values


class Encoder(nn.Module):
    """Video -> latent in (-1, 1): the triplane volume asks, the wavelet volume answers.

    Either branch can be left out, and with it the fusion.
    """

    def __init__(
        self,
        planes: TriplaneBranch | None,
        wavelet: Wavelet | None,
        fusion: nn.Module | None,
        bottleneck: nn.Linear,
    ) -> None:
        super().__init__()
        self.planes = planes
        self.wavelet = wavelet
        self.fusion = fusion
        self.bottleneck = bottleneck

    def forward(self, video: Tensor) -> Tensor:
        """`B C T H W` -> `B E T H/p W/p`."""
        latent: Tensor = self.bottleneck(self._fused(video).tanh()).tanh()
        return latent.movedim(-1, 1)

    def _fused(self, video: Tensor) -> Tensor:
        volume = None if self.planes is None else volume_of(self.planes(video))
        if self.wavelet is None:
            assert volume is not None
            return volume
        keys, values = self.wavelet(video)
        if volume is None or self.fusion is None:
            return values
        fused: Tensor = self.fusion(volume, keys, values)
        return fused


class Pixels(nn.Module):
    """Tokens -> video in (-1, 1), frame by frame after a space-time transformer."""

    def __init__(
        self, width: int, backbone: SpaceTimeTransformer, patch: int, colours: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.to_pixel = nn.ConvTranspose2d(width, colours, patch, patch)

    def forward(self, tokens: Tensor) -> Tensor:
        """`B T H/p W/p D` -> `B C T H W`."""
        tokens = self.backbone(tokens)
        frames: Tensor = self.to_pixel(tokens.flatten(0, 1).movedim(-1, 1))  # (B T) C H W
        video = 2 * frames.sigmoid() - 1
        return torch.unflatten(video, 0, (len(tokens), -1)).transpose(1, 2)


class Decoder(nn.Module):
    """Latent -> video in (-1, 1)."""

    def __init__(self, latent: int, width: int, pixels: Pixels) -> None:
        super().__init__()
        self.enter = nn.Linear(latent, width)
        self.pixels = pixels

    def forward(self, latent: Tensor) -> Tensor:
        """`B E T H/p W/p` -> `B C T H W`."""
        out: Tensor = self.pixels(self.enter(latent.movedim(1, -1)))
        return out


class Autoencoder(nn.Module):
    """decoder(encoder(video)); each half is called on its own too.

    Released ones carry the times of their frames as state, and never use them.
    """

    coords: Tensor | None

    def __init__(self, encoder: nn.Module, decoder: nn.Module, frames: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        coords = None if frames is None else torch.linspace(-1, 1, frames)[:, None]
        self.register_buffer("coords", coords)

    def forward(self, video: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(video))
        return out
