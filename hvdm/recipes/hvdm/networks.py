"""The hybrid autoencoder's networks (HVDM, arXiv 2402.13729; its triplane is PVDM's, 2302.07685).

Tokens are `B T H W D` with H and W counted in patches; a 1x1x1 convolution on them is a Linear.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from hvdm.nets.blocks import GEGLU, MLP, Attention, run
from hvdm.nets.rotary import rotary_1d, rotary_2d
from hvdm.ops.triplane import broadcast_sum
from hvdm.ops.wavelet import haar3d


class SpaceTimeLayer(nn.Module):
    """Divided attention (TimeSformer, arXiv 2102.05095, eq. 8-9): time, then space, then GEGLU."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.time = Attention(width, heads, head_dim)
        self.space = Attention(width, heads, head_dim)
        self.feed_forward = GEGLU(width)

    def forward(
        self, x: Tensor, context: Tensor | None, in_time: Tensor, in_space: Tensor
    ) -> Tensor:
        """`B T S D` -> `B T S D`; with a `context` of the same shape, keys and values are its."""
        b, t, s, _ = x.shape
        x = self.time(_sites(x), in_time, None if context is None else _sites(context))
        x = torch.unflatten(x, 0, (b, s)).transpose(1, 2)
        frames = None if context is None else context.flatten(0, 1)
        x = self.space(x.flatten(0, 1), in_space, frames)
        return torch.unflatten(self.feed_forward(x), 0, (b, t))


def _sites(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)  # B T S D -> (B S) T D


class SpaceTimeTransformer(nn.Module):
    """Layers of divided attention with rotary positions only, so that any T, H, W will do."""

    def __init__(
        self, width: int, depth: int, heads: int, head_dim: int, checkpointing: bool
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.checkpointing = checkpointing
        self.layers = nn.ModuleList(SpaceTimeLayer(width, heads, head_dim) for _ in range(depth))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        _, t, h, w, _ = x.shape
        in_time = rotary_1d(t, self.head_dim, like=x)
        in_space = rotary_2d(h, w, self.head_dim, like=x)
        x = x.flatten(2, 3)
        context = None if context is None else context.flatten(2, 3)
        for layer in self.layers:
            x = run(layer, self.checkpointing, x, context, in_time, in_space)
        return torch.unflatten(x, 2, (h, w))


class ProjectionLayer(nn.Module):
    """One ViT layer (arXiv 2010.11929, eq. 2-3)."""

    def __init__(self, width: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_dim)
        self.feed_forward = MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.feed_forward(self.attention(x))
        return out


class AxisProjection(nn.Module):
    """Sums up an axis: appends a learned token to each fibre and reads it (PVDM, section 3.1)."""

    def __init__(self, length: int, width: int, layers: list[nn.Module], checkpointing: bool):
        super().__init__()
        self.checkpointing = checkpointing
        # read back whole, unit-size ones would saturate the tanh in front of the bottleneck
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, length + 1, width))
        self.layers = nn.ModuleList(layers)

    def forward(self, fibres: Tensor) -> Tensor:
        """`B X Y N D` -> `B X Y D`."""
        rows = fibres.flatten(0, 2)
        x = torch.cat((rows, self.token.expand(len(rows), -1, -1)), 1) + self.positions
        for layer in self.layers:
            x = run(layer, self.checkpointing, x)
        return torch.unflatten(x[:, -1], 0, fibres.shape[:3])


class Triplane(nn.Module):
    """Tokens -> planes hw, tw, th -> their broadcast sum, all of width D (HVDM, figure 2)."""

    def __init__(self, over_time: nn.Module, over_height: nn.Module, over_width: nn.Module) -> None:
        super().__init__()
        self.over_time = over_time
        self.over_height = over_height
        self.over_width = over_width

    def forward(self, tokens: Tensor) -> Tensor:
        """`B T H W D` -> `B T H W D`."""
        hw = self.over_time(tokens.permute(0, 2, 3, 1, 4))
        tw = self.over_height(tokens.permute(0, 1, 3, 2, 4))
        th = self.over_width(tokens)  # its fibres already run along W: B T H (W) D
        planes = (plane.movedim(-1, 1) for plane in (hw, tw, th))
        return broadcast_sum(*planes).movedim(1, -1)


