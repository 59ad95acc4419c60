"""Softmax splatting (arXiv 2003.05534): pixels thrown where they move, the heavier in front.

Plain PyTorch, in fp32 or finer. Sums of a pixel's weights that are zero are holes, of value 0; only
these are guarded, or pixels of tiny weight would darken.
"""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHANNELS_AT_ONCE = 8
"""What is copied on the way is never much of the whole."""


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
    place, held = _corners(flow.to(dtype))
    share = held * weight.flatten()
    total = weight.new_zeros(weight.numel()).index_add(0, place.flatten(), share.flatten())
    share = share / torch.where(total == 0, torch.ones_like(total), total)[place]
    batch, channels, height, width = values.shape
    rows = values.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels)
    thrown: Tensor = _Thrown.apply(rows, place, share)
    found = thrown.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return Splatted(found.to(values.dtype), total.reshape(weight.shape))


def averaged(values: Tensor, flow: Tensor) -> Splatted:
    """Without a front: where several come, their mean."""
    return splat(values, flow, torch.zeros_like(flow[:, :1]))


class _Thrown(torch.autograd.Function):
    """Rows `N C`, places and shares `4 N` -> sums `N C` of what comes to each place.

    A product with a sparse matrix, a row of which says what comes to a place: each sum is written
    once, and no product of rows and shares is kept. Backwards it is the matrix the other way.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, place: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(rows, place, share)
        count, order = len(rows), place.flatten().argsort(stable=True)
        ends = torch.zeros(count + 1, dtype=place.dtype, device=place.device)
        ends.index_add_(0, place.flatten() + 1, torch.ones_like(place).flatten())
        values = share.flatten()[order]
        columns = order.remainder_(count).to(place.dtype)
        return _product(ends.cumsum(0, dtype=place.dtype), columns, values, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, Tensor]:
        rows, place, share = ctx.saved_tensors
        ends = torch.arange(0, place.numel() + 1, len(place)).to(place)
        of_rows = _product(ends, place.T.flatten(), share.T.flatten(), slope)
        of_share = torch.stack([(slope[where] * rows).sum(1) for where in place])
        return of_rows, None, of_share


def _product(ends: Tensor, columns: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    """By a square matrix whose rows end there, with values in these columns."""
    out = torch.empty_like(dense, memory_format=torch.contiguous_format)
    if dense.is_meta:  # where operations are counted, such matrices are not known
        return out
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(ends, columns, values, (len(dense), len(dense)))
    for first in range(0, dense.shape[1], CHANNELS_AT_ONCE):
        part = slice(first, first + CHANNELS_AT_ONCE)
        out[:, part] = matrix @ dense[:, part]
    return out


def _corners(flow: Tensor) -> tuple[Tensor, Tensor]:
    """For each of four neighbours: where each pixel comes to, and with which share, `4 N`."""
    batch, _, height, width = flow.shape
    left, top, across, down = _landing(flow)
    first = torch.arange(batch, device=flow.device)[:, None, None] * (height * width)
    places, shares = [], []
    for right in (0, 1):
        for below in (0, 1):
            share = (across if right else 1 - across) * (down if below else 1 - down)
            x, y = left + right, top + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            # what falls outside adds nothing to some pixel inside
            place = first + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            places.append(place.flatten().int())
            shares.append(torch.where(inside, share, torch.zeros_like(share)).flatten())
    return torch.stack(places), torch.stack(shares)


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
