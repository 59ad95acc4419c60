"""Critics of novel views: of the picture beside its rendered small self (EG3D), and of depth."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.recipes.wildfusion.networks import enlarged, reduced

SLOPE = 0.2
PAIR = 6
"""Channels of a picture and of its small self."""


class ViewCritic(nn.Module):
    """Convolutions that halve, and one score. No row knows another: there is no batch statistic."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, widths[0], 3, 1, 1)
        self.halving = nn.ModuleList(
            nn.Conv2d(*pair, 4, 2, 1) for pair in pairwise([widths[0], *widths])
        )
        self.score = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`B C H W` -> `B`."""
        x = functional.leaky_relu(self.stem(x), SLOPE)
        for layer in self.halving:
            x = functional.leaky_relu(layer(x), SLOPE)
        score: Tensor = self.score(x)
        return score.mean((1, 2, 3))


class Critics(nn.Module):
    def __init__(self, image: Sequence[int], depth: Sequence[int]) -> None:
        super().__init__()
        self.image, self.depth = ViewCritic(PAIR, image), ViewCritic(1, depth)

    def forward(self, pair: Tensor, nearness: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of a picture with its small self, and of what is near in it."""
        return self.image(pair), self.depth(nearness)


def made_pair(image: Tensor, small: Tensor) -> Tensor:
    """What was made, with what was rendered, enlarged: `B 6 H W`."""
    return torch.cat([image, enlarged(small, image.shape[-1])], 1)


def real_pair(image: Tensor, side: int) -> Tensor:
    """A picture with itself as small as what is rendered, enlarged by the same rule."""
    return made_pair(image, reduced(image, side))
