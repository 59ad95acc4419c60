import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import hvdm
from hvdm import building, opening
from hvdm import config as configs
from hvdm.checkpoint import checkpoint
from hvdm.errors import UserError
from hvdm.recipe import as_batch
from launcher import compose


def run_of(name, folder, *overrides):
    config = compose.run_config(name, [*overrides, f"run={folder}"])
    recipe = building.build_recipe(config, opening.stages_of(config))
    checkpoint.save_weights(folder, 0, recipe.trained, {})
    (folder / opening.CONFIG_FILE).write_text(yaml.safe_dump(configs.plain(config)))
    return recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    recipes = {"ae": run_of("tiny/hvdm_autoencoder", folder / "ae")}
    stage = f"first_stage={folder}/ae"
    recipes["ldm"] = run_of("tiny/hvdm_diffusion", folder / "ldm", stage)
    return folder, recipes


def test_an_autoencoder_run(runs):
    folder, recipes = runs
    loaded = hvdm.load(folder / "ae")
    video = torch.rand(1, 3, 8, 32, 32) * 2 - 1
    latent = loaded.autoencoder.encode(video)
    assert latent.shape[1:] == loaded.latent_shape
    expected = recipes["ae"].coder.encode(recipes["ae"].trained, as_batch(video))
    torch.testing.assert_close(latent, expected)
    assert loaded.autoencoder.decode(latent).shape == video.shape
    with pytest.raises(UserError, match="has no denoiser; it has: autoencoder"):
        _ = loaded.denoiser


def test_a_diffusion_run(runs):
    folder, _ = runs
    loaded = hvdm.load(str(folder / "ldm"))
    noisy = torch.randn(2, *loaded.latent_shape)
    answer = loaded.denoiser(noisy, torch.tensor([5, 900]), torch.zeros_like(noisy))
    assert answer.shape == noisy.shape
    clips = loaded.sample(2, seed=3, steps=2)
    assert clips.shape == (2, 3, 8, 32, 32)
    torch.testing.assert_close(clips[:1], loaded.sample(1, seed=3, steps=2))
    assert loaded.autoencoder.decode(noisy).shape == clips.shape


def test_ten_lines_of_a_run(runs):
    folder, _ = runs
    lines = str(hvdm.load(folder / "ldm")).splitlines()
    assert len(lines) == 10
    assert lines[0] == f"run       {folder}/ldm"
    assert lines[3] == "clips     8 frames of 32x32"
    assert lines[6] == f"works on  first_stage={folder}/ae"
    assert "what=image" in lines[8] and "image=" in lines[8]


def test_pixels_are_encoded_as_they_come(runs):
    folder, _ = runs
    encode = hvdm.load(folder / "ae").autoencoder.encode
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)
    floats = torch.from_numpy(pixels).permute(0, 4, 1, 2, 3) / 127.5 - 1
    expected = encode(floats)
    torch.testing.assert_close(encode(pixels), expected)
    torch.testing.assert_close(encode(pixels[0]), expected[:1])
    torch.testing.assert_close(encode(torch.from_numpy(pixels)), expected)
    torch.testing.assert_close(encode(floats.double().numpy()), expected)


@pytest.mark.parametrize(
    "video, said",
    [
        (torch.full((1, 3, 8, 32, 32), 255.0), "a video of floats reaches 255; give uint8"),
        (torch.full((1, 3, 8, 32, 32), torch.nan), "a video of floats reaches nan"),
        (torch.zeros(1, 3, 9, 32, 32), "float32 1 3 9 32 32 does not fit clips of 8 frames of 32x"),
        (torch.zeros(8, 32, 32, 3), "float32 8 32 32 3 does not fit"),
        (np.zeros((8, 16, 32, 3), np.uint8), "uint8 8 16 32 3 does not fit clips of 8 frames"),
        (np.zeros((1, 3, 8, 32, 32), np.uint8), "uint8 1 3 8 32 32 does not fit"),
        (np.zeros((1, 8, 32, 32, 3), np.int64), "a video of int64 cannot be encoded; give uint8"),
    ],
)
def test_what_cannot_be_a_video_is_one_line(runs, video, said):
    folder, _ = runs
    with pytest.raises(UserError) as error:
        hvdm.load(folder / "ae").autoencoder.encode(video)
    assert said in str(error.value) and len(str(error.value).splitlines()) == 1


def test_nothing_of_the_cluster_is_imported(runs):
    folder, _ = runs
    code = (
        "import sys, hvdm; assert 'torch' not in sys.modules\n"
        f"hvdm.load({str(folder / 'ldm')!r}).sample(1, steps=1)\n"
        "print([n for n in ('ray', 'hydra', 'omegaconf', 'deepspeed') if n in sys.modules])"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert asked.stdout.strip() == "[]"
