"""Attention on `B N heads d`: xformers on a GPU where it takes the input, torch elsewhere."""

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

GRID_ROWS = 65535
"""Attention kernels put rows on a grid axis of a CUDA launch, which ends here."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v (arXiv 1706.03762, eq. 1) on `B N heads d`."""
    if q.device.type == "cuda" and len(q) > GRID_ROWS:
        parts = zip(*(torch.split(x, GRID_ROWS) for x in (q, k, v)), strict=True)
        return torch.cat([attention(*part) for part in parts])
    operator = _operator(q.device, q.dtype, q.shape[-1])
    return _torch(q, k, v) if operator is None else _xformers(q, k, v, operator)


def backend(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """What `attention` runs on such tensors, for the log."""
    operator = _operator(torch.device(device), dtype, head_dim)
    return "torch" if operator is None else f"xformers {operator[0].NAME}"


def _torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _xformers(q: Tensor, k: Tensor, v: Tensor, operator: Any) -> Tensor:
    out: Tensor = import_module("xformers.ops").memory_efficient_attention(q, k, v, op=operator)
    return out


def _operator(device: torch.device, dtype: torch.dtype, head_dim: int) -> Any:
    # xformers has no CPU operator at all, and its import is slow: it stays out without a GPU
    if device.type != "cuda":
        return None
    return _cuda_operator(device, dtype, head_dim, torch.are_deterministic_algorithms_enabled())


@cache
def _cuda_operator(
    device: torch.device, dtype: torch.dtype, head_dim: int, deterministic: bool
) -> Any:
    """The fastest forward and backward pair that takes such tensors; None: there is none.

    `deterministic` is a key of the cache: some of xformers' backward operators refuse that mode.
    """
    try:
        fmha: Any = import_module("xformers.ops.fmha")
    except ImportError:
        return None
    row = torch.empty(1, 16, 1, head_dim, device=device, dtype=dtype)
    pairs = [(family.FwOp, family.BwOp) for family in (fmha.flash3, fmha.flash, fmha.cutlass)]
    return first_supporting(pairs, fmha.Inputs(row, row, row))


def first_supporting(pairs: list[Any], inputs: Any) -> Any:
    """The first pair of which every operator says that it can run these inputs, or None."""
    fits = (pair for pair in pairs if not any(op.not_supported_reasons(inputs) for op in pair))
    return next(fits, None)
