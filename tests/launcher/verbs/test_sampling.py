"""`hvdm sample` as it is typed, on small networks without training."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import hvdm
from data_tools.synthetic.making import make
from eval.report import embedded
from hvdm import building, opening
from hvdm import config as configs
from hvdm.checkpoint import checkpoint
from hvdm.data.decode import decode_all, decode_image
from hvdm.media import photo as photos
from hvdm.recipes.hvdm import diffusion
from launcher.cli import main

FRAMES, SIDE = 4, 16
LONG = "long-seed-0-frames-9"
AUTOENCODER = {
    "patch": 4, "width": 8, "depth": 1, "heads": 1, "head_dim": 4, "projection_depth": 1,
    "projection_heads": 1, "projection_head_dim": 4, "projection_hidden": 8,
    "conv_channels": [4], "fusion_depth": 1,
}  # fmt: skip
DIFFUSION = {
    "width": 8, "multipliers": [1, 2], "blocks": 1, "sampling_steps": 3, "eta": 1.0,
    "conditional": 0.4, "still": 0.4, "motion": "stored", "labels": 5,
}  # fmt: skip


def make_run(run, recipe, model, **more):
    """A run folder with a checkpoint of weights that were only shaken."""
    config = configs.load(
        {
            "recipe": recipe,
            "model": model,
            "data": {"path": "nowhere", "frames": FRAMES, "height": SIDE, "width": SIDE},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "engine": {"name": "local"},
            "cluster": {"name": "inline"},
            "batch": 4,
            "micro_batch": 4,
            "samples": 64,
            "run": str(run),
            **more,
        }
    )
    run.mkdir()
    (run / opening.CONFIG_FILE).write_text(yaml.safe_dump(configs.plain(config)))
    recipe = building.build_recipe(config, opening.stages_of(config))
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in recipe.trained.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=source))
    engines = building.build_engines(config, recipe)
    averages = building.build_averages(config, recipe, engines)
    checkpoint.save(run, 4, engines, averages, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "ae", "hvdm.autoencoder", AUTOENCODER)
    found = {"past": True, "motion_levels": [0.0, 0.25, 0.5, 0.75, 1.0]}
    make_run(
        folder / "ldm",
        "hvdm.diffusion",
        DIFFUSION,
        first_stage=str(folder / "ae"),
        from_data=found,
    )
    return folder / "ldm"


def sample(run, out, *typed):
    assert main(["sample", f"run={run}", f"out={out}", *map(str, typed), "--json"]) == 0


def answer(capsys):
    return json.loads(capsys.readouterr().out)


def frames_of(folder, draw, stem="seed-0"):
    files = sorted((folder / "frames" / f"{stem}-{draw:04d}").glob("*.png"))
    return np.concatenate([decode_image(file.read_bytes()) for file in files])


def photo(path, size=(40, 30), mode="RGB", **save):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path, **save)
    return path


def test_all_kinds_give_what_can_be_played(run, tmp_path, capsys):
    image = photo(tmp_path / "photo.jpg")
    asked = {
        "clip": [],
        "long": ["frames=10"],
        "image": [f"image={image}", "motion=slow"],
        "dynamics": ["motion=slow,fast", "label=1", "guidance.motion=1"],
    }
    names_of = {
        "clip": "seed-0",
        "long": "seed-0-frames-10",
        "image": "seed-0-image-photo-motion-slow",
        "dynamics": "seed-0-motion-slow-fast-label-1-guidance.motion-1",
    }
    for what, typed in asked.items():
        sample(run, tmp_path, f"what={what}", "count=2", "write=mp4,gif,frames", *typed)
        told = answer(capsys)
        assert told["what"] == what and told["step"] == 4
        stem = Path(told["files"][0]).name.removesuffix("-sheet.png")
        assert stem == ("" if what == "clip" else f"{what}-") + names_of[what]
        film = decode_all((tmp_path / f"{stem}-0001.mp4").read_bytes())
        assert len(film) == (10 if what == "long" else FRAMES)
        with Image.open(tmp_path / f"{stem}-0001.gif") as gif:
            assert gif.n_frames > 1 and gif.info["loop"] == 0
        assert frames_of(tmp_path, 1, stem).shape == (len(film), SIDE, SIDE, 3)
        sheet = tmp_path / f"{stem}-sheet.png"
        assert told["files"][0] == str(sheet)
        assert decode_image(sheet.read_bytes()).shape[1] > 2 * SIDE
        assert json.loads(sheet.with_suffix(".json").read_text())["options"] == told["options"]
    assert not any(one.name.startswith("frames/") for one in embedded.found(tmp_path))


def test_captions_say_what_was_asked_for(run, tmp_path, monkeypatch, capsys):
    from hvdm.media import pictures

    seen = []
    drawn = pictures.contact_sheet

    def note(clips, captions, frames, given):
        seen.append((captions, frames, given))
        return drawn(clips, captions, frames, given)

    monkeypatch.setattr(pictures, "contact_sheet", note)
    image = photo(tmp_path / "a.png")
    typed = ["what=dynamics", "motion=slow,0.7", f"image={image}", "count=2", "guidance=2"]
    sample(run, tmp_path, *typed)
    (captions, _, given), = seen  # fmt: skip
    assert captions == [
        "dynamics, seed 0, number 0, image a.png, motion slow, guidance 2",
        "dynamics, seed 0, number 1, image a.png, motion 0.7, guidance 2",
    ]
    assert given.shape == (SIDE, SIDE, 3)


def test_a_video_is_the_same_at_any_batch_and_count(run, tmp_path, capsys):
    typed = ["what=long", "frames=9", "write=frames"]
    sample(run, tmp_path / "a", *typed, "count=5", "batch=2")
    sample(run, tmp_path / "b", *typed, "count=3", "batch=3")
    for draw in range(3):
        one, other = (frames_of(tmp_path / part, draw, LONG) for part in "ab")
        assert np.abs(one.astype(int) - other).max() <= 1
    assert (frames_of(tmp_path / "a", 0, LONG) != frames_of(tmp_path / "a", 1, LONG)).any()


@pytest.mark.ray
def test_any_number_of_workers_gives_equal_bytes(run, tmp_path, capsys, ray_session):
    """Three batches on two: one worker has two of them."""
    typed = ["what=long", "frames=6", "count=5", "batch=2", "write=mp4,frames"]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sample(run, tmp_path / "inline", *typed)
    finally:
        torch.set_num_threads(before)
    where = ["cluster=local", "workers=2", "cluster.cpus_per_worker=0.5"]
    sample(run, tmp_path / "there", *typed, *where)
    for path in sorted((tmp_path / "inline").rglob("*.[mp][pn][4g]")):
        same = tmp_path / "there" / path.relative_to(tmp_path / "inline")
        assert same.read_bytes() == path.read_bytes(), path


def test_more_workers_than_one_mean_a_cluster(monkeypatch):
    from launcher.arguments import parse, read
    from launcher.where import OnCluster

    def where(*typed):
        return read(OnCluster, parse(typed)).where()

    assert where().name == "inline"
    assert (where("workers=2").name, where("workers=2").workers) == ("local", 2)
    assert where("cluster.workers=2").workers == 2


def test_the_time_left_is_told(run, tmp_path, capsys, monkeypatch):
    from hvdm import progress

    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    sample(run, tmp_path, "count=3", "batch=2")
    lines = [line.strip() for line in capsys.readouterr().err.strip().splitlines()]
    assert lines[0].startswith("22% of 3 samples, ") and lines[0].endswith(" left")
    assert lines[-1] == "100% of 3 samples, 0 s left"


# What a user has at hand


def files(folder):
    """Name, and what is to come of it: a picture, or a part of the line."""
    photo(folder / "photo.jpg", (400, 300), quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6
    photo(folder / "phone.jpg", (300, 400), exif=turned)
    shots = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    shots[0].save(folder / "moving.gif", save_all=True, append_images=shots[1:])
    photo(folder / "alpha.png", (50, 60), "RGBA")
    Image.new("RGB", (1, 1), "green").save(folder / "pixel.png")
    Image.new("RGB", (2000, 1), "green").save(folder / "line.png")
    Image.new("P", (9, 9)).save(folder / "palette.png")
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(folder / "deep.png")
    photo(folder / "cmyk.jpg", (30, 30), "CMYK")
    (folder / "text.png").write_text("this is no picture\n")
    (folder / "empty.png").write_bytes(b"")
    whole = io.BytesIO()
    photo(whole, (60, 60), format="PNG")
    (folder / "torn.png").write_bytes(whole.getvalue()[:-4000])
    good = "photo.jpg phone.jpg moving.gif alpha.png pixel.png line.png palette.png deep.png"
    return {
        **dict.fromkeys([*good.split(), "cmyk.jpg"]),
        "text.png": "its content is no picture",
        "empty.png": "its content is no picture",
        "torn.png": "cannot be read as a picture",
        "gone.png": "there is no such file",
        ".": "is a folder",
    }


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_every_file_gives_a_video_or_one_line(run, tmp_path, capsys, fit):
    for name, refused in files(tmp_path).items():
        path = tmp_path / name
        typed = ["sample", f"run={run}", f"out={tmp_path}/out", "what=image", f"image={path}"]
        code = main([*typed, f"fit={fit}", "count=1", "write=gif"])
        out, error = capsys.readouterr()
        if refused is None:
            assert code == 0 and "look at" in out, (name, error)
            continue
        assert code == 2 and refused in error and str(path) in error, (name, error)
        assert len(error.strip().splitlines()) == 1


def test_the_rule_of_the_crop_and_of_the_padding(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:20], pixels[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "three.png")
    cropped = photos.read(tmp_path / "three.png", 16, 16)
    assert (cropped == (0, 255, 0)).all()
    padded = photos.read(tmp_path / "three.png", 18, 18, "pad")
    assert padded.shape == (18, 18, 3)
    assert (padded[:, 0] == (255, 0, 0)).all() and (padded[:, -1] == (0, 0, 255)).all()


def test_what_is_transparent_is_white_and_deep_greys_stay(tmp_path):
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert (photos.read(tmp_path / "clear.png", 4, 4) == 255).all()
    Image.fromarray(np.full((9, 9), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert (photos.read(tmp_path / "deep.png", 4, 4) == 128).all()


def test_a_phone_s_picture_is_turned_and_of_a_gif_the_first_frame_counts(tmp_path):
    files(tmp_path)
    with Image.open(tmp_path / "phone.jpg") as stored:
        assert stored.size == (300, 400)
    assert photos._decoded(tmp_path / "phone.jpg").shape == (300, 400, 3)
    assert (photos.read(tmp_path / "moving.gif", 8, 8) == (255, 0, 0)).all()


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    photo(tmp_path / "big.png", (40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(Exception, match="more than 900 pixels; make it smaller"):
        photos.read(tmp_path / "big.png", 8, 8)


# What is typed wrong


@pytest.mark.parametrize(
    "typed, said",
    [
        (["what=dynmics"], "did you mean 'dynamics'?"),
        (["what=long", "frams=9"], "unknown key 'frams' for what=long; did you mean 'frames'?"),
        (["what=clip", "frames=9"], "unknown key 'frames' for what=clip; it goes with what=long"),
        (["what=dynamics", "motion=quick"], "motion='quick': expected slow, medium, fast"),
        (["what=dynamics"], "motion= is missing"),
        (["what=image"], "image= is missing"),
        (["count=0"], "count=0 is below 1"),
        (["batch=0"], "batch=0 is below 1"),
        (["write=avi"], "write='avi'; choose from: frames, gif, mp4"),
        (["fit=squeeze"], "fit='squeeze'"),
        (
            ["image=a.png"],
            "unknown key 'image' for what=clip; it goes with what=long or",
        ),
        (["guidance.past=1"], "is told no past here"),
        (["steps=5000"], "steps=5000: sampling takes between 1 and 1000 steps"),
        (["cluster.wrokers=2"], "did you mean"),
        (["cluster=inline", "workers=2"], "workers=2 needs cluster=local or existing"),
    ],
)
def test_wrong_keys_and_values_are_one_line(run, tmp_path, capsys, typed, said):
    assert main(["sample", f"run={run}", f"out={tmp_path}", *typed]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1, error


# From training to sampling


def test_a_run_keeps_what_sampling_needs_of_its_data(run, shapes, tmp_path, monkeypatch):
    trained = tmp_path / "trained"
    typed = [
        "train", "config=tiny/hvdm_diffusion", f"run={trained}", f"data.path={shapes}",
        f"first_stage={run.parent}/ae", "data.frames=4", "model.before=4", "data.height=16",
        "data.width=16", "model.width=8", "batch=4", "micro_batch=4", "cluster=inline",
        "log.tensorboard=false",
    ]  # fmt: skip
    assert main([*typed, "steps=1"]) == 0
    found = opening.read_config(trained).from_data
    levels = found["motion_levels"]
    assert found["past"] and levels == sorted(levels) and 0 <= levels[0] < levels[-1] <= 1
    monkeypatch.setattr(diffusion, "from_data", lambda *_: pytest.fail("it looked again"))
    assert main([*typed, "steps=2"]) == 0
    assert opening.read_config(trained).from_data == found
    monkeypatch.setattr(diffusion, "from_data", lambda *_: {**found, "past": 0.5})
    make(tmp_path / "other", seed=9, train=8, test=2, per_shard=8, frames=8, height=16, width=16)
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(trained / "config.yaml", new)
    assert main([*typed, f"data.path={tmp_path}/other", f"run={new}", "steps=1"]) == 0
    assert opening.read_config(new).from_data["past"] == 0.5
    recipe = opening.open_run(trained).recipe
    assert recipe.motion_levels == tuple(levels)
    sample(trained, tmp_path / "out", "what=dynamics", "motion=fast", "count=1", "write=gif")
    sample(trained, tmp_path / "out", "what=long", "frames=8", "count=1", "write=gif")


def test_from_python(run, tmp_path):
    loaded = hvdm.load(run)
    image = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
    video = loaded.sample(2, what="long", frames=6, image=image, motion="slow")
    assert video.shape == (2, 3, 6, SIDE, SIDE)
    file = photo(tmp_path / "photo.jpg")
    shown = torch.from_numpy(photos.read(file, SIDE, SIDE).copy())
    for given in (str(file), file):
        made = loaded.sample(1, what="image", image=given)
        torch.testing.assert_close(made, loaded.sample(1, what="image", image=shown))


# Names


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_names_carry_what_was_asked_and_nothing_is_overwritten(run, tmp_path, capsys):
    plain = ["write=gif", "count=2"]
    sample(run, tmp_path, *plain)
    first = answer(capsys)
    assert first["steps"] == 3
    assert first["used"] | {"sampler": "ddim", "eta": 1.0, "frames": 4} == first["used"]
    assert first["used"]["guidance"] == {"past": 0.0, "image": 0.0, "motion": 0.0, "label": 0.0}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    sample(run, tmp_path, *plain, "steps=2", "motion=fast")
    assert Path(answer(capsys)["files"][1]).name == "seed-0-steps-2-motion-fast-0000.gif"
    sample(run, tmp_path, *plain, "fps=4")
    hashed = Path(answer(capsys)["files"][1]).name
    assert re.fullmatch(r"seed-0-[0-9a-f]{8}-0000.gif", hashed)
    long = ["guidance.motion=0.123456789", "motion=0.123456789"]
    sample(run, tmp_path, *plain, *long)
    assert re.fullmatch(r"seed-0-[0-9a-f]{8}-0000.gif", Path(answer(capsys)["files"][1]).name)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert len(names(tmp_path)) == 4 * len(before)


def test_the_same_request_has_the_same_name_and_its_sheet_lists_what_lies_there(
    run, tmp_path, capsys
):
    sample(run, tmp_path, "write=gif", "count=3")
    sheet = (tmp_path / "seed-0-sheet.png").read_bytes()
    whole = answer(capsys)["files"]
    sample(run, tmp_path, "write=gif", "count=2")
    told = answer(capsys)
    assert sorted(told["files"]) == sorted(whole) and told["count"] == 3
    assert (tmp_path / "seed-0-sheet.png").read_bytes() == sheet
    sample(run, tmp_path, "write=gif", "count=4")
    assert len(answer(capsys)["files"]) == 5
    assert (tmp_path / "seed-0-sheet.png").read_bytes() != sheet


def test_files_that_nobody_noted_stay(run, tmp_path, capsys):
    (tmp_path / "seed-0-0000.gif").write_bytes(b"mine")
    sample(run, tmp_path, "write=gif", "count=1")
    assert (tmp_path / "seed-0-0000.gif").read_bytes() == b"mine"
    assert answer(capsys)["count"] == 1


# What a diffusion run is not


@pytest.mark.parametrize(
    "typed, said",
    [
        (["evaluate", "protocol=reconstruction@1", "run="], "needs an autoencoder"),
        (["data", "encode", "path={shapes}", "out={out}", "first_stage="], "has no encoder"),
    ],
)
def test_a_diffusion_run_has_no_autoencoder(run, shapes, tmp_path, capsys, typed, said):
    out = tmp_path / "latents"
    typed = [word.format(shapes=shapes, out=out) for word in typed]
    assert main([*typed[:-1], f"{typed[-1]}{run}", "cluster=inline"]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1, error
    assert not out.exists()
