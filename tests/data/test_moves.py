"""What a view does to the values of a field is what it does to the pictures they are of."""

from functools import partial

import numpy as np
import pytest

from hvdm import rng
from hvdm.data.clips import ClipSpec, Values, View, view_of
from hvdm.data.moves import COLOURS, DEPTH, FIXED, SPECTRUM, VECTORS, Moves

SIZE, FLOW = (48, 52), (4.0, -3.0)
SPEC = ClipSpec(2, 40, 40, crop="random", crop_scale=0.8, flip=0.5, turn=0.6)


def pictures() -> Values:
    """A soft spot that moves by FLOW, on black."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    spots = [
        np.exp(-((x - 26 - k * FLOW[0]) ** 2 + (y - 25 - k * FLOW[1]) ** 2) / 8) for k in (0, 1)
    ]
    return np.repeat(np.round(255 * np.stack(spots))[..., None], 3, -1).astype(np.uint8)


def flow() -> Values:
    return np.broadcast_to(np.array(FLOW, np.float32)[:, None, None], (2, *SIZE))


def where(picture: Values) -> Values:
    """The middle of the spot: x and y."""
    weight = picture[..., 0].astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def views() -> list[View]:
    return [view_of(SPEC, SIZE, partial(rng.numpy_generator, 0, draw)) for draw in range(24)]


def error(moves: Moves, view: View) -> float:
    """How far the moved vectors are from how the spot moves in the moved pictures."""
    first, second = COLOURS.follow(pictures(), view)
    told = moves.follow(flow(), view)
    return float(np.abs(told.mean((-2, -1)) - (where(second) - where(first))).max())


def test_moved_vectors_tell_how_the_moved_pictures_move() -> None:
    seen = views()
    assert {view.turns for view in seen} == {0, 1, 2, 3} and {v.flip for v in seen} == {True, False}
    assert len({view.tall for view in seen}) > 4
    assert max(error(VECTORS, view) for view in seen) < 0.1


def test_a_flip_that_forgets_the_sign_is_found() -> None:
    assert error(DEPTH, View(0, 0, *SIZE, *SIZE, flip=True)) > 5
    assert error(VECTORS, View(0, 0, *SIZE, *SIZE, flip=True)) < 0.1


@pytest.mark.parametrize("view", views()[:8])
def test_a_spectrum_is_vectors_and_depth_a_picture(view: View) -> None:
    frequencies = np.stack([flow() * (2 + 1j), flow() * 1j]).astype(np.complex64)
    moved, vectors = SPECTRUM.follow(frequencies, view), VECTORS.follow(flow(), view)
    assert moved.dtype == np.complex64 and moved.shape == (2, 2, 40, 40)
    assert np.allclose(moved, np.stack([vectors * (2 + 1j), vectors * 1j]), atol=1e-4)
    depth = DEPTH.follow(pictures()[..., 0].astype(np.float32), view)
    assert np.abs(depth - COLOURS.follow(pictures(), view)[..., 0]).max() <= 0.5 + 1e-4


def test_numbers_keep() -> None:
    assert FIXED.size(np.zeros(3)) is None
    assert FIXED.follow(np.arange(3), views()[0]).tolist() == [0, 1, 2]
