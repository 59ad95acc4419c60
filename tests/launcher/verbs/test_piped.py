"""A run whose output goes into a pipe: its first line, and what happens when nobody reads on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvdm.checkpoint import checkpoint
from launcher.cli import main
from launcher.verbs import training

SOAK = pytest.mark.skipif(not os.environ.get("HVDM_SOAK"), reason="under Ray: for make soak")
SMALL = (
    "data.frames=8 data.height=16 data.width=16 batch=2 micro_batch=2 log.every=1 "
    "checkpoint.every=1000000 log.tensorboard=false"
)


def piped(run: Path, data: Path, lines: int, *more: str) -> tuple[int, str, str]:
    """Exit code of the verb, what was read of it, and what it said besides."""
    verb = f"train config=tiny/hvdm_autoencoder run={run} data.path={data} {SMALL}"
    text = f"{sys.executable} -m launcher.cli {verb} {' '.join(more)} | head -{lines}"
    done = subprocess.run(
        ["bash", "-c", f"{text}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.processes
@pytest.mark.parametrize(
    "where, lines", [("inline", 3), pytest.param("local", 9, marks=[pytest.mark.ray, SOAK])]
)
def test_a_run_that_nobody_reads_stops_with_a_checkpoint(
    where: str, lines: int, shapes: Path, tmp_path: Path
) -> None:
    code, out, err = piped(tmp_path / "run", shapes, lines, f"cluster={where}", "steps=3000")
    assert code == training.STOPPED_BY_SIGNAL, err
    assert len(out.splitlines()) == lines and out.startswith("reading the config")
    assert "Traceback" not in err and "BrokenPipe" not in err
    assert "nobody reads this any more: stopping after this step, with a checkpoint" in err
    assert 0 < checkpoint.choose(tmp_path / "run", None).step < 3000


@pytest.mark.processes
def test_in_the_background_it_trains_on(shapes: Path, tmp_path: Path) -> None:
    code, _, err = piped(
        tmp_path / "run", shapes, 3, "cluster=inline", "steps=6", "background=true"
    )
    assert code == 0 and "it trains on" in err and "Traceback" not in err
    assert checkpoint.choose(tmp_path / "run", None).step == 6


def test_the_first_line_comes_before_torch_is_loaded() -> None:
    """And the parts of a start are named, each with its seconds."""
    code = "import sys, launcher.cli, launcher.verbs.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_part_of_a_start_is_told(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["config=tiny/hvdm_autoencoder", f"run={tmp_path}/run", f"data.path={shapes}"]
    assert main(["train", *typed, *SMALL.split(), "cluster=inline", "steps=1"]) == 0
    out = capsys.readouterr().out
    for part in ("reading the config", "networks and engine", "first batch and first step"):
        (line,) = [line for line in out.splitlines() if line.startswith(part)]
        assert line.endswith(" s"), line
