"""Seeded mutations of everything that a stranger can hand over, and what hvdm makes of them.

`python -m tests.fuzz.runner FOLDER FIRST LAST [COMMANDS]` prints a line of JSON for each seed, and
for so many more through the command line: how it ended, or what was wrong. Wrong is a traceback,
more than one line of error, a minute without an end, a write outside of the case's folder, a
connection, or a number that is not the true one.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from hvdm.checkpoint import checkpoint
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.errors import RunError, UserError
from hvdm.nets.state_files import read_state
from launcher.cli import main
from tests.fuzz import mutations
from tests.fuzz.base import base

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
COMMANDS = 10**6
"""The first seed of those that go through the command line."""
SPEC = ClipSpec(frames=8, height=16, width=16)
Numbers = Callable[[], None]
"""Looks at what came of a case that went well; an AssertionError is a wrong number."""


class WrongNumber(AssertionError):
    pass


class Hung(BaseException):
    pass


@dataclass
class Case:
    place: Path
    random: Random
    truth: "Truth"
    what: str = ""
    honest: bool = True
    """Whether hashes tell of the damage; a stranger's own are right, and his numbers his own."""
    odd: set[str] = field(default_factory=set)
    """Samples that say something else than before."""

    def path(self, *names: str) -> Path:
        return self.place.joinpath(*names)


@dataclass(frozen=True)
class Truth:
    """What the undamaged things give."""

    rows: dict[str, bytes]
    hashes: dict[int, Any]
    trained: dict[int, Any]
    samples: dict[int, bytes]


# What is done to a thing


def shard(case: Case) -> None:
    split = case.path("set", "train")
    name = case.random.choice(("shard-000000.tar", "shard-000001.tar"))
    if case.random.random() < 0.5:
        case.what += "/sample"
        case.odd.add(mutations.in_sample(split, name, case.random))
    else:
        mutations.in_bytes(split / name, case.random, list(split.iterdir()))


def index(case: Case) -> None:
    split, name = case.path("set", "train"), "shard-000001.tar"
    path = split / "shard-000001.index.json"
    if case.random.random() < 0.3:
        mutations.in_bytes(path, case.random, list(split.iterdir()))
    else:
        mutations.in_json(path, case.random)
    if case.random.random() < 0.7:
        case.what += "/signed"
        mutations.signed_index(split, name)


def manifest(case: Case) -> None:
    path = case.path("set", "train", "manifest.json")
    if case.random.random() < 0.2:
        mutations.in_bytes(path, case.random, list(path.parent.iterdir()))
    else:
        mutations.in_json(path, case.random)


def saved(case: Case) -> None:
    """A file of a checkpoint, or its manifest."""
    folder = case.path("run", "checkpoints", case.random.choice(("step-00000002", "step-00000004")))
    files = sorted(folder.glob("*.safetensors"))
    if case.random.random() < 0.4:
        mutations.in_json(folder / "manifest.json", case.random)
        if case.random.random() < 0.8:
            case.what, case.honest = case.what + "/signed manifest", False
            mutations.signed_manifest(folder / "manifest.json")
        return
    path = case.random.choice(files)
    if case.random.random() < 0.5:
        mutations.in_safetensors(path, case.random)
    else:
        mutations.in_bytes(path, case.random, files)
    if case.random.random() < 0.6:
        case.what, case.honest = case.what + "/signed file", False
        mutations.signed_file(folder, path.name)


def folder(case: Case) -> None:
    """What lies beside the checkpoints of a run."""
    run = case.path("run")
    (run / "leases").mkdir(exist_ok=True)
    (run / "leases" / "a.json").write_text(json.dumps({"step": 2, "until": time.time() + 99}))
    ways: dict[str, Callable[[Path, Random], None]] = {
        "config.yaml": mutations.in_yaml,
        "events.jsonl": mutations.in_lines,
        "metrics.jsonl": mutations.in_lines,
        "leases/a.json": mutations.in_json,
        ".step": mutations.in_bytes,
        "checkpoints/latest": mutations.in_bytes,
    }
    for result in (run / "evaluations").glob("*.json"):
        ways[f"evaluations/{result.name}"] = mutations.in_json
    name = case.random.choice(["config.yaml", "config.yaml", *ways])
    case.what += f"/{name}"
    case.honest = name != "config.yaml"
    damage = ways[name] if case.random.random() < 0.7 else mutations.in_bytes
    damage(run / name, case.random)


