"""Patch critics (PatchGAN, arXiv 1611.07004) of a frame and of a clip, and their losses."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hvdm.nets.blocks import group_norm

KERNEL, PADDING, SLOPE = 4, 2, 0.2


class PatchCritic(nn.Module):
    """Convolutions with ever wider layers; gives every layer's output, the scores last."""

    def __init__(self, colours: int, width: int, layers: int, norm: str, dimensions: int) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        strides = [2] * layers + [1]
        self.layers = nn.ModuleList()
        inputs = colours
        for i, (outputs, stride) in enumerate(zip(widths, strides, strict=True)):
            parts: list[nn.Module] = [_convolution(dimensions, inputs, outputs, stride)]
            if i > 0:
                parts.append(_norm(norm, dimensions, outputs))
            self.layers.append(nn.Sequential(*parts, nn.LeakyReLU(SLOPE)))
            inputs = outputs
        self.layers.append(_convolution(dimensions, inputs, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """`B C H W` or `B C T H W` -> features of each layer, then scores."""
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs


class FrameCritic(PatchCritic):
    def __init__(self, colours: int, width: int, layers: int, norm: str) -> None:
        super().__init__(colours, width, layers, norm, dimensions=2)


class ClipCritic(PatchCritic):
    def __init__(self, colours: int, width: int, layers: int, norm: str) -> None:
        super().__init__(colours, width, layers, norm, dimensions=3)


class _Convolution2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        _draw(self)


class _Convolution3d(nn.Conv3d):
    def reset_parameters(self) -> None:
        _draw(self)


def _draw(layer: nn.Conv2d | nn.Conv3d) -> None:
    nn.init.normal_(layer.weight, 0, 0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _convolution(dimensions: int, inputs: int, outputs: int, stride: int) -> nn.Module:
    kind = {2: _Convolution2d, 3: _Convolution3d}[dimensions]
    return kind(inputs, outputs, KERNEL, stride, PADDING)


def _norm(name: str, dimensions: int, width: int) -> nn.Module:
    """Batch norm is the released code's; it couples the samples of a batch."""
    if name == "group":
        return group_norm(width)
    return {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions](width)


# Losses, one value per sample


def says_real(scores: Tensor) -> Tensor:
    """The hinge loss of who is judged (arXiv 1705.02894)."""
    return -scores.flatten(1).mean(1)


def hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Half of mean relu(1 - D(x)) + mean relu(1 + D(x'))."""
    miss = torch.relu(1 - real).flatten(1).mean(1) + torch.relu(1 + fake).flatten(1).mean(1)
    logs = {"real": real.detach().flatten(1).mean(1), "fake": fake.detach().flatten(1).mean(1)}
    return miss / 2, logs


def feature_distance(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """L1 between the critic's features, its scores left out (arXiv 1711.11585, eq. 4)."""
    pairs = list(zip(real[:-1], fake[:-1], strict=True))
    apart = [(r.detach() - f).abs().flatten(1).mean(1) for r, f in pairs]
    return torch.stack(apart).sum(0)
