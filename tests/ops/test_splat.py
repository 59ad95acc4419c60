import pytest
import torch
from torch import Tensor

from hvdm.ops.splat import averaged, front, splat


def picture(dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, 6, 9, dtype=dtype)


def shift(x: float, y: float, like: Tensor) -> Tensor:
    flow = torch.empty(len(like), 2, *like.shape[2:], dtype=like.dtype)
    flow[:, 0], flow[:, 1] = x, y
    return flow


def logits(like: Tensor) -> Tensor:
    torch.manual_seed(1)
    return 5 * torch.rand(len(like), 1, *like.shape[2:], dtype=like.dtype)


def test_without_motion_it_is_the_picture() -> None:
    one = picture()
    for found in (splat(one, shift(0, 0, one), logits(one)), averaged(one, shift(0, 0, one))):
        assert torch.allclose(found.values, one, atol=1e-6) and bool((found.weight > 0).all())


@pytest.mark.parametrize("right, down", [(2, 0), (0, -1), (-3, 2)])
def test_whole_shifts_are_exact_and_what_nothing_reaches_is_a_hole(right: int, down: int) -> None:
    one = picture()
    found = averaged(one, shift(right, down, one))
    rolled = torch.roll(one, (down, right), (2, 3))
    held = torch.zeros(6, 9, dtype=torch.bool)
    held[max(0, down) : 6 + min(0, down), max(0, right) : 9 + min(0, right)] = True
    assert torch.equal(found.values, torch.where(held, rolled, torch.zeros(())))
    assert torch.equal(found.weight[:, 0] > 0, held.expand(2, -1, -1))


def test_of_two_that_meet_the_heavier_is_in_front() -> None:
    one = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    flow = torch.zeros(1, 2, 1, 3)
    flow[0, 0, 0, 0] = 1
    for weight, expected in ((0.0, 1.5), (1.0, (torch.e * 1 + 2) / (torch.e + 1)), (30.0, 1.0)):
        heavy = torch.tensor([[[[weight, 0.0, 0.0]]]])
        assert float(splat(one, flow, heavy).values[0, 0, 0, 1]) == pytest.approx(expected, 1e-6)


def test_tiny_weights_lose_nothing_and_huge_ones_overflow_nothing() -> None:
    one = picture()
    heavy = torch.zeros(2, 1, 6, 9)
    heavy[:, :, 0, 0] = 1e4
    light = splat(one, shift(0, 0, one), heavy / 200)
    assert torch.allclose(light.values, one, atol=1e-6)
    assert torch.isfinite(splat(one, shift(0.5, 0.5, one), heavy).values).all()
    far = splat(one, shift(1e30, -1e30, one), heavy)
    assert not far.values.any() and not far.weight.any()


def test_gradients_of_values_flow_and_logits() -> None:
    one = picture(torch.float64)[:1, :2, :4, :5].requires_grad_()
    torch.manual_seed(2)
    flow = (0.3 + 0.4 * torch.rand(1, 2, 4, 5).double() + shift(1, 0, one)[:1]).requires_grad_()
    heavy = logits(one.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, f, z: splat(v, f, z).values, (one, flow, heavy))


def test_a_mirrored_picture_gives_the_mirrored_answer() -> None:
    one, heavy = picture(torch.float64), logits(picture(torch.float64))
    torch.manual_seed(3)
    flow = 3 * torch.randn(2, 2, 6, 9, dtype=torch.float64)
    mirrored = flow.flip(3) * torch.tensor([-1.0, 1.0])[:, None, None]
    straight = splat(one, flow, heavy).values.flip(3)
    assert torch.allclose(splat(one.flip(3), mirrored, heavy.flip(3)).values, straight, atol=1e-9)


def test_what_moves_more_is_in_front() -> None:
    motion = torch.zeros(1, 4, 2, 3, 3)
    motion[:, :, 0, 1, 1] = torch.tensor([0.0, 2.0, -2.0, 4.0])
    found = front(motion)
    assert float(found[0, 0, 1, 1]) == pytest.approx(20, abs=1e-3) and float(found.sum()) < 20.001
    assert not front(torch.zeros(1, 4, 2, 3, 3)).any()
