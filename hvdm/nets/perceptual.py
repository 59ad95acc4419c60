"""Distances between images in the feature space of a frozen network; one value per sample."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hvdm import rng
from hvdm.errors import UserError, closest
from hvdm.nets.lpips import LPIPS

FAINT = 0.1
"""Features of this squared length count half; images of full contrast give 3 to 5."""


class NoPerceptual(nn.Module):
    """Zero for every sample."""

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        return image.new_zeros(len(image))


class SeededConv2d(nn.Conv2d):
    """A convolution with He-normal weights (arXiv 1502.01852) from a seed of its own."""

    def __init__(self, inputs: int, outputs: int, stride: int, seed: int) -> None:
        self.seed = seed
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)

    def reset_parameters(self) -> None:
        # drawn on the CPU and copied, so that every device, a meta device too, sees the same
        source = rng.generator(self.seed, "perceptual")
        shape = tuple(self.weight.shape)
        drawn = torch.randn(shape, generator=source, dtype=torch.float32, device="cpu")
        with torch.no_grad():
            self.weight.copy_(drawn * (2 / (shape[1] * 9)) ** 0.5)


class UntrainedPerceptual(nn.Module):
    """LPIPS-like distance (arXiv 1801.03924, eq. 1) on random features: the same in every run.

    Smooth where LPIPS has kinks, and calm where an image is flat grey and its features are all
    near zero: rounding must not decide which way a run goes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        self.layers = nn.ModuleList(
            SeededConv2d(widths[i], widths[i + 1], stride=1 if i == 0 else 2, seed=i)
            for i in range(3)
        )
        self.requires_grad_(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """`B C H W` twice, in [-1, 1] -> `B`."""
        distance = image.new_zeros(len(image))
        for layer in self.layers:
            image, target = (nn.functional.gelu(layer(x)) for x in (image, target))
            distance = distance + (_unit(image) - _unit(target)).square().sum(1).mean((1, 2))
        return distance


def _unit(features: Tensor) -> Tensor:
    """`B C H W`, each position's features at length 1, or less where they are faint."""
    return features / (features.square().sum(1, keepdim=True) + FAINT).sqrt()


Perceptual = Literal["none", "untrained", "lpips"]


def perceptual(
    name: Perceptual, channels: int, files: Sequence[str] = (), sha256: Sequence[str] = ()
) -> nn.Module:
    """`net(image, target) -> B`; "untrained" says in its name what its numbers are worth."""
    if name not in get_args(Perceptual):
        raise UserError(f"perceptual={name!r}: {closest(name, get_args(Perceptual))}")
    if name == "lpips":
        return LPIPS(files, sha256)
    return NoPerceptual() if name == "none" else UntrainedPerceptual(channels)
