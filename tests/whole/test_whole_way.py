"""The command line as people type it: killed and resumed, and a family that nobody planned for."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hvdm.checkpoint import checkpoint
from hvdm.config import ClusterConfig, RunConfig
from hvdm.events import read_lines
from hvdm.run import run
from launcher import compose
from launcher.cli import main
from tests.support.ranks import Ranks

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
SIXTH = f"config={ROOT}/tests/sixth/toy_flow.yaml"
WORKERS = 3 if os.environ.get("HVDM_SOAK") else 2


def command(*typed: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "launcher.cli", *typed]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/sixth")])
    return {**os.environ, "PYTHONPATH": path, "DS_ACCELERATOR": "cpu"}


def hvdm(folder: Path, *typed: str) -> None:
    done = subprocess.run(
        command(*typed), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{typed}\n{done.stdout}\n{done.stderr}"


def answer(capsys: pytest.CaptureFixture[str], *typed: str) -> Any:
    """Of a verb, in this process."""
    capsys.readouterr()
    assert main([*typed, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def kill_all_once_saved(folder: Path, *typed: str) -> None:
    """SIGKILL to every process of the command once it has committed a checkpoint."""
    process = subprocess.Popen(
        command(*typed),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 240
    while not any(row["event"] == "saved" for row in read_lines(folder / "run/events.jsonl")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=30)


def hashes(run: Path) -> Any:
    return checkpoint.hashes(checkpoint.choose(run, None))


def _train(config: RunConfig) -> None:
    """In a rank process."""
    sys.path.append(str(ROOT / "tests/sixth"))
    run.train(config, sinks=())


def killed_and_started_again(folder: Path, shapes: Path, *where: str) -> list[str]:
    """Four of ten steps, SIGKILL of all processes, the same command again; gives what was typed.

    Checkpoints are at a relative path, which for Ray's workers leads elsewhere.
    """
    folder.mkdir()
    typed = [SIXTH, f"data.path={shapes}", "steps=10", "checkpoint.every=20", *where]
    kill_all_once_saved(folder, "train", *typed, "run=run", "checkpoint.path=kept")
    hvdm(folder, "train", *typed, "run=run", "checkpoint.path=kept")
    assert list((folder / "kept").glob("step-*"))
    return typed


def straight(folder: Path, typed: list[str], ranks: Ranks) -> Any:
    """Hashes of the same run undisturbed, on ranks that are there already."""
    config = compose.run_config(typed[0].removeprefix("config="), [*typed[1:], f"run={folder}"])
    inline = ClusterConfig("inline", workers=ranks.world)
    ranks.run(_train, replace(config, cluster=inline))
    return hashes(folder)


def assert_it_is(run: Path, undisturbed: Any) -> None:
    assert hashes(run) == undisturbed
    assert set(undisturbed["velocity"]) == {"weights", "optimizer", "ema"}
    events = read_lines(run / "events.jsonl")
    (resumed,) = [e["step"] for e in events if e["event"] == "resumed"]
    assert 4 <= resumed < 10


def test_killed_at_step_four_and_started_again(
    shapes: Path, tmp_path: Path, one_rank: Ranks
) -> None:
    typed = killed_and_started_again(tmp_path / "killed", shapes, "cluster=inline")
    assert_it_is(tmp_path / "killed/run", straight(tmp_path / "straight", typed, one_rank))


@pytest.fixture(scope="module")
def sixth(
    shapes: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, Any]:
    """The run on several workers, killed and started again, and what it should have become."""
    folder = tmp_path_factory.mktemp("sixth")
    where = ["cluster=local", f"cluster.workers={WORKERS}", "engine=deepspeed", "engine.zero=3"]
    typed = killed_and_started_again(folder / "there", shapes, *where)
    ranks: Ranks = request.getfixturevalue({2: "two_ranks", 3: "three_ranks"}[WORKERS])
    return folder / "there/run", straight(folder / "straight", typed, ranks)


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests/sixth"))


def test_killed_on_several_workers_and_started_again(sixth: tuple[Path, Any]) -> None:
    assert_it_is(*sixth)


def test_a_sixth_family_trains_and_resumes(
    sixth: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """One module and one YAML beside the project; nothing in it was changed for them."""
    run, _ = sixth
    listed = answer(capsys, "checkpoint", "list", f"run={run}")
    assert max(row["step"] for row in listed) == 10
    losses = {row["step"]: row["velocity/loss"] for row in read_lines(run / "metrics.jsonl")}
    assert losses[10] < losses[1]


def test_a_sixth_family_samples(
    sixth: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = answer(capsys, "sample", f"run={sixth[0]}", "count=3", f"out={tmp_path}")["files"]
    assert {Path(p).suffix for p in files} >= {".mp4", ".gif", ".png"}
    assert all(Path(p).stat().st_size > 100 for p in files)


def test_a_sixth_family_is_evaluated(
    sixth: tuple[Path, Any], ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["evaluate", f"run={sixth[0]}", "protocol=fvd/tf-reference@1", "detector=untrained"]
    result = answer(capsys, *typed, "workers=2")
    assert result["values"]["fvd"] > 0 and result["comparable"] is False
    assert Path(result["path"]).is_file()


def test_a_sixth_family_has_its_report(sixth: tuple[Path, Any]) -> None:
    assert main(["report", f"run={sixth[0]}"]) == 0
    assert "velocity" in (sixth[0] / "report.html").read_text()