class WaveletEncoder(nn.Module):
    """Convolutions within a time step, instance norm, tanh; time steps doubled at the end.

    The DWT has halved time and space; `halvings` strided convolutions take space to the patch grid.
    """

    def __init__(self, bands: int, channels: tuple[int, ...], width: int, halvings: int) -> None:
        super().__init__()
        sizes = (bands, *channels, width, width)
        self.layers = nn.Sequential()
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            stride = 2 if i % 2 == 0 and i // 2 < halvings else 1
            self.layers.append(
                nn.Conv3d(inputs, outputs, (1, 3, 3), (1, stride, stride), (0, 1, 1))
            )
            self.layers.append(nn.GroupNorm(outputs, outputs))
            self.layers.append(nn.Tanh())

    def forward(self, bands: Tensor) -> Tensor:
        """`B C T/2 H/2 W/2` -> `B T H/p W/p D`; step k covers frames 2k and 2k+1."""
        features: Tensor = self.layers(bands)
        return features.repeat_interleave(2, 2).movedim(1, -1)


class Wavelet(nn.Module):
    """z_vol: low- and high-frequency features of one clip, joined for keys and values."""

    def __init__(self, colours: int, channels: tuple[int, ...], width: int, halvings: int) -> None:
        super().__init__()
        self.low = WaveletEncoder(colours, channels, width, halvings)
        self.high = WaveletEncoder(7 * colours, channels, width, halvings)
        self.join = nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width))

    def forward(self, video: Tensor) -> Tensor:
        """`B C T H W` -> `B T H/p W/p D`."""
        bands = haar3d(video)
        low, high = self.low(bands[:, 0]), self.high(bands[:, 1:].flatten(1, 2))
        out: Tensor = self.join(torch.cat((low, high), -1))
        return out


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


class Encoder(nn.Module):
    """Video -> latent in (-1, 1): the triplane volume asks, the wavelet volume answers."""

    def __init__(
        self,
        patchify: Patchify,
        backbone: SpaceTimeTransformer,
        triplane: Triplane,
        wavelet: Wavelet,
        fusion: SpaceTimeTransformer,
        bottleneck: nn.Linear,
    ) -> None:
        super().__init__()
        self.patchify = patchify
        self.backbone = backbone
        self.triplane = triplane
        self.wavelet = wavelet
        self.fusion = fusion
        self.bottleneck = bottleneck

    def forward(self, video: Tensor) -> Tensor:
        """`B C T H W` -> `B E T H/p W/p`."""
        volume = self.triplane(self.backbone(self.patchify(video)))
        fused = self.fusion(volume, self.wavelet(video))
        latent: Tensor = self.bottleneck(fused.tanh()).tanh()
        return latent.movedim(-1, 1)


class Decoder(nn.Module):
    """Latent -> video in (-1, 1), frame by frame after a space-time transformer."""

    def __init__(
        self, latent: int, width: int, backbone: SpaceTimeTransformer, patch: int, colours: int
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(latent, width)
        self.backbone = backbone
        self.to_pixel = nn.ConvTranspose2d(width, colours, patch, patch)

    def forward(self, latent: Tensor) -> Tensor:
        """`B E T H/p W/p` -> `B C T H W`."""
        b, _, t, _, _ = latent.shape
        tokens = self.backbone(self.enter(latent.movedim(1, -1)))
        frames: Tensor = self.to_pixel(tokens.flatten(0, 1).movedim(-1, 1))  # (B T) C H W
        video = 2 * frames.sigmoid() - 1
        return torch.unflatten(video, 0, (b, t)).transpose(1, 2)


class Autoencoder(nn.Module):
    """decoder(encoder(video)); each half is called on its own too."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, video: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(video))
        return out
