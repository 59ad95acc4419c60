import pytest
import torch
from torch import nn

from hvdm.nets.blocks import (
    GEGLU,
    MLP,
    Attention,
    TimeEmbedding,
    ZeroConv3d,
    group_norm,
    run,
    sinusoid,
)
from hvdm.nets.rotary import rotary_1d


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_of_one_layer():
    with torch.device("meta"):
        divided = [Attention(384, 8, 64), Attention(384, 8, 64), GEGLU(384)]
        projection = [Attention(384, 4, 48), MLP(384, 512)]
    assert sum(map(count, divided)) == (16_818_432 - 74_112) // 5
    assert 4 * sum(map(count, projection)) == 2_763_776


def test_attention_reads_the_context():
    net = Attention(8, 2, 4).double()
    x, context = torch.randn(2, 5, 8).double(), torch.randn(2, 3, 8).double()
    out = net(x, context=context)
    assert out.shape == x.shape
    torch.testing.assert_close(net(x, context=context.flip(1)), out)
    assert not torch.allclose(net(x, context=context + 1), out)


def test_rotation_breaks_the_symmetry_of_positions():
    net = Attention(8, 2, 4).double()
    x = torch.randn(1, 5, 8).double()
    rotation = rotary_1d(5, 4, x)
    torch.testing.assert_close(net(x.flip(1)).flip(1), net(x))
    assert not torch.allclose(net(x.flip(1), rotation).flip(1)[:, 1:], net(x, rotation)[:, 1:])


def test_checkpointing_changes_no_bit():
    net, x = GEGLU(8), torch.randn(2, 3, 8)
    results = []
    for checkpointing in (False, True):
        net.zero_grad()
        out = run(net, checkpointing, x)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sinusoid_is_cosines_then_sines(dtype):
    features = sinusoid(torch.tensor([0, 7]), 6, torch.zeros(1, dtype=dtype))
    assert features.dtype == dtype
    assert features[0].tolist() == [1, 1, 1, 0, 0, 0]
    frequency = 10000 ** -(1 / 3)
    expected = torch.tensor([7.0, 7 * frequency], dtype=torch.float64)
    torch.testing.assert_close(features[1, :2].double(), expected.cos(), atol=1e-6, rtol=0)
    torch.testing.assert_close(features[1, 3:5].double(), expected.sin(), atol=1e-6, rtol=0)


def test_time_embedding_shape():
    assert TimeEmbedding(6, 10)(torch.tensor([1, 2, 3]), torch.zeros(())).shape == (3, 10)


def test_zero_conv_starts_at_zero_and_learns():
    net = ZeroConv3d(2, 3, 3, padding=1)
    out = net(torch.randn(1, 2, 2, 2, 2))
    assert out.abs().max() == 0
    out.sum().backward()
    assert net.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "channels, groups", [(192, 32), (768, 32), (128, 32), (16, 4), (72, 18), (7, 1), (3, 1)]
)
def test_groups_divide_the_channels(channels, groups):
    assert group_norm(channels).num_groups == groups
