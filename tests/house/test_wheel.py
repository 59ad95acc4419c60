"""The wheel holds what it needs: installed outside of any checkout, it goes the whole way."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hvdm.train import zero
from tests.house.tree import PACKAGES, ROOT, files

Install = Callable[[Path, Path], dict[str, str]]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
TINY = [
    "batch=2", "micro_batch=2", "model.width=16", "model.depth=1", "model.conv_channels=[4,8,8,8]",
    "data.frames=4", "data.height=16", "data.width=16",
]  # fmt: skip
WAY = """
import json, sys
from importlib import import_module, metadata
(script,) = metadata.entry_points(group="console_scripts", name="hvdm")
hvdm = script.load()
for typed in [
    ["doctor"],
    ["models", *json.loads(sys.argv[1])],
    ["data", "synthetic", "out=shapes", "train=8", "test=4", "frames=4", "height=16", "width=16"],
    ["train", "config=tiny/hvdm_autoencoder", "data.path=shapes", "run=run", "steps=10",
     "cluster=inline", *sys.argv[2:]],
    ["report", "run=run"],
]:
    print("CODE", *typed[:2], hvdm(typed))
for name in ("hvdm", "launcher", "eval", "data_tools", "configs"):
    print("FROM", import_module(name).__path__[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree by the setuptools that is here, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in files(*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        copy = folder / "tree" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    typed = [sys.executable, "-W", "ignore", "-c", BUILD, str(folder)]
    subprocess.run(typed, cwd=folder / "tree", capture_output=True, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_all_but_the_cache_is_in_the_wheel(wheel: Path) -> None:
    """Configs, templates, the page's files, and the README of every family."""
    there = set(zipfile.ZipFile(wheel).namelist())
    assert {path.relative_to(ROOT).as_posix() for path in files(*PACKAGES)} <= there


def unpacked(wheel: Path, folder: Path) -> dict[str, str]:
    """An empty environment that sees the packages installed here, but not the checkout.

    It takes DeepSpeed's operator as built for this one, where the packages lie.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    seen = Path(torch.__file__).parents[1]
    (site / "seen.pth").write_text(str(seen))  # whose own .pth files are not read
    return {
        "HVDM_EXTENSIONS_DIR": str(zero.extensions_folder()),
        "PATH": _path_with(sys.executable),
    }


def installed(wheel: Path, folder: Path) -> dict[str, str]:
    """An empty environment, and all that the wheel asks for from the package index."""
    venv.create(folder, symlinks=True, with_pip=True)
    python = folder / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    return {"PATH": _path_with(python)}


def _path_with(python: str | Path) -> str:
    """Where ninja is found last: another one than before would build the operator anew."""
    return os.pathsep.join([os.environ["PATH"], str(Path(python).parent)])


@pytest.mark.parametrize(
    "install, counted",
    [
        (unpacked, ["config=tiny/hvdm_diffusion"]),
        pytest.param(
            installed,
            [],  # every config
            marks=pytest.mark.skipif(
                not os.environ.get("HVDM_SOAK"), reason="gigabytes of packages: for make soak"
            ),
        ),
    ],
)
def test_the_wheel_goes_the_whole_way(
    install: Install, counted: list[str], wheel: Path, tmp_path: Path
) -> None:
    more = install(wheel, tmp_path / "venv")
    kept = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "-W", "ignore", "-c", WAY, json.dumps(counted), *TINY],
        cwd=tmp_path,
        env={**kept, **more},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    codes = {line.rsplit(" ", 1)[1] for line in told if line.startswith("CODE")}
    assert codes == {"0"}, done.stdout + done.stderr
    assert all(str(tmp_path) in line for line in told if line.startswith("FROM"))
    assert (tmp_path / "run/report.html").is_file()
