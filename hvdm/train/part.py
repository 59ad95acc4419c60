"""A network that moves in part: the rest keeps still, and comes from elsewhere."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

Part = tuple[str, ...] | None
"""Prefixes of the names that move; None where all of them do."""


def moves(part: Part, name: str) -> bool:
    return part is None or name.startswith(part)


def rest_of(module: nn.Module, part: Part) -> dict[str, Tensor]:
    """What keeps still, buffers included."""
    return {name: value for name, value in module.state_dict().items() if not moves(part, name)}


def fill(module: nn.Module, part: Part, state: Mapping[str, Tensor]) -> None:
    """Takes what moves from a state; the rest stays as it was built."""
    moved = {name: value for name, value in state.items() if moves(part, name)}
    module.load_state_dict({**moved, **rest_of(module, part)})


def hash_of_rest(module: nn.Module, part: Part) -> str | None:
    """sha256 over the fp32 weights of what keeps still; None where all of it moves."""
    if part is None:
        return None
    digest = hashlib.sha256()
    for name, value in sorted(rest_of(module, part).items()):
        numbers = value.float() if value.is_floating_point() else value
        digest.update(name.encode())
        digest.update(numbers.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
