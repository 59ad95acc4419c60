import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from hvdm.errors import UserError
from hvdm.nets.lpips import SCALE, SHIFT
from hvdm.nets.perceptual import perceptual

NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights under the names of torchvision's VGG16 and of LPIPS v0.1."""
    folder = tmp_path_factory.mktemp("weights")
    source = torch.Generator().manual_seed(0)
    vgg, linear = {}, {}
    for i, number in enumerate(NUMBERS):
        shape = (WIDTHS[i + 1], WIDTHS[i], 3, 3)
        size = (2 / (9 * shape[1])) ** 0.5
        vgg[f"features.{number}.weight"] = torch.randn(shape, generator=source) * size
        vgg[f"features.{number}.bias"] = torch.randn(shape[0], generator=source) * 0.1
    for i, width in enumerate((64, 128, 256, 512, 512)):
        linear[f"lin{i}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=source)
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(linear, folder / "linear.pth")
    return tuple(str(folder / name) for name in ("vgg16.pth", "linear.pth"))


def plainly(state, image, target):
    """Eq. 1 with torchvision's layout of the network."""
    pools = {4, 9, 16, 23}
    total, features = 0, []
    for x in (image, target):
        x = (x - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None]
        taken = []
        for number in range(30):
            if f"features.{number}.weight" in state:
                weight, bias = (state[f"features.{number}.{k}"] for k in ("weight", "bias"))
                x = nn.functional.conv2d(x, weight, bias, padding=1)
            else:
                x = nn.functional.max_pool2d(x, 2) if number in pools else x.relu()
            if number in (3, 8, 15, 22, 29):
                taken.append(x / x.norm(dim=1, keepdim=True))
        features.append(taken)
    for i, (a, b) in enumerate(zip(*features)):
        weight = state[f"lin{i}.model.1.weight"]
        total = total + nn.functional.conv2d((a - b) ** 2, weight).mean((1, 2, 3))
    return total


def test_it_is_the_formula(files):
    net = perceptual("lpips", 3, files)
    image, target = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    state = torch.load(files[0]) | torch.load(files[1])
    torch.testing.assert_close(net(image, target), plainly(state, image, target))
    assert net(image, image).abs().max() == 0
    assert not any(p.requires_grad for p in net.parameters())


def test_gradients_are_finite_where_features_are_zero(files):
    net = perceptual("lpips", 3, files)
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    net(image, torch.rand(1, 3, 16, 16)).sum().backward()
    assert image.grad.isfinite().all()


def test_hashes_are_checked(files):
    good = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in files]
    image = torch.zeros(1, 3, 16, 16)
    perceptual("lpips", 3, files, good)(image, image)
    with pytest.raises(UserError, match="vgg16.pth has sha256 .*, expected 00"):
        perceptual("lpips", 3, files, ["00", good[1]])(image, image)
    with pytest.raises(UserError, match="1 hashes for 2 files"):
        perceptual("lpips", 3, files, good[:1])


def test_missing_files_and_weights_are_named(files, tmp_path):
    image = torch.zeros(1, 3, 16, 16)
    with pytest.raises(UserError, match="needs model.perceptual_weights"):
        perceptual("lpips", 3)
    with pytest.raises(UserError, match="absent.pth: there is no such file"):
        perceptual("lpips", 3, [str(tmp_path / "absent.pth")])(image, image)
    with pytest.raises(UserError, match="lin0.model.1.weight is missing"):
        perceptual("lpips", 3, files[:1])(image, image)


def test_it_builds_on_meta_without_files():
    with torch.device("meta"):
        net = perceptual("lpips", 3, ["nowhere.pth"])
        assert net(torch.empty(1, 3, 32, 32), torch.empty(1, 3, 32, 32)).shape == (1,)
