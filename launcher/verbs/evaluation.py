"""`hvdm evaluate`, `hvdm compare`, `hvdm weights …`."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from hvdm.config import ClusterConfig, parse
from hvdm.errors import UserError, closest
from launcher import compose
from launcher.arguments import Arguments
from launcher.workers import cluster

AVERAGES = ("ema", "raw", "both")
OPTION = "sample."


def evaluate(given: Arguments) -> int:
    from eval.evaluate import evaluate_all

    where = _cluster(given)
    watched, poll_s = given.flag("watch"), given.integer("poll_s", 10) or 10
    requests = _requests(given, where, watched)
    given.done()
    say = _quiet if given.json else _say
    if watched:
        return _watch(given, requests, where, float(poll_s))
    found = []
    for request in requests:
        found += evaluate_all(request, cluster.stream(where), say)
    _tell(given, found)
    return 0


def _tell(given: Arguments, found: list[dict[str, Any]]) -> None:
    if given.json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1))
        return
    for result in found:
        print(f"wrote {result['path']}" if not result.get("known") else f"see {result['path']}")


def _watch(given: Arguments, requests: list[Any], where: ClusterConfig, poll_s: float) -> int:
    """Keeps one session of Ray for all checkpoints."""
    from eval.watch import watch

    say = _quiet if given.json else _say
    if where.name == "inline":
        found = watch(requests, map, say, poll_s)
    else:
        with cluster.session(where):
            found = watch(requests, cluster.stream(where), say, poll_s)
    _tell(given, found) if found else say("there was nothing to evaluate")
    return 0


def _requests(given: Arguments, where: ClusterConfig, watched: bool) -> list[Any]:
    from eval.evaluate import Request

    averages = given.take("average", "both" if watched else "ema") or "ema"
    if averages not in AVERAGES:
        raise UserError(f"average={averages!r}; {closest(averages, AVERAGES)}")
    request = Request(
        run=given.take("run"),
        protocol=given.need("protocol", "reconstruction@1"),
        detector=given.take("detector"),
        clips=given.integer("clips"),
        seed=given.integer("seed", 0) or 0,
        steps=given.integer("steps"),
        out=given.take("out"),
        device="cuda" if where.gpus_per_worker else "cpu",
        real=_path(given.take("real")),
        generated=_path(given.take("generated")),
        frames=given.integer("frames"),
        stride=given.integer("stride"),
        size=_size(given.take("size")),
        what=given.take("what"),
        options=_options(given),
        weights=given.take("weights"),
        extrapolate=given.flag("extrapolate"),
        again=given.flag("again"),
    )
    kinds = {"ema": (True,), "raw": (False,), "both": (True, False)}[averages]
    if request.run is None or averages == "both" and not watched and not _averages(request.run):
        kinds = (True,)
    return [replace(request, averaged=averaged) for averaged in kinds]


def _averages(run: str) -> bool:
    from eval.sides import keeps_averages
    from hvdm.checkpoint import checkpoint
    from hvdm.opening import split_reference

    folder, step = split_reference(run)
    return keeps_averages(checkpoint.choose(folder, step))


def _path(given: str | None) -> str | None:
    """python:FILE.py:FUNCTION with a whole path: workers may live in another folder."""
    if given is None or not given.startswith("python:"):
        return given
    place, colon, function = given.removeprefix("python:").rpartition(":")
    whole = str(Path(place).absolute()) if place.endswith(".py") else place
    return f"python:{whole}{colon}{function}"


def _size(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", given)
    if not found or int(found[1]) < 1:
        raise UserError(f"size={given!r}: expected HEIGHTxWIDTH, such as 128x128")
    return int(found[1]), int(found[2] or found[1])


def _options(given: Arguments) -> dict[str, str]:
    keys = [key for key in given.values if key.startswith(OPTION)]
    return {key.removeprefix(OPTION): given.take(key) or "" for key in keys}


def _say(text: str) -> None:
    print(text, flush=True)


def _quiet(text: str) -> None:
    return None


def _cluster(given: Arguments) -> ClusterConfig:
    """The cluster group of the config, with `workers=N` as a short form."""
    name = given.take("cluster", "local")
    overrides = [f"{key}={given.take(key)}" for key in given.values if key.startswith("cluster.")]
    workers = given.integer("workers")
    if workers is not None:
        overrides.append(f"cluster.workers={workers}")
    return parse(ClusterConfig, compose.group("cluster", str(name), overrides), "cluster")


def compare(given: Arguments) -> int:
    from eval.evaluate import compare as compared
    from eval.evaluate import read

    if len(given.words) != 2:
        raise UserError("two results are expected: hvdm compare A.json B.json")
    force = given.flag("force")
    given.done()
    first, second = map(read, given.words)
    answer = compared(first, second, force)
    if given.json:
        print(json.dumps(answer, indent=1))
        return 0
    if answer["warning"]:
        print(f"warning: {answer['warning']}")
    for name, row in answer["values"].items():
        print(_change(name, row))
    return 0


def _change(name: str, row: dict[str, Any]) -> str:
    error, reach = row["standard_error"], row["interval"]
    spread = f" ± {error:.2g}" if error is not None else ""
    between = f", 95 % from {reach[0]:.4g} to {reach[1]:.4g}" if reach else ""
    text = f"{name}: {row['a']:.4g} -> {row['b']:.4g}, difference {row['difference']:.4g}"
    return text + spread + between


def weights_fetch(given: Arguments) -> int:
    from eval.networks import weights

    name, folder = given.need("name", "i3d"), weights.folder_of(given.take("weights"))
    sha256, url = given.take("sha256"), given.take("url")
    given.done()
    path = weights.fetch(name, folder, sha256, url, _quiet if given.json else _say)
    row = next(row for row in weights.listed(folder) if row["name"] == name)
    print(json.dumps(row, indent=1) if given.json else f"{path}  sha256 {row['sha256']}")
    return 0


def weights_list(given: Arguments) -> int:
    from eval.networks import weights

    rows = weights.listed(weights.folder_of(given.take("weights")))
    given.done()
    if given.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        state = "ready" if row["problem"] is None else row["problem"]
        print(f"{row['name']:<16} {row['about']}\n{'':<16} {state}")
        if row["problem"]:
            print(f"{'':<16} from {row['url']} ({row['expected']})")
    return 0
