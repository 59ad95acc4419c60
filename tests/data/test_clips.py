from functools import partial

import numpy as np
import pytest

from hvdm import rng
from hvdm.data.clips import ClipSpec, first_window, pad, random_window, view_of
from hvdm.data.moves import COLOURS
from hvdm.errors import UserError

SPEC = ClipSpec(frames=4, height=8, width=8, stride=2)


def generators(draw: int):  # type: ignore[no-untyped-def]
    return partial(rng.numpy_generator, 0, draw)


def frames(count: int = 4, height: int = 12, width: int = 20) -> np.ndarray:
    values = np.arange(count * height * width * 3) % 251
    return values.reshape(count, height, width, 3).astype(np.uint8)


def view(clip: np.ndarray, spec: ClipSpec, random) -> np.ndarray:  # type: ignore[no-untyped-def]
    return COLOURS.follow(clip, view_of(spec, clip.shape[1:3], random))


def test_windows_reach_everywhere_and_never_outside() -> None:
    windows = [random_window(SPEC, 10, generators(draw)) for draw in range(200)]
    assert {window.start for window in windows} == {0, 1, 2, 3}
    assert max(window.indices[-1] for window in windows) == 9
    assert all(len(window.indices) == 4 for window in windows)


def test_the_stride_varies_as_far_as_the_video_reaches() -> None:
    spec = ClipSpec(frames=4, height=8, width=8, stride=1, max_stride=5)
    windows = [random_window(spec, 11, generators(draw)) for draw in range(200)]
    assert {window.stride for window in windows} == {1, 2, 3}
    assert all(window.indices[-1] < 11 for window in windows)
    assert first_window(spec, 11).indices == range(4)


def test_a_draw_has_one_window_crop_and_flip() -> None:
    spec = ClipSpec(4, 8, 8, crop="random", crop_scale=0.5, flip=0.5)
    seen = [view(frames(), spec, generators(draw)) for draw in range(12)]
    again = [view(frames(), spec, generators(draw)) for draw in range(12)]
    assert all(np.array_equal(a, b) for a, b in zip(seen, again, strict=True))
    assert all(clip.shape == (4, 8, 8, 3) for clip in seen)
    assert len({clip.tobytes() for clip in seen}) > 8


def test_a_new_choice_changes_none_of_the_others() -> None:
    mirrored = ClipSpec(4, 8, 8, stride=2, flip=1.0)
    assert random_window(SPEC, 10, generators(3)) == random_window(mirrored, 10, generators(3))
    plain, flipped = (view(frames(), spec, generators(3)) for spec in (SPEC, mirrored))
    assert np.array_equal(plain[:, :, ::-1], flipped)


def test_without_generators_the_middle_is_seen() -> None:
    spec = ClipSpec(4, 12, 12, crop="random", flip=1.0)
    assert np.array_equal(view(frames(), spec, None), frames()[:, :, 4:16])


def test_padding_repeats_the_last_frame() -> None:
    short = first_window(SPEC, 4)
    assert short.indices == range(0, 3, 2)
    clip = pad(frames(2), 4)
    assert np.array_equal(clip[2], clip[1]) and np.array_equal(clip[3], clip[1])


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(UserError, match="max_stride=1 is below"):
        ClipSpec(4, 8, 8, stride=2, max_stride=1)
    with pytest.raises(UserError, match="flip from 0 to 1"):
        ClipSpec(4, 8, 8, flip=1.5)
    with pytest.raises(UserError, match="turn=0.5: a quarter turn makes another shape of 8x12"):
        ClipSpec(4, 8, 12, turn=0.5)
