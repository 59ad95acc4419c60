"""Blocks of the family: residual and attention blocks in 2D, the slice coder, the U-Net."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.nets.attention import attention
from hvdm.nets.blocks import (
    GroupAttention,
    TimeEmbedding,
    ZeroConv2d,
    ZeroEmbedding,
    ZeroLinear,
    group_norm,
)

HEAD = 64
"""Features of an attention head, in nets that are wide enough."""


def heads_of(width: int) -> int:
    return max(1, width // HEAD)


class ResidualBlock(nn.Module):
    """Two convolutions and a way past them; `told` scales and shifts between them."""

    def __init__(self, inputs: int, outputs: int, told: int = 0) -> None:
        super().__init__()
        self.norm_in = group_norm(inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.told = nn.Linear(told, 2 * outputs) if told else None
        self.norm_out = group_norm(outputs)
        self.conv_out = ZeroConv2d(outputs, outputs, 3, padding=1)
        self.past = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """`N C H W`, `N D` -> `N C' H W`."""
        h = self.norm_out(self.conv_in(functional.silu(self.norm_in(x))))
        if self.told is not None and told is not None:
            scale, shift = self.told(functional.silu(told))[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        out: Tensor = self.past(x) + self.conv_out(functional.silu(h))
        return out


class PlaneAttention(nn.Module):
    """Attention over all places of a plane, with its residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend = GroupAttention(width, heads_of(width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attend(x.flatten(2)).unflatten(2, x.shape[2:])
        return out


class Down(nn.Module):
    """Half the size, by a convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Up(nn.Module):
    """Twice the size: each pixel four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
        return out


def _descending(inputs: int, widths: Sequence[int], blocks: int) -> nn.Sequential:
    """A convolution, then blocks of each width, half the size from one to the next."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, padding=1)]
    width = widths[0]
    for level, wide in enumerate(widths):
        layers += [Down(width)] if level else []
        for _ in range(blocks):
            layers.append(ResidualBlock(width, wide))
            width = wide
    return nn.Sequential(*layers)


def _ending(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1))


class SliceEncoder(nn.Module):
    """One frequency's plane -> mean and log variance of its latent."""

    def __init__(self, widths: Sequence[int], blocks: int, latent: int) -> None:
        super().__init__()
        last = widths[-1]
        self.down = _descending(4, widths, blocks)
        self.middle = nn.Sequential(
            ResidualBlock(last, last), PlaneAttention(last), ResidualBlock(last, last)
        )
        self.out = _ending(last, 2 * latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`N 4 H W` -> `N E h w` twice."""
        mean, spread = self.out(self.middle(self.down(x))).chunk(2, 1)
        return mean, spread.clamp(-30, 20)


class SliceDecoder(nn.Module):
    def __init__(self, widths: Sequence[int], blocks: int, latent: int) -> None:
        super().__init__()
        last = widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(latent, last, 3, padding=1)]
        layers += [ResidualBlock(last, last), PlaneAttention(last), ResidualBlock(last, last)]
        width = last
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                layers.append(ResidualBlock(width, wide))
                width = wide
            layers += [Up(width)] if level else []
        self.up = nn.Sequential(*layers)
        self.out = _ending(width, 4)

    def forward(self, z: Tensor) -> Tensor:
        """`N E h w` -> `N 4 H W`."""
        out: Tensor = self.out(self.up(z))
        return out


class SliceAutoencoder(nn.Module):
    """Planes of single frequencies and their latents, with what latents look like on average.

    The moments are buffers that the loss moves: they whiten latents for the diffusion.
    """

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, bins: int, widths: Sequence[int], blocks: int, latent: int) -> None:
        super().__init__()
        self.encode = SliceEncoder(widths, blocks, latent)
        self.decode = SliceDecoder(widths, blocks, latent)
        self.register_buffer("mean", torch.zeros(bins, latent))
        self.register_buffer("square", torch.ones(bins, latent))
        self.register_buffer("seen", torch.zeros(bins))

    def moved(self, count: Tensor, total: Tensor, squares: Tensor, least: float) -> None:
        """Averages follow those of a batch: `K`, `K E`, `K E`; a frequency without rows stays."""
        share = (count > 0) * (1 / (self.seen + 1)).clamp_min(least)
        for kept, sums in ((self.mean, total), (self.square, squares)):
            step = sums.to(kept) / count.to(kept).clamp_min(1e-9)[:, None] - kept
            kept += share[:, None].to(kept) * step
        self.seen += (count > 0).to(self.seen)

    def spread(self) -> Tensor:
        return (self.square - self.mean.square()).clamp_min(1e-6).sqrt()


class PictureEncoder(nn.Module):
    """A picture -> features of the latent's size."""

    def __init__(self, width: int, halvings: int, outputs: int) -> None:
        super().__init__()
        widths = [width * min(2**level, 4) for level in range(halvings + 1)]
        self.down = _descending(3, widths, 1)
        self.out = _ending(widths[-1], outputs)

    def forward(self, picture: Tensor) -> Tensor:
        """`B 3 H W` -> `B C h w`."""
        out: Tensor = self.out(self.down(picture))
        return out


class FrequencyAttention(nn.Module):
    """Attention over the K slices of a row at each place, with its residual; at first it adds 0."""

    def __init__(self, width: int, bins: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.norm = nn.LayerNorm(width)
        self.place = ZeroEmbedding(bins, width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = ZeroLinear(width, width)

    def forward(self, x: Tensor, bins: int) -> Tensor:
        """`(B K) C h w` -> the same."""
        rows = x.unflatten(0, (-1, bins)).permute(0, 3, 4, 1, 2)
        numbers = torch.arange(bins, device=x.device)
        normed = self.norm(rows.flatten(0, 2)) + self.place(numbers)
        q, k, v = self.query_key_value(normed).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = self.out(attention(q, k, v).flatten(2)).unflatten(0, rows.shape[:3])
        return x + mixed.permute(0, 3, 4, 1, 2).flatten(0, 1).contiguous()


@dataclass(frozen=True)
class UNetShape:
    """`attending` levels, counted from the finest, have attention; the middle always has."""

    inputs: int
    outputs: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attending: tuple[int, ...]
    bins: int
    coordinated: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.width * factor for factor in self.multipliers)


def _plan(shape: UNetShape) -> list[tuple[int, int, bool]]:
    """Inputs, outputs and attention of each block in its order: down, the middle, up."""
    plan, kept, width = [], [shape.widths[0]], shape.widths[0]
    for level, wide in enumerate(shape.widths):
        kept += [width] if level else []
        for _ in range(shape.blocks):
            plan.append((width, wide, level in shape.attending))
            width = wide
            kept.append(width)
    plan += [(width, width, True), (width, width, False)]
    for level, wide in reversed(list(enumerate(shape.widths))):
        for _ in range(shape.blocks + 1):
            plan.append((width + kept.pop(), wide, level in shape.attending))
            width = wide
    return plan


class UNetBlock(nn.Module):
    """A residual block, attention where the level has it."""

    def __init__(self, inputs: int, outputs: int, told: int, attending: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, told)
        self.attend = PlaneAttention(outputs) if attending else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        out: Tensor = self.attend(self.block(x, told))
        return out


class SpectrumUNet(nn.Module):
    """Slices with the picture's features, told a time and a frequency -> their noise.

    Where it is `coordinated`, each block is followed by attention across the frequencies.
    """

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        widths, told = shape.widths, 4 * shape.width
        self.time = TimeEmbedding(shape.width, told)
        self.frequency = TimeEmbedding(shape.width, told)
        self.enter = nn.Conv2d(shape.inputs, widths[0], 3, padding=1)
        plan = _plan(shape)
        self.blocks = nn.ModuleList(
            UNetBlock(inputs, outputs, told, attending) for inputs, outputs, attending in plan
        )
        self.down = nn.ModuleList(Down(width) for width in widths[:-1])
        self.up = nn.ModuleList(Up(width) for width in widths[:0:-1])
        self.out = nn.Sequential(
            group_norm(widths[0]), nn.SiLU(), ZeroConv2d(widths[0], shape.outputs, 3, padding=1)
        )
        self.across = nn.ModuleList(
            FrequencyAttention(outputs, shape.bins) for _, outputs, _ in plan if shape.coordinated
        )

    def forward(self, x: Tensor, t: Tensor, k: Tensor) -> Tensor:
        """`N C h w`, `N`, `N` -> `N C' h w`; coordinated: N is B times all K in their order."""
        told = self.time(t, x) + self.frequency(k, x)
        number = iter(range(len(self.blocks)))
        h = self.enter(x)
        kept = [h]
        for level in range(len(self.shape.widths)):
            if level:
                h = self.down[level - 1](h)
                kept.append(h)
            for _ in range(self.shape.blocks):
                h = self._block(next(number), h, told)
                kept.append(h)
        for _ in range(2):
            h = self._block(next(number), h, told)
        for level in range(len(self.shape.widths)):
            for _ in range(self.shape.blocks + 1):
                h = self._block(next(number), torch.cat((h, kept.pop()), 1), told)
            if level < len(self.up):
                h = self.up[level](h)
        out: Tensor = self.out(h)
        return out

    def _block(self, number: int, h: Tensor, told: Tensor) -> Tensor:
        h = self.blocks[number](h, told)
        if self.shape.coordinated:
            h = self.across[number](h, self.shape.bins)
        return h
