"""Saving beside training: what is waited for, what fails, what is kept, what is resumed."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hvdm import building, dist
from hvdm.checkpoint import checkpoint, places, retention, storage, writing
from hvdm.checkpoint.saver import Saver
from hvdm.config import CheckpointConfig, RunConfig, Samples
from hvdm.errors import RunError, UserError
from hvdm.events import Reporter, read_lines
from hvdm.run import resuming, run
from tests.support.ranks import Ranks
from tests.support.toys import run_config

EVERY_STEP = CheckpointConfig(every=Samples(5), keep=2)


def saving(config: CheckpointConfig | None = None, **changes: Any) -> CheckpointConfig:
    return replace(config or EVERY_STEP, **changes)


def steps(folder: Path | str) -> list[int]:
    return [c.step for c in checkpoint.listed(Path(folder))]


def events(folder: Path | str, name: str) -> list[dict[str, Any]]:
    return [e for e in read_lines(Path(folder) / "events.jsonl") if e["event"] == name]


class Recorder:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def metrics(self, values: Any) -> None:
        return None

    def event(self, values: Any) -> None:
        self.events.append(dict(values))

    def close(self) -> None:
        return None


@pytest.fixture
def config(shapes: Path, tmp_path: Path) -> RunConfig:
    return run_config(tmp_path / "run", shapes, steps=4, checkpoint=EVERY_STEP)


class Bench:
    """A saver over small engines, without a run around it."""

    def __init__(self, config: RunConfig, **changes: Any) -> None:
        self.run = Path(config.run)
        recipe = building.build_recipe(config)
        self.engines = building.build_engines(config, recipe)
        self.averages = building.build_averages(config, recipe, self.engines)
        self.seen = Recorder()
        report = Reporter([self.seen])
        settings = saving(**changes)
        self.saver = Saver(self.run, self.engines, self.averages, settings, report)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The writer waits for it."""
    opened = threading.Event()
    honest = writing.write_files

    def slow(*arguments: Any) -> Any:
        assert opened.wait(30)
        return honest(*arguments)

    monkeypatch.setattr(writing, "write_files", slow)
    return opened


# In flight


def test_training_goes_on_while_files_are_written(config: RunConfig, gate: threading.Event) -> None:
    """What is saved is the state of that step, though the weights have moved since."""
    bench = Bench(config)
    before = writing.HostCopy()
    before.begin(bench.engines, bench.averages)
    before.finish()
    bench.saver.begin(1, {})
    bench.saver.before_update()
    for engine in bench.engines.values():
        for p in engine.module.parameters():
            p.data.add_(1.0)
    for _ in range(3):
        bench.saver.poll()
    assert steps(bench.run) == []
    gate.set()
    bench.saver.finish()
    assert steps(bench.run) == [1]
    files = {p.name: p.read_bytes() for p in (bench.run / "checkpoints").glob("step-*/*.saf*")}
    assert files == {name: b"".join(i.chunks()) for name, i in before.images.items()}


def polled_until_saved(config: RunConfig) -> int:
    """On each rank: how many step boundaries pass; the last rank's files wait for the fifth."""
    bench, may_write = Bench(config), threading.Event()
    honest = writing.write_files

    def slow(*given: Any) -> Any:
        may_write.wait(60)
        return honest(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "write_files", slow)
        if dist.rank() < dist.world() - 1:
            may_write.set()
        bench.saver.begin(1, {})
        polls = 0
        while bench.saver._flight:
            dist.barrier()
            bench.saver.poll()
            polls += 1
            if polls == 5:
                may_write.set()
    return polls


def test_all_ranks_see_a_slow_one_alike(config: RunConfig, two_ranks: Ranks) -> None:
    first, second = two_ranks.run(polled_until_saved, config)
    assert first == second > 5
    assert steps(Path(config.run)) == [1]


def test_a_second_save_waits_for_the_first(config: RunConfig, gate: threading.Event) -> None:
    bench = Bench(config)
    bench.saver.begin(1, {})
    threading.Timer(0.2, gate.set).start()
    bench.saver.begin(2, {})
    assert steps(bench.run) == [1]
    bench.saver.finish()
    assert steps(bench.run) == [1, 2]
    assert [e["step"] for e in bench.seen.events if e["event"] == "saved"] == [1, 2]


def test_buffers_are_kept_and_hold_one_copy(config: RunConfig) -> None:
    bench = Bench(config)
    bench.saver.begin(1, {})
    bench.saver.finish()
    kept = {name: image.data.data_ptr() for name, image in bench.saver._copy.images.items()}
    bench.saver.begin(2, {})
    bench.saver.finish()
    again = {name: image.data.data_ptr() for name, image in bench.saver._copy.images.items()}
    assert kept == again
    state = 0
    for net, engine in bench.engines.items():
        copies = 2 + (net in bench.averages)  # master, momentum, average
        state += copies * sum(p.numel() * 4 for p in engine.module.parameters())
    assert bench.saver._copy.bytes == state


