"""A small network that reads digits: their class, and 64 features of how they are written.

Its weights lie beside this file; `python -m benchmarks.digit_reader` trains them.
"""

from functools import cache
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

SIDE, FEATURE_COUNT, DIGITS = 32, 64, 10
WIDTHS = (3, 16, 24, 40, 56)
FILE = "digit_reader.safetensors"


class DigitReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        pairs = list(zip(WIDTHS, WIDTHS[1:], strict=False))
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in WIDTHS[1:])
        last = SIDE // 2 ** (len(pairs) - 1)
        self.describe = nn.Linear(WIDTHS[-1] * last * last, FEATURE_COUNT)
        self.classify = nn.Linear(FEATURE_COUNT, DIGITS)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 `B H W 3` -> features `B 64`, logits `B 10`."""
        x = scaled(frames)
        for layer, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = functional.silu(norm(convolution(x)))
            if layer < len(self.norms) - 1:
                x = functional.max_pool2d(x, 2)
        features = torch.tanh(self.describe(x.flatten(1)))
        return features, self.classify(features)


def scaled(frames: Tensor) -> Tensor:
    """`B 3 32 32`: at the network's size, ground and ink at the same contrast whatever colour."""
    x = frames.permute(0, 3, 1, 2).float() / 255
    if x.shape[2:] != (SIDE, SIDE):
        x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
    middle = x.mean((1, 2, 3), keepdim=True)
    spread = x.std((1, 2, 3), keepdim=True).clamp_min(0.02)
    return (x - middle) / spread


@cache
def digit_reader() -> DigitReader:
    """With the weights that come with the package."""
    network = DigitReader()
    with as_file(files("eval.networks").joinpath(FILE)) as path:
        state = load_file(path)
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network.requires_grad_(False).eval()


def ink(frames: Tensor) -> Tensor:
    """uint8 `B H W 3` -> the middle of what differs from the ground, `B 2`: across and down.

    In shares of the picture. The ground is the median colour, the ink at least half as far from it
    as the farthest pixel.
    """
    pixels = frames.float().flatten(1, 2)
    apart = (pixels - pixels.median(1, keepdim=True).values).norm(dim=2)
    weight = (apart - apart.amax(1, keepdim=True) / 2).clamp_min(0)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-6)
    down, across = (torch.linspace(0, 1, size, device=frames.device) for size in frames.shape[1:3])
    places = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
    return torch.einsum("bp,pc->bc", weight, places.flatten(0, 1))


@torch.no_grad()
def read_digits(frames: Tensor) -> Tensor:
    """uint8 `B H W 3` -> the digit that each shows, `B`."""
    _, logits = digit_reader()(frames)
    return logits.argmax(1)
