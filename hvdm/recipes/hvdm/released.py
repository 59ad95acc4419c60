"""Names of the public HVDM and PVDM code's state dicts, beside those of our networks.

Several of our tensors, laid end to end, can be one of theirs: keys, values and queries of
self-attention. A 1x1x1 convolution there is a Linear here, so shapes follow the released ones.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hvdm.errors import UserError
from hvdm.recipes.hvdm.networks import Autoencoder, Encoder, Pixels, TriplaneBranch
from hvdm.recipes.hvdm.plane_unet import ATTENDED, PlaneStep, PlaneUNet
from hvdm.recipes.hvdm.transformer import AxisProjection, SpaceTimeTransformer
from hvdm.recipes.hvdm.unet import Nothing, ResBlock, UNet

Pairs = Iterator[tuple[str, tuple[str, ...]]]
"""A released name, and ours that make it up."""

CODES = ("hvdm", "pvdm")
NETWORKS = {"autoencoder": "autoencoder", "diffusion": "denoiser"}
BELOW = {"diffusion": "autoencoder"}
AXES = {"xy": "over_time", "yt": "over_height", "xt": "over_width"}
DENOISER = "diffusion_model."


def config(code: str, part: str, size: str | None) -> tuple[str, list[str]]:
    """That of the part; sizes are read off the file."""
    if size is not None:
        raise UserError(f"size={size}: {code}'s files tell their size; leave it out")
    return f"{code}_released/{part}", []


def names(net: nn.Module) -> dict[str, tuple[str, ...]]:
    """Released name -> our names, for a network of the released variant."""
    if isinstance(net, Autoencoder):
        return dict(_autoencoder(net))
    if isinstance(net, UNet):
        return {DENOISER + name: ours for name, ours in _unet(net)}
    assert isinstance(net, PlaneUNet)
    return {DENOISER + name: ours for name, ours in _plane_unet(net)}


def to_ours(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a released one that has all the names and sizes."""
    have = net.state_dict()
    ours: dict[str, Tensor] = {}
    for released, parts in names(net).items():
        rows = torch.split(state[released], _rows(state[released], parts, have))
        ours |= {name: row.reshape(have[name].shape) for name, row in zip(parts, rows, strict=True)}
    return ours


def _rows(value: Tensor, parts: tuple[str, ...], have: Mapping[str, Tensor]) -> list[int]:
    return [len(value)] if len(parts) == 1 else [len(have[name]) for name in parts]


