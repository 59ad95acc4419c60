"""The image and the cluster of containers: no engine runs here, so what can be read is checked."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from launcher import arguments, cli, compose
from launcher.verbs.runs import TrainOptions

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
README = (ROOT / "README.md").read_text()
PACKAGES = re.compile(r"--no-install-recommends ([\w+. -]+?)(?: \\|$|\n)")


def instructions(name):
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(" ", 1)[1] for line in joined.splitlines() if line.startswith(name + " ")]


def test_the_linter_is_content():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not here: it comes with the dev group")
    found = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_it_has_what_compiling_on_first_use_needs():
    (wanted,) = PACKAGES.findall(DOCKERFILE)
    assert {"g++", "python3-dev"} <= set(wanted.split())
    (base,) = instructions("FROM")
    assert base.startswith("nvidia/cuda:") and "-devel-" in base


def test_its_cuda_is_the_one_that_torch_was_built_for():
    if torch.version.cuda is None:
        pytest.skip("this torch was built without CUDA")
    (base,) = instructions("FROM")
    assert f"cuda:{torch.version.cuda}." in base


def test_nobody_is_root_and_the_operator_is_built():
    (user,) = instructions("USER")
    assert user == "10001" and f"--uid {user}" in DOCKERFILE
    assert instructions("RUN")[-1] == "python -m launcher.doctor.probing deepspeed"
    assert instructions("ENTRYPOINT") == ['["hvdm"]']


def test_its_steps_are_those_of_the_readme_and_the_makefile():
    (wanted,) = PACKAGES.findall(DOCKERFILE)
    (told,) = PACKAGES.findall(README)
    assert set(told.split()) == set(wanted.split())
    version = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())[1]
    assert f"uv=={version}" in DOCKERFILE
    assert "uv sync --frozen" in README
    assert DOCKERFILE.count("uv sync --frozen") == 2
    for line in ("docker build -t hvdm .", "docker compose up --build --detach"):
        assert line in README


def test_what_it_copies_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for copied in instructions("COPY"):
        for name in copied.split()[1:-1]:
            assert (ROOT / name).exists() and name not in ignored
    for needed in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "hvdm", "configs"):
        assert needed not in ignored


def test_the_cluster_has_a_head_and_two_workers():
    head, worker = COMPOSE["services"]["head"], COMPOSE["services"]["worker"]
    assert head["entrypoint"][:3] == ["ray", "start", "--head"]
    port = next(a.partition("=")[2] for a in head["entrypoint"] if a.startswith("--port"))
    assert f"--address=head:{port}" in worker["entrypoint"]
    assert worker["deploy"]["replicas"] == 2 and worker["depends_on"] == ["head"]
    assert head["volumes"] == worker["volumes"]
    assert all("--block" in service["entrypoint"] for service in (head, worker))


def test_the_commands_that_it_tells_are_ours():
    text = (ROOT / "compose.yaml").read_text()
    told = re.findall(r"exec head hvdm (.+)", text)
    assert len(told) == 2
    for line in told:
        verb, given = cli.find(arguments.parse(line.split()))
        if verb.name == "train":
            asked = arguments.read(TrainOptions, given)
            compose.run_config(asked.config, arguments.overrides(asked.keys))
