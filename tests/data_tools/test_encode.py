import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.encode import Latents, encode
from data_tools.rearrange import reshard
from data_tools.verify import verify
from hvdm import building, identity, opening
from hvdm.config import DataConfig, RunConfig
from hvdm.data.fields import label, latent, number, video
from hvdm.data.loader import ClipSpec, Loader
from hvdm.data.schema import read_manifest
from hvdm.errors import UserError
from hvdm.run import run
from launcher import compose
from tests.support.small_runs import SMALL


@pytest.fixture(scope="module")
def stage(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """An autoencoder after one step."""
    folder = tmp_path_factory.mktemp("stage")
    return trained(shapes, folder / "run", seed=0)


def trained(shapes: Path, folder: Path, seed: int) -> RunConfig:
    overrides = [
        f"run={folder}", f"data.path={shapes}", "cluster=inline", "steps=1", f"seed={seed}",
        "data.frames=8", "data.height=16", "data.width=16", "batch=2", "micro_batch=2",
        "model.width=16", "model.depth=1", "log.tensorboard=false",
    ]  # fmt: skip
    config = compose.run_config("tiny/hvdm_autoencoder", overrides)
    run.train(config, sinks=())
    return config


def test_an_encoder_of_depth_is_given_depth(tmp_path: Path) -> None:
    small = SMALL["wildfusion"]
    data = small.data(tmp_path)
    folder = small.trained(tmp_path, data)
    encode(data, tmp_path / "latents", str(folder))
    opened = opening.open_run(folder)
    config, spec = opened.config, ClipSpec(1, 16, 16)
    with Loader(tmp_path / "latents/test", spec, fields=(latent(),)) as latents:
        found = latents.sequential([0, 5])["latent"]
    with building.build_loader(config, "test") as loader, torch.no_grad():
        expected = opened.recipe.coder.encode(opened.nets, loader.sequential([0, 5]))
    assert torch.allclose(found, expected, atol=1e-5)


def test_latents_are_what_the_first_stage_gives(
    stage: RunConfig, shapes: Path, tmp_path: Path
) -> None:
    made = encode(shapes, tmp_path / "latents", stage.run)
    assert made["clips"] == {"train": 40, "test": 12} and verify(tmp_path / "latents", False).ok
    manifest = read_manifest(tmp_path / "latents/train")
    assert manifest.provenance["first_stage"]["weights"] == Latents(stage.run).weights
    opened = opening.open_run(stage.run)
    spec, facts = ClipSpec(8, 16, 16), (label(8), number("motion"))
    with Loader(tmp_path / "latents/train", spec, fields=(latent(), *facts)) as latents:
        found = latents.sequential([0, 1])
    with Loader(shapes / "train", spec, fields=(video(spec), *facts)) as clips:
        original = clips.sequential([0, 1])
    with torch.no_grad():
        expected = opened.recipe.coder.encode(opened.nets, original)
    assert torch.allclose(found["latent"], expected, atol=1e-5)
    assert found["label"].tolist() == original["label"].tolist()
    assert np.allclose(found["motion"], original["motion"])
    encode(shapes, tmp_path / "again", stage.run)
    reshard(tmp_path / "again", tmp_path / "kept", per_shard=7)
    again = read_manifest(tmp_path / "again/train")
    assert again == manifest
    kept = read_manifest(tmp_path / "kept/train").provenance
    assert kept["first_stage"] == manifest.provenance["first_stage"]


def test_latents_of_other_weights_are_refused(
    stage: RunConfig, shapes: Path, tmp_path: Path
) -> None:
    encode(shapes, tmp_path / "latents", stage.run)
    other = trained(shapes, tmp_path / "other", seed=1)
    data: DataConfig = replace(stage.data, path=str(tmp_path / "latents"))
    config = replace(stage, data=data, recipe="hvdm.diffusion", model={})
    with building.build_loader(config, "train") as loader:
        identity.check_latents(replace(config, first_stage=stage.run), loader)
        for wrong in (other.run, None):
            with pytest.raises(UserError, match=r"were made by weights \w{12}, first_stage="):
                identity.check_latents(replace(config, first_stage=wrong), loader)


def test_wrong_requests_are_refused(stage: RunConfig, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists"):
        encode(shapes, shapes, stage.run)
    with pytest.raises(UserError, match="is no run folder"):
        encode(shapes, tmp_path / "x", str(tmp_path / "none"))


def test_a_diffusion_trains_on_latents_as_on_the_clips(
    stage: RunConfig, shapes: Path, tmp_path: Path
) -> None:
    """Stored latents are those that training would make of whole clips at every step."""
    encode(shapes, tmp_path / "latents", stage.run)
    losses = []
    for data in (shapes, tmp_path / "latents"):
        folder = tmp_path / f"on-{data.name}"
        overrides = [
            f"run={folder}", f"data.path={data}", f"first_stage={stage.run}", "cluster=inline",
            "steps=2", "data.frames=8", "data.height=16", "data.width=16", "batch=2",
            "micro_batch=2", "log.tensorboard=false", "log.every=2", "model.width=16",
            "model.multipliers=[1]", "model.before=0", "model.conditional=0", "model.still=0",
            "model.motion=none",
        ]  # fmt: skip
        run.train(compose.run_config("tiny/hvdm_diffusion", overrides), sinks=())
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["denoiser/loss"] for line in lines])
    assert len(losses[0]) == 2 and np.allclose(losses[0], losses[1], rtol=1e-4)
