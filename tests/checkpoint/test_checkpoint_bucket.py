"""An object store as storage: an S3 server on loopback, with errors injected into it."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hvdm.checkpoint import checkpoint, places, retention
from hvdm.checkpoint.bucket import Bucket
from hvdm.config import CheckpointConfig, RunConfig, Samples
from hvdm.data import store
from hvdm.errors import RunError
from hvdm.events import read_lines
from hvdm.run import run
from tests.support import killed
from tests.support.toys import run_config

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

POINTS = ["file-begun", "file-sealed", "files-done", "manifest-written", "renamed", "trash-renamed"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        import fsspec
        import s3fs

        # One that an earlier test left would still call that test's server.
        s3fs.S3FileSystem.clear_instance_cache()

        fsspec.filesystem("s3").makedirs("runs", exist_ok=True)
        yield settings["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def config(server: str, shapes: Path, tmp_path: Path) -> RunConfig:
    saving = CheckpointConfig(Samples(5), keep=2, path=f"s3://runs/{tmp_path.name}", failures=1)
    return run_config(tmp_path / "run", shapes, steps=4, checkpoint=saving)


def bucket(config: RunConfig) -> Bucket:
    place = places.storage_of(Path(config.run))
    assert isinstance(place, Bucket)
    return place


def steps(config: RunConfig) -> list[int]:
    return [c.step for c in checkpoint.listed(Path(config.run))]


def last(folder: str | Path) -> dict[str, dict[str, str]]:
    return checkpoint.hashes(checkpoint.choose(Path(folder), None))


def objects(config: RunConfig) -> list[str]:
    place = bucket(config)
    place._fs.invalidate_cache()
    return [path[len(place._root) + 1 :] for path in place._fs.find(place._root)]


def test_saved_listed_pruned_and_resumed(config: RunConfig, tmp_path: Path) -> None:
    run.train(config, sinks=())
    assert steps(config) == [3, 4]
    assert {path.partition("/")[0] for path in objects(config)} == {
        "latest", "step-00000003", "step-00000004"
    }  # fmt: skip
    run.train(replace(config, steps=6), sinks=())
    local = replace(config, run=str(tmp_path / "local"), checkpoint=CheckpointConfig(), steps=6)
    run.train(local, sinks=())
    assert last(config.run) == last(local.run)
    assert retention.prune(Path(config.run), bucket(config), retention.Rule(1)) == [5]
    assert steps(config) == [6]


def test_a_lost_run_folder_is_no_loss(config: RunConfig, tmp_path: Path) -> None:
    """The checkpoints are elsewhere: the same command in a new folder goes on."""
    run.train(config, sinks=())
    moved = replace(config, run=str(tmp_path / "other"), steps=5)
    run.train(moved, sinks=())
    assert [e["step"] for e in _events(moved, "resumed")] == [4]


def _events(config: RunConfig, name: str) -> list[dict[str, Any]]:
    return [e for e in read_lines(Path(config.run) / "events.jsonl") if e["event"] == name]


@pytest.mark.parametrize("how", ["bit", "gone", "manifest"])
def test_damage_falls_back_aloud(
    how: str, config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run.train(config, sinks=())
    place = bucket(config)
    (path,) = [p for p in objects(config) if "00000004" in p and "critic.weights" in p]
    there, manifest = f"{place._root}/{path}", f"{place._root}/step-00000004/manifest.json"
    if how == "bit":
        data = bytearray(place._fs.cat_file(there))
        data[-1] ^= 1
        place._fs.pipe_file(there, bytes(data))
    elif how == "gone":
        place._fs.rm_file(there)
    else:
        place._fs.pipe_file(manifest, place._fs.cat_file(manifest)[:-40])
    run.train(replace(config, steps=5))
    said = capsys.readouterr().out
    assert "checkpoint refused: s3://runs/" in said and "resumed: step=3" in said
    assert steps(config)[-1] == 5


def test_an_outage_at_resume_is_waited_for(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One failed read of a manifest fell back a checkpoint, and the steps since were lost."""
    run.train(config, sinks=())
    client = bucket(config)._fs
    tries, honest = {"cat_file": 0, "get_file": 0}, {}
    for name in tries:
        honest[name] = getattr(client, name)

        def refused(*given: Any, name: str = name, **more: Any) -> Any:
            tries[name] += 1
            if tries[name] < 6:
                raise OSError("503 Slow Down")
            return honest[name](*given, **more)

        monkeypatch.setattr(client, name, refused)
    monkeypatch.setattr(store, "PAUSES", (0.0,) * 9)
    run.train(replace(config, steps=5))
    said = capsys.readouterr().out
    assert "resumed: step=4" in said and "refused" not in said
    assert min(tries.values()) > 6


