"""Blocks that several families use: attention, feed-forward, time embedding, zero layers."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hvdm.nets.attention import attention
from hvdm.nets.rotary import rotate


def run(module: nn.Module, checkpointing: bool, *inputs: Any) -> Tensor:
    """`module(*inputs)`; with `checkpointing`, activations are recomputed (arXiv 1604.06174)."""
    if not (checkpointing and torch.is_grad_enabled()):
        out: Tensor = module(*inputs)
        return out
    # no block draws random numbers, so the generators' state need not be kept
    return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False)


def channels_last(nets: nn.Module) -> None:
    """3D convolutions take their rows, and so give them, with the channels innermost in memory.

    Weights stay as they are: the order of their elements is that of checkpoints and flat vectors.
    """
    for module in nets.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(_innermost)


def _innermost(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous(memory_format=torch.channels_last_3d) for x in given)


class Attention(nn.Module):
    """Pre-norm multi-head attention with its residual (arXiv 1706.03762, section 3.2.2)."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * head_dim, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(
        self, x: Tensor, rotation: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """`B N D` -> `B N D`; keys and values come from `context`, `B M D`, or from x itself."""
        normed = self.norm(x)
        query = self.query(normed)
        key, value = self.key_value(normed if context is None else context).chunk(2, -1)
        q, k, v = (torch.unflatten(part, -1, (self.heads, -1)) for part in (query, key, value))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out: Tensor = x + self.out(attention(q, k, v).flatten(2))
        return out


class GEGLU(nn.Module):
    """Pre-norm gated feed-forward with its residual: a GELU(b) (arXiv 2002.05202, eq. 6)."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(self.norm(x)).chunk(2, -1)
        out: Tensor = x + self.down(value * nn.functional.gelu(gate))
        return out


class MLP(nn.Module):
    """Pre-norm feed-forward with its residual (ViT, arXiv 2010.11929, eq. 3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return out


def sinusoid(t: Tensor, width: int, like: Tensor, period: float = 10000.0) -> Tensor:
    """`B` -> `B width`, cosines then sines (arXiv 1706.03762, section 3.5), in `like`'s dtype."""
    half = torch.arange(width // 2, dtype=torch.float64, device=t.device)
    angles = t[:, None] * torch.exp(-math.log(period) * 2 * half / width)
    return torch.cat((angles.cos(), angles.sin()), -1).to(like)


class TimeEmbedding(nn.Module):
    """Diffusion time -> features: sinusoid, Linear, SiLU, Linear (DDPM, arXiv 2006.11239, B)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = width
        self.up = nn.Linear(width, out)
        self.out = nn.Linear(out, out)

    def forward(self, t: Tensor, like: Tensor) -> Tensor:
        out: Tensor = self.out(nn.functional.silu(self.up(sinusoid(t, self.width, like))))
        return out


class _Zero:
    """A layer that starts at zero (ADM, arXiv 2105.05233).

    It zeroes itself as it is built: under a sharding constructor, weights are out of reach after.
    """

    weight: Any
    bias: Any

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ZeroConv3d(_Zero, nn.Conv3d):
    pass


class ZeroConv2d(_Zero, nn.Conv2d):
    pass


class ZeroLinear(_Zero, nn.Linear):
    pass


class ZeroEmbedding(nn.Embedding):
    """Vectors that start at zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class GroupAttention(nn.Module):
    """ADM's attention block with its residual: group norm, and each head's q, k, v in a row."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = ZeroLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`B C N` -> `B C N`."""
        rows = self.query_key_value(self.norm(x).transpose(1, 2))
        q, k, v = torch.unflatten(rows, -1, (self.heads, 3, -1)).unbind(-2)
        out: Tensor = x + self.out(attention(q, k, v).flatten(2)).transpose(1, 2)
        return out


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (arXiv 1803.08494): 32 groups, in narrow nets the most that hold 4 channels each.

    A group of one channel would forget that channel's mean, and the bias before it.
    """
    most = min(32, max(1, channels // 4))
    return nn.GroupNorm(max(n for n in range(1, most + 1) if channels % n == 0), channels)
