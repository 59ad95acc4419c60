import hashlib
import os
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pytest

from data_tools.derive import derive, kind_of
from data_tools.encode import Latents
from data_tools.verify import verify
from hvdm.data.schema import manifest_hash, read_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError
from launcher.cli import main
from launcher.workers.cluster import over_processes
from tests.seams.derived import Shifts
from tests.support.ranks import forked

PAUSE_S = 0.05


def files(out: Path) -> dict[str, str]:
    """Everything that a job leaves, except its journal."""
    found = [path for path in out.rglob("*") if path.is_file() and "journal" not in path.parts]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found
    }


def test_every_sample_gives_one_of_its_key(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "shifts"
    typed = ["data", "derive", "tests.seams.derived:Shifts", str(shapes), f"out={out}"]
    assert main([*typed, "scale=2"]) == 0
    assert verify(out, False).ok
    clips, made = read_manifest(shapes / "train"), read_manifest(out / "train")
    about = {"generator": "derive", "version": 1, "scale": 2.0, "from": manifest_hash(clips)}
    assert made.provenance == about and made.samples == 40
    ours, theirs = ShardReader(out / "train", made), ShardReader(shapes / "train", clips)
    assert [ours.key(4, i) for i in range(8)] == [theirs.key(4, i) for i in range(8)]


def test_the_same_job_again_has_nothing_to_do(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "shifts"
    derive(shapes, out, Shifts())
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    assert derive(shapes, out, Shifts())["clips"] == {"test": 12, "train": 40}
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    with pytest.raises(UserError, match=r"was begun with scale=1.0; set it back, or give another"):
        derive(shapes, out, Shifts(scale=2))
    with pytest.raises(UserError, match="was not made by `hvdm data derive`"):
        derive(shapes, shapes, Shifts())


def test_a_damaged_shard_is_derived_anew(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "shifts"
    derive(shapes, out, Shifts())
    before = files(out)
    (out / "train/shard-000001.tar").write_bytes(b"cut")
    derive(shapes, out, Shifts())
    assert files(out) == before


def test_kinds_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind_of("latents") is Latents
    family = ModuleType("hvdm.recipes.toy.deriving")
    monkeypatch.setitem(sys.modules, family.__name__, family)
    monkeypatch.setattr(family, "Shifts", Shifts, raising=False)
    assert kind_of("toy.Shifts") is Shifts


@pytest.mark.parametrize(
    "kind, words",
    [
        (
            "flow",
            "names no derivation: expected latents, depth, motion, FAMILY.NAME of",
        ),
        ("nowhere.at.all:Flow", "names no derivation"),
        (".odd:Flow", "names no derivation"),
        ("tests.seams.derived:Shift", "has no derivation 'Shift'; did you mean 'Shifts'?"),
        ("tests.seams.derived:Config", "has no derivation 'Config'"),
    ],
)
def test_what_is_no_kind_is_refused(
    kind: str, words: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "derive", kind, str(shapes), f"out={tmp_path}/x"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def job(source: Path, out: Path, workers: int) -> None:
    derive(source, out, Shifts(pause_s=PAUSE_S), over_processes(workers))


def start(*arguments: object) -> BaseProcess:
    process = forked().Process(target=job, args=arguments)
    process.start()
    return process


def killed(process: BaseProcess, out: Path, after_s: float) -> bool:
    """Kills the job some time after it began to write; whether it was still at work."""
    left_over = set(out.rglob(".part-*"))
    while process.is_alive() and set(out.rglob(".part-*")) <= left_over:
        time.sleep(0.01)
    process.join(after_s)
    hit = process.is_alive()
    process.kill()
    process.join()
    return hit


@pytest.mark.processes
@pytest.mark.parametrize("workers, kills", [(1, 2), (2, 1)])
def test_a_killed_job_ends_with_the_same_bytes(
    workers: int, kills: int, shapes: Path, tmp_path: Path
) -> None:
    """Each job is killed twice at most; jobs, until as many kills as asked for met one at work."""
    derive(shapes, tmp_path / "straight", Shifts())
    chosen, hits, jobs = random.Random(workers), 0, 0
    kills = int(os.environ.get("HVDM_KILLS", kills))
    while hits < kills:
        assert jobs < 2 * kills, "the kills come too late"
        out = tmp_path / f"killed-{jobs}"
        for _ in range(min(2, kills - hits)):
            hits += killed(start(shapes, out, workers), out, chosen.uniform(0, 1))
        last = start(shapes, out, workers)
        last.join(120)
        assert last.exitcode == 0
        assert files(out) == files(tmp_path / "straight")
        jobs += 1
    print(f"{hits} kills in {jobs} jobs")
