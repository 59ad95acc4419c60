import math

import pytest
import torch

from hvdm.nets.rotary import frequencies_1d, halved_1d, rotary_1d, rotary_2d, rotate

LIKE = torch.zeros((), dtype=torch.float64)


def scores(rotation, head_dim=16):
    """Products of one query and one key, rotated to every pair of tokens."""
    q, k = torch.randn(2, 1, 1, 1, head_dim, dtype=torch.float64).unbind(0)
    tokens = len(rotation)
    q, k = (rotate(x.expand(1, tokens, 1, head_dim), rotation)[0, :, 0] for x in (q, k))
    return q @ k.T


def test_1d_depends_on_the_distance_alone():
    table = scores(rotary_1d(6, 16, LIKE))
    for shift in range(-3, 4):
        diagonal = table.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_2d_depends_on_the_displacement_alone():
    table = scores(rotary_2d(3, 5, 16, LIKE)).reshape(3, 5, 3, 5)
    torch.testing.assert_close(table[0, 0, 1, 2], table[1, 2, 2, 4])
    assert not torch.allclose(table[0, 0, 1, 2], table[0, 0, 2, 1])


def test_1d_angles_are_the_papers():
    angles = rotary_1d(4, 8, LIKE).angle()
    expected = torch.tensor([3 / 10000 ** (2 * i / 8) for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(angles[3], expected)


def test_2d_rows_then_columns_from_pi_to_five_pi():
    rotation = rotary_2d(2, 3, 16, LIKE).reshape(2, 3, 8)
    assert torch.equal(rotation[0, 0, :4], rotation[0, 2, :4])
    assert torch.equal(rotation[0, 1, 4:], rotation[1, 1, 4:])
    expected = torch.polar(
        torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 5.0]).double() * math.pi
    )
    torch.testing.assert_close(rotation[1, 2, [0, 3]], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_lengths_and_dtype_stay(dtype):
    x = torch.randn(2, 6, 3, 8, dtype=dtype)
    turned = rotate(x, rotary_1d(6, 8, x))
    assert turned.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), atol=tolerance, rtol=0.02)


def test_one_row_and_one_column_are_allowed():
    assert rotary_2d(1, 1, 8, LIKE).shape == (1, 4)


def test_the_released_table_turns_neighbours_by_halved_angles():
    """Feature j turns by position times frequency j mod d/2, with its neighbour across."""
    d, n = 8, 5
    frequencies = frequencies_1d(d)
    x = torch.randn(1, n, 1, d, dtype=torch.float64)
    turned = rotate(x, halved_1d(n, d, LIKE, frequencies))[0, :, 0]
    for position in range(n):
        for j in range(d):
            angle = position * frequencies[j % (d // 2)]
            across = -x[0, position, 0, j + 1] if j % 2 == 0 else x[0, position, 0, j - 1]
            expected = x[0, position, 0, j] * angle.cos() + across * angle.sin()
            torch.testing.assert_close(turned[position, j], expected)
