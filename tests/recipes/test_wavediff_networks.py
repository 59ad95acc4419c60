"""WaveDiff's networks against the public ones: counts, names, and outputs of named weights."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from hvdm.ops import fir
from hvdm.ops.large_steps import large_steps
from hvdm.recipes.wavediff import released
from hvdm.recipes.wavediff.discriminator import CriticShape, Discriminator, deviation
from hvdm.recipes.wavediff.generator import Generator, GeneratorShape, folded, unfolded
from hvdm.recipes.wavediff.layers import PICTURE, joined, split

HERE = Path(__file__).parent
PLAIN = {"bottleneck": False, "resampling": False, "pyramid": False}
SHAPES = {
    "cifar10": {"side": 16, "width": 128, "multipliers": (1, 2, 2), "mapping": 4, **PLAIN},
    "stl10": {
        "side": 32,
        "width": 128,
        "multipliers": (1, 2, 2, 2),
        "attention": (16,),
        "mapping": 4,
    },
    "celeba_256": {
        "side": 128,
        "width": 64,
        "multipliers": (1, 2, 2, 2, 4),
        "attention": (16,),
    },
    "celeba_512": {
        "side": 256,
        "width": 64,
        "multipliers": (1, 1, 2, 2, 4, 4),
        "attention": (16,),
    },
    "celeba_1024": {
        "side": 512,
        "width": 64,
        "multipliers": (1, 1, 2, 2, 4, 4),
        "folded": 2,
    },
}
MILLIONS = {
    "cifar10": 33.370,
    "stl10": 55.585,
    "celeba_256": 31.485,
    "celeba_512": 44.853,
    "celeba_1024": 44.186,
}


def on_meta(size, **changes):
    shape = {"channels": 12, "released": True, **SHAPES[size], **changes}
    with torch.device("meta"):
        return Generator(GeneratorShape(**shape))


def millions(net):
    return round(sum(p.numel() for p in net.parameters()) / 1e6, 3)


def listed(size):
    lines = (HERE / "released_keys" / f"wavediff_{size}.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


def named(name, shape):
    """Weights that anyone can make from a name."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if value.dim() > 1:
        return value / value[0].numel() ** 0.5
    return 0.1 * value + (1.0 if name.endswith("weight") else 0.0)


@pytest.mark.parametrize("size", SHAPES)
def test_generators_have_the_published_size_and_names(size):
    net = on_meta(size)
    assert millions(net) == MILLIONS[size]
    assert released.shapes(net) == listed(size)


@pytest.mark.parametrize(
    "size, changes, count",
    [
        ("stl10", PLAIN, 48.464),
        ("celeba_256", PLAIN, 28.366),
        ("celeba_512", PLAIN, 39.743),
        ("celeba_256", {"bottleneck": False}, 31.485),
        ("celeba_256", {"resampling": False}, 29.493),
        ("celeba_256", {"pyramid": False}, 30.359),
    ],
)
def test_ablations_have_the_published_size(size, changes, count):
    assert millions(on_meta(size, **changes)) == count


@pytest.mark.parametrize(
    "layers, small, count",
    [(3, True, 7.631), (4, True, 12.744), (5, False, 22.626), (6, False, 27.740)],
)
def test_discriminators_have_the_published_size(layers, small, count):
    with torch.device("meta"):
        assert millions(Discriminator(CriticShape(12, layers, small, group=4))) == count


