"""HVDM's 3D U-Net: ADM's residual blocks (arXiv 2105.05233); time is never halved."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hvdm.nets.blocks import (
    GroupAttention,
    TimeEmbedding,
    ZeroConv2d,
    ZeroConv3d,
    group_norm,
    run,
)
from hvdm.recipes.hvdm.conditions import Numbers


class Halve(nn.Module):
    """Average over 2x2 pixels. Spelled out: AvgPool3d has no deterministic gradient on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """`B C ... H W` -> `B C ... H/2 W/2`."""
        *front, h, w = x.shape
        return x.reshape(*front, h // 2, 2, w // 2, 2).mean((-3, -1))


class Double(nn.Module):
    """Every pixel becomes 2x2."""

    def forward(self, x: Tensor) -> Tensor:
        """`B C ... H W` -> `B C ... 2H 2W`."""
        return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
ZERO_CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: ZeroConv2d, 3: ZeroConv3d}


class ResBlock(nn.Module):
    """Norm, SiLU, conv; norm scaled and shifted by time, SiLU, zero conv (ADM, section 3)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        time: int,
        resample: nn.Module | None = None,
        dimensions: int = 3,
    ) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        self.norm_in = group_norm(inputs)
        self.resample = resample or nn.Identity()
        self.conv_in = convolution(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(time, 2 * outputs)
        self.norm_out = group_norm(outputs)
        self.conv_out = ZERO_CONVOLUTION[dimensions](outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`B C ... H W` -> `B C' ... H' W'`."""
        h = self.conv_in(self.resample(nn.functional.silu(self.norm_in(x))))
        modulation = self.modulation(nn.functional.silu(time))
        scale, shift = modulation.reshape(*modulation.shape, *[1] * (h.ndim - 2)).chunk(2, 1)
        h = self.norm_out(h) * (1 + scale) + shift
        out: Tensor = self.skip(self.resample(x)) + self.conv_out(nn.functional.silu(h))
        return out


class VolumeAttention(nn.Module):
    """Attention within each frame, then along time at each site; the paper's network has none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.space = GroupAttention(width, heads)
        self.time = GroupAttention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        """`B C T H W` -> `B C T H W`."""
        b, c, t, h, w = x.shape
        frames = self.space(x.transpose(1, 2).reshape(b * t, c, h * w))
        sites = frames.reshape(b, t, c, h * w).permute(0, 3, 2, 1).reshape(b * h * w, c, t)
        out: Tensor = self.time(sites).reshape(b, h, w, c, t).permute(0, 3, 4, 1, 2)
        return out


class Block(nn.Module):
    """A residual block, and attention behind it where the level has it."""

    def __init__(self, residual: ResBlock, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.residual(x, time)
        return x if self.attention is None else self.attention(x)


Attend = Callable[[int, int], nn.Module | None]
"""What attends behind a block, by level and width; None: nothing does."""


class Down(nn.Module):
    """Blocks from fine to coarse; the output of each, and of the stem, is a skip connection."""

    def __init__(
        self, widths: tuple[int, ...], blocks: int, time: int, checkpointing: bool, attend: Attend
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList()
        self.skips = [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(blocks):
                block = ResBlock(self.skips[-1], width, time)
                self._add(Block(block, attend(level, width)), width)
            if level + 1 < len(widths):
                self._add(Block(ResBlock(width, width, time, Halve())), width)

    def _add(self, block: nn.Module, width: int) -> None:
        self.blocks.append(block)
        self.skips.append(width)

    def forward(self, x: Tensor, time: Tensor) -> list[Tensor]:
        outputs = [x]
        for block in self.blocks:
            outputs.append(run(block, self.checkpointing, outputs[-1], time))
        return outputs


class Up(nn.Module):
    """Blocks from coarse to fine; each but the up-sampling ones takes a skip connection."""

    def __init__(
        self,
        widths: tuple[int, ...],
        blocks: int,
        time: int,
        skips: list[int],
        checkpointing: bool,
        attend: Attend,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.levels = nn.ModuleList()
        skips, current = list(skips), widths[-1]
        for level in reversed(range(len(widths))):
            joined = nn.ModuleList()
            for _ in range(blocks + 1):
                block = ResBlock(current + skips.pop(), widths[level], time)
                joined.append(Block(block, attend(level, widths[level])))
                current = widths[level]
            self.levels.append(joined)
        self.doublings = nn.ModuleList(
            ResBlock(width, width, time, Double()) for width in reversed(widths[1:])
        )

    def forward(self, x: Tensor, skips: list[Tensor], time: Tensor) -> Tensor:
        skips = list(skips)
        for level, joined in enumerate(self.levels):
            assert isinstance(joined, nn.ModuleList)
            for block in joined:
                x = run(block, self.checkpointing, torch.cat((x, skips.pop()), 1), time)
            if level < len(self.doublings):
                x = run(self.doublings[level], self.checkpointing, x, time)
        return x


class Nothing(nn.Module):
    """The condition of those who have none: zeros, which released networks keep as state."""

    zeros: Tensor | None

    def __init__(self, released: tuple[int, ...] | None) -> None:
        super().__init__()
        self.register_buffer("zeros", None if released is None else torch.zeros(1, *released))

    def forward(self, condition: Tensor | None, like: Tensor) -> Tensor:
        if condition is not None:
            return condition
        if self.zeros is None:
            return torch.zeros_like(like)
        return self.zeros.view(1, *like.shape[1:]).expand_as(like).to(like)


class UNet(nn.Module):
    """Predicts the noise in a latent, beside which it sees a condition of the same shape.

    `attention` puts attention on the two coarsest levels; `released` is the shape of the zeros
    that the released networks carry along; `motion` and `classes` say what else it is told.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        checkpointing: bool,
        attention: int = 0,
        released: tuple[int, ...] | None = None,
        motion: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths, time = tuple(width * m for m in multipliers), 4 * width

        def attend(level: int, inner: int) -> nn.Module | None:
            low = level + 2 >= len(widths)
            return VolumeAttention(inner, attention) if attention and low else None

        self.nothing = Nothing(released)
        self.time = TimeEmbedding(width, time)
        self.numbers = Numbers(width, time, motion, classes)
        self.stem = nn.Conv3d(2 * channels, widths[0], 3, padding=1)
        self.down = Down(widths, blocks, time, checkpointing, attend)
        self.middle = nn.ModuleList(ResBlock(widths[-1], widths[-1], time) for _ in range(2))
        self.up = Up(widths, blocks, time, self.down.skips, checkpointing, attend)
        self.norm = group_norm(widths[0])
        self.head = ZeroConv3d(widths[0], channels, 3, padding=1)

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        motion: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """`B E T H W`, `B`, `B E T H W`, `B`, `B` -> `B E T H W`."""
        time = self.numbers(self.time(t, like=noisy), motion, label)
        beside = self.nothing(condition, noisy)
        skips = self.down(self.stem(torch.cat((noisy, beside), 1)), time)
        x = skips[-1]
        for block in self.middle:
            x = run(block, self.checkpointing, x, time)
        x = self.up(x, skips, time)
        out: Tensor = self.head(nn.functional.silu(self.norm(x)))
        return out
