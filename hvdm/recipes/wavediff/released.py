"""Names of the public WaveDiff code's generators, beside those of ours.

Their layers are numbered in the order in which they are made; attention's matrices are the
transposes of ours.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from hvdm.errors import UserError, closest
from hvdm.recipes.wavediff.generator import Generator
from hvdm.recipes.wavediff.layers import (
    Attention,
    Block,
    FirPyramid,
    FrequencyPyramid,
    FrequencyUp,
)

CODES = ("wavediff",)
NETWORKS = {"generator": "generator"}
BELOW: Mapping[str, str] = {}
SIZES = ("cifar10", "stl10", "celeba_256", "celeba_512", "celeba_1024", "lsun")
_BLOCK = {
    "norm_in.style": "GroupNorm_0.style",
    "conv_in": "Conv_0",
    "time": "Dense_0",
    "norm_out.style": "GroupNorm_1.style",
    "conv_out": "Conv_1",
    "shortcut": "Conv_2",
    "high": "convH_0",
}
_ATTENTION = {"norm": "GroupNorm_0", "query": "NIN_0", "key": "NIN_1", "value": "NIN_2",
              "out": "NIN_3"}  # fmt: skip


def config(code: str, part: str, size: str | None) -> tuple[str, list[str]]:
    """The published settings of a generator without its critic, which is in another file."""
    if size is None:
        raise UserError(f"size= is missing: the files do not tell; choose from: {', '.join(SIZES)}")
    if size not in SIZES:
        raise UserError(f"size={size} is not known; {closest(size, SIZES)}")
    return f"wavediff/{size}", ["model.variant=released", "model.adversarial=false"]


def sizes(part: str, state: Mapping[str, Tensor]) -> list[str]:
    """All is in the settings of a size."""
    return []


def latent_size(state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """It works on coefficients, not on latents."""
    return None


def problem(code: str, net: nn.Module) -> str | None:
    """Why a network cannot be written under the public names."""
    if not isinstance(net, Generator):
        return "is of another family"
    shape = net.shape
    if shape.frames or shape.labels:
        return "makes clips or is told classes, which the released code has no names for"
    if not shape.released and (shape.bottleneck or shape.folded > 1):
        return (
            "is of model.variant=figure, which is another network than the released code's of "
            "these names; train it with model.variant=released"
        )
    return None


def names(net: nn.Module) -> dict[str, str]:
    """Released name -> ours."""
    assert isinstance(net, Generator)
    ours = {id(module): name for name, module in net.named_modules()}
    found: dict[str, str] = {}
    for number, layer in enumerate(_in_order(net)):
        for own, theirs in _within(layer):
            place = ".".join(part for part in (ours[id(layer)], own) if part)
            found[f"all_modules.{number}.{theirs}".rstrip(".")] = place
    for number, _ in enumerate(net.mapping.layers):
        place = f"mapping.layers.{number}"
        found[f"z_transform.{2 * number + 1}"] = place
    return dict(_parameters(net, found))


def _parameters(net: Generator, layers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    have = dict(net.named_parameters())
    for theirs, ours in layers.items():
        matrix = ".NIN_" in theirs
        for kind, letter in (("weight", "W"), ("bias", "b")):
            if f"{ours}.{kind}" in have:
                yield f"{theirs}.{letter if matrix else kind}", f"{ours}.{kind}"


def _in_order(net: Generator) -> Iterator[nn.Module]:
    yield from (net.time.up, net.time.out, net.stem)
    for down in net.ways_down:
        for i, block in enumerate(down.blocks):
            yield block
            if down.attention:
                yield down.attention[i]
        if down.narrow is not None and down.pyramid is not None:
            yield from (down.narrow, down.pyramid)
    yield from (net.middle.first, net.middle.attention, net.middle.second)
    for up in net.ways_up:
        yield from up.blocks
        if up.attention is not None:
            yield up.attention
        if up.widen is not None:
            yield up.widen
    yield from (net.norm, net.head)


def _within(layer: nn.Module) -> Iterator[tuple[str, str]]:
    """Our names inside a layer, and theirs."""
    if isinstance(layer, Block):
        for ours, theirs in _BLOCK.items():
            if ours != "high" or isinstance(layer, FrequencyUp):
                yield ours, theirs
    elif isinstance(layer, Attention):
        yield from _ATTENTION.items()
    elif isinstance(layer, FirPyramid):
        yield "project", "Conv2d_0"
    elif isinstance(layer, FrequencyPyramid):
        yield "project", ""
    else:
        yield "", ""


def to_ours(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a released one that has all the names and sizes."""
    return {
        ours: state[theirs].t() if theirs.endswith(".W") else state[theirs]
        for theirs, ours in names(net).items()
    }


def to_released(
    net: nn.Module, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """A released state dict from ours."""
    return {
        theirs: state[ours].t().contiguous() if theirs.endswith(".W") else state[ours]
        for theirs, ours in names(net).items()
    }


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Released name -> its shape; attention's matrices are square."""
    have = dict(net.named_parameters())
    return {theirs: tuple(have[ours].shape) for theirs, ours in names(net).items()}