@pytest.mark.parametrize("size", ["cifar10", "stl10", "celeba_256", "celeba_512"])
def test_generators_give_what_the_public_ones_give(size):
    net = on_meta(size)
    state = {name: named(name, shape) for name, shape in listed(size).items()}
    net.load_state_dict(released.to_ours(net, state), assign=True)
    again = released.to_released(net, net.state_dict(), released.shapes(net))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    for row in json.loads((HERE.parent / "golden" / "wavediff.json").read_text())[size]:
        y = torch.randn(row["shape"], generator=torch.Generator().manual_seed(1))
        z = torch.randn(1, 100, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            out = net(y, torch.tensor([row["t"]]), z)
        some = out.flatten()[::997][: len(row["every_997th"])]
        apart = (some - torch.tensor(row["every_997th"])).abs().max()
        assert apart < 1e-4 * row["std"]
        assert float(out.std()) == pytest.approx(row["std"], rel=1e-4)


def test_networks_begin_as_nothing():
    """A critic of score 0, and coefficients of almost 0."""
    torch.manual_seed(0)
    shape = GeneratorShape(channels=12, side=8, width=16, multipliers=(1, 2))
    y, t = torch.randn(4, 12, 8, 8), torch.tensor([0, 1, 2, 3])
    assert Generator(shape)(y, t, torch.randn(4, 100)).abs().max() < 1e-4
    assert Discriminator(CriticShape(12, 3, small=True, group=4))(y, y, t).abs().max() < 1e-4


def test_the_deviation_is_that_of_a_group_of_neighbours():
    x = torch.randn(8, 3, 2, 2)
    both = deviation(x, 4)
    assert torch.equal(both[:4], deviation(x[:4], 4)) and torch.equal(both[4:], deviation(x[4:], 4))
    assert both[0, 0, 0, 0] == both[3, 0, 1, 1] != both[4, 0, 0, 0]


@pytest.mark.parametrize(
    "steps, betas, kept, clean, noisier, variance",
    [
        (
            2,
            [0.921324, 0.999451],
            [1.0, 0.280492, 0.006572],
            [1, 0.280350],
            [0, 0.021588],
            [0, 0.920858],
        ),
        (
            4,
            [0.478255, 0.849206, 0.956418, 0.987404],
            [1.0, 0.722319, 0.280492, 0.058557, 0.006572],
            [1, 0.665778, 0.269191, 0.057822],
            [0, 0.201576, 0.193001, 0.111852],
            [0, 0.440819, 0.884202, 0.984061],
        ),
    ],
)
def test_constants_of_the_large_steps(steps, betas, kept, clean, noisier, variance):
    found = large_steps(steps)
    assert found.betas[1:].tolist() == pytest.approx(betas, abs=1e-6)
    assert found.kept.tolist() == pytest.approx(kept, abs=1e-6)
    assert found.from_clean.tolist() == pytest.approx(clean, abs=1e-6)
    assert found.from_noisier.tolist() == pytest.approx(noisier, abs=1e-6)
    assert found.deviation.square().tolist() == pytest.approx(variance, abs=1e-6)


def test_the_posterior_leads_back_to_the_process():
    """What is drawn between y_0 and y_{t+1} is as far from y_0 as y_t is."""
    steps, rows = large_steps(4), 200_000
    source = torch.Generator().manual_seed(0)
    clean = torch.full((rows, 1), 0.7, dtype=torch.float64)

    def fresh():
        return torch.randn(rows, 1, generator=source, dtype=torch.float64)

    for t in range(4):
        at = torch.full((rows,), t)
        there = steps.noisier(steps.noisy(clean, at, fresh()), at, fresh())
        back = steps.before(clean, there, at, fresh())
        assert float(back.mean()) == pytest.approx(0.7 * float(steps.kept[t]), abs=0.01)
        assert float(back.std()) == pytest.approx(float(steps.added[t]), abs=0.01)


def plain_filter(x, down, up, before, after, gain):
    """The filter as one convolution of a plane into which zeros were put."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = torch.outer(taps, taps)[None, None] * gain
    b, c, h, w = x.shape
    wide = torch.zeros(b * c, 1, h * up, w * up, dtype=x.dtype)
    wide[:, :, ::up, ::up] = x.reshape(b * c, 1, h, w)
    wide = torch.nn.functional.pad(wide, (before, after, before, after))
    out = torch.nn.functional.conv2d(wide, kernel, stride=down)
    return out.reshape(b, c, *out.shape[2:])


def test_filters_are_one_convolution_each():
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    assert torch.allclose(fir.halved(x, (2, 3)), plain_filter(x, 2, 1, 1, 1, 1))
    assert torch.allclose(fir.doubled(x, (2, 3)), plain_filter(x, 1, 2, 2, 1, 4))
    assert torch.allclose(fir.blurred(x, (2, 3)), plain_filter(x, 1, 1, 2, 2, 1))


def test_bands_and_folds_go_back():
    x = torch.randn(2, 3, 8, 12)
    assert torch.allclose(joined(*split(x, PICTURE.halving), PICTURE.halving), x, atol=1e-6)
    assert torch.equal(unfolded(folded(x, 2), 2, released=False), x)
    other = unfolded(folded(x, 2), 2, released=True)
    assert other.shape == x.shape and not torch.equal(other, x)