def test_all_damaged_is_an_error(config: RunConfig) -> None:
    run.train(config, sinks=())
    place = bucket(config)
    place._fs.rm([f"{place._root}/{p}" for p in objects(config) if ".weights." in p])
    with pytest.raises(RunError, match="no checkpoint of .* is valid.*is missing"):
        run.train(replace(config, steps=5), sinks=())


def test_an_upload_that_fails_costs_one_checkpoint(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Bucket.writing

    def refused(self: Bucket, part: str, file: str) -> Any:
        if part.startswith("step-00000002/") and "generator.ema" in file:
            raise OSError("503 Slow Down")
        return honest(self, part, file)

    monkeypatch.setattr(Bucket, "writing", refused)
    monkeypatch.setattr(store, "PAUSES", (0.0,) * 3)
    run.train(config, sinks=())
    (failed,) = _events(config, "save_failed")
    assert failed["step"] == 2
    assert "generator.ema.rank00000.safetensors: 503 Slow Down" in failed["reason"]
    assert steps(config) == [3, 4]
    assert not [path for path in objects(config) if path.startswith("step-00000002")]


def test_an_outage_while_saving_costs_no_checkpoint(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads and the commit are tried again; what is forbidden is not."""
    run.train(replace(config, steps=1), sinks=())
    tries, client = {"open": 0, "pipe_file": 0}, bucket(config)._fs
    for name in tries:
        honest = getattr(client, name)

        def refused(*given: Any, name: str = name, honest: Any = honest, **more: Any) -> Any:
            tries[name] += 1
            if tries[name] < 4:
                raise OSError("503 Slow Down")
            return honest(*given, **more)

        monkeypatch.setattr(client, name, refused)
    monkeypatch.setattr(store, "PAUSES", (0.0,) * 9)
    run.train(config, sinks=())
    assert steps(config) == [3, 4] and not _events(config, "save_failed")
    assert min(tries.values()) > 4


def test_what_a_store_forbids_is_told_at_once(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.train(replace(config, steps=1), sinks=())

    def forbidden(*given: Any, **more: Any) -> Any:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(bucket(config)._fs, "open", forbidden)
    with pytest.raises(RunError, match="was not written to s3://.*Access Denied.*2 in a row"):
        run.train(config, sinks=())


def test_a_server_that_is_gone_is_fatal_after_some(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Bucket, name: str) -> str:
        raise OSError("Could not connect to the endpoint URL")

    monkeypatch.setattr(Bucket, "begin", gone)
    with pytest.raises(RunError, match="step 2 .*Could not connect.*2 in a row"):
        run.train(config, sinks=())


@pytest.mark.processes
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, config: RunConfig, tmp_path: Path) -> None:
    step = 1 if point == "trash-renamed" else 3
    environment = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    ranks = killed.start(config, HVDM_FAULT=f"{point}:0:{step}", **environment)
    assert killed.exit_codes(ranks) == [-signal.SIGKILL]
    found = checkpoint.newest_valid(Path(config.run), print)
    assert found is not None
    assert found.step == (3 if point in ("renamed", "trash-renamed") else 2)
    run.train(config, sinks=())
    assert steps(config) == [3, 4]
    assert {path.partition("/")[0] for path in objects(config)} == {
        "latest", "step-00000003", "step-00000004"
    }  # fmt: skip
    local = replace(config, run=str(tmp_path / "local"), checkpoint=CheckpointConfig())
    run.train(local, sinks=())
    assert last(config.run) == last(local.run)


def test_set_aside_and_nothing_lost(config: RunConfig) -> None:
    run.train(config, sinks=())
    run.train(replace(config, resume="never", steps=3), sinks=())  # type: ignore[arg-type]
    assert steps(config) == [2, 3]
    run.train(replace(config, steps=6), sinks=())
    kept = [path for path in objects(config) if path.startswith("step-00000004/")]
    assert [path for path in kept if "aside-" in path]
    assert len(kept) == 6
