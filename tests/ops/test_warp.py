"""Pixels moved by their depth: exact where nothing turns, near what another camera sees."""

import pytest
import torch

from data_tools.synthetic import scenes
from hvdm.ops.cameras import Lens
from hvdm.ops.warp import Moved, filled, moved

LENS = Lens(2.7, 30.0)


def test_from_the_same_side_it_is_the_picture() -> None:
    made = scenes.picture(0, 1, 24, 24, views=False)
    picture = torch.from_numpy(made.picture.video[0]).permute(2, 0, 1)[None].double()
    depth = torch.from_numpy(made.depth)[None].double()
    found = moved(picture, depth, torch.zeros(1, 2).double(), LENS)
    assert torch.equal(found.values, picture) and bool(found.there.all())


@pytest.mark.parametrize("index", range(3))
def test_it_finds_what_another_camera_sees_there_of_the_picture(index: int) -> None:
    """Of exact depth, within what rounding to whole pixels costs; elsewhere it cannot know."""
    side = 64
    made = scenes.picture(0, index, side, side, views=True)
    picture = torch.from_numpy(made.picture.video[0]).permute(2, 0, 1)[None].float()
    depth = torch.from_numpy(made.depth)[None]
    angles = torch.tensor([[15.0, 0.0]]).deg2rad()
    found = filled(moved(picture, depth, angles, LENS))[0].permute(1, 2, 0)
    true, seen = torch.from_numpy(made.views[2]).float(), torch.from_numpy(made.seen[2])
    error, still = (
        (one - true).abs().mean(2)[seen].median() for one in (found, picture[0].permute(1, 2, 0))
    )
    assert error < 8 and error < still / 2


def test_what_is_nearer_covers_what_is_behind_it() -> None:
    picture, depth = torch.zeros(1, 3, 8, 8), torch.full((1, 8, 8), 4.0)
    picture[:, :, 3:5, 3:5], depth[:, 3:5, 3:5] = 1.0, 1.5
    found = filled(moved(picture, depth, torch.tensor([[0.2, 0.0]]), Lens(2.7, 60.0)))
    assert found.max() == 1 and 1 <= int((found[0, 0] == 1).sum()) <= 8


def test_a_camera_further_to_the_right_sees_a_plane_further_to_the_left() -> None:
    """By as many pixels as a stereo pair's disparity says."""
    picture, lens = torch.rand(1, 3, 8, 16), Lens(2.7, 90.0)
    depth, aside = torch.full((1, 8, 16), 2.0), torch.tensor([[0.75, 0.0, 0.0]])
    found = moved(picture, depth, torch.zeros(1, 2), lens, aside)
    # half of the 16 columns is seen per depth
    assert torch.equal(found.values[..., :13], picture[..., 3:])
    assert not found.there[..., 13:].any() and found.there[..., :13].all()


def test_holes_take_the_nearest() -> None:
    values = torch.tensor([[[[1.0, 0, 0, 0, 5, 0, 0, 0, 0]]]])
    there = torch.tensor([[[True, False, False, False, True, False, False, False, False]]])
    found = filled(Moved(values, there))[0, 0, 0].tolist()
    assert found[:2] == [1, 1] and found[3:] == [5] * 6
    assert torch.equal(filled(Moved(values, torch.zeros_like(there))), values)
