"""`hvdm doctor`: what works on this machine, and what to do about what does not."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

from hvdm.errors import UserError
from hvdm.options import option
from launcher.doctor import checks, nodes, probing
from launcher.doctor.checks import Line
from launcher.where import OnCluster

CHECKS: dict[str, Callable[[], list[Line]]] = {
    "python": checks.python,
    "packages": checks.packages,
    "compiler": checks.compiler,
    "machine": checks.machine,
    "disk": checks.disk,
    "names": checks.host_name,
    "ports": checks.ports,
    "ray from before": checks.ray_from_before,
    "gpu": lambda: probing.probe("gpu"),
    "attention": lambda: probing.probe("attention"),
    "video": lambda: probing.probe("video"),
    "evaluation": lambda: probing.probe("evaluation"),
    "deepspeed": lambda: probing.probe("deepspeed", 400),
    "ray": lambda: probing.probe("ray"),
}
_SLOW = {
    "deepspeed": "builds its CPU operator on the first time: about a minute",
    "ray": "starts a session and stops it: some seconds",
}
_SIGN = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(OnCluster):
    storage: str = option(
        ".", "with cluster=existing, which checks every node and their network: a folder that "
        "all of them have to see; default this one", shown="DIR",
    )  # fmt: skip
    json: bool = option(False, "every check as data")
    examples: ClassVar = (
        "doctor",
        "doctor --json",
        "doctor cluster=existing cluster.address=head:6379 storage=/shared/runs",
    )


def doctor(asked: DoctorOptions) -> int:
    """Exit code 0, or 1 when something failed; warnings do not count."""
    began = time.monotonic()
    lines: list[Line] = []
    for line in _looked_at(asked):
        lines.append(line)
        if not asked.json:
            _tell(line)
    failed = [line for line in lines if line.state == "failed"]
    if asked.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(line) for line in lines]}, indent=1))
    else:
        print(_verdict(lines, time.monotonic() - began))
    return 1 if failed else 0


def _looked_at(asked: DoctorOptions) -> Iterator[Line]:
    """Of this machine, or of every node of a cluster."""
    where = asked.where("local", shared="existing")
    if where.name == "local":
        return _lines(quiet=asked.json)
    if where.name != "existing":
        raise UserError(f"cluster={where.name}: expected local, this machine, or existing")
    return iter(nodes.check(where, asked.storage))


def _lines(quiet: bool) -> Iterator[Line]:
    for name, check in CHECKS.items():
        if not quiet and name in _SLOW:
            print(f"…       {name}: {_SLOW[name]}", file=sys.stderr, flush=True)
        yield from check()


def _tell(line: Line) -> None:
    print(f"{_SIGN[line.state]} {line.name}: {line.text}", flush=True)
    if line.remedy:
        print(f"          -> {line.remedy}", flush=True)


def _verdict(lines: list[Line], seconds: float) -> str:
    failed = [line.name for line in lines if line.state == "failed"]
    warned = [line.name for line in lines if line.state == "warning"]
    took = f"({len(lines)} checks, {seconds:.0f} s)"
    if failed:
        return f"\nnot ready: {', '.join(failed)} failed; do what the arrows say {took}"
    if warned:
        return f"\nready, with warnings about {', '.join(warned)} {took}; next: hvdm demo"
    return f"\nready {took}; next: hvdm demo"
