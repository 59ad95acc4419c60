"""I3D (arXiv 1705.07750), RGB, with the names of the common PyTorch state dicts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 400
FEWEST_FRAMES = 9
"""With fewer, one time step is left where the average pool takes two."""
Triple = tuple[int, int, int]


def same_padding(size: Sequence[int], kernel: Triple, stride: Triple) -> list[int]:
    """TensorFlow's SAME: half in front, rounded down, the rest behind; last axis first."""
    pads: list[int] = []
    for extent, k, s in zip(reversed(size), reversed(kernel), reversed(stride), strict=True):
        total = max(k - (extent % s or s), 0)
        pads += [total // 2, total - total // 2]
    return pads


class Pool(nn.MaxPool3d):
    """Padded with zeros: what comes in is not negative."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__(kernel, stride)
        self.kernel, self.step = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, same_padding(x.shape[2:], self.kernel, self.step))
        return super().forward(padded)


class Unit(nn.Module):
    """Convolution, norm, ReLU; the last one of the network is a convolution with a bias alone."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple = (1, 1, 1),
        stride: Triple = (1, 1, 1),
        last: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(functional.pad(x, same_padding(x.shape[2:], self.kernel, self.stride)))
        return x if self.bn is None else self.bn(x).relu()


class InceptionBlock(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(inputs, b0)
        self.b1a = Unit(inputs, b1a)
        self.b1b = Unit(b1a, b1b, (3, 3, 3))
        self.b2a = Unit(inputs, b2a)
        self.b2b = Unit(b2a, b2b, (3, 3, 3))
        self.b3a = Pool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(inputs, b3b)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.b0(x),
            self.b1b(self.b1a(x)),
            self.b2b(self.b2a(x)),
            self.b3b(self.b3a(x)),
        )
        return torch.cat(branches, dim=1)


BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
POOLS: dict[str, tuple[Triple, Triple]] = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
STAGES = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3",
    "Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3",
    "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2",
    "Mixed_5b", "Mixed_5c",
)  # fmt: skip


class I3D(nn.Module):
    """Float `B 3 T H W` in [-1, 1] -> 400 logits, the mean over what time is left."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, (7, 7, 7), (2, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, (3, 3, 3))
        for name, (kernel, stride) in POOLS.items():
            self.add_module(name, Pool(kernel, stride))
        for name, (inputs, widths) in BLOCKS.items():
            self.add_module(name, InceptionBlock(inputs, widths))
        self.avg_pool = nn.AvgPool3d((2, 7, 7), stride=(1, 1, 1))
        self.logits = Unit(1024, classes, last=True)

    def forward(self, video: Tensor) -> Tensor:
        return self.logits(self.avg_pool(self.described(video))).mean(dim=(2, 3, 4))

    def described(self, video: Tensor) -> Tensor:
        """What the last stage makes of it, `B 1024 T H W`."""
        for stage in STAGES:
            video = self.get_submodule(stage)(video)
        return video
