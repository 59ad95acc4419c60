"""The critic of one frame: residual blocks that halve it, attention at 16x16, one score."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.nets.blocks import ZeroLinear, group_norm

SLOPE = 0.1
ATTENDED, LAST = 16, 4


class CriticBlock(nn.Module):
    """Two convolutions; four neighbours then become channels of one place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.narrow = nn.Conv2d(4 * outputs, outputs, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`B C H W` -> `B C' H/2 W/2`."""
        h = functional.leaky_relu(self.conv_in(x), SLOPE)
        h = functional.leaky_relu(self.conv_out(h), SLOPE)
        h = self.narrow(functional.pixel_unshuffle(h, 2))
        return (h + self.shortcut(x)) / math.sqrt(2)


class CriticAttention(nn.Module):
    """One head over all places, with its residual.

    Written out: the penalty goes through slopes, and fused attention has none of second order.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = ZeroLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`B C H W` -> `B C H W`."""
        rows = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.query_key_value(rows).chunk(3, -1)
        shares = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        return x + self.out(shares @ v).transpose(1, 2).reshape(x.shape)


def halvings(side: int) -> int:
    """So many blocks, the last of which sees four places or more along a side."""
    return max(0, int(math.log2(side / LAST)))


class Critic(nn.Module):
    def __init__(self, channels: int, side: int, width: int, widest: int) -> None:
        super().__init__()
        count = halvings(side)
        widths = [channels, *(min(width * 2**i, widest) for i in range(count))]
        self.blocks = nn.ModuleList(
            CriticBlock(inputs, outputs)
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        self.attends = nn.ModuleDict(
            {
                str(number): CriticAttention(outputs)
                for number, outputs in enumerate(widths[1:])
                if side // 2 ** (number + 1) == ATTENDED
            }
        )
        self.last = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.score = nn.Linear(widths[-1] * (side // 2**count) ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`B C H W` -> `B`."""
        for number, block in enumerate(self.blocks):
            x = block(x)
            if str(number) in self.attends:
                x = self.attends[str(number)](x)
        x = functional.leaky_relu(self.last(x), SLOPE)
        score: Tensor = self.score(x.flatten(1))
        return score[:, 0]


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """arXiv 1705.02894."""
    return torch.relu(1 - real) + torch.relu(1 + fake)