def weights(case: Case) -> None:
    path = case.random.choice(sorted(case.path("weights").iterdir()))
    case.what += f"/{path.name}"
    if path.suffix == ".safetensors" and case.random.random() < 0.6:
        mutations.in_safetensors(path, case.random)
    else:
        mutations.in_bytes(path, case.random)


def sources(case: Case) -> None:
    path = case.path("sources", "list." + case.random.choice(("csv", "jsonl", "jsonl", "txt")))
    case.what += f"/{path.name}"
    if path.suffix == ".jsonl" and case.random.random() < 0.8:
        mutations.in_lines(path, case.random)
    elif path.suffix == ".csv" and case.random.random() < 0.8:
        rows = [line.split(",") for line in path.read_text().splitlines()]
        for row in mutations.twisted(rows, case.random) or []:
            row = row if isinstance(row, list) else [row]
            with open(path, "ab") as handle:
                handle.write(",".join(map(str, row)).encode("utf-8", "replace") + b"\n")
    else:
        mutations.in_bytes(path, case.random)


# What is done with it


def rows(case: Case) -> None:
    """As training reads them: all draws of an epoch, substitutes included."""
    options = ReadOptions(damaged=1.0, pool="processes", stall_s=30, outage_s=0.2)
    with Loader(case.path("set", "train"), SPEC, lanes=2, threads=0, options=options) as loader:
        batch = loader.rows(range(6))
    for key, video in zip(batch.keys, batch["video"], strict=True):
        name = key.rpartition("/")[2]
        if not (video.shape == (8, 16, 16, 3) and bool(torch.isfinite(video).all())):
            raise WrongNumber(f"{key}: {video.shape}")
        if name not in case.odd and video.numpy().tobytes() != case.truth.rows[name]:
            raise WrongNumber(f"{key} has other pixels")


def state(case: Case) -> None:
    for path in case.path("weights").iterdir():
        with contextlib.suppress(UserError):
            read_state(path)


def hashed(case: Case, truth: dict[int, Any]) -> None:
    """Whatever verifies has the true numbers."""
    for found in checkpoint.listed(case.path("run")):
        whole = case.honest and checkpoint.damage(found) is None
        if whole and checkpoint.hashes(found) != truth[found.step]:
            raise WrongNumber(f"step {found.step}")


def drawn(case: Case) -> None:
    """Films of the weights that verify."""
    told = case.path("out", "samples.json")
    if case.honest and told.is_file():
        step = json.loads(told.read_text())["step"]
        if films(case.path("out")) != case.truth.samples[step]:
            raise WrongNumber(f"samples of step {step}")


def films(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.rglob("*.png")))


def nothing(case: Case) -> None:
    return None


