"""Improved diffusion's public files: made of the published names, imported, sampled, given back."""

import json
from pathlib import Path

import pytest
import torch

import hvdm
from hvdm import opening
from hvdm.errors import UserError
from hvdm.recipes.pseudo_video import released
from launcher import arguments
from launcher.verbs import checkpoints, samples
from tests.recipes.test_pseudo_diffusion import drawn, listed, named, public

CODE = "improved_diffusion"


def call(verb, *typed):
    return arguments.call(verb, [str(word) for word in typed])


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(CODE)
    state = {name: named(name, shape) for name, shape in listed(CODE, 32).items()}
    torch.save(state, folder / "ema.pt")
    call(checkpoints.import_, f"from={CODE}", f"unet={folder}/ema.pt", f"run={folder}/run")
    return folder


def test_an_imported_network_is_called_and_given_back(imported: Path) -> None:
    golden = json.loads(Path("tests/golden/pseudo_video.json").read_text())[f"{CODE}_32"]
    with torch.no_grad():
        out = hvdm.load(imported / "run").denoiser(drawn(1, 1, 3, 32, 32), torch.tensor([321]))
    some = out.flatten()[::97][: len(golden["every_97th"])]
    assert float((some - torch.tensor(golden["every_97th"])).abs().max()) < 1e-4 * golden["std"]
    file = imported / "back.pt"
    call(checkpoints.export, f"run={imported}/run", f"to={CODE}", f"unet={file}")
    back, given = torch.load(file), torch.load(imported / "ema.pt")
    assert back.keys() == given.keys()
    assert all(torch.equal(back[name], given[name]) for name in given)


def test_a_learned_variance_and_its_steps_are_read_off_the_file(tmp_path: Path) -> None:
    net = public(CODE, 32, width=32, blocks=3, outputs=6)
    state = {name: named(name, shape) for name, shape in released.shapes(net).items()}
    torch.save(state, tmp_path / "ema.pt")
    call(checkpoints.import_, f"from={CODE}", f"unet={tmp_path}/ema.pt", f"run={tmp_path}/run")
    config = opening.read_config(tmp_path / "run")
    told = {"blocks": 3, "variance": "learned", "schedule": "cosine", "steps": 4000, "frames": 1}
    assert {key: config.model[key] for key in told} == told
    recipe = opening.open_run(tmp_path / "run").recipe
    assert len(recipe.process.alpha_bar) == 4000  # type: ignore[attr-defined]
    typed = (f"run={tmp_path}/run", "count=1", "steps=2", f"out={tmp_path}/out", "cluster=inline")
    call(samples.sample, *typed)
    assert len(list((tmp_path / "out").rglob("*.png"))) >= 1


def test_what_is_no_such_file(imported: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    for typed, said in (
        ((f"unet={tmp_path}/other.pt",), "no U-Net of images"),
        ((f"unet={imported}/ema.pt", "size=32"), "files tell their size"),
        ((f"generator={imported}/ema.pt",), "unknown key 'generator'"),
    ):
        with pytest.raises(UserError, match=said):
            call(checkpoints.import_, f"from={CODE}", *typed, f"run={tmp_path}/run")
