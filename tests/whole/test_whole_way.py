"""The command line as people type it: killed and resumed, and a family that nobody planned for."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hvdm.events import read_lines

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
SIXTH = "config=tests/sixth/toy_flow.yaml"


def command(*typed: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "launcher.cli", *typed]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/sixth")])
    return {**os.environ, "PYTHONPATH": path, "DS_ACCELERATOR": "cpu"}


def hvdm(*typed: str) -> str:
    done = subprocess.run(
        command(*typed), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{typed}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def kill_all_once_saved(run: Path, *typed: str) -> None:
    """SIGKILL to every process of the command once it has committed a checkpoint."""
    process = subprocess.Popen(
        command(*typed),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 240
    while not any(row["event"] == "saved" for row in read_lines(run / "events.jsonl")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=30)


def checkpoints(run: Path) -> dict[int, Any]:
    listed = json.loads(hvdm("checkpoint", "list", f"run={run}", "--json"))
    return {row["step"]: row["sha256"] for row in listed}


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(["cluster=inline"], id="1 worker"),
        pytest.param(["cluster=local", "cluster.workers=3", "engine=deepspeed"], id="3 workers"),
    ],
)
def test_killed_at_step_four_and_started_again(
    where: list[str], shapes: Path, tmp_path: Path
) -> None:
    """Ten steps straight; four, SIGKILL of all processes, the same command again."""
    typed = ["train", SIXTH, f"data.path={shapes}", "steps=10", "checkpoint.every=20", *where]
    hvdm(*typed, f"run={tmp_path}/straight")
    kill_all_once_saved(tmp_path / "killed", *typed, f"run={tmp_path}/killed")
    hvdm(*typed, f"run={tmp_path}/killed")
    a, b = checkpoints(tmp_path / "straight"), checkpoints(tmp_path / "killed")
    assert a[10] == b[10]
    assert set(a[10]["velocity"]) == {"weights", "optimizer", "ema"}
    events = read_lines(tmp_path / "killed/events.jsonl")
    (resumed,) = [e["step"] for e in events if e["event"] == "resumed"]
    assert 4 <= resumed < 10


@pytest.fixture(scope="module")
def sixth(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    run = tmp_path_factory.mktemp("sixth") / "run"
    where = ["cluster=local", "cluster.workers=2", "engine=deepspeed", "engine.zero=3"]
    typed = ["train", SIXTH, f"data.path={shapes}", f"run={run}", *where]
    hvdm(*typed, "steps=4")
    assert "resumed: step=4" in hvdm(*typed, "steps=8")
    yield run


def test_a_sixth_family_trains_and_resumes(sixth: Path) -> None:
    """One module and one YAML beside the project; nothing in it was changed for them."""
    assert max(checkpoints(sixth)) == 8
    losses = [row["velocity/loss"] for row in read_lines(sixth / "metrics.jsonl")]
    assert len(losses) == 8 and losses[-1] < losses[0]


def test_a_sixth_family_samples(sixth: Path, tmp_path: Path) -> None:
    answer = json.loads(hvdm("sample", f"run={sixth}", "count=3", f"out={tmp_path}", "--json"))
    assert {Path(p).suffix for p in answer["files"]} >= {".mp4", ".gif", ".png"}
    assert all(Path(p).stat().st_size > 100 for p in answer["files"])


def test_a_sixth_family_is_evaluated(sixth: Path) -> None:
    typed = ["evaluate", f"run={sixth}", "protocol=fvd/tf-reference@1", "detector=untrained"]
    result = json.loads(hvdm(*typed, "workers=2", "--json"))
    assert result["values"]["fvd"] > 0 and result["comparable"] is False
    assert Path(result["path"]).is_file()


def test_a_sixth_family_has_its_report(sixth: Path) -> None:
    hvdm("report", f"run={sixth}")
    assert "velocity" in (sixth / "report.html").read_text()
