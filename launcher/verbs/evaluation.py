"""`hvdm evaluate`, `hvdm compare`, `hvdm weights …`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from hvdm.config import ClusterConfig
from hvdm.errors import UserError
from hvdm.options import gathered, option
from launcher.run_options import OpensRuns
from launcher.verb import tell
from launcher.where import OnCluster
from launcher.workers import cluster

OPTION = "sample."


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(OnCluster, OpensRuns):
    run: str | None = option(
        None, "the run; its newest valid checkpoint unless told", shown="RUN[@STEP]", word=True
    )
    protocol: str = option(
        about="what to measure; a wrong name lists them all",
        shown="NAME[,NAME…]", example="reconstruction@1",
    )  # fmt: skip
    generated: str | None = option(
        None, "instead of a run: folders of clips, shards, two .npy files of features, or "
        "python:FILE.py:FUNCTION", shown="X",
    )  # fmt: skip
    real: str | None = option(None, "what it is compared to; goes with a run too", shown="X")
    detector: str | None = option(
        None, "the network of the features; untrained only by name", shown="NAME"
    )
    weights: str | None = option(
        None, "where files of weights lie; see hvdm weights list", shown="DIR"
    )
    average: Literal["ema", "raw", "both"] | None = option(
        None, "averaged weights or those that were trained; default ema, and both with watch"
    )
    watch: bool = option(False, "follow the run: every committed checkpoint once, to its end")
    poll_s: int = option(10, "watch=true: seconds between two looks", least=1)
    clips: int | None = option(None, "how many clips, instead of the protocol's number")
    frames: int | None = option(None, "of the clips, where the protocol leaves them open")
    stride: int | None = option(None, "the same for the step between frames")
    size: str | None = option(None, "the same for their size", shown="HxW")
    seed: int = option(0, "of the samples; default 0")
    steps: int | None = option(None, "of the sampler; default the config's")
    what: str | None = option(None, "what to sample, as in hvdm sample")
    extrapolate: bool = option(False, "the Fréchet distance at no sample-size bias as well")
    again: bool = option(False, "measure anew what is known already")
    out: str | None = option(
        None, "where the result goes; default RUN/evaluations, or ./evaluations", shown="DIR"
    )
    json: bool = option(False, "the results as data")
    options: Mapping[str, str] = gathered(
        "what to sample, as in hvdm sample", "sample.KEY=VALUE", ("sample",)
    )
    examples: ClassVar = (
        "evaluate run=runs/tiny/hvdm_autoencoder protocol=reconstruction@1 workers=2",
        "evaluate run=runs/tiny/hvdm_diffusion protocol=fvd/tf-reference@1 detector=untrained",
        "evaluate real=clips/real generated=clips/made protocol=fvd/stylegan-v@1 weights=DIR",
        "evaluate real=a.npy generated=b.npy protocol=features@1",
    )


def evaluate(asked: EvaluateOptions) -> int:
    from eval.evaluate import evaluate_all
    from eval.protocol.protocol import find
    from hvdm import opening

    where = asked.where("local")
    for name in asked.protocol.split(","):
        find(name)
    requests = _requests(asked, where)
    say = _quiet if asked.json else _say
    if asked.watch:
        return _watch(asked, requests, where)
    found = []
    with opening.kept(requests[0].run):
        for request in requests:
            found += evaluate_all(request, cluster.stream(where), say)
    _tell(asked, found)
    return 0


def _tell(asked: EvaluateOptions, found: list[dict[str, Any]]) -> None:
    if asked.json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1))
        return
    for result in found:
        print(f"wrote {result['path']}" if not result.get("known") else f"see {result['path']}")


def _watch(asked: EvaluateOptions, requests: list[Any], where: ClusterConfig) -> int:
    """Keeps one session of Ray for all checkpoints."""
    from eval.watch import watch

    say, poll_s = _quiet if asked.json else _say, float(asked.poll_s)
    if where.name == "inline":
        found = watch(requests, map, say, poll_s)
    else:
        with cluster.session(where):
            found = watch(requests, cluster.stream(where), say, poll_s)
    _tell(asked, found) if found else say("there was nothing to evaluate")
    return 0


def _requests(asked: EvaluateOptions, where: ClusterConfig) -> list[Any]:
    from eval.evaluate import Request

    averages = asked.average or ("both" if asked.watch else "ema")
    same = ("run", "protocol", "detector", "clips", "seed", "steps", "out", "frames", "stride")
    more = ("what", "weights", "extrapolate", "again")
    request = Request(
        **{key: getattr(asked, key) for key in (*same, *more)},
        device="cuda" if where.gpus_per_worker else "cpu",
        real=_path(asked.real),
        generated=_path(asked.generated),
        size=_size(asked.size),
        options={key.removeprefix(OPTION): value for key, value in asked.options.items()},
    )
    kinds = {"ema": (True,), "raw": (False,), "both": (True, False)}[averages]
    if asked.run is None or averages == "both" and not asked.watch and not _averages(asked.run):
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


def _say(text: str) -> None:
    print(text, flush=True)


def _quiet(text: str) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    results: tuple[str, ...] = option(
        (), "two result files of RUN/evaluations/", shown="A B", word=True
    )
    force: bool = option(False, "compare all the same what was measured differently")
    json: bool = option(False, "as data")
    examples: ClassVar = ("compare runs/a/evaluations/X.json runs/b/evaluations/Y.json",)


def compare(asked: CompareOptions) -> int:
    from eval.evaluate import compare as compared
    from eval.evaluate import read

    if len(asked.results) != 2:
        raise UserError("two results are expected: hvdm compare A.json B.json")
    first, second = map(read, asked.results)
    answer = compared(first, second, asked.force)
    lines = [f"warning: {answer['warning']}"] if answer["warning"] else []
    lines += [_change(name, row) for name, row in answer["values"].items()]
    return tell(asked.json, answer, "\n".join(lines))


def _change(name: str, row: dict[str, Any]) -> str:
    error, reach = row["standard_error"], row["interval"]
    spread = f" ± {error:.2g}" if error is not None else ""
    between = f", 95 % from {reach[0]:.4g} to {reach[1]:.4g}" if reach else ""
    text = f"{name}: {row['a']:.4g} -> {row['b']:.4g}, difference {row['difference']:.4g}"
    return text + spread + between


WHERE_WEIGHTS = "default $HVDM_WEIGHTS, or hvdm/weights in the cache"


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    name: str = option(about="which; see hvdm weights list", shown="NAME", example="i3d", word=True)
    weights: str | None = option(None, f"where to; {WHERE_WEIGHTS}", shown="DIR")
    sha256: str | None = option(None, "refuse any other file, and pin this one", shown="HASH")
    url: str | None = option(None, "from somewhere else", shown="URL")
    json: bool = option(False, "as data")
    examples: ClassVar = (
        "weights fetch name=inception",
        "weights fetch name=i3d weights=/data/weights",
    )


def weights_fetch(asked: FetchOptions) -> int:
    from eval.networks import weights

    folder, say = weights.folder_of(asked.weights), _quiet if asked.json else _say
    path = weights.fetch(asked.name, folder, asked.sha256, asked.url, say)
    row = next(row for row in weights.listed(folder) if row["name"] == asked.name)
    return tell(asked.json, row, f"{path}  sha256 {row['sha256']}")


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    weights: str | None = option(None, WHERE_WEIGHTS, shown="DIR")
    json: bool = option(False, "as data")
    examples: ClassVar = ("weights list", "weights list weights=/data/weights --json")


def weights_list(asked: WeightsOptions) -> int:
    from eval.networks import weights

    rows = weights.listed(weights.folder_of(asked.weights))
    return tell(asked.json, rows, "\n".join(map(_state, rows)))


def _state(row: Mapping[str, Any]) -> str:
    lines = [row["about"], row["problem"] or "ready"]
    if row["problem"]:
        lines.append(f"from {row['url']} ({row['expected']})")
    return f"{row['name']:<16} " + f"\n{'':<17}".join(lines)
