"""Two commands on one folder, readers beside retention, and run folders of strangers."""

import errno
import fcntl
import json
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import yaml

from hvdm import building, opening, trust
from hvdm import config as configs
from hvdm.checkpoint import checkpoint, leases
from hvdm.errors import UserError
from hvdm.events import Tail
from hvdm.progress import repeating
from hvdm.redaction import redacted
from hvdm.run import claims, run
from launcher.cli import main
from launcher.verbs import distance
from launcher.workers import stop_file, worker
from tests.support.toys import run_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("tests/sixth", "tests/eval"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    monkeypatch.setenv("HVDM_CACHE", str(tmp_path / "cache"))
    for name, value in (("PATIENCE_S", 0.0), ("BEAT_S", 0.04), ("SILENT_S", 0.2)):
        monkeypatch.setattr(claims, name, value)


def trains(folder: Path, shapes: Path, *more: str) -> int:
    config = ROOT / "tests/sixth/toy_flow.yaml"
    words = [f"config={config}", f"run={folder}", f"data.path={shapes}", "steps=1"]
    return main(["train", *words, "cluster=inline", *more])


# Two commands


@pytest.mark.parametrize("where", ["inline", "local"])
def test_a_second_command_touches_nothing_of_the_first(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    kept = {".stop": "asked", ".fatal.json": "{}", ".resume": "never"}
    for name, text in kept.items():
        (folder / name).write_text(text)
    with claims.claim(folder / ".command"):
        assert trains(folder, shapes, f"cluster={where}") == 2
    assert "is being trained by another process (process" in capsys.readouterr().err
    assert {name: (folder / name).read_text() for name in kept} == kept
    assert not (folder / "events.jsonl").exists()


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("locks", [True, False])
def test_without_locks_between_machines_a_note_that_moves_is_believed(
    tmp_path: Path,
    shapes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    locks: bool,
) -> None:
    """A lock that another machine does not see, and none at all."""
    folder, beats = tmp_path / "run", iter(range(10**9))
    folder.mkdir()
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)

    def elsewhere() -> None:
        note = {"id": "b", "host": "b", "node": "b", "pid": "7", "beats": next(beats)}
        (folder / ".command.json").write_text(json.dumps(note))

    elsewhere()
    with repeating(elsewhere, 0.02):
        assert trains(folder, shapes) == 2
    assert "(process 7 on b)" in capsys.readouterr().err
    assert trains(folder, shapes) == 0
    assert not (folder / ".command.json").exists()


def test_who_was_cut_off_stops_and_says_so(tmp_path: Path) -> None:
    with claims.claim(tmp_path / ".lock") as held:
        assert held.hold() == ""
        note = {"id": "another", "host": "b", "node": "b", "pid": "7"}
        (tmp_path / ".lock.json").write_text(json.dumps(note))
        held.say()
        with pytest.raises(claims.Taken, match=r"taken over \(process 7 on b\)"):
            held.hold()
    assert (tmp_path / ".lock.json").exists()


def test_a_group_that_was_cut_off_does_not_end_the_next(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker function fails, and Ray starts it again: no note that ends the job is left."""
    folder = tmp_path / "run"
    config = run_config(folder, shapes)
    folder.mkdir()
    stop_file.clear(folder)
    context = type("Context", (), {"get_local_rank": lambda _: 0, "get_world_rank": lambda _: 0})
    monkeypatch.setattr(worker, "_context", context)
    monkeypatch.setattr(worker, "_drained", lambda _: lambda: "")
    with run.claimed(folder), pytest.raises(UserError, match="is being trained"):
        worker.train(configs.plain(config))
    assert not worker.fatal_path(config.run).exists()


# Logs


def test_a_full_disk_costs_lines_of_the_logs_and_not_the_run(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("metrics", "events"):
        (folder / f"{name}.jsonl").symlink_to("/dev/full")
    assert trains(folder, shapes) == 0
    assert capsys.readouterr().err.count("lines of the run's logs are lost") == 1
    assert [found.step for found in checkpoint.listed(folder)] == [1]


def test_a_byte_that_is_no_text_does_not_end_a_resume(tmp_path: Path, shapes: Path) -> None:
    folder = tmp_path / "run"
    assert trains(folder, shapes) == 0
    for name in ("metrics", "events"):
        with open(folder / f"{name}.jsonl", "ab") as handle:
            handle.write(b"\xff\n[]\n")
    assert trains(folder, shapes, "steps=2") == 0
    follower = Tail(folder / "metrics.jsonl")
    with open(folder / "metrics.jsonl", "ab") as handle:
        handle.write(b'\xff\n{"step": 3}\n')
    assert follower.rows() == [{"step": 3}]


# Readers beside retention


def run_folder(folder: Path, data: Path, kind: str, recipe: str = "eval_toy_recipe") -> Path:
    config = run_config(folder, data, recipe, model={"kind": kind})
    folder.mkdir(parents=True)
    (folder / opening.CONFIG_FILE).write_text(yaml.safe_dump(configs.plain(config)))
    save(folder, 2)
    return folder


def save(folder: Path, step: int) -> None:
    config = opening.read_config(folder)
    recipe = building.build_recipe(config)
    engines = building.build_engines(config, recipe)
    checkpoint.save(folder, step, engines, {}, {})


READERS = {
    "sample": ["run={run}", "count=1", "out={out}", "cluster=inline"],
    "evaluate": ["run={run}", "protocol=fvd/tf-reference@1", "detector=untrained", "clips=4",
                 "cluster=inline"],
    "data encode": ["{data}", "first_stage={run}", "out={out}"],
    "checkpoint diff": ["{run}", "{run}"],
}  # fmt: skip


@pytest.mark.parametrize("verb", READERS)
def test_retention_leaves_a_reader_what_it_reads(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    import eval_toy_recipe as toy  # type: ignore[import-not-found]

    kind = "autoencoder" if verb == "data encode" else "generator"
    folder, left = run_folder(tmp_path / "run", shapes, kind), []
    where = (toy.EveryOther, "encode") if kind == "autoencoder" else (toy.ToyGenerator, "sample")
    where = (distance.Reader, "whole") if verb == "checkpoint diff" else where
    before = getattr(*where)

    def reads(*given: Any) -> Any:
        """While the verb works, training saves, and gives up what is old."""
        if not left:
            save(folder, 4)
            assert main(["checkpoint", "prune", f"run={folder}", "keep=1"]) == 0
            left.extend(found.step for found in checkpoint.listed(folder))
        return before(*given)

    monkeypatch.setattr(*where, reads)
    given = {"run": folder, "out": tmp_path / "out", "data": shapes}
    assert main([*verb.split(), *(word.format(**given) for word in READERS[verb])]) == 0
    assert left == [2, 4]
    assert not leases.current(folder)


def test_a_lease_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines with equal process numbers do not share one."""
    with leases.held(tmp_path, 3):
        monkeypatch.setattr(leases.platform, "node", lambda: "another")
        with leases.held(tmp_path, 3):
            assert len(leases.current(tmp_path)) == 2
        assert len(leases.current(tmp_path)) == 1


# Run folders of strangers


@pytest.fixture
def stranger(tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its config names a module that lies in the folder where the command is typed."""
    monkeypatch.delenv(trust.TOLD)
    folder = run_folder(tmp_path / "theirs", shapes, "autoencoder")
    config = folder / opening.CONFIG_FILE
    config.write_text(config.read_text().replace("eval_toy_recipe", "names_of_theirs"))
    mark = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    text = mark + "from eval_toy_recipe import *\n"
    (tmp_path / "names_of_theirs.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


OPENERS = {
    "sample": ["run={run}"],
    "evaluate": ["run={run}", "cluster=inline", "clips=4", "protocol=reconstruction@1"],
    "data encode": ["{data}", "first_stage={run}", "out={out}"],
    "checkpoint diff": ["{run}", "{run}"],
    "train": ["config=tiny/hvdm_diffusion", "first_stage={run}", "run={out}",
              "cluster=inline", "data.path={data}"],
}  # fmt: skip


@pytest.mark.parametrize("verb", OPENERS)
def test_a_strangers_run_folder_imports_nothing(
    tmp_path: Path, shapes: Path, stranger: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    given = {"run": stranger, "out": tmp_path / "out", "data": shapes}
    typed = [*verb.split(), *(word.format(**given) for word in OPENERS[verb])]
    assert main(typed) == 2
    assert "add trust=true if you know" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("verb", [*OPENERS, "submit", "cluster template", "checkpoint export"])
def test_the_help_of_what_opens_runs_names_the_key(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["help", *verb.split()]) == 0
    assert "trust=true" in capsys.readouterr().out


def test_trust_is_given_by_a_key(tmp_path: Path, stranger: Path) -> None:
    asked = ["protocol=reconstruction@1", "cluster=inline", "clips=4"]
    assert main(["evaluate", f"run={stranger}", *asked, "trust=true"]) == 0
    assert (tmp_path / "ran").exists()


def test_a_family_that_was_trained_here_is_trusted_where_it_lies(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(trust.TOLD)
    assert trains(tmp_path / "mine", shapes) == 0
    sample = ["sample", f"run={tmp_path / 'mine'}", "count=1", "cluster=inline"]
    assert main(sample) == 0
    (tmp_path / "toy_flow.py").write_text("raise AssertionError('another one of this name')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_flow")
    assert main(sample) == 2


def test_stages_that_lead_in_a_circle_are_named(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run", shapes, "generator")
    config = yaml.safe_load((folder / opening.CONFIG_FILE).read_text())
    config["first_stage"] = str(folder)
    (folder / opening.CONFIG_FILE).write_text(yaml.safe_dump(config))
    assert main(["sample", f"run={folder}"]) == 2
    assert "lead back to" in capsys.readouterr().err


FOUND = [{"low": "frequencies"}, {"motion_levels": [0.5, [None]]}, {"scales": {"a": 1}}]


@pytest.mark.parametrize("found", FOUND)
def test_what_a_run_found_in_its_data_is_numbers(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str], found: dict[str, Any]
) -> None:
    folder = run_folder(tmp_path / "run", shapes, "generator")
    config = yaml.safe_load((folder / opening.CONFIG_FILE).read_text())
    (folder / opening.CONFIG_FILE).write_text(yaml.safe_dump({**config, "from_data": found}))
    assert main(["sample", f"run={folder}", "count=1", "cluster=inline"]) == 2
    assert f"from_data.{next(iter(found))} is neither" in capsys.readouterr().err


def test_a_store_inside_of_rays_session_is_refused(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "session_2026-11-24_08-05-00_123456_12345" / "ckpts"
    assert trains(tmp_path / "run", shapes, f"checkpoint.path={store}") == 2
    assert "lies in Ray's folder" in capsys.readouterr().err


# Passwords


def test_no_password_of_an_address_is_written_down(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the run goes on with it, while it is given."""
    folder = tmp_path / "run"
    store, data = (f"memory://me:sekret@{tmp_path.name}/{name}" for name in ("ckpts", "set"))
    files, root = fsspec.core.url_to_fs(data)
    files.put(f"{shapes}/", f"{root}/", recursive=True)
    typed = [f"checkpoint.path='{store}'", f"data.path='{data}'", "log.tensorboard=true"]
    assert trains(folder, shapes, *typed) == 0
    assert trains(folder, shapes, *typed, "steps=2") == 0
    assert [found.step for found in checkpoint.listed(folder)] == [1, 2]
    assert main(["report", f"run={folder}"]) == 0
    said = capsys.readouterr()
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"sekret" not in path.read_bytes(), path
    assert "sekret" not in said.out + said.err
    address = (folder / "checkpoints" / "address").read_text().strip()
    assert address == f"memory://{tmp_path.name}/ckpts"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://me:p@ss@host/a/b", "https://host/a/b"),
        ("'https://me:it's@host/a', 'c@d'", "'https://host/a', 'c@d'"),
        ("http://h/a?pwd=abc", "http://h/a?pwd=…"),
        ("s3://bucket/a@4000", "s3://bucket/a@4000"),
        ("https://h/a?X-Amz-Signature=abc&b=2", "https://h/a?X-Amz-Signature=…&b=2"),
        ('{"a": "https://u:p@h/x", "b": "c@d"}', '{"a": "https://h/x", "b": "c@d"}'),
        ("runs/a@40 and me@host", "runs/a@40 and me@host"),
    ],
)
def test_what_lets_one_in_is_left_out(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_an_array_that_would_fill_the_memory_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `hvdm evaluate`, which decodes in a child: their headers promise 30 GB."""
    for name, length in (("made", 10_000), ("real", 9_999)):
        (tmp_path / name).mkdir()
        for number in range(2):
            what = {"descr": "|u1", "fortran_order": False, "shape": (length, 1000, 1000, 3)}
            with open(tmp_path / name / f"{number}.npy", "wb") as handle:
                np.lib.format.write_array_header_1_0(handle, what)
    sides = [f"real={tmp_path}/real", f"generated={tmp_path}/made", "size=16x16"]
    asked = ["protocol=fvd/tf-reference@1", "detector=untrained", "cluster=inline"]
    assert main(["evaluate", *sides, *asked]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "0.npy cannot be read (Unable to allocate" in line
