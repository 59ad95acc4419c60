import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from hvdm import building, opening
from hvdm.errors import UserError
from hvdm.recipes.hvdm import released
from launcher import arguments, compose
from launcher.sizing.models import on_meta
from launcher.verbs import checkpoints as verbs


def narrow(part, *more):
    """The released config at a size for tests; what an import cannot see in shapes is as there."""
    sizes = ["data.frames=4", "data.height=64", "data.width=64"]
    model = {
        "autoencoder": ["model.width=16", "model.depth=1"],
        "diffusion": ["model.width=16"],
    }[part]
    return compose.run_config(f"hvdm_released/{part}", [*sizes, *model, *more])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random state dicts in the released naming, as the public code saves them."""
    folder = tmp_path_factory.mktemp("public")
    paths = {}
    for part, net in (("autoencoder", "autoencoder"), ("diffusion", "denoiser")):
        more = [] if part == "autoencoder" else [f"first_stage={folder}/autoencoder_run"]
        config = narrow(part, *more)
        recipe = on_meta(config) if part == "autoencoder" else _denoiser(config)
        source = torch.Generator().manual_seed(len(part))
        state = {
            name: torch.randn(shape, generator=source) * 0.1
            for name, shape in released.shapes(recipe.trained[net]).items()
        }
        paths[part] = folder / f"{part}.pth"
        torch.save(state, paths[part])
    return paths


def _denoiser(config):
    with torch.device("meta"):
        return building.build_recipe(config, {"first_stage": on_meta(narrow("autoencoder"))})


def call(verb, *typed):
    return arguments.call(verb, [str(word) for word in typed])


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "public"
    call(
        verbs.import_,
        "from=hvdm",
        f"autoencoder={files['autoencoder']}",
        f"diffusion={files['diffusion']}",
        f"run={run}",
    )
    return run


def test_both_files_make_a_run_that_samples(imported, files):
    opened = opening.open_run(imported)
    assert opened.config.first_stage == str(imported / "autoencoder")
    assert opened.recipe.latent_shape == (4, 4, 8, 8)
    latent = torch.zeros(1, *opened.recipe.latent_shape)
    answer = opened.nets["denoiser"](latent, torch.tensor([3]))
    assert answer.shape == latent.shape
    assert opened.recipe.to_video(latent).shape == (1, 3, 4, 64, 64)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_export_gives_the_files_back_to_the_bit(imported, files, tmp_path, suffix):
    out = {part: tmp_path / f"{part}.{suffix}" for part in files}
    call(
        verbs.export,
        f"run={imported}",
        "to=hvdm",
        *(f"{part}={path}" for part, path in out.items()),
    )
    for part, path in out.items():
        back = load_file(path) if suffix == "safetensors" else torch.load(path)
        state = torch.load(files[part])
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)
        assert all(back[name].shape == state[name].shape for name in state)


def test_export_in_our_names(imported, tmp_path):
    call(verbs.export, f"run={imported}/autoencoder", "to=safetensors", f"out={tmp_path}")
    state = load_file(tmp_path / "autoencoder.safetensors")
    have = opening.open_run(imported / "autoencoder").nets["autoencoder"].state_dict()
    assert state.keys() == have.keys()
    assert all(torch.equal(state[name], have[name]) for name in have)


def test_the_autoencoder_alone_and_safetensors(files, tmp_path, capsys):
    save_file(torch.load(files["autoencoder"]), tmp_path / "ae.safetensors")
    run = tmp_path / "run"
    call(
        verbs.import_, "from=hvdm", f"autoencoder={tmp_path}/ae.safetensors", f"run={run}", "--json"
    )
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["run"], row["network"]) == (str(run), "autoencoder")
    assert opening.open_run(run).recipe.coder.latent_shape == (4, 4, 8, 8)


def test_the_u_net_alone_needs_the_autoencoder_only_to_sample(imported, files, tmp_path):
    run = tmp_path / "run"
    stage = f"first_stage={imported}/autoencoder"
    call(verbs.import_, "from=hvdm", f"diffusion={files['diffusion']}", stage, f"run={run}")
    assert opening.open_run(run).recipe.latent_shape == (4, 4, 8, 8)


def changed(files, tmp_path, part, change):
    state = torch.load(files[part])
    change(state)
    path = tmp_path / "changed.pth"
    torch.save(state, path)
    return f"{part}={path}"


def spoil(state):
    state["pre_freq.bias"][1] = float("nan")


def rename(state):
    state["first_of_ours"] = state.pop("pre_freq.bias")


def widen(state):
    state["pre_freq.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    "change, words",
    [
        (spoil, "pre_freq.bias has values that are not finite"),
        (
            rename,
            "1 names missing, the first 'pre_freq.bias', 1 names unexpected, the first 'first_",
        ),
        (widen, "pre_freq.bias is 5, expected 4"),
    ],
)
def test_wrong_files_are_named(files, tmp_path, change, words):
    file = changed(files, tmp_path, "autoencoder", change)
    with pytest.raises(UserError, match=words):
        call(verbs.import_, "from=hvdm", file, f"run={tmp_path}/run")
    assert not (tmp_path / "run").exists()


def test_a_file_of_the_other_family_is_refused(files, tmp_path):
    with pytest.raises(UserError, match="no released hvdm.pvdm_autoencoder.*'pre_xy.weight'"):
        call(verbs.import_, "from=pvdm", f"autoencoder={files['autoencoder']}", f"run={tmp_path}/r")


class Runs:
    def __reduce__(self):
        return os.system, ("echo run > /dev/null",)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "code.pth"
    torch.save({"weight": Runs()}, path)
    with pytest.raises(UserError, match="would run code from the file"):
        call(verbs.import_, "from=hvdm", f"autoencoder={path}", f"run={tmp_path}/run")
    path.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(UserError, match="code.pth"):
        call(verbs.import_, "from=hvdm", f"autoencoder={path}", f"run={tmp_path}/run")


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_truncated_file_is_refused(files, tmp_path, keep):
    path = tmp_path / "cut.pth"
    path.write_bytes(files["autoencoder"].read_bytes()[:keep])
    with pytest.raises(UserError, match="cut.pth"):
        call(verbs.import_, "from=hvdm", f"autoencoder={path}", f"run={tmp_path}/run")


def test_a_u_net_of_another_latent_is_refused(files, tmp_path):
    def change(state):
        state["diffusion_model.zeros"] = torch.zeros(1, 4, 16384)

    file = changed(files, tmp_path, "diffusion", change)
    with pytest.raises(
        UserError, match="latents of 4x16384 values, and the autoencoder makes 4x256"
    ):
        call(
            verbs.import_,
            "from=hvdm",
            f"autoencoder={files['autoencoder']}",
            file,
            f"run={tmp_path}/run",
        )


def test_what_is_typed_wrong_is_said(files, imported, tmp_path):
    with pytest.raises(UserError, match="autoencoder=FILE, diffusion=FILE or both"):
        call(verbs.import_, "from=hvdm", f"run={tmp_path}/run")
    with pytest.raises(UserError, match="is a run already"):
        call(verbs.import_, "from=hvdm", f"autoencoder={files['autoencoder']}", f"run={imported}")
    with pytest.raises(UserError, match="from=hvmd is not known"):
        call(verbs.import_, "from=hvmd", f"autoencoder={files['autoencoder']}", "run=x")
    with pytest.raises(UserError, match="the autoencoder is hvdm's; use to=hvdm"):
        call(verbs.export, f"run={imported}", "to=pvdm", f"autoencoder={tmp_path}/x.pth")
