"""LPIPS (arXiv 1801.03924, eq. 1) on VGG16 (arXiv 1409.1556), with weights from files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from hvdm.errors import UserError
from hvdm.nets.state_files import read_state

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
WANTED = (
    "model.perceptual=lpips needs model.perceptual_weights=[VGG16,LINEAR]: the files "
    "vgg16-397923af.pth of torchvision and vgg.pth of LPIPS v0.1; model.perceptual=untrained "
    "takes no file, and its numbers are not comparable"
)


class LPIPS(nn.Module):
    """Weighted distances between unit-length features after each stage's last ReLU."""

    def __init__(self, files: Sequence[str], sha256: Sequence[str]) -> None:
        super().__init__()
        if not files:
            raise UserError(WANTED)
        if sha256 and len(sha256) != len(files):
            raise UserError(
                f"model.perceptual_sha256 has {len(sha256)} hashes for {len(files)} files of "
                "model.perceptual_weights; give one for each"
            )
        hashes: Sequence[str | None] = sha256 or [None] * len(files)
        self.files = tuple(zip(map(Path, files), hashes, strict=True))
        self.convolutions = nn.ModuleDict(_convolutions())
        self.linears = nn.ParameterList(torch.empty(stage[-1]) for stage in STAGES)
        self.requires_grad_(False)
        self.is_filled = False

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """`B 3 H W` twice, in [-1, 1] -> `B`."""
        self._fill_once()
        distance = image.new_zeros(len(image))
        image, target = self._scaled(image), self._scaled(target)
        layers = iter(self.convolutions.values())
        for number, (stage, weights) in enumerate(zip(STAGES, self.linears, strict=True)):
            if number:
                image, target = (nn.functional.max_pool2d(x, 2) for x in (image, target))
            for _ in stage:
                layer = next(layers)
                image, target = layer(image).relu(), layer(target).relu()
            apart = (_unit(image) - _unit(target)).square()
            distance = distance + torch.einsum("bchw,c->bhw", apart, weights).mean((1, 2))
        return distance

    def _scaled(self, image: Tensor) -> Tensor:
        shift, scale = (image.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        return (image - shift) / scale

    def _fill_once(self) -> None:
        """Read when first asked for: a run is opened for sampling without these files."""
        weights = self.linears[0]
        if self.is_filled or weights.is_meta or isinstance(weights.data, FakeTensor):
            return
        self.fill(
            {k: v for path, digest in self.files for k, v in read_state(path, digest).items()}
        )

    @torch.no_grad()
    def fill(self, state: dict[str, Tensor]) -> None:
        """From the names that torchvision's VGG16 and LPIPS v0.1 use."""
        wanted = {f"features.{name}": p for name, p in self.convolutions.named_parameters()}
        wanted |= {f"lin{i}.model.1.weight": p for i, p in enumerate(self.linears)}
        for name, parameter in wanted.items():
            if name not in state or state[name].numel() != parameter.numel():
                files = ", ".join(str(path) for path, _ in self.files)
                raise UserError(f"{files}: {name} is missing or of another size. {WANTED}")
            parameter.copy_(state[name].view_as(parameter))
        self.is_filled = True


def _convolutions() -> dict[str, nn.Module]:
    """Under torchvision's numbers, which count the ReLUs and poolings too."""
    layers: dict[str, nn.Module] = {}
    number, inputs = 0, 3
    for stage in STAGES:
        for width in stage:
            layers[str(number)] = nn.Conv2d(inputs, width, 3, padding=1)
            number, inputs = number + 2, width
        number += 1
    return layers


def _unit(features: Tensor) -> Tensor:
    # the clamp keeps the gradient finite where every feature is zero
    length = features.square().sum(1, keepdim=True).clamp_min(1e-20).sqrt()
    return features / (length + 1e-10)
