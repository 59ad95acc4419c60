"""WaveDiff's public files: made of the published names, imported, sampled, given back."""

import json
from pathlib import Path

import pytest
import torch

import hvdm
from hvdm import opening
from hvdm.errors import UserError
from launcher import arguments
from launcher.verbs import checkpoints, samples
from tests.recipes.test_wavediff_networks import listed, named


def call(verb, *typed):
    return arguments.call(verb, [str(word) for word in typed])


def written(folder: Path, size: str, change=None) -> Path:
    """As the public code saves its generator: below DistributedDataParallel's name."""
    state = {f"module.{name}": named(name, shape) for name, shape in listed(size).items()}
    if change is not None:
        change(state)
    path = folder / f"netG_{size}.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wavediff")
    file = written(folder, "cifar10")
    typed = ("from=wavediff", "size=cifar10", f"generator={file}")
    call(checkpoints.import_, *typed, f"run={folder}/run")
    return folder


def test_an_imported_generator_is_called_and_sampled(imported: Path) -> None:
    loaded = hvdm.load(imported / "run")
    golden = json.loads(Path("tests/golden/wavediff.json").read_text())["cifar10"][0]
    y = torch.randn(golden["shape"], generator=torch.Generator().manual_seed(1))
    z = torch.randn(1, 100, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = loaded.generator(y, torch.tensor([golden["t"]]), z)
    assert out.shape == (1, 12, 16, 16)
    assert float(out.std()) == pytest.approx(golden["std"], rel=1e-4)
    typed = (f"run={imported}/run", "count=2", f"out={imported}/samples", "cluster=inline")
    call(samples.sample, *typed)
    assert len(list((imported / "samples").rglob("*.png"))) >= 2


def test_the_file_comes_back_to_the_bit(imported: Path, tmp_path: Path) -> None:
    file = tmp_path / "back.pth"
    call(checkpoints.export, f"run={imported}/run", "to=wavediff", f"generator={file}")
    again = (f"run={tmp_path}/again", "from=wavediff", "size=cifar10", f"generator={file}")
    call(checkpoints.import_, *again)
    back, given = torch.load(file), torch.load(imported / "netG_cifar10.pth")
    assert {f"module.{name}" for name in back} == set(given)
    assert all(torch.equal(back[name], given[f"module.{name}"]) for name in back)
    first, second = (opening.open_run(run).nets["generator"].state_dict()
                     for run in (imported / "run", tmp_path / "again"))  # fmt: skip
    assert all(torch.equal(first[name], second[name]) for name in first)


def lose(state):
    del state["module.all_modules.2.weight"]


def widen(state):
    state["module.all_modules.2.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    "size, change, words",
    [
        ("stl10", None, r"no released wavediff.diffusion .*names missing.*names unexpected"),
        ("cifar10", lose, "1 names missing, the first 'all_modules.2.weight'"),
        ("cifar10", widen, "all_modules.2.bias is 5, expected 128"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, size: str, change, words: str) -> None:
    file = written(tmp_path, "cifar10", change)
    typed = ("from=wavediff", f"size={size}", f"generator={file}", f"run={tmp_path}/run")
    with pytest.raises(UserError, match=words):
        call(checkpoints.import_, *typed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "typed, words",
    [
        (("generator=x.pth",), "size= is missing: .*cifar10, stl10"),
        (("size=cifar", "generator=x.pth"), "size=cifar is not known; did you mean 'cifar10'"),
        (("size=cifar10",), "generator=FILE are expected"),
        (("size=cifar10", "genrator=x.pth"), "unknown key 'genrator'; did you mean 'generator'"),
    ],
)
def test_what_is_typed_wrong(tmp_path: Path, typed: tuple[str, ...], words: str) -> None:
    (tmp_path / "x.pth").touch()
    with pytest.raises(UserError, match=words):
        call(checkpoints.import_, "from=wavediff", f"run={tmp_path}/run", *typed)


def test_sizes_of_other_codes_are_in_their_files(tmp_path: Path) -> None:
    typed = ("from=hvdm", "size=stl10", f"autoencoder={tmp_path}/ae.pth", f"run={tmp_path}/run")
    torch.save({"a": torch.zeros(1)}, tmp_path / "ae.pth")
    with pytest.raises(UserError, match="size=stl10: hvdm's files tell their size; leave it out"):
        call(checkpoints.import_, *typed)
