"""Names of the public U-Nets' state dicts, beside those of ours: improved diffusion's of images,
and flexible diffusion's of frames."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.recipes.pseudo_video.unet import Step, UNet, VideoAttention

CODES = ("improved_diffusion",)
NETWORKS = {"unet": "denoiser"}
BELOW: Mapping[str, str] = {}
COSINE_STEPS = 4000
SIDES = {(1, 2, 2, 2): 32, (1, 2, 3, 4): 64, (1, 1, 2, 2, 4, 4): 256}
"""Of the public networks, by the multiples of their width."""
_BLOCK = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "time": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "shortcut": "skip_connection",
}
_ATTENTION = {"norm": "norm", "query_key_value": "qkv", "out": "proj_out"}
_DISTANCE = {"apart": "embed_distances", "time": "embed_diffusion_time", "out": "out"}


def config(code: str, part: str, size: str | None) -> tuple[str, list[str]]:
    """That of the part; sizes are read off the file."""
    if size is not None:
        raise UserError(f"size={size}: {code}'s files tell their size; leave it out")
    return f"{code}_released/{part}", []


def names(net: UNet) -> dict[str, str]:
    """Released name -> ours, of tensors."""
    have = net.state_dict()
    return {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for ours, theirs in _modules(net)
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in have
    }


def _modules(net: UNet) -> Iterator[tuple[str, str]]:
    yield "time.up", "time_embed.0"
    yield "time.out", "time_embed.2"
    yield "stem", "input_blocks.0.0"
    for number, way in enumerate(net.ways_down):
        theirs = f"input_blocks.{number + 1}"
        if isinstance(way, Step):
            yield from _step(way, f"ways_down.{number}", theirs)
        else:
            yield f"ways_down.{number}", f"{theirs}.0.op"
    yield from _step(net.middle, "middle", "middle_block")
    yield from _within("last_block", "middle_block.2", _BLOCK)
    for number, way in enumerate(net.ways_up):
        assert isinstance(way, Step)
        yield from _step(way, f"ways_up.{number}", f"output_blocks.{number}")
    yield "norm", "out.0"
    yield "head", "out.2"


def _step(step: Step, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield from _within(f"{ours}.block", f"{theirs}.0", _BLOCK)
    if isinstance(step.attends, VideoAttention):
        yield from _of_frames(f"{ours}.attends", f"{theirs}.1")
    elif step.attends is not None:
        yield from _within(f"{ours}.attends", f"{theirs}.1", _ATTENTION)
    yield f"{ours}.up", f"{theirs}.{1 + (step.attends is not None)}.conv"


def _of_frames(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for own, other in (("frames", "temporal_attention"), ("plane", "spatial_attention")):
        yield f"{ours}.norm_{own}", f"{theirs}.{other}.norm"
        for part in ("query_key_value", "out"):
            yield f"{ours}.{own}.{part}", f"{theirs}.{other}.{_ATTENTION[part]}"
    for own, other in (("of_query", "rpe_q"), ("of_key", "rpe_k"), ("of_value", "rpe_v")):
        place = f"{theirs}.temporal_attention.{other}.rpe_net"
        yield from _within(f"{ours}.frames.{own}", place, _DISTANCE)


def _within(ours: str, theirs: str, parts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for own, other in parts.items():
        yield f"{ours}.{own}", f"{theirs}.{other}"


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Released name -> its shape; in networks of images, attention's matrices are convolutions."""
    assert isinstance(net, UNet)
    have = net.state_dict()
    return {
        theirs: tuple(have[ours].shape) + (1,) * _trailing(net, theirs)
        for theirs, ours in names(net).items()
    }


def _trailing(net: UNet, name: str) -> int:
    return int(not net.shape.temporal and name.endswith(("qkv.weight", "proj_out.weight")))


def to_ours(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a released one that has all the names and sizes."""
    assert isinstance(net, UNet)
    have = net.state_dict()
    return {ours: state[theirs].reshape(have[ours].shape) for theirs, ours in names(net).items()}


def to_released(
    net: nn.Module, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """A released state dict from ours."""
    assert isinstance(net, UNet)
    return {theirs: state[ours].reshape(shapes[theirs]) for theirs, ours in names(net).items()}


# What a file says of itself


def sizes(part: str, state: Mapping[str, Tensor]) -> list[str]:
    """Overrides that the shapes say: width, levels, blocks, attention, variance and side."""
    if "input_blocks.0.0.weight" not in state or "out.2.weight" not in state:
        raise UserError("input_blocks.0.0.weight or out.2.weight is missing: no U-Net of images")
    width = len(state["input_blocks.0.0.weight"])
    levels, multipliers = _levels(state), []
    for blocks in levels:
        multipliers.append(len(state[f"input_blocks.{blocks[0]}.0.in_layers.2.weight"]) // width)
    side = SIDES.get(tuple(multipliers))
    if side is None:
        raise UserError(f"levels of {multipliers} times {width}: of none of the public networks")
    attends = [
        side // 2**level
        for level, blocks in enumerate(levels)
        if f"input_blocks.{blocks[0]}.1.qkv.weight" in state
    ]
    learned = len(state["out.2.weight"]) == 6
    more = ["model.variance=learned", "model.schedule=cosine", f"model.steps={COSINE_STEPS}"]
    return [
        f"model.width={width}",
        f"model.multipliers={multipliers}",
        f"model.blocks={len(levels[0])}",
        f"model.attention={attends}",
        *(more if learned else []),
        f"data.height={side}",
        f"data.width={side}",
    ]


def _levels(state: Mapping[str, Tensor]) -> list[list[int]]:
    """Numbers of the blocks on the way down, level by level."""
    numbers = {int(found[1]) for name in state if (found := re.match(r"input_blocks\.(\d+)", name))}
    levels: list[list[int]] = [[]]
    for number in sorted(numbers - {0}):
        if f"input_blocks.{number}.0.op.weight" in state:
            levels.append([])
        else:
            levels[-1].append(number)
    return levels


def latent_size(state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """It works on pixels."""
    return None


def problem(code: str, net: nn.Module) -> str | None:
    if isinstance(net, UNet) and not net.shape.temporal:
        return None
    return "is not of images, and only those have public names: train it with model.frames=1"
