import numpy as np
import pytest

from data_tools.synthetic.rendering import CLASSES, render
from hvdm.data.dissimilarity import dissimilarity


def test_a_clip_is_a_function_of_seed_and_index() -> None:
    first, again = render(1, 2, 4, 32, 32), render(1, 2, 4, 32, 32)
    assert np.array_equal(first.video, again.video) and first[1:] == again[1:]
    assert not np.array_equal(first.video, render(1, 3, 4, 32, 32).video)
    assert not np.array_equal(first.video, render(2, 2, 4, 32, 32).video)


def test_longer_clips_go_on_and_larger_ones_show_the_same() -> None:
    small, long = render(0, 5, 3, 32, 48), render(0, 5, 6, 32, 48)
    assert np.array_equal(long.video[:3], small.video)
    large = render(0, 5, 3, 64, 96)
    assert large[1:] == small[1:]
    shrunk = large.video.reshape(3, 32, 2, 48, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small.video).mean() < 2


def test_all_classes_occur_and_are_described() -> None:
    clips = [render(0, index, 1, 16, 16) for index in range(100)]
    assert {clip.label for clip in clips} == set(range(len(CLASSES)))
    assert all(CLASSES[clip.label] in clip.description.split(",")[0] for clip in clips)
    assert all(0 <= clip.strength <= 1 and clip.video.std() > 10 for clip in clips)


def test_stronger_motion_changes_more() -> None:
    clips = [render(0, index, 8, 32, 32) for index in range(60)]
    strengths = [clip.strength for clip in clips]
    measured = [dissimilarity(clip.video[0], clip.video[-1]) for clip in clips]
    assert np.corrcoef(strengths, measured)[0, 1] > 0.7


def test_dissimilarity_is_zero_for_equal_frames_and_large_for_unlike_ones() -> None:
    video = render(0, 0, 1, 32, 32).video
    assert dissimilarity(video[0], video[0]) == pytest.approx(0, abs=1e-9)
    assert dissimilarity(video[0], 255 - video[0]) > 0.5
