"""`hvdm data …`: makes data sets, reads them whole, mends and rearranges them."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from data_tools import verify as verifier
from data_tools.synthetic import making as maker
from hvdm import config as configs
from hvdm.config import ClusterConfig
from hvdm.errors import UserError
from launcher import compose
from launcher.arguments import Arguments
from launcher.workers import cluster
from launcher.workers.cluster import Executor, over_processes

DEFAULTS = {"train": 256, "test": 64, "per_shard": 32, "frames": 16, "height": 32, "width": 32}


def _where(given: Arguments) -> Executor:
    """`workers=N` processes of this machine, or `cluster=local|existing` for Ray."""
    name = given.take("cluster")
    workers = max(1, given.integer("workers", 1) or 1)
    if name is None:
        return over_processes(workers) if workers > 1 else cluster.in_process
    overrides = [f"{key}={given.take(key)}" for key in given.values if key.startswith("cluster.")]
    if name != "inline" and "workers" in given.values:
        overrides.append(f"cluster.workers={workers}")
    group = compose.group("cluster", name, overrides)
    return cluster.executor(configs.parse(ClusterConfig, group, "cluster"))


def _folder(given: Arguments, what: str = "path") -> str:
    """The data set, as a word or as `path=`."""
    if given.words:
        return given.words.pop(0)
    return given.need(what, "datasets/shapes")


def _tell(given: Arguments, answer: Any, text: Any) -> None:
    print(json.dumps(answer, indent=1, default=str) if given.json else text)


def synthetic(given: Arguments) -> int:
    out = Path(given.take("out", "datasets/shapes") or "")
    numbers = {key: int(given.integer(key, value) or 0) for key, value in DEFAULTS.items()}
    seed, fps = given.integer("seed", 0) or 0, given.integer("fps", 8) or 0
    run = _where(given)
    given.done()
    made = maker.make(out, seed=seed, fps=fps, run=run, **numbers)
    counts = {name: manifest.samples for name, manifest in made.manifests.items()}
    _tell(given, {"folder": str(made.folder), "fresh": made.fresh, "clips": counts}, made)
    return 0


def shard(given: Arguments) -> int:
    from data_tools import shard as sharder
    from data_tools import summary

    source = given.need("source", "videos/")
    out = given.need("out", "datasets/mine")
    layout, run = given.take("layout"), _where(given)
    settings = _settings(given)
    given.done()
    whole = sharder.shard(source, out, settings, layout, run, quiet=given.json)
    _tell(given, whole, summary.text(whole))
    return 0


def _settings(given: Arguments) -> Any:
    from data_tools.settings import Settings

    hints = get_type_hints(Settings)
    typed = {f.name: given.take(f.name) for f in fields(Settings)}
    values = {
        name: _typed(hints[name], value) for name, value in typed.items() if value is not None
    }
    return configs.parse(Settings, values)


def _typed(kind: Any, value: str) -> Any:
    """The word as the kind of value that the setting has; what does not fit stays as it is."""
    for convert, wanted in ((int, (int, int | None)), (float, (float,))):
        if kind in wanted:
            try:
                return convert(value)
            except ValueError:
                return value
    if kind is bool:
        return {"true": True, "false": False}.get(value.lower(), value)
    return value


def verify(given: Arguments) -> int:
    path = _folder(given)
    decode = given.flag("full", given.flag("decode", False))
    run = _where(given)
    given.done()
    report = verifier.verify(path, decode=decode, run=run, quiet=given.json)
    _tell(given, report.as_json(), report)
    return 0 if report.ok else 1


def repair(given: Arguments) -> int:
    from data_tools import repair as mender

    path, source = _folder(given), given.take("source")
    given.done()
    answer = mender.repair(path, source)
    _tell(given, answer, mender.text(answer))
    return 0 if answer["ok"] else 1


def stats(given: Arguments) -> int:
    from data_tools import summary

    path = _folder(given)
    given.done()
    found = summary.stats(path)
    lines = [
        f"{split}: {key} {value}" for split, one in found.items() for key, value in one.items()
    ]
    _tell(given, found, "\n".join(lines))
    return 0


def preview(given: Arguments) -> int:
    from data_tools import preview as previewer

    path, count = _folder(given), given.integer("count", 24) or 24
    seed, out = given.integer("seed", 0) or 0, given.take("out")
    given.done()
    page = previewer.preview(path, count, seed, out)
    _tell(given, {"page": str(page)}, f"wrote {page}")
    return 0


def reshard(given: Arguments) -> int:
    from data_tools import rearrange

    path, out = _folder(given), given.need("out", "datasets/other")
    per_shard, seed = given.integer("per_shard", 256) or 0, given.integer("seed")
    run = _where(given)
    given.done()
    made = rearrange.reshard(path, out, per_shard, seed, run, quiet=given.json)
    _tell(given, made, _made(made))
    return 0


def merge(given: Arguments) -> int:
    from data_tools import rearrange

    sources, out = list(given.words), given.need("out", "datasets/both")
    run = _where(given)
    given.done()
    if len(sources) < 2:
        raise UserError("two data sets or more are expected: hvdm data merge A B out=DIR")
    made = rearrange.merge(sources, out, run, quiet=given.json)
    _tell(given, made, _made(made))
    return 0


def _made(made: Mapping[str, Any]) -> str:
    lines = [f"  {split}: {count} clips" for split, count in made["clips"].items()]
    return "\n".join([f"{made['folder']}: made", *lines])


def diff(given: Arguments) -> int:
    from data_tools import rearrange

    if len(given.words) != 2:
        raise UserError("two data sets are expected: hvdm data diff A B")
    given.done()
    answer = rearrange.diff(*given.words)
    _tell(given, answer, rearrange.text(answer))
    return 0 if answer["equal"] else 1


def encode(given: Arguments) -> int:
    from data_tools import encode as encoder

    path, out = _folder(given), given.need("out", "datasets/latents")
    stage = given.need("first_stage", "runs/tiny/hvdm_autoencoder")
    stride = given.integer("stride")
    run = _where(given)
    given.done()
    made = encoder.encode(path, out, stage, stride, run, quiet=given.json)
    _tell(given, made, _made(made))
    return 0
