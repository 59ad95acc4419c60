"""Cameras on their orbit: where they stand, what they see where."""

import math

import torch

from hvdm.ops.cameras import Lens, rays, seen_at, turned

LENS = Lens(2.5, 40.0)


def test_the_straight_camera_is_exact() -> None:
    zero = torch.zeros(1)
    assert torch.equal(turned(zero, zero)[0], torch.eye(3))
    origins, directions = rays(turned(zero, zero), LENS, 2, 4)
    assert torch.equal(origins[0, 0], torch.tensor([0.0, 0.0, -2.5]))
    assert directions.shape == (1, 8, 3) and bool((directions[..., 2] == 1).all())
    reach = math.tan(math.radians(20))
    assert torch.allclose(directions[0, 0], torch.tensor([-0.75 * reach, -0.5 * reach, 1.0]))


def test_yaw_looks_from_the_right_and_pitch_from_above() -> None:
    quarter, zero = torch.tensor([math.pi / 2]), torch.zeros(1)
    right, _ = rays(turned(quarter, zero), LENS, 1, 1)
    above, down = rays(turned(zero, quarter), LENS, 1, 1)
    assert torch.allclose(right[0, 0], torch.tensor([2.5, 0.0, 0.0]), atol=1e-6)
    assert torch.allclose(above[0, 0], torch.tensor([0.0, -2.5, 0.0]), atol=1e-6)
    assert torch.allclose(down[0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)


def test_a_point_is_seen_where_its_ray_goes_through() -> None:
    angles = torch.rand(2, 5, dtype=torch.float64) - 0.5
    rotation = turned(*angles)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).double(), atol=1e-12)
    origins, directions = rays(rotation, LENS, 3, 3)
    places, depth = seen_at(origins + 1.7 * directions, rotation, LENS)
    assert torch.allclose(depth, torch.full_like(depth, 1.7))
    assert torch.allclose(places[:, 0], torch.full((5, 2), -2 / 3, dtype=torch.float64))
    assert torch.allclose(places[:, 4], torch.zeros(5, 2).double(), atol=1e-12)
