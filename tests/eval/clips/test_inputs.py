"""Clips from anywhere: what comes out is equal however they lie, and misfits are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.synthetic.rendering import render
from eval.clips.sources import ClipFolder, FrameSelection, Function, Shards, source_of
from eval.evaluate import Request, evaluate, evaluate_all
from hvdm.errors import RunError, UserError
from hvdm.media.pictures import write_gif, write_mp4
from launcher.cli import main

HERE = Path(__file__).parents[1]
CALLABLES = f"python:{HERE / 'eval_callables.py'}"
FVD = {"protocol": "fvd/tf-reference@1", "detector": "untrained"}


def clip(seed, number, frames=6, side=32):
    return render(seed, number, frames, side, side).video


def write(folder, kind, seed, count=24, **shape):
    folder.mkdir(parents=True)
    for i in range(count):
        frames, name = clip(seed, i, **shape), folder / f"clip-{i:03d}"
        if kind == "npz":
            np.savez(name.with_suffix(".npz"), video=frames)
        elif kind == "png":
            name.mkdir()
            for k, frame in enumerate(frames):
                Image.fromarray(frame).save(name / f"{k:03d}.png")
        else:
            film = {"mp4": write_mp4, "gif": write_gif}[kind]
            film(torch.from_numpy(frames), name.with_suffix(f".{kind}"))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    return {
        "real": write(root / "real", "npz", seed=1),
        "made": write(root / "made", "npz", seed=2),
        "png": write(root / "png", "png", seed=2),
        "mp4": write(root / "mp4", "mp4", seed=2, side=64),
        "gif": write(root / "gif", "gif", seed=2, count=4, side=64),
        "long": write(root / "long", "npz", seed=3, count=8, frames=36),
        "small": write(root / "small", "npz", seed=2, side=24),
    }


def measured(tmp_path, real, generated, said=None, **asked):
    request = Request(None, real=str(real), generated=str(generated), out=str(tmp_path / "out"),
                      **{**FVD, **asked})  # fmt: skip
    return evaluate(request, map, said.append if said is not None else lambda text: None)


def values(result):
    return result["values"], result["standard_error"], result["controls"]


def test_folders_without_any_run(folders, tmp_path):
    said = []
    asked = {"protocol": "fvd/stylegan-v@1", "detector": "untrained"}
    made = str(write(tmp_path / "g", "npz", 4, 20, frames=20))
    request = Request(None, real=str(folders["long"]), generated=made, out=str(tmp_path), **asked)
    result = evaluate(request, say=said.append)
    assert not result["comparable"] and "not comparable" in said[-1]
    assert "dropbox.com" in result["comparable_with"]
    for part in ("i3d_torchscript.pt", "93daef59c7"):
        assert part in result["comparable_with"] and any(part in text for text in said)
    assert result["counts"]["clips"] == 20 and result["counts"]["real"] == 8
    assert result["values"]["fvd"] > 0 and result["controls"]["halves"]["value"] > 0
    assert Path(result["path"]).name.startswith("fvd_stylegan-v@1-g-")


def test_equal_clips_give_equal_numbers_however_they_lie(folders, tmp_path):
    npz, png = (measured(tmp_path, folders["real"], folders[kind]) for kind in ("made", "png"))
    made = measured(tmp_path, folders["real"], f"{CALLABLES}:shapes", seed=2, clips=24)
    assert values(npz)[2] == values(png)[2] == values(made)[2]
    # the order of clips within a folder is that of its files, of a function that of its numbers
    assert npz["values"] == png["values"]
    assert made["values"]["fvd"] == pytest.approx(npz["values"]["fvd"], rel=1e-6)


def test_films_are_read_by_one_decoder_and_lossy_ones_are_pointed_out(folders, tmp_path):
    with pytest.raises(UserError, match="real clips 32x32 and generated clips 64x64: give size"):
        measured(tmp_path, folders["real"], folders["mp4"])
    result = measured(tmp_path, folders["real"], folders["mp4"], size=(32, 32))
    assert any("lossy codec (.mp4)" in text for text in result["warnings"])
    assert "av " in result["fields"]["video"]["decoder"]
    look = FrameSelection(frames=6, size=(32, 32))
    film, gif = (
        ClipFolder(str(folders[kind])).read((0, 1), look, "cpu") for kind in ("mp4", "gif")
    )
    assert (film.videos[0].int() - gif.videos[0].int()).abs().float().mean() < 8


def test_shards_are_a_source_and_a_data_set_is_not(clips, folders, tmp_path):
    assert isinstance(source_of(str(clips / "test")), Shards)
    with pytest.raises(UserError, match=r"is a data set; give one of its splits: .*test"):
        source_of(str(clips))
    result = measured(tmp_path, clips / "test", folders["made"])
    assert result["counts"]["real"] == 21 and len(result["manifest"]) == 64


@pytest.mark.parametrize(
    ("function", "said"),
    [("in_zero_to_one", r"values from .* to 1; floats are expected in \[-1, 1\]"),
     ("up_to_255", "values from .* to 255"),
     ("not_a_number", "not_a_number 5: not every value is finite"),
     ("one_too_few", "expected . clips"),
     ("broken", "broken failed for clips .*KeyError..weights"),
     ("nothing", "cannot be imported")],
)  # fmt: skip
def test_functions_that_give_something_else(folders, tmp_path, function, said):
    with pytest.raises((RunError, UserError), match=said):
        measured(tmp_path, folders["real"], f"{CALLABLES}:{function}")


def test_misfits_are_named(folders, tmp_path):
    empty, floats, other = tmp_path / "empty", tmp_path / "floats", tmp_path / "other"
    for folder in (empty, floats, other):
        folder.mkdir()
    np.savez(floats / "a.npz", np.zeros((6, 32, 32, 3), np.float32))
    np.savez(floats / "b.npz", np.zeros((6, 32, 32, 3), np.float32))
    (other / "a.mp4").write_bytes(b"no film at all")
    (other / "b.mp4").write_bytes(b"no film at all")
    one = write(tmp_path / "one", "npz", 5, count=1)
    cases = [
        (folders["real"], folders["real"], {}, "the same clips"),
        (folders["real"], empty, {}, "holds no clips"),
        (folders["real"], floats, {}, "expected uint8 T H W 3, got float32"),
        (folders["real"], other, {}, r"[ab].mp4: unreadable as video"),
        (folders["real"], tmp_path / "none", {}, "no such folder"),
        (folders["real"], one, {}, "a spread needs at least 2"),
        (folders["real"], folders["small"], {}, "give size=HxW"),
        (folders["real"], folders["made"], {"frames": 9}, "6 frames, and clips of 9"),
        (folders["real"], folders["made"], {"protocol": "fvd/stylegan-v@1"}, "frames"),
        (folders["real"], folders["made"], {"protocol": "reconstruction@1", "detector": None},
         "needs run="),
        (folders["real"], folders["made"], {"protocol": "fid@1", "detector": "i3d"},
         "takes clips, and this protocol frames"),
        (folders["real"], folders["made"], {"steps": 4}, "nothing is sampled"),
    ]  # fmt: skip
    for real, generated, asked, said in cases:
        with pytest.raises((RunError, UserError), match=said):
            measured(tmp_path, real, generated, **asked)


def test_clips_too_short_for_the_detector_are_said_before_any_work(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.networks.weights.problem_of", lambda *_: None)
    with pytest.raises(UserError, match="i3d needs clips of at least 9 frames, and these have 6"):
        measured(tmp_path, folders["real"], folders["made"], detector="i3d")


def test_a_damaged_film_is_refused_and_named(folders, tmp_path):
    folder = write(tmp_path / "films", "mp4", 6, count=4, side=64)
    data = bytearray((folder / "clip-002.mp4").read_bytes())
    (folder / "clip-002.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(RunError, match="clip-002.mp4"):
        measured(tmp_path, folders["mp4"], folder)


def test_one_job_for_many_metrics_sees_each_set_once(folders, tmp_path):
    names = ("fvd/tf-reference@1", "prc@1", "is@1")
    said = []
    request = Request(None, ",".join(names), "untrained", real=str(folders["real"]),
                      generated=str(folders["made"]), out=str(tmp_path))  # fmt: skip
    several = evaluate_all(request, say=said.append)
    assert [result["protocol"] for result in several] == list(names)
    assert set(several[1]["values"]) == {"precision", "recall"}
    frames = Request(None, "fid@1,kid@1", "untrained", real=str(folders["real"]),
                     generated=str(folders["made"]), out=str(tmp_path))  # fmt: skip
    said.clear()
    fid, kid = evaluate_all(frames, say=said.append)
    blocks = fid["counts"]["blocks"]
    assert f"{2 * blocks} of {2 * blocks} blocks to measure" in said
    assert fid["controls"]["shuffled_frames"] is None and fid["controls"]["halves"]
    assert kid["values"]["mmd2"] == pytest.approx(kid["values"]["kid"], rel=0.2)
    assert any("subsets of 144" in text for text in kid["warnings"])


def test_windows_over_long_clips_make_a_curve(folders, tmp_path):
    made = write(tmp_path / "windows", "npz", 8, count=6, frames=36)
    for name in ("fvd", "fid"):
        result = measured(tmp_path, folders["long"], made, protocol=f"{name}/sliding-window@1")
        assert [row["frame"] for row in result["curve"]] == [0, 16]
        mean = np.mean([row["value"] for row in result["curve"]])
        assert result["values"] == {f"{name}_mean": pytest.approx(mean)}
    with pytest.raises(UserError, match="6 frames, a window takes 16"):
        measured(tmp_path, folders["long"], folders["made"], protocol="fvd/sliding-window@1")


def test_short_videos_are_left_out_and_counted(folders, tmp_path):
    mixed = write(tmp_path / "mixed", "npz", 9, count=6, frames=20)
    np.savez(mixed / "short.npz", video=clip(9, 99))
    asked = {"protocol": "fvd/videogpt@1"}
    result = measured(tmp_path, mixed, folders["long"], **asked)
    assert result["counts"]["short"]["real"] == 1 and result["counts"]["real"] == 6
    assert "1 real clips were too short, and left out" in result["warnings"]
    assert result["fields"]["video"]["start"] == "random"


def test_the_same_clip_again_and_again_is_noticed(folders, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    for i in range(4):
        np.savez(folder / f"{i}.npz", video=clip(2, 0))
    result = measured(tmp_path, folders["real"], folder)
    assert "3 generated clips equal others to the bit" in result["warnings"]


# Features from elsewhere


def features(tmp_path, name, values):
    path = tmp_path / f"{name}.npy"
    np.save(path, values)
    return str(path)


def test_two_files_of_features(tmp_path, capsys):
    random = np.random.Generator(np.random.PCG64(1))
    a = features(tmp_path, "a", random.normal(size=(200, 16)))
    b = features(tmp_path, "b", random.normal(size=(180, 16)) + 0.3)
    typed = ["evaluate", f"real={a}", f"generated={b}", "protocol=features@1",
             f"out={tmp_path}", "extrapolate=true", "--json"]  # fmt: skip
    assert main(typed) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["values"]) == {"frechet", "kid", "mmd2", "precision", "recall"}
    low, high = result["interval"]["frechet"]
    assert low < 16 * 0.09 < high and result["debiased"]["frechet"] < result["values"]["frechet"]
    assert result["extrapolated"]["frechet"]["value"] < result["values"]["frechet"]
    assert result["interval"]["precision"] and result["comparable"]


def test_features_that_are_none(tmp_path):
    good = features(tmp_path, "good", np.ones((5, 3)) * np.arange(5)[:, None])
    broken = np.ones((5, 3))
    broken[3, 1] = np.nan
    cases = {
        "nan": (broken, "row 3 is not finite"),
        "one": (np.ones((1, 3)), "a spread needs at least 2"),
        "wide": (np.ones((5, 4)), "3 features and .* 4: they come from different networks"),
        "whole": (np.ones((5, 3), int), "expected floats N D"),
        "flat": (np.ones(5), "expected floats N D"),
        "same": (np.ones((5, 3)) * np.arange(5)[:, None], "hold the same features"),
    }
    for name, (values, said) in cases.items():
        request = Request(None, "features@1", real=good, generated=features(tmp_path, name, values))
        with pytest.raises((RunError, UserError), match=said):
            evaluate(request)
    with pytest.raises(UserError, match="cannot be read"):
        evaluate(Request(None, "features@1", real=good, generated=str(tmp_path / "no.npy")))
    few = features(tmp_path, "few", np.random.Generator(np.random.PCG64(2)).normal(size=(4, 3)))
    result = evaluate(Request(None, "features@1", real=good, generated=few, out=str(tmp_path)))
    assert result["debiased"]["frechet"] is None and "no debiased value" in result["warnings"][0]


def test_a_function_has_a_name_and_a_place(tmp_path):
    with pytest.raises(UserError, match="expected python:MODULE:FUNCTION"):
        source_of("python:nowhere")
    assert source_of("python:math:sqrt", 3) == Function("python:math:sqrt", 3)
