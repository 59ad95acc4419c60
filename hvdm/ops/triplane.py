"""2D triplane of a clip (PVDM, arXiv 2302.07685; HVDM, arXiv 2402.13729)."""

from torch import Tensor


def broadcast_sum(hw: Tensor, tw: Tensor, th: Tensor) -> Tensor:
    """Planes `B C H W`, `B C T W`, `B C T H` -> volume `B C T H W`."""
    return hw.unsqueeze(2) + tw.unsqueeze(3) + th.unsqueeze(4)
