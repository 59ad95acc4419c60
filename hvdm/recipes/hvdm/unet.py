"""HVDM's 3D U-Net: ADM's residual blocks (arXiv 2105.05233), no attention, time never halved."""

import torch
from torch import Tensor, nn

from hvdm.nets.blocks import TimeEmbedding, ZeroConv3d, group_norm, run


class Halve(nn.Module):
    """Average over 2x2 pixels. Spelled out: AvgPool3d has no deterministic gradient on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """`B C T H W` -> `B C T H/2 W/2`."""
        b, c, t, h, w = x.shape
        return x.reshape(b, c, t, h // 2, 2, w // 2, 2).mean((4, 6))


class Double(nn.Module):
    """Every pixel becomes 2x2."""

    def forward(self, x: Tensor) -> Tensor:
        """`B C T H W` -> `B C T 2H 2W`."""
        return x.repeat_interleave(2, 3).repeat_interleave(2, 4)


def conv3(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, padding=1)


class ResBlock(nn.Module):
    """Norm, SiLU, conv; norm scaled and shifted by time, SiLU, zero conv (ADM, section 3)."""

    def __init__(
        self, inputs: int, outputs: int, time: int, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm_in = group_norm(inputs)
        self.resample = resample or nn.Identity()
        self.conv_in = conv3(inputs, outputs)
        self.modulation = nn.Linear(time, 2 * outputs)
        self.norm_out = group_norm(outputs)
        self.conv_out = ZeroConv3d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`B C T H W` -> `B C' T H' W'`."""
        h = self.conv_in(self.resample(nn.functional.silu(self.norm_in(x))))
        modulation = self.modulation(nn.functional.silu(time))[:, :, None, None, None]
        scale, shift = modulation.chunk(2, 1)
        h = self.norm_out(h) * (1 + scale) + shift
        out: Tensor = self.skip(self.resample(x)) + self.conv_out(nn.functional.silu(h))
        return out


class Down(nn.Module):
    """Blocks from fine to coarse; the output of each, and of the stem, is a skip connection."""

    def __init__(self, widths: tuple[int, ...], blocks: int, time: int, checkpointing: bool):
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList()
        self.skips = [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(blocks):
                self._add(ResBlock(self.skips[-1], width, time), width)
            if level + 1 < len(widths):
                self._add(ResBlock(width, width, time, Halve()), width)

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
        self, widths: tuple[int, ...], blocks: int, time: int, skips: list[int], checkpointing: bool
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.levels = nn.ModuleList()
        skips, current = list(skips), widths[-1]
        for level in reversed(range(len(widths))):
            joined = nn.ModuleList()
            for _ in range(blocks + 1):
                joined.append(ResBlock(current + skips.pop(), widths[level], time))
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


class UNet(nn.Module):
    """Predicts the noise in a latent, beside which it sees a condition of the same shape."""

    def __init__(
        self,
        channels: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths, time = tuple(width * m for m in multipliers), 4 * width
        self.time = TimeEmbedding(width, time)
        self.stem = conv3(2 * channels, widths[0])
        self.down = Down(widths, blocks, time, checkpointing)
        self.middle = nn.ModuleList(ResBlock(widths[-1], widths[-1], time) for _ in range(2))
        self.up = Up(widths, blocks, time, self.down.skips, checkpointing)
        self.norm = group_norm(widths[0])
        self.head = ZeroConv3d(widths[0], channels, 3, padding=1)

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """`B E T H W`, `B`, `B E T H W` -> `B E T H W`."""
        time = self.time(t, like=noisy)
        skips = self.down(self.stem(torch.cat((noisy, condition), 1)), time)
        x = skips[-1]
        for block in self.middle:
            x = run(block, self.checkpointing, x, time)
        x = self.up(x, skips, time)
        out: Tensor = self.head(nn.functional.silu(self.norm(x)))
        return out
