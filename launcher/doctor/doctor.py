"""`hvdm doctor`: what works on this machine, and what to do about what does not."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from hvdm.config import ClusterConfig
from hvdm.errors import UserError
from launcher.arguments import Arguments
from launcher.doctor import checks, nodes, probing
from launcher.doctor.checks import Line

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


def doctor(given: Arguments) -> int:
    """Exit code 0, or 1 when something failed; warnings do not count."""
    began = time.monotonic()
    lines: list[Line] = []
    for line in _asked(given):
        lines.append(line)
        if not given.json:
            _tell(line)
    failed = [line for line in lines if line.state == "failed"]
    if given.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(line) for line in lines]}, indent=1))
    else:
        print(_verdict(lines, time.monotonic() - began))
    return 1 if failed else 0


def _asked(given: Arguments) -> Iterator[Line]:
    """Of this machine, or of every node of a cluster."""
    name, address = given.take("cluster", "local"), given.take("cluster.address", "auto")
    storage = given.take("storage", ".") or "."
    given.done()
    if name == "local":
        return _lines(quiet=given.json)
    if name != "existing":
        raise UserError(f"cluster={name}: expected local, this machine, or existing")
    return iter(nodes.check(ClusterConfig("existing", address=address), storage))


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
