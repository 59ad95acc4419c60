"""Handwritten digits as pictures and as clips: split before anything is drawn, and recognisable."""

import json

import numpy as np
import pytest

from data_tools.synthetic import digits
from data_tools.verify import verify
from hvdm.data.clips import ClipSpec
from hvdm.data.fields import label, video
from hvdm.data.loader import Loader
from hvdm.data.schema import read_manifest
from launcher.cli import main


def test_no_digit_is_both_in_training_and_held_out():
    train, test = digits.written("train"), digits.written("test")
    assert len(train.labels) == 1400 and len(test.labels) == digits.HELD_OUT
    whole = {pixels.tobytes() for pixels in train.pixels}
    assert not any(pixels.tobytes() in whole for pixels in test.pixels)
    assert min(np.bincount(test.labels, minlength=10)) > 25


def test_a_clip_is_a_function_of_its_number():
    one, again = (digits.clip(3, "train", 5, 8, 32, 32) for _ in range(2))
    assert np.array_equal(one.video, again.video) and one.label == again.label
    longer = digits.clip(3, "train", 5, 12, 32, 32)
    assert np.array_equal(longer.video[:8], one.video)
    assert not np.array_equal(digits.clip(4, "train", 5, 8, 32, 32).video, one.video)


def test_a_digit_stays_within_the_frame_and_swings_by_twenty_degrees_at_most():
    for index in range(40):
        course = digits._course(np.random.default_rng(index), strength=1.0)
        for time in np.linspace(0, 3, 31):
            (x, y), angle = course.at(float(time))
            assert max(abs(x), abs(y)) <= 1 - digits.MOVING + 1e-9
            assert abs(angle) <= digits.WIDEST_TURN + 1e-9


def test_the_ground_is_plain_and_its_digit_bright():
    for index in range(20):
        video = digits.clip(0, "test", index, 2, 32, 32).video.astype(float)
        corners = video[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        ground = np.median(corners.reshape(-1, 3), axis=0)
        assert video.mean(-1).max() - ground.mean() > 60


@pytest.mark.parametrize(
    "kind, frames, suffix", [("digits", 1, "png"), ("moving_digits", 4, "mp4")]
)
def test_data_sets_of_digits(kind, frames, suffix, tmp_path, capsys):
    out = tmp_path / "set"
    typed = [f"out={out}", f"kind={kind}", "train=12", "test=6", "height=16", "width=16"]
    typed += [] if frames == 1 else [f"frames={frames}"]
    assert main(["data", "synthetic", *typed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == {"train": 12, "test": 6}
    assert verify(out, decode=True).ok
    provenance = read_manifest(out / "train").provenance
    assert provenance["classes"] == list("0123456789")
    assert provenance["arguments"]["kind"] == kind
    spec = ClipSpec(frames, 16, 16)
    fields = (video(spec), label(10))
    with Loader({str(out / "test"): 1.0}, spec, seed=0, threads=0, fields=fields) as loader:
        rows = loader.sequential(range(6))
    assert rows["video"].shape == (6, frames, 16, 16, 3)
    if kind == "digits":
        assert rows["label"].tolist() == digits.written("test").labels[:6].tolist()


@pytest.mark.parametrize(
    "typed, said",
    [
        (["kind=letters"], "kind='letters' is not known"),
        (["kind=digits", "frames=8"], "frames=8: kind=digits makes pictures, frames=1"),
        (["kind=digits", "train=2000"], "there are 1400 digits for train"),
    ],
)
def test_what_cannot_be_made(typed, said, tmp_path, capsys):
    assert main(["data", "synthetic", f"out={tmp_path / 'set'}", *typed]) == 2
    assert said in capsys.readouterr().err
