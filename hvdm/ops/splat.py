"""Softmax splatting (arXiv 2003.05534): pixels thrown where they move, the heavier in front.

Plain PyTorch, in fp32 or finer. Sums of a pixel's weights that are zero are holes, of value 0; only
these are guarded, or pixels of tiny weight would darken.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHANNELS_AT_ONCE = 16
"""What is being summed up is never much of the whole."""


class Splatted(NamedTuple):
    """Values `B C H W`, and the weight `B 1 H W` that came to each pixel: 0 is a hole."""

    values: Tensor
    weight: Tensor


def splat(values: Tensor, flow: Tensor, logits: Tensor) -> Splatted:
    """`B C H W`, `B 2 H W` in pixels (x right, y down), `B 1 H W` -> what comes to each pixel.

    Softmax is blind to a shift, so logits count from the largest of each row.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    heavy = logits.to(dtype)
    weight = (heavy - heavy.amax((1, 2, 3), keepdim=True)).exp()
    corners = [(place, share * weight.reshape(-1, 1)) for place, share in _corners(flow.to(dtype))]
    total = weight.new_zeros(weight.numel(), 1)
    for place, share in corners:
        total.index_add_(0, place, share)
    held = torch.where(total == 0, torch.ones_like(total), total)
    shares = [(place, share / held[place]) for place, share in corners]
    thrown = [_thrown(some.to(dtype), shares) for some in values.split(CHANNELS_AT_ONCE, 1)]
    return Splatted(torch.cat(thrown, 1).to(values.dtype), total.reshape(weight.shape))


def averaged(values: Tensor, flow: Tensor) -> Splatted:
    """Without a front: where several come, their mean."""
    return splat(values, flow, torch.zeros_like(flow[:, :1]))


def _thrown(values: Tensor, shares: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums `B C H W` of what comes to each pixel.

    One row of all channels goes to each place, so that memory is met in order.
    """
    batch, channels, height, width = values.shape
    rows = values.permute(0, 2, 3, 1).reshape(-1, channels)
    out = rows.new_zeros(len(rows), channels)
    for place, share in shares:
        out.index_add_(0, place, rows * share)
    return out.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _corners(flow: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each of four neighbours: where each pixel comes to, `N`, with which share, `N 1`."""
    batch, _, height, width = flow.shape
    left, top, across, down = _landing(flow)
    first = torch.arange(batch, device=flow.device)[:, None, None] * (height * width)
    for right in (0, 1):
        for below in (0, 1):
            share = (across if right else 1 - across) * (down if below else 1 - down)
            x, y = left + right, top + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            # what falls outside adds nothing to some pixel inside
            place = first + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            held = torch.where(inside, share, torch.zeros_like(share))
            yield place.flatten(), held.reshape(-1, 1)


def _landing(flow: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixel left above where each lands, `B H W`, and how far to the right and below it."""
    height, width = flow.shape[-2:]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    lines = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    x, y = columns + flow[:, 0], lines + flow[:, 1]
    # further away it is outside as well, and fits into integers
    x, y = x.clamp(-2, width + 1), y.clamp(-2, height + 1)
    left, top = x.detach().floor(), y.detach().floor()
    return left.long(), top.long(), x - left, y - top


def front(motion: Tensor, sharpness: float = 20.0) -> Tensor:
    """Logits `B 1 H W` of a whole motion `B T 2 H W`: what moves more is in front."""
    far = torch.linalg.vector_norm(motion, dim=2).mean(1, keepdim=True)
    most = far.amax((2, 3), keepdim=True)
    return sharpness * far / (most + 1e-6)


def filled(found: Splatted) -> Tensor:
    """`B C H W` without holes: each takes the mean of what is nearest around it."""
    values, weight = found.values, (found.weight > 0).to(found.values)
    if not bool((weight == 0).any()) or min(values.shape[-2:]) < 2:
        return values
    share = functional.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    sums = functional.avg_pool2d(values * weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = filled(Splatted(sums / share.clamp_min(1e-6), share))
    around = functional.interpolate(coarse, size=values.shape[-2:], mode="bilinear")
    return torch.where(weight > 0, values, around)
