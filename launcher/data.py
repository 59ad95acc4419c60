"""`hvdm data …`: makes data sets and reads them whole."""

import json
from pathlib import Path

from data_tools import synthetic as maker
from data_tools import verify as verifier
from launcher.arguments import Arguments
from launcher.cluster import over_processes

DEFAULTS = {"train": 256, "test": 64, "per_shard": 32, "frames": 16, "height": 32, "width": 32}


def synthetic(given: Arguments) -> int:
    out = Path(given.take("out", "datasets/shapes") or "")
    numbers = {key: int(given.integer(key, value) or 0) for key, value in DEFAULTS.items()}
    seed, fps = given.integer("seed", 0) or 0, given.integer("fps", 8) or 0
    workers = max(1, given.integer("workers", 1) or 1)
    given.done()
    print(maker.make(out, seed=seed, fps=fps, run=over_processes(workers), **numbers))
    return 0


def verify(given: Arguments) -> int:
    path = given.need("path", "datasets/shapes")
    decode = given.flag("decode", True)
    given.done()
    report = verifier.verify(path, decode=decode)
    print(json.dumps(report.as_json(), indent=1) if given.json else report)
    return 0 if report.ok else 1