def to_released(
    net: nn.Module, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """A released state dict from ours."""
    return {
        released: torch.cat([state[name] for name in parts]).reshape(shapes[released])
        for released, parts in names(net).items()
    }


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Released name -> its shape in the released state dict."""
    have = net.state_dict()
    return {name: _shape(name, parts, have) for name, parts in names(net).items()}


def _shape(name: str, parts: tuple[str, ...], have: Mapping[str, Tensor]) -> tuple[int, ...]:
    first = tuple(have[parts[0]].shape)
    whole = (sum(have[part].shape[0] for part in parts), *first[1:])
    return whole + (1,) * _trailing(name)


def _trailing(name: str) -> int:
    """How many sides of 1 a released weight has that is a Linear here."""
    if not name.endswith(".weight"):
        return 0
    owner = name.split(".")[-2]
    if owner.startswith(("pre_", "post_")):
        return 3 if owner.endswith("freq") else 2
    return 1 if owner in ("qkv", "proj_out") else 0


def _both(released: str, ours: str) -> Pairs:
    for kind in ("weight", "bias"):
        yield f"{released}.{kind}", (f"{ours}.{kind}",)


# Autoencoders


def _autoencoder(net: Autoencoder) -> Pairs:
    planes, pixels = _branch(net), net.decoder.pixels
    assert isinstance(pixels, Pixels)
    for axis, ours in AXES.items():
        projection = getattr(planes.triplane, ours)
        assert isinstance(projection, AxisProjection)
        yield from _projection(axis, f"encoder.planes.triplane.{ours}", projection)
    yield "coords", ("coords",)
    yield from _both("encoder.to_patch_embedding", "encoder.planes.patchify.project")
    yield from _transformer("encoder", "encoder.planes.backbone", planes.backbone)
    yield from _transformer("decoder", "decoder.pixels.backbone", pixels.backbone)
    yield from _both("to_pixel.1", "decoder.pixels.to_pixel")
    if isinstance(net.encoder, Encoder):
        yield from _hybrid(net.encoder)
    else:
        yield from _planes()


def _branch(net: Autoencoder) -> TriplaneBranch:
    planes = net.encoder.planes
    assert isinstance(planes, TriplaneBranch)
    return planes


def _projection(axis: str, ours: str, net: AxisProjection) -> Pairs:
    yield f"{axis}_token", (f"{ours}.token",)
    yield f"{axis}_pos_embedding", (f"{ours}.positions",)
    for i in range(len(net.layers)):
        yield from _attention(f"{axis}_quant_attn.layers.{i}.0", f"{ours}.layers.{i}.attention")
        yield from _feed_forward(
            f"{axis}_quant_attn.layers.{i}.1", f"{ours}.layers.{i}.feed_forward"
        )


def _attention(released: str, ours: str) -> Pairs:
    yield from _both(f"{released}.norm", f"{ours}.norm")
    parts = (f"{ours}.query.weight", f"{ours}.key_value.weight")
    yield f"{released}.fn.to_qkv.weight", parts
    yield from _both(f"{released}.fn.to_out.0", f"{ours}.out")


def _cross_attention(released: str, ours: str) -> Pairs:
    yield from _both(f"{released}.norm", f"{ours}.norm")
    for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
        yield f"{released}.fn.to_{short}.weight", (f"{ours}.{name}.weight",)
    yield from _both(f"{released}.fn.to_out.0", f"{ours}.out")


def _feed_forward(released: str, ours: str) -> Pairs:
    yield from _both(f"{released}.norm", f"{ours}.norm")
    yield from _both(f"{released}.fn.net.0", f"{ours}.up")
    yield from _both(f"{released}.fn.net.3", f"{ours}.down")


def _transformer(released: str, ours: str, net: SpaceTimeTransformer, cross: bool = False) -> Pairs:
    yield f"{released}.frame_rot_emb.inv_freqs", (f"{ours}.rotations.frequencies",)
    yield f"{released}.image_rot_emb.scales", (f"{ours}.rotations.scales",)
    attention = _cross_attention if cross else _attention
    for i in range(len(net.layers)):
        yield from attention(f"{released}.layers.{i}.0", f"{ours}.layers.{i}.time")
        yield from attention(f"{released}.layers.{i}.1", f"{ours}.layers.{i}.space")
        yield from _feed_forward(f"{released}.layers.{i}.2", f"{ours}.layers.{i}.feed_forward")


def _hybrid(net: Encoder) -> Pairs:
    assert isinstance(net.fusion, SpaceTimeTransformer) and net.wavelet is not None
    yield from _transformer("interaction", "encoder.fusion", net.fusion, cross=True)
    for band in ("low", "high"):
        convolutions = len(getattr(net.wavelet, band)) // 3
        for i in range(convolutions):
            late = i >= convolutions - 2
            stack, k = (f"{band}_freq_mid", i - convolutions + 2) if late else (f"{band}_freq", i)
            for offset in (0, 1):  # the convolution and its norm; a tanh comes third
                ours = f"encoder.wavelet.{band}.{3 * i + offset}"
                yield from _both(f"{stack}.{3 * k + offset}", ours)
    yield from _both("pre_freq", "encoder.bottleneck")
    yield from _both("post_freq", "decoder.enter")


def _planes() -> Pairs:
    for i, axis in enumerate(AXES):
        yield from _both(f"pre_{axis}", f"encoder.bottlenecks.{i}")
        yield from _both(f"post_{axis}", f"decoder.enter.{i}")


# Denoisers


def _unet(net: UNet) -> Pairs:
    yield from _around(net.nothing, "input_conv_blocks", "out_freq")
    for i, block in enumerate(net.down.blocks, start=1):
        ours = f"down.blocks.{i - 1}.residual"
        yield from _residual(f"input_conv_blocks.{i}.0", ours, block.residual)
    for i, block in enumerate(net.middle):
        # between them the released network has an attention slot that does nothing
        yield from _residual(f"middle_conv_block.{2 * i}", f"middle.{i}", block)
    number = 0
    for level, joined in enumerate(net.up.levels):
        assert isinstance(joined, nn.ModuleList)
        for i, block in enumerate(joined):
            ours = f"up.levels.{level}.{i}.residual"
            yield from _residual(f"output_conv_blocks.{number}.0", ours, block.residual)
            number += 1
        if level < len(net.up.doublings):
            doubling = net.up.doublings[level]
            # in front of it, at full, half and quarter size, is an attention slot without weights
            slot = 2 if len(net.up.levels) - 1 - level < ATTENDED else 1
            released = f"output_conv_blocks.{number - 1}.{slot}"
            yield from _residual(released, f"up.doublings.{level}", doubling)


def _around(nothing: Nothing, first: str, last: str) -> Pairs:
    if nothing.zeros is not None:
        yield "zeros", ("nothing.zeros",)
    yield from _both("time_embed.0", "time.up")
    yield from _both("time_embed.2", "time.out")
    yield from _both(f"{first}.0.0", "stem")
    yield from _both(f"{last}.0", "norm")
    yield from _both(f"{last}.2", "head")


def _residual(released: str, ours: str, block: Any) -> Pairs:
    assert isinstance(block, ResBlock)
    yield from _both(f"{released}.in_layers.0", f"{ours}.norm_in")
    yield from _both(f"{released}.in_layers.2", f"{ours}.conv_in")
    yield from _both(f"{released}.emb_layers.1", f"{ours}.modulation")
    yield from _both(f"{released}.out_layers.0", f"{ours}.norm_out")
    yield from _both(f"{released}.out_layers.3", f"{ours}.conv_out")
    if not isinstance(block.skip, nn.Identity):
        yield from _both(f"{released}.skip_connection", f"{ours}.skip")


def _group_attention(released: str, ours: str) -> Pairs:
    yield from _both(f"{released}.norm", f"{ours}.norm")
    yield from _both(f"{released}.qkv", f"{ours}.query_key_value")
    yield from _both(f"{released}.proj_out", f"{ours}.out")


def _plane_unet(net: PlaneUNet) -> Pairs:
    yield from _around(net.nothing, "input_blocks", "out")
    for i, step in enumerate(net.down, start=1):
        yield from _plane_step(f"input_blocks.{i}", f"input_attns.{i}", f"down.{i - 1}", step)
    yield from _plane_step("middle_block", "mid_attn", "middle", net.middle)
    for i, step in enumerate(net.up):
        yield from _plane_step(f"output_blocks.{i}", f"output_attns.{i}", f"up.{i}", step)


def _plane_step(released: str, joint: str, ours: str, step: nn.Module) -> Pairs:
    assert isinstance(step, PlaneStep)
    for i, module in enumerate(step.each):
        if isinstance(module, ResBlock):
            yield from _residual(f"{released}.{i}", f"{ours}.each.{i}", module)
        else:
            yield from _group_attention(f"{released}.{i}", f"{ours}.each.{i}")
    yield from _group_attention(joint, f"{ours}.joint")


def problem(code: str, net: nn.Module) -> str | None:
    """Why a network cannot be written under the public names of `code`."""
    if not _is_released(net):
        return (
            "is of model.variant=figure, which the released code has no names for; train it with "
            "model.variant=released"
        )
    owner = _code_of(net)
    return None if owner == code else f"is {owner}'s; use to={owner}"


def _is_released(net: nn.Module) -> bool:
    """Whether it is of the variant that the released names fit."""
    if not isinstance(net, Autoencoder | UNet | PlaneUNet):
        return False
    have = net.state_dict()
    return ("coords" in have) or ("nothing.zeros" in have)


def _code_of(net: nn.Module) -> str:
    """Whose network it is: the volume is HVDM's, the planes are PVDM's."""
    if isinstance(net, Autoencoder):
        return "hvdm" if isinstance(net.encoder, Encoder) else "pvdm"
    return "hvdm" if isinstance(net, UNet) else "pvdm"


# What a file says of itself


def sizes(part: str, state: Mapping[str, Tensor]) -> list[str]:
    return _autoencoder_sizes(state) if part == "autoencoder" else _diffusion_sizes(state)


def _autoencoder_sizes(state: Mapping[str, Tensor]) -> list[str]:
    """What the shapes say of the clip and of the network; where they are missing, the config's."""
    sizes = []
    pixels = state.get("to_pixel.1.weight")
    if pixels is not None and pixels.dim() == 4:
        width, _, patch, _ = pixels.shape
        sizes += [f"model.width={width}", f"model.patch={patch}"]
        for axis, key, unit in (
            ("xy", "frames", 1),
            ("yt", "height", patch),
            ("xt", "width", patch),
        ):
            positions = state.get(f"{axis}_pos_embedding")
            if positions is not None and positions.dim() == 3:
                sizes.append(f"data.{key}={(positions.shape[1] - 1) * unit}")
    depth = len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")})
    return sizes + ([f"model.depth={depth}"] if depth else [])


def _diffusion_sizes(state: Mapping[str, Tensor]) -> list[str]:
    embedding = state.get(DENOISER + "time_embed.0.weight")
    if embedding is None or embedding.dim() != 2:
        return []
    return [f"model.width={embedding.shape[1]}"]


def latent_size(state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    zeros = state.get(DENOISER + "zeros")
    return None if zeros is None else tuple(zeros.shape[1:])