OF_SET = {
    "data verify": (["{place}/set", "full=true"], nothing),
    "data stats": (["{place}/set"], nothing),
    "data preview": (["{place}/set", "count=4"], nothing),
    "data repair": (["{place}/set"], rows),
    "data reshard": (["{place}/set", "out={place}/new", "per_shard=2"], nothing),
    "data diff": (["{place}/set", "{place}/set"], nothing),
    "train": (["config=" + str(ROOT / "tests/sixth/toy_flow.yaml"), "data.path={place}/set",
               "run={place}/r", "steps=1", "cluster=inline", "data.damaged=1", "data.lanes=2",
               "data.pool=processes", "data.threads=0", "data.outage_s=0.2",
               "log.tensorboard=false"], nothing),
}  # fmt: skip
GOES_ON = [
    "config=" + str(ROOT / "tests/sixth/toy_flow.yaml"), "data.path={place}/set", "run={place}/run",
    "steps=6", "cluster=inline", "data.lanes=2", "checkpoint.every=10", "log.tensorboard=false",
]  # fmt: skip
SAMPLE = ["run={place}/run", "count=1", "out={place}/out", "write=frames", "cluster=inline"]
OF_RUN = {
    "checkpoint list": (["{place}/run", "--json"], lambda case: hashed(case, case.truth.hashes)),
    "checkpoint verify": (["{place}/run"], nothing),
    "checkpoint prune": (["{place}/run", "keep=1"], lambda c: hashed(c, c.truth.hashes)),
    "checkpoint diff": (["{place}/run", "{place}/run@2"], nothing),
    "checkpoint export": (["run={place}/run", "to=safetensors", "out={place}/out"], nothing),
    "report": (["{place}/run"], nothing),
    "sample": (SAMPLE, drawn),
    "train": (GOES_ON, lambda case: hashed(case, case.truth.trained)),
}
OF_LIST = {
    "data shard": (["source={place}/sources/{list}", "out={place}/new", "mode=images", "size=8",
                    "limit_s=20"], nothing),
}  # fmt: skip
THINGS: dict[Callable[[Case], None], tuple[int, dict[str, Any]]] = {
    shard: (5, OF_SET), index: (3, OF_SET), manifest: (3, OF_SET), saved: (4, OF_RUN),
    folder: (4, OF_RUN), weights: (2, {}), sources: (2, OF_LIST),
}  # fmt: skip


def tried(folder: Path, truth: Truth, seed: int, commands: bool) -> dict[str, Any]:
    """A fresh copy, one mutation, one use of it."""
    random, place = Random(seed), folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / "base", place)
    weights_of = [weight for weight, _ in THINGS.values()]
    damage = random.choices(list(THINGS), weights_of)[0]
    verbs = THINGS[damage][1]
    case = Case(place, random, truth, damage.__name__)
    damage(case)
    verb = random.choice(sorted(verbs)) if verbs else "state"
    if verbs is OF_SET and random.random() < 0.5 and not commands:
        verb = "rows"
    told = {"seed": seed, "what": case.what, "use": verb}
    began = time.monotonic()
    try:
        with guarded(place) as outside:
            ended = _used(case, verb, verbs, commands)
    except (Exception, Hung):
        return told | {"wrong": traceback.format_exc()[-3000:]}
    strays = sorted(p.name for p in folder.iterdir() if p.name not in ("base", "case"))
    if outside or strays:
        return told | {"wrong": f"outside: {outside or strays}"}
    return told | {"ended": ended, "seconds": round(time.monotonic() - began, 2)}


def _used(case: Case, verb: str, verbs: dict[str, Any], commands: bool) -> str:
    if verb in ("rows", "state"):
        try:
            {"rows": rows, "state": state}[verb](case)
        except (UserError, RunError) as error:
            return _one_line(f"hvdm: {error}")
        return "done"
    given, check = verbs[verb]
    lists = case.what.rpartition("/")[2]
    typed = [*verb.split(), *(word.format(place=case.place, list=lists) for word in given)]
    code, said = (_command if commands else _call)(typed)
    if code in (1, 2) and "hvdm: " in said:
        return _one_line(said)
    assert code in (0, 1) and "Traceback" not in said, f"{code}: {said}"
    try:
        check(case)
    except (UserError, RunError) as error:
        return _one_line(f"hvdm: {error}")
    return "done"


def _one_line(said: str) -> str:
    *before, last = said.strip().splitlines()
    errors = [*(line for line in before if line.startswith(("hvdm: ", " "))), last]
    assert len(errors) == 1 and last.startswith("hvdm: ") and "Traceback" not in said, said
    assert len(errors[0]) < 1500, f"a line of {len(errors[0])}: {errors[0][:500]}"
    return errors[0][:200]


def _call(typed: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(typed)
    return code, said.getvalue()


def _command(typed: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "launcher.cli", *typed],
        cwd=ROOT, capture_output=True, text=True, timeout=3 * LIMIT_S,
    )  # fmt: skip
    return done.returncode, done.stderr