@pytest.mark.parametrize("how", [SystemExit(1), OSError(28, "No space left"), MemoryError()])
def test_a_writer_that_dies_is_noticed_counted_and_fatal_after_some(
    how: BaseException, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> Any:
        raise how

    monkeypatch.setattr(writing, "write_files", dies)
    bench = Bench(config, failures=2)
    for count in (1, 2):
        bench.saver.begin(count, {})
        deadline = time.monotonic() + 30
        while bench.saver._flight and time.monotonic() < deadline:
            bench.saver.poll()
        assert [e["in_a_row"] for e in bench.seen.events] == list(range(1, count + 1))
    bench.saver.begin(3, {})
    with pytest.raises(RunError, match="step 3 was not written.*3 in a row.*failures=2"):
        bench.saver.finish()
    assert steps(bench.run) == []
    assert not list((bench.run / "checkpoints").iterdir())


def test_a_disk_that_is_full_once_costs_one_checkpoint(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = writing.write_files

    def full_once(*arguments: Any) -> Any:
        if arguments[3] == 2:
            raise OSError(28, "No space left on device")
        return honest(*arguments)

    monkeypatch.setattr(writing, "write_files", full_once)
    assert run.train(config, sinks=()).finished
    (failed,) = events(config.run, "save_failed")
    assert failed["step"] == 2 and failed["reason"] == "rank 0: No space left on device"
    assert steps(config.run) == [3, 4]


def _train_with_a_copy_that_fails(config: RunConfig) -> None:
    """In a rank process: on the second rank, the second save."""
    honest, calls = writing.HostCopy.finish, itertools.count(1)

    def fails_once(self: writing.HostCopy) -> None:
        if dist.rank() == 1 and next(calls) == 2:
            raise MemoryError("no room for the copy")
        honest(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing.HostCopy, "finish", fails_once)
        run.train(config, sinks=())


@pytest.mark.processes
def test_a_copy_that_fails_beside_a_step_makes_all_ranks_abandon(
    config: RunConfig, two_ranks: Ranks
) -> None:
    two_ranks.run(_train_with_a_copy_that_fails, config)
    (failed,) = events(config.run, "save_failed")
    assert failed["step"] == 2 and failed["reason"] == "rank 1: no room for the copy"
    assert steps(config.run) == [3, 4]
    assert not list((Path(config.run) / "checkpoints").glob(".part*"))


def _train_with_a_full_disk(config: RunConfig, bad_rank: int, bad_step: int) -> None:
    """In a rank process: one rank's disk is full at one save."""
    from hvdm import dist

    honest = writing.write_files

    def full(*arguments: Any) -> Any:
        if dist.rank() == bad_rank and arguments[3] == bad_step:
            raise OSError(28, "No space left on device")
        return honest(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "write_files", full)
        run.train(config, sinks=())


@pytest.mark.processes
@pytest.mark.parametrize("rank", [0, 1])
def test_one_full_disk_makes_all_ranks_abandon(
    rank: int, config: RunConfig, two_ranks: Ranks
) -> None:
    two_ranks.run(_train_with_a_full_disk, config, rank, 2)
    (failed,) = events(config.run, "save_failed")
    assert (failed["step"], failed["reason"]) == (2, f"rank {rank}: No space left on device")
    assert steps(config.run) == [3, 4]
    names = {path.name for path in (Path(config.run) / "checkpoints").iterdir()}
    assert names == {"latest", "step-00000003", "step-00000004"}


def test_a_real_full_disk(config: RunConfig, tmp_path: Path) -> None:
    """/dev/full takes no byte: the save fails by the system's own error."""
    bench = Bench(config, failures=0)
    place = places.storage_of(bench.run)
    honest = place.writing

    def into_full(part: str, file: str) -> Any:
        (bench.run / "checkpoints" / part / file).symlink_to("/dev/full")
        return honest(part, file)

    bench.saver._place.writing = into_full  # type: ignore[method-assign]
    bench.saver.begin(1, {})
    with pytest.raises(RunError, match="No space left on device"):
        bench.saver.finish()
    assert steps(bench.run) == []


# What is kept


def made(config: RunConfig, count: int, per_step: int = 5) -> Path:
    bench = Bench(config)
    for step in range(1, count + 1):
        extra = {"cursor": {"seed": 0, "draw": step * per_step}}
        checkpoint.save(bench.run, step, bench.engines, bench.averages, extra)
    return bench.run


def prune(folder: Path, rule: retention.Rule) -> list[int]:
    return retention.prune(folder, places.storage_of(folder), rule)


def spoil(folder: Path, step: int) -> None:
    path = next((folder / "checkpoints" / checkpoint.name_of(step)).glob("*.weights.*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def lease(folder: Path, step: int, seconds: float) -> None:
    path = folder / "leases" / f"reader-{step}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"step": step, "until": time.time() + seconds}))


def test_the_rule_keeps_last_every_and_pinned(config: RunConfig) -> None:
    folder = made(config, 9)
    assert prune(folder, retention.Rule(2, keep_every=15, pinned=(1,))) == [2, 4, 5, 7]
    assert steps(folder) == [1, 3, 6, 8, 9]
    assert prune(folder, retention.Rule(2, keep_every=15, pinned=(1,))) == []


def test_a_lease_holds_until_it_ends(config: RunConfig) -> None:
    folder = made(config, 4)
    lease(folder, 1, 60)
    lease(folder, 2, -1)
    (folder / "leases" / "broken.json").write_text("{")
    assert prune(folder, retention.Rule(1)) == [2, 3]
    assert steps(folder) == [1, 4]


def test_a_lease_taken_at_the_last_moment_brings_it_back(config: RunConfig) -> None:
    folder = made(config, 2)
    place = places.storage_of(folder)
    assert not place.remove(checkpoint.name_of(1), lambda: True)
    assert steps(folder) == [1, 2]


def test_the_newest_that_verifies_stays(config: RunConfig) -> None:
    """The last two are damaged on the disk: the one before them must not go."""
    folder = made(config, 4)
    spoil(folder, 3)
    spoil(folder, 4)
    assert prune(folder, retention.Rule(2)) == [1]
    assert steps(folder) == [2, 3, 4]
    spoil(folder, 2)
    assert prune(folder, retention.Rule(1)) == []
    assert steps(folder) == [2, 3, 4]


def test_the_best_by_evaluation_stays(config: RunConfig) -> None:
    from hvdm.checkpoint import leases

    folder = made(config, 5)
    leases.take(folder, "best-fvd", 2, leases.FOR_GOOD, why="best fvd")
    assert prune(folder, retention.Rule(1)) == [1, 3, 4]


# Choosing


@pytest.fixture
def trained(config: RunConfig) -> RunConfig:
    run.train(replace(config, checkpoint=saving(keep=9)), sinks=())
    return config


@pytest.mark.parametrize("content", [None, "", "step-99999999\n", "\x00garbage"])
def test_latest_is_never_trusted(trained: RunConfig, content: str | None) -> None:
    latest = Path(trained.run) / "checkpoints" / "latest"
    assert latest.read_text() == "step-00000004\n"
    latest.unlink() if content is None else latest.write_text(content)
    run.train(replace(trained, steps=5), sinks=())
    assert events(trained.run, "resumed")[-1]["step"] == 4


def test_resume_must_needs_a_checkpoint(config: RunConfig) -> None:
    with pytest.raises(UserError, match="resume=must: .* has no checkpoint"):
        run.train(replace(config, resume="must"), sinks=())  # type: ignore[arg-type]


def test_resume_never_begins_again_and_loses_nothing(trained: RunConfig) -> None:
    before = checkpoint.hashes(checkpoint.listed(Path(trained.run))[-1])
    run.train(replace(trained, resume="never", steps=2), sinks=())  # type: ignore[arg-type]
    assert steps(trained.run) == [1, 2]
    aside = sorted((Path(trained.run) / "checkpoints").glob("aside-*-step-*"))
    assert [p.name[-8:] for p in aside] == ["00000001", "00000002", "00000003", "00000004"]
    aside[-1].rename(aside[-1].with_name("step-00000004"))
    assert checkpoint.hashes(checkpoint.choose(Path(trained.run), 4)) == before


def test_resume_step_sets_aside_what_came_after(trained: RunConfig) -> None:
    run.train(replace(trained, resume="2", steps=3), sinks=())  # type: ignore[arg-type]
    assert events(trained.run, "resumed")[-1]["step"] == 2
    assert steps(trained.run) == [2, 3]
    aside = (Path(trained.run) / "checkpoints").glob("aside-*-step-*")
    assert sorted(p.name[-8:] for p in aside) == ["00000003", "00000004"]


@pytest.mark.parametrize("asked, error", [("7", "has no checkpoint of step 7; there are: 1, 2"),
                                          ("2", "resume=2: .* is damaged")])  # fmt: skip
def test_resume_step_falls_back_to_nothing(trained: RunConfig, asked: str, error: str) -> None:
    spoil(Path(trained.run), 2)
    with pytest.raises((UserError, RunError), match=error):
        run.train(replace(trained, resume=asked), sinks=())  # type: ignore[arg-type]
    assert steps(trained.run) == [1, 2, 3, 4]


def test_a_request_holds_for_the_first_start_only(trained: RunConfig) -> None:
    """A worker group that Ray starts again goes on; it does not begin again."""
    folder = Path(trained.run)
    assert resuming.leave_request(folder, "never") == "auto"  # type: ignore[arg-type]
    run.train(replace(trained, steps=2), sinks=())
    assert steps(folder) == [1, 2]
    run.train(replace(trained, steps=3), sinks=())
    assert events(folder, "resumed")[-1]["step"] == 2
    resuming.leave_request(folder, "2")  # type: ignore[arg-type]
    assert resuming.leave_request(folder, "must") == "must"  # type: ignore[arg-type]
    run.train(replace(trained, steps=4), sinks=())
    assert events(folder, "resumed")[-1]["step"] == 3


def test_what_may_change_is_named_and_told(
    trained: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = replace(trained, steps=5, optimizer=replace(trained.optimizer, lr=1e-4))
    with pytest.raises(UserError, match=r"allow it with may_change=\[optimizer.lr\]"):
        run.train(slower, sinks=())
    run.train(replace(slower, may_change=("optimizer",)))
    assert "optimizer.lr was 0.02 at step 4, is now 0.0001" in capsys.readouterr().out
    assert steps(trained.run)[-1] == 5


def test_another_first_stage_is_refused() -> None:
    then, now = {"first_stage_weights": "aaa"}, {"first_stage_weights": "bbb"}
    with pytest.raises(UserError, match="first_stage_weights was 'aaa', is now 'bbb'"):
        resuming.same_run(Path("runs/x"), 4, then, now, (), print)


def test_other_networks_are_refused_before_anything_is_filled(trained: RunConfig) -> None:
    wider = replace(trained, steps=5, model={"width": 16}, may_change=("model",))
    with pytest.raises(UserError, match="of critic is .*, this run's is"):
        run.train(wider, sinks=())


@pytest.mark.parametrize("file", ["manifest.json", "weights", "optimizer", "ema"])
@pytest.mark.parametrize("how", ["cut", "empty", "bit", "gone", "swapped"])
def test_whatever_is_damaged_it_falls_back(
    trained: RunConfig, file: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(trained.run) / "checkpoints"
    newest, other = folder / "step-00000004", folder / "step-00000001"
    path = next(p for p in newest.iterdir() if file in p.name)
    data = path.read_bytes()
    changed: dict[str, Callable[[], Any]] = {
        "cut": lambda: path.write_bytes(data[: len(data) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "bit": lambda: path.write_bytes(data[:-20] + bytes([data[-20] ^ 4]) + data[-19:]),
        "gone": path.unlink,
        "swapped": lambda: path.write_bytes((other / path.name).read_bytes()),
    }
    changed[how]()
    found = checkpoint.newest_valid(Path(trained.run), print)
    assert found is not None and found.step == 3
    assert "checkpoint refused" in (said := capsys.readouterr().out)
    assert "step-00000004" in said


def test_inference_reads_neither_moments_nor_other_networks(trained: RunConfig) -> None:
    folder = Path(trained.run) / "checkpoints" / "step-00000004"
    for path in [*folder.glob("*.optimizer.*"), *folder.glob("critic.*")]:
        path.write_bytes(b"not readable")
    wanted = checkpoint.for_inference(averaged=True)
    found = checkpoint.choose(Path(trained.run), 4, lambda f: wanted(f) and "generator" in f)
    state = checkpoint.weights(found, "generator", averaged=True)
    assert all(torch.isfinite(value).all() for value in state.values())
    assert not wanted("generator.optimizer.rank00000.safetensors")


def test_checkpoints_may_lie_elsewhere(config: RunConfig, tmp_path: Path) -> None:
    there = replace(config, checkpoint=saving(path=str(tmp_path / "disk")))
    run.train(there, sinks=())
    assert steps(config.run) == [3, 4]
    assert sorted(p.name for p in (tmp_path / "disk").glob("step-*"))[-1] == "step-00000004"
    with pytest.raises(UserError, match="has its checkpoints in .*disk, and .* has none"):
        run.train(replace(config, steps=5), sinks=())


def test_a_manifest_knows_itself() -> None:
    content = storage.dumped({"files": {}, "step": 4})
    assert storage.parsed(content)["step"] == 4
    with pytest.raises(ValueError, match="sha256"):
        storage.parsed(content.replace(b"4", b"5", 1))
