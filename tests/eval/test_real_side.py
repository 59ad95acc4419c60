"""What a protocol says of its real side, and of the part of a clip that is looked at."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.blocks.extract import middle, through_jpeg
from eval.catalogue import kind_of
from eval.evaluate import Request, evaluate
from eval.protocol.protocol import PROTOCOLS, find
from hvdm.errors import UserError

SHAPES = f"python:{Path(__file__).with_name('eval_callables.py')}:shapes"


def quiet(text):
    return None


def test_a_protocol_says_the_split_and_the_counts_of_the_real_side(make_run, monkeypatch):
    named = replace(find("fid"), name="toy/all", real_split="train", real_clips="all")
    monkeypatch.setitem(PROTOCOLS, named.full_name, named)
    run = make_run(kind="generator")
    # its training split is the one that the data set has
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("train: train", "train: test"))
    asked = {"detector": "untrained", "pictures": False}
    evaluated = evaluate(Request(str(run), "toy/all@1", clips=6, **asked), say=quiet)
    assert evaluated["counts"]["clips"] == 6 and evaluated["counts"]["real"] == 21
    assert evaluated["fields"]["data"]["split"] == "test"
    with pytest.raises(UserError, match="compares with all real clips"):
        evaluate(Request(str(run), "toy/all@1", clips=6, real=SHAPES, **asked), say=quiet)


def test_a_crop_is_what_the_detector_sees(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"detector": "untrained", "real": str(clips / "test"), "generated": SHAPES, "clips": 6}
    whole = evaluate(Request(None, "fid@1", **asked), say=quiet)
    named = replace(find("fid"), name="toy/crop", window=(2, 2), crop=(16, 8))
    monkeypatch.setitem(PROTOCOLS, named.full_name, named)
    part = evaluate(Request(None, "toy/crop@1", **asked), say=quiet)
    assert [row["frame"] for row in part["curve"]] == [0, 2, 4]
    assert part["fields"]["video"]["crop"] == (16, 8) and "crop" not in whole["fields"]["video"]
    assert part["values"]["fid"] != whole["values"]["fid"]
    video = torch.arange(2 * 3 * 4 * 6 * 3).view(2, 3, 4, 6, 3)
    assert (middle(video, (2, 4), []) == video[:, :, 1:3, 1:5]).all()
    with pytest.raises(UserError, match="clip is 4x6, a crop takes"):
        middle(video, (5, 4), ["clip"])


def test_jpeg_files_are_what_the_detector_sees(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"detector": "untrained", "real": str(clips / "test"), "generated": SHAPES, "clips": 6}
    plain = evaluate(Request(None, "fid@1", **asked), say=quiet)
    named = replace(find("fid"), name="toy/jpeg", jpeg=75)
    monkeypatch.setitem(PROTOCOLS, named.full_name, named)
    lossy = evaluate(Request(None, "toy/jpeg@1", **asked), say=quiet)
    assert lossy["fields"]["video"]["jpeg"] == 75 and "jpeg" not in plain["fields"]["video"]
    assert lossy["values"]["fid"] != plain["values"]["fid"]


def test_frames_through_jpeg_are_those_of_the_files(video, tmp_path):
    for clip, seen in zip(video, through_jpeg(video, 75), strict=True):
        for frame, found in zip(clip, seen, strict=True):
            Image.fromarray(frame.numpy()).save(tmp_path / "frame.jpg")  # of the usual quality
            assert (np.asarray(Image.open(tmp_path / "frame.jpg")) == found.numpy()).all()
    assert (through_jpeg(video, 75) != video).any()


def test_published_counts_are_against_all_of_the_training_split():
    named = [find(name) for name in ("fid/50k", "fid/50k-jpeg", "prc/50k")]
    assert {(p.clips, p.real_split, p.real_clips) for p in named} == {(50_000, "train", "all")}
    assert [p.jpeg for p in named] == [None, 75, None]


@pytest.mark.parametrize("protocol", PROTOCOLS.values())
def test_every_kind_is_known(protocol):
    assert kind_of(protocol).name == protocol.kind