# What may not happen meanwhile

WRITES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1}
"""Calls, and how many paths each has; as many descriptors of folders come last."""
_watched: dict[str, Any] = {"place": None, "outside": []}


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if _watched["place"] is None:
        return
    given = tuple(given)
    if event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR):
        _check(given[0])
    elif event in WRITES:
        count = WRITES[event]
        for path, beside in zip(given[:count], given[-count:], strict=True):
            _check(path, beside)
    elif event == "socket.connect" and given[0].family != socket.AF_UNIX:
        _watched["outside"].append(f"connects to {given[1]}")


def _check(path: Any, beside: Any = -1) -> None:
    if isinstance(path, int):
        return
    folder = Path(f"/proc/self/fd/{beside}").readlink() if beside != -1 else Path()
    whole = os.path.realpath(folder / os.fsdecode(path))
    allowed = (str(_watched["place"]), "/dev/null", "/dev/shm", "/proc/")
    if not whole.startswith(allowed) and "__pycache__" not in whole:
        _watched["outside"].append(f"writes {whole}")


@contextlib.contextmanager
def guarded(place: Path) -> Iterator[list[str]]:
    outside: list[str] = []
    _watched.update(place=place, outside=outside)
    tempfile.tempdir = str(place)
    signal.alarm(LIMIT_S)
    try:
        yield outside
    finally:
        signal.alarm(0)
        _watched["place"] = None


def _hang(number: int, frame: Any) -> None:
    raise Hung(f"{LIMIT_S} s")


# All of it


def true_things(folder: Path) -> Truth:
    place = folder / "truth"
    shutil.copytree(folder / "base", place)
    nobody = Truth({}, {}, {}, {})
    read = Case(place, Random(0), nobody)
    with Loader(read.path("set", "train"), SPEC, lanes=2, threads=0) as loader:
        batch = loader.rows(range(6))
    pixels = zip(batch.keys, batch["video"], strict=True)
    known = {key.rpartition("/")[2]: video.numpy().tobytes() for key, video in pixels}
    hashes, samples = hashes_of(place / "run"), {}
    for step in hashes:
        out = place / f"out{step}"
        words = [w.format(place=place) for w in SAMPLE if not w.startswith(("run", "out"))]
        assert _call(["sample", f"run={place}/run@{step}", f"out={out}", *words])[0] == 0
        samples[step] = films(out)
    code, said = _call(["train", *(word.format(place=place) for word in GOES_ON)])
    assert code == 0 and len(known) == 6 and all(samples.values()), said
    trained = hashes | hashes_of(place / "run")
    shutil.rmtree(place)
    return Truth(known, hashes, trained, samples)


def hashes_of(run: Path) -> dict[int, Any]:
    return {found.step: checkpoint.hashes(found) for found in checkpoint.listed(run)}


def peak_mb() -> dict[str, int]:
    of = {"own": resource.RUSAGE_SELF, "children": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(who).ru_maxrss >> 10 for name, who in of.items()}


def run(folder: Path, first: int, last: int, commands: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"HVDM_TRUST": "1", "HVDM_CACHE": str(folder / "case" / "cache")}
    os.environ |= {"TMPDIR": str(folder / "case"), "HOME": str(folder / "case")}
    np.seterr(all="ignore")
    sys.path.append(str(ROOT / "tests" / "sixth"))
    with contextlib.redirect_stdout(io.StringIO()):
        base(folder / "base")
        truth = true_things(folder)
    sys.addaudithook(_hook)
    signal.signal(signal.SIGALRM, _hang)
    for seed in range(first, last):
        print(json.dumps(tried(folder, truth, seed, commands=False)), flush=True)
    for seed in range(COMMANDS + first, COMMANDS + first + commands):
        print(json.dumps(tried(folder, truth, seed, commands=True)), flush=True)
    print(json.dumps({"peak_mb": peak_mb()}), flush=True)


if __name__ == "__main__":
    folder_, first_, last_, *more = sys.argv[1:]
    run(Path(folder_), int(first_), int(last_), int(more[0]) if more else 0)
