"""What a user gets wrong ends in one line that says what, where, and what to do."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hvdm.config import ClusterConfig
from hvdm.errors import UserError
from hvdm.run import run
from launcher.cli import main
from launcher.workers import cluster
from tests.support.toys import run_config

YAML = "tests/sixth/toy_flow.yaml"


@pytest.fixture(autouse=True)
def sixth_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user would: the module is on the path, the YAML is named."""
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root / "tests/sixth"))


def line_of(capsys: pytest.CaptureFixture[str], *typed: str) -> tuple[int, str]:
    """The exit code, and the one line on standard error."""
    code = main(typed)
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1, error
    return code, error


@pytest.mark.parametrize(
    "typed, said",
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["checkpoint", "lst"], "unknown verb checkpoint 'lst'; did you mean 'list'?"),
        (["train"], "config= is missing; for example config=tiny/hvdm_autoencoder"),
        (["train", "config=tiny/hvdm_autoencodr"], "did you mean 'tiny/hvdm_autoencoder'?"),
        (["train", "config=nowhere.yaml"], "there is no such file"),
        (["train", f"config={YAML}", "batches=3"], "'batches'; did you mean 'batch'?"),
        (["train", f"config={YAML}", "optimizer.lrr=1"], "did you mean 'optimizer.lr'?"),
        (["train", f"config={YAML}", "model.widht=1"], "did you mean 'model.width'?"),
        (["train", f"config={YAML}", "batch=many"], "batch='many' is a str; expected int"),
        (["train", f"config={YAML}", "engine=deepsped"], "did you mean 'deepspeed'?"),
        (["train", f"config={YAML}", "engine.zero=2"], "needs engine=deepspeed"),
        (["train", f"config={YAML}", "cluster=inline", "cluster.workers=2"], "one process"),
        (["train", f"config={YAML}", "cluster.workers=9"], "leaves workers without a row"),
        (["train", f"config={YAML}", "samples=lots"], "expected a number of samples"),
        (["train", f"config={YAML}", "recipe=no_such"], "is no module"),
        (["train", f"config={YAML}", "--jsn"], "unknown flag '--jsn'; did you mean '--json'?"),
        (["evaluate", "run=runs/none", "protocol=reconstruction@1"], "runs/none is no run folder"),
        (["evaluate", "run=runs/none", "protocol=fvd/tf-referense@1"], "fvd/tf-reference@1"),
        (["sample", "run=runs/none"], "runs/none is no run folder"),
        (["checkpoint", "list", "run=runs/none"], "there is no such folder"),
        (["data", "verify", "path=/nonexistent"], "/nonexistent"),
        (["train", "confg=tiny/hvdm_autoencoder"], "unknown key 'confg'; did you mean 'config'?"),
        (["train", "--config", "x"], "keys are typed without dashes: config=VALUE"),
        (["train", "tiny/hvdm_autoencoder"], "did you mean config=tiny/hvdm_autoencoder?"),
        (["report", "runs/none"], "run=runs/none: there is no such folder"),
        (["checkpoint", "list", "runs/none"], "run=runs/none: there is no such folder"),
        (["checkpoint", "list", "a", "b"], "'b' is one word too many after 'a'"),
        (
            ["evaluate", "run=runs/none", "protocol=fvd"],
            "fvd/sliding-window@1, fvd/sty",
        ),
        (["evaluate", "protocol=fvd", "detectr=x"], "'detectr'; did you mean 'detector'?"),
        (["sample", "run=runs/none", "count=0"], "count=0 is below 1"),
        (["train", f"config={YAML}", "--json"], "no answer as data"),
    ],
)
def test_one_line_and_exit_code_2(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = line_of(capsys, *typed)
    assert code == 2
    assert said in line, line


def test_version_help_and_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == main(["version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("hvdm 0")
    assert main(["help", "checkpoint", "list"]) == main(["checkpoint", "list", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count("RUN, or run=RUN") == 2
    assert main(["config", "config=tiny/hvdm_autoencoder", "batch=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == 4
    assert main(["config", "config=tiny/hvdm_autoencoder"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["recipe"] == "hvdm.autoencoder"


def test_a_data_folder_without_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    typed = ["train", f"config={YAML}", f"data.path={tmp_path}/data", f"run={tmp_path}/run"]
    code, line = line_of(capsys, *typed)
    assert code == 2 and "manifest.json" in line and "hvdm data" in line
    assert not (tmp_path / "run").exists()


def test_a_gpu_where_there_is_none(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [f"config={YAML}", f"data.path={shapes}", f"run={tmp_path}/run", "cluster=inline"]
    code, line = line_of(capsys, "train", *typed, "cluster.gpus_per_worker=1")
    assert code == 2 and "asks for a GPU" in line and "cluster.gpus_per_worker=0" in line


def test_a_first_stage_that_is_not_trained(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["config=tiny/hvdm_diffusion", f"data.path={shapes}", "first_stage=runs/none"]
    code, line = line_of(capsys, "train", *typed)
    assert code == 2 and "runs/none is not trained yet" in line and "first_stage=RUN" in line


@pytest.mark.ray
def test_more_workers_than_the_cluster_has(ray_session: None) -> None:
    wanted = ClusterConfig("local", workers=4, cpus_per_worker=100)
    with pytest.raises(UserError, match="need 400, and cluster=local has .*use fewer workers"):
        cluster.check_room(wanted)


def test_a_checkpoint_of_another_model(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [f"config={YAML}", f"data.path={shapes}", f"run={tmp_path}/run", "cluster=inline"]
    assert main(["train", *typed, "steps=1", "log.tensorboard=false"]) == 0
    capsys.readouterr()
    code, line = line_of(capsys, "train", *typed, "steps=2", "model.width=4")
    assert code == 2 and "model.width was 8, is now 4" in line and "run=DIR" in line


def test_init_from_another_model(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config(tmp_path / "toys", shapes, steps=1)
    run.train(config, sinks=())
    typed = [f"config={YAML}", f"data.path={shapes}", f"run={tmp_path}/run", "cluster=inline"]
    code, line = line_of(capsys, "train", *typed, f"init={tmp_path}/toys")
    assert code == 2 and "no network 'velocity'; it has: critic, generator" in line


def program(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since DeepSpeed remembers what it has built."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": root, "DS_ACCELERATOR": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        cwd=root,
    )


PREPARE = """
import torch
from hvdm.train import zero
try:
    zero.prepare(torch.device("cpu"), 60, lambda text: print("SAID", text))
    print("READY")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.processes
def test_no_compiler_for_deepspeeds_operator(tmp_path: Path) -> None:
    answer = program(PREPARE, PATH=str(tmp_path), HVDM_EXTENSIONS_DIR=str(tmp_path / "ops"))
    assert "UserError DeepSpeed needs a C++ compiler" in answer.stdout
    assert "engine=local" in answer.stdout


@pytest.mark.processes
def test_a_stale_lock_of_the_operators_build_is_cleared_and_said() -> None:
    """What a killed build leaves; left to itself, torch waits for it forever."""
    from hvdm.train import zero

    assert "READY" in program(PREPARE).stdout
    folder = Path(zero.extensions_folder())
    (operator,) = [path for path in folder.iterdir() if path.is_dir()]
    with open(folder / "hvdm.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        (operator / "lock").touch()
    answer = program(PREPARE)
    assert "SAID removed" in answer.stdout and "READY" in answer.stdout, answer.stderr
    assert not (operator / "lock").exists()


@pytest.mark.parametrize(
    "content", ["3.5", "a: [", "- 1\n- 2", "recipe: toy_flow\n", "cluster: x\n", "\x00"]
)
def test_a_file_that_is_no_config_is_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    code, error = line_of(capsys, "train", f"config={path}")
    assert code == 2, error
