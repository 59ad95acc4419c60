import json
import math
from pathlib import Path

import pytest
import torch

from eval.networks.i3d import I3D, STAGES, Pool, Unit, same_padding
from eval.networks.preprocess import tf_reference, videogpt
from hvdm import rng

HERE = Path(__file__).parent
SHAPES = {
    "Conv3d_1a_7x7": (64, 8, 112), "MaxPool3d_2a_3x3": (64, 8, 56), "Conv3d_2b_1x1": (64, 8, 56),
    "Conv3d_2c_3x3": (192, 8, 56), "MaxPool3d_3a_3x3": (192, 8, 28), "Mixed_3b": (256, 8, 28),
    "Mixed_3c": (480, 8, 28), "MaxPool3d_4a_3x3": (480, 4, 14), "Mixed_4b": (512, 4, 14),
    "Mixed_4c": (512, 4, 14), "Mixed_4d": (512, 4, 14), "Mixed_4e": (528, 4, 14),
    "Mixed_4f": (832, 4, 14), "MaxPool3d_5a_2x2": (832, 2, 7), "Mixed_5b": (832, 2, 7),
    "Mixed_5c": (1024, 2, 7), "avg_pool": (1024, 1, 1), "logits": (400, 1, 1),
}  # fmt: skip


def seeded():
    """Every weight from its name, so that nothing but this code decides them."""
    network = I3D()
    with torch.no_grad():
        for name, weight in sorted(network.named_parameters()):
            drawn = torch.randn(weight.shape, generator=rng.generator("i3d", name))
            fan = math.prod(weight.shape[1:])
            weight.copy_(drawn * (2 / fan) ** 0.5 if weight.dim() == 5 else 1 + 0.1 * drawn)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network():
    return seeded()


def clip(frames=16, height=224, width=224):
    return torch.rand((1, 3, frames, height, width), generator=rng.generator("clip")) * 2 - 1


def test_names_and_shapes_are_those_of_the_common_state_dicts():
    rows = (HERE / "i3d_names.tsv").read_text().splitlines()
    expected = {}
    for row in rows:
        if not row.startswith("#"):
            name, shape, *_ = row.split("\t")
            expected[name] = () if shape == "scalar" else tuple(map(int, shape.split("x")))
    found = {name: tuple(tensor.shape) for name, tensor in I3D().state_dict().items()}
    assert found == expected and len(found) == 344
    assert sum(p.numel() for p in I3D().parameters()) == 12_697_264


def test_stages_have_their_shapes_and_logits_are_the_stored_ones(network):
    seen, handles = {}, []
    for name in (*STAGES, "avg_pool", "logits"):
        module = network.get_submodule(name)
        handles.append(
            module.register_forward_hook(lambda m, i, out, n=name: seen.update({n: out.shape}))
        )
    logits = network(clip())[0]
    for handle in handles:
        handle.remove()
    assert {n: (s[1], s[2], s[3]) for n, s in seen.items()} == SHAPES
    golden = torch.tensor(json.loads((HERE / "i3d_golden.json").read_text())["logits"])
    torch.testing.assert_close(logits, golden, rtol=1e-4, atol=1e-4 * float(golden.abs().max()))


def test_one_wrong_padding_would_be_seen(network, monkeypatch):
    monkeypatch.setattr(
        "eval.networks.i3d.same_padding", lambda *a: same_padding(*a)[1::-1] + same_padding(*a)[2:]
    )
    golden = torch.tensor(json.loads((HERE / "i3d_golden.json").read_text())["logits"])
    assert float((network(clip())[0] - golden).abs().max()) > 1e-2 * float(golden.abs().max())


@pytest.mark.parametrize("size", range(1, 21))
def test_padding_is_tensorflows_for_every_size(size):
    for kernel in (1, 2, 3, 7):
        for stride in (1, 2):
            front, behind, *_ = same_padding((4, 4, size), (1, 1, kernel), (1, 1, stride))
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            assert (front, behind) == (total // 2, total - total // 2)


@pytest.mark.parametrize("shape", [(9, 15, 17), (10, 14, 13), (11, 7, 8)])
def test_odd_sizes_come_out_as_the_size_over_the_stride_rounded_up(shape):
    x = torch.rand((1, 2, *shape))
    up = tuple(-(-n // 2) for n in shape)
    assert Pool((3, 3, 3), (2, 2, 2))(x).shape[2:] == up
    assert Unit(2, 3, (7, 7, 7), (2, 2, 2)).eval()(x).shape[2:] == up
    assert Pool((3, 3, 3), (1, 1, 1))(x).shape[2:] == shape


def test_pools_pad_with_zeros_and_convolutions_are_the_plain_sum():
    x = torch.full((1, 1, 2, 2, 2), -5.0)
    assert float(Pool((3, 3, 3), (1, 1, 1))(x).max()) == 0
    unit = Unit(1, 1, (3, 3, 3), (2, 2, 2), last=True)
    with torch.no_grad():
        unit.conv3d.weight.fill_(1.0)
        unit.conv3d.bias.fill_(0.0)
    ones = torch.ones((1, 1, 4, 4, 4))
    # an even size and stride 2: nothing in front, one behind
    assert unit(ones)[0, 0].flatten().tolist() == [27, 18, 18, 12, 18, 12, 12, 8]


def test_more_time_steps_are_averaged(network):
    with torch.no_grad():
        assert network(clip(24)).shape == (1, 400)


def test_preparing_pixels(video):
    """Two ways that agree on square clips of the right size and nowhere else."""
    square = torch.randint(0, 256, (1, 2, 224, 224, 3), dtype=torch.uint8)
    straight = square.permute(0, 4, 1, 2, 3) / 127.5 - 1
    for way in (tf_reference, videogpt):
        torch.testing.assert_close(way(square), straight, rtol=0, atol=2e-6)
        assert way(video).shape == (2, 3, 5, 224, 224)
    wide = torch.zeros((1, 1, 10, 40, 3), dtype=torch.uint8)
    wide[:, :, :, :10] = 255
    assert float(tf_reference(wide)[..., 0].min()) == pytest.approx(1)
    assert float(videogpt(wide).max()) == pytest.approx(-1), "the crop leaves the bright side out"


def test_the_old_bilinear_takes_corners_and_not_centres():
    """TensorFlow 1 places pixel i of the new image at i * old / new: its first row is the old's."""
    ramp = torch.arange(112, dtype=torch.uint8)[None, None, :, None, None].expand(1, 1, 112, 8, 3)
    column = (tf_reference(ramp)[0, 0, 0, :, 0] + 1) * 127.5
    assert column[:5].tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], abs=1e-4)
