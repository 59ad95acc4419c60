"""Held-out losses and previews beside training: by another process, of what is committed."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.report import report
from hvdm.events import read_lines
from launcher.cli import main
from launcher.verbs import training

ROOT = Path(__file__).parents[3]
SIXTH = ROOT / "tests/sixth"
ASKED = ("held_out.every=10", "held_out.clips=5", "preview.every=20", "preview.count=1")


def typed(run, shapes, *more):
    sizes = ["data.frames=4", "data.height=16", "data.width=16", "checkpoint.every=10"]
    where = [f"run={run}", f"data.path={shapes}", "cluster=inline"]
    return ["train", f"config={SIXTH}/toy_flow.yaml", *sizes, *where, *more]


@pytest.fixture
def sixth(monkeypatch):
    monkeypatch.syspath_prepend(str(SIXTH))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{SIXTH}")


def weights(run):
    """Hashes of each checkpoint's files."""
    found = {}
    for path in sorted((run / "checkpoints").glob("step-*/manifest.json")):
        files = json.loads(path.read_text())["files"]
        found[path.parent.name] = {name: row["sha256"] for name, row in files.items()}
    return found


def test_losses_and_samples_of_each_checkpoint_and_no_other_training(
    sixth, shapes, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(training, "_begin_beside", None)  # not before it is due
        later = ["held_out.every=1000", "log.tensorboard=false"]
        assert main(typed(tmp_path / "alone", shapes, "steps=4", *later)) == 0
    run = tmp_path / "watched"
    assert main(typed(run, shapes, "steps=4", *ASKED)) == 0
    rows = read_lines(run / "held_out.jsonl")
    assert [row["step"] for row in rows] == [2, 4], (run / "logs/beside.txt").read_text()
    for row in rows:
        averaged, raw = row["held_out/velocity/loss"], row["held_out_raw/velocity/loss"]
        assert math.isfinite(averaged) and math.isfinite(raw) and averaged != raw
    assert [path.name for path in (run / "samples").iterdir()] == ["step-00000004"]
    assert (run / "samples/step-00000004/seed-0-0000.mp4").is_file()
    assert "held_out/velocity/loss" in report.as_json(run)["metrics"]
    assert any((run / "logs/tensorboard").iterdir())
    told = [event.get("text", "") for event in read_lines(run / "events.jsonl")]
    assert any(text.startswith("step 4, held out: held_out/velocity/loss ") for text in told)
    assert weights(run) == weights(tmp_path / "alone") and len(weights(run)) == 2


def test_a_split_that_is_not_there_is_named_before_anything_starts(sixth, shapes, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(typed(run, shapes, "held_out.every=10", "data.held_out=none")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none" in error and "Traceback" not in error and not run.exists()


def test_a_tiny_config_looks_where_there_is_a_split_to_look_at(shapes, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train").symlink_to(shapes / "train")
    asked = []
    monkeypatch.setattr(training, "train", lambda config, background: asked.append(config) or 0)
    for data in (shapes, tmp_path / "mine"):
        words = ["train", "config=tiny/hvdm_autoencoder", f"data.path={data}", "cluster=inline"]
        assert main([*words, f"run={tmp_path}/run"]) == 0
    assert [config.held_out.every for config in asked] == [4096, 0]


def test_it_ends_with_the_command_that_started_it(tmp_path):
    """Here a shell, whose own number it is told, as a command tells its own."""
    looks = f"{sys.executable} -m launcher.beside {tmp_path} 0 $$ & echo $!; wait"
    with subprocess.Popen(["sh", "-c", looks], cwd=ROOT, stdout=subprocess.PIPE) as shell:
        looker = int(shell.stdout.readline())
        assert alive(looker)
        shell.send_signal(signal.SIGKILL)
        shell.wait()
        assert waited(lambda: not alive(looker))


def waited(look):
    limit = time.monotonic() + 60
    while not (found := look()) and time.monotonic() < limit:
        time.sleep(0.1)
    return found


def alive(pid):
    """Not gone, and not a name that nobody has asked about since."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
