import pytest
import torch
from torch.nn import functional

from hvdm.errors import UserError
from hvdm.ops.tiling import fade, starts, tiled


def enlarge(x):
    """Each place by itself, as 2 x 4 x 4 of it: a decoder that sees no neighbours."""
    return functional.interpolate(x, scale_factor=(2, 4, 4))[:, :1]


def smear(x):
    """A decoder that sees some way around each place, and nothing beyond its tile."""
    return functional.avg_pool3d(functional.pad(x, (1,) * 6, mode="replicate"), 3, 1)


@pytest.mark.parametrize("shape", [(4, 4, 4), (9, 4, 4), (4, 10, 7), (11, 9, 6)])
@pytest.mark.parametrize("overlap", [(0, 0, 0), (1, 2, 2), (2, 1, 0)])
def test_tiles_of_what_sees_no_neighbours_are_the_whole(shape, overlap):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    found = tiled(enlarge, x, (4, 4, 4), overlap)
    torch.testing.assert_close(found, enlarge(x))


def test_the_function_never_sees_more_than_a_tile():
    seen = []

    def note(x):
        seen.append(tuple(x.shape[2:]))
        return x

    tiled(note, torch.zeros(1, 1, 40, 20, 20), (8, 8, 8), (2, 4, 4))
    assert set(seen) == {(8, 8, 8)} and len(seen) == 7 * 4 * 4


def test_a_small_volume_is_one_call():
    x = torch.randn(1, 2, 4, 3, 4)
    assert torch.equal(tiled(smear, x, (4, 4, 4), (2, 2, 2)), smear(x))


def test_overlap_hides_the_seam():
    x = torch.randn(1, 1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = smear(x)
    apart, blended = (tiled(smear, x, (8, 4, 4), (shared, 0, 0)) for shared in (0, 4))
    at_seam = [(made - whole)[:, :, 6:10].square().mean() for made in (apart, blended)]
    assert at_seam[1] < 0.5 * at_seam[0]


@pytest.mark.parametrize("length, size, overlap", [(9, 4, 2), (128, 8, 2), (17, 8, 4), (8, 8, 4)])
def test_the_shares_of_all_tiles_add_up_to_one(length, size, overlap):
    line = starts(length, size, overlap)
    total = torch.zeros(length, dtype=torch.float64)
    for start in line:
        share = fade(line, start, size)
        assert (share > 0).all()
        total[start : start + size] += share
    torch.testing.assert_close(total, torch.ones(length, dtype=torch.float64))
    assert line[-1] + size == length


def test_tiles_that_share_more_than_half_are_refused():
    with pytest.raises(UserError, match="overlap=3: tiles of 4 may share from 0 to 2"):
        tiled(smear, torch.zeros(1, 1, 8, 4, 4), (4, 4, 4), (3, 0, 0))
