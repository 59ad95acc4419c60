"""An error of a step ends the run when it comes again; what comes from outside does not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hvdm import config as configs
from hvdm.checkpoint import checkpoint
from hvdm.config import CheckpointConfig, ClusterConfig, RunConfig, Samples
from hvdm.errors import RunError, UserError
from hvdm.events import read_lines
from hvdm.run import failing
from launcher.verbs import training
from launcher.workers import stop_file, worker
from tests.support.toys import run_config

ADVICE = "lower micro_batch, or set model.activation_checkpointing=true"
TWICE = "the same error came at this step twice"


def breaking(folder: Path, shapes: Path, error: str, workers: int = 0) -> RunConfig:
    marks = folder / "marks"
    marks.mkdir(parents=True)
    where = ClusterConfig("local", workers=workers, cpus_per_worker=0.5)
    return run_config(
        folder / "run",
        shapes,
        "tests.support.breaking",
        model={"marks": str(marks), "error": error},
        checkpoint=CheckpointConfig(Samples(5)),
        steps=4,
        cluster=where if workers else ClusterConfig("inline"),
    )


@pytest.mark.ray
def test_memory_that_is_out_at_the_same_step_is_tried_once_more(
    ray_session: None, shapes: Path, tmp_path: Path
) -> None:
    config = breaking(tmp_path, shapes, "memory", workers=2)
    with pytest.raises(RunError, match=rf"^step 3: out of memory on rank 1 .*{TWICE}.*{ADVICE}"):
        training.train(config)
    assert len(list(Path(config.model["marks"]).iterdir())) == 2
    assert checkpoint.listed(tmp_path / "run")
    events = read_lines(tmp_path / "run/events.jsonl")
    reasons = [row["reason"] for row in events if row["event"] == "lost"]
    assert "step 3: " in reasons[0]


def test_alone_memory_that_is_out_is_one_line(shapes: Path, tmp_path: Path) -> None:
    config = breaking(tmp_path, shapes, "memory")
    with pytest.raises(RunError, match=rf"step 3: out of memory on rank 0 .*{ADVICE}"):
        training.train(config)
    with pytest.raises(failing.StepFailed, match="step 3: ValueError: odd"):
        odd = {**config.model, "error": "odd"}
        training.train(replace(config, model=odd, may_change=("model",)))


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> None:
    context = type("Context", (), {"get_local_rank": lambda _: 0, "get_world_rank": lambda _: 0})
    monkeypatch.setattr(worker, "_context", context)
    monkeypatch.setattr(worker, "_drained", lambda _: lambda: "")


def tried(config: RunConfig) -> str:
    """A group's end, and the note that ends the job."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        worker.train(configs.plain(config))
    note = worker.taken_note(config.run)
    return str(note or type(caught.value).__name__)


def test_what_a_worker_cannot_mend_is_told_once_and_the_next_group_goes_home(
    group: None, shapes: Path, tmp_path: Path
) -> None:
    spoiled = {"spoiled": tuple(range(100))}
    config = run_config(tmp_path / "run", shapes, model=spoiled, steps=9, skips_allowed=0)
    folder = Path(config.run)
    folder.mkdir()
    stop_file.clear(folder)
    with pytest.raises(RunError, match="steps in a row were not finite"):
        worker.train(configs.plain(config))
    told = (folder / "events.jsonl").read_bytes()
    worker.train(configs.plain(config))
    assert (folder / "events.jsonl").read_bytes() == told
    assert "steps in a row were not finite" in str(worker.taken_note(config.run))
    assert worker.taken_note(config.run) is None and checkpoint.listed(folder) == []


def test_another_error_or_another_step_or_a_new_command_is_no_repetition(
    group: None, shapes: Path, tmp_path: Path
) -> None:
    config = breaking(tmp_path, shapes, "memory")
    folder = Path(config.run)
    folder.mkdir()
    stop_file.clear(folder)

    def again(**model: object) -> str:
        return tried(replace(config, model={**config.model, **model}, may_change=("model",)))

    assert again() == "StepFailed"
    assert again(error="1 of 2") == "StepFailed"
    assert again(error="1 of 2", step=3) == "StepFailed"
    failing.forget(folder)
    assert again(error="1 of 2", step=3) == "StepFailed"
    assert TWICE in again(error="3 of 4", step=3)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("the process group was taken down while this rank still trains"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed"),
        torch.distributed.DistBackendError("NCCL error: remote process exited"),
        RunError("9 steps in a row were not finite"),
        UserError("data.path"),
    ],
)
def test_what_comes_from_outside_has_the_budget_alone(error: Exception) -> None:
    with pytest.raises(type(error)), failing.told(3):
        raise error
