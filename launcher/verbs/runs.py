"""The verbs around a run: config, train, sample, plan, models, report."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from hvdm.config import plain
from hvdm.errors import UserError
from hvdm.options import gathered, option
from hvdm.progress import timed
from launcher.arguments import overrides
from launcher.run_options import (
    ANY_KEY,
    NAME,
    RUN,
    ModelsOptions,
    OpensRuns,
    PlanOptions,
    SampleOptions,
)
from launcher.verb import tell

CONFIG = "a config under configs/, or the path of a YAML file"
TRAINED_WITH = (
    ("run=DIR", "the run folder; default runs/NAME"),
    ("steps=N", "how long, in steps, instead of the config's samples"),
    ("seed=N", "of the initial weights, the order of samples, and all noise"),
    ("engine=local|deepspeed", "plain torch, or DeepSpeed with engine.zero=0|1|2|3"),
    ("engine.precision=fp32|bf16", "fp64 too, with engine=local"),
    ("optimizer=adamw|sgd", "and optimizer.lr=, optimizer.clip=, …"),
    ("first_stage=RUN[@STEP]", "the autoencoder that a diffusion run works on"),
    ("init=RUN[@STEP]", "begin from another run's weights"),
    ("resume=auto|must|never|STEP", "go on from the newest; from a step; from none"),
    ("cluster=inline|local|existing", "this process; Ray on this machine; a running cluster"),
    ("cluster.workers=N", "how many processes share the work; 2..8 goes with the cluster's size"),
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(OpensRuns):
    config: str = option(about=CONFIG, shown="NAME", example=NAME)
    background: bool = option(False, "trains on when nobody reads its output, as behind `| head`")
    keys: Mapping[str, str] = gathered(*ANY_KEY, rows=TRAINED_WITH)
    examples: ClassVar = (
        "train config=tiny/hvdm_autoencoder",
        "train config=tiny/hvdm_diffusion cluster.workers=2 engine=deepspeed engine.zero=2",
        "train config=tiny/hvdm_autoencoder cluster=inline steps=20 run=/tmp/try",
    )


def train(asked: TrainOptions) -> int:
    with timed("reading the config, loading torch, looking at data and first stage"):
        from launcher import compose
        from launcher.verbs import training

        config = compose.run_config(asked.config, overrides(asked.keys))
        config = training.preflight(config, asked.keys.keys())
    return training.train(config, asked.background)


@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    config: str = option(about=CONFIG, shown="NAME", example=NAME)
    keys: Mapping[str, str] = gathered(*ANY_KEY)
    json: bool = option(False, "as data, instead of YAML")
    examples: ClassVar = ("config config=tiny/hvdm_autoencoder engine=deepspeed --json",)


def config(asked: ConfigOptions) -> int:
    import yaml

    from launcher import compose

    found = plain(compose.run_config(asked.config, overrides(asked.keys)))
    return tell(asked.json, found, yaml.safe_dump(found, sort_keys=False))


def sample(asked: SampleOptions) -> int:
    from launcher.verbs import samples

    return samples.sample(asked)


def plan(asked: PlanOptions) -> int:
    from launcher.sizing import plan as planner

    if not 0 < asked.mfu <= 1:
        raise UserError(f"mfu={asked.mfu:g}: the share of the peak, above 0, at most 1")
    return planner.plan(asked)


def models(asked: ModelsOptions) -> int:
    from launcher.sizing import models as listing

    if asked.config is None and asked.keys:
        raise UserError(f"{overrides(asked.keys)[0]} of which config? give config=NAME with it")
    return listing.models(asked)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    run: str = option(about="the run folder", shown="RUN", example=RUN, word=True)
    json: bool = option(False, "the same as data, without the page")
    examples: ClassVar = ("report run=runs/tiny/hvdm_autoencoder",)


def report(asked: ReportOptions) -> int:
    from eval.report.report import as_json, write_report

    run = run_folder(asked.run)
    print(json.dumps(as_json(run), indent=1) if asked.json else f"wrote {write_report(run)}")
    return 0


def run_folder(given: str) -> Path:
    run = Path(given).expanduser()
    if not run.is_dir():
        raise UserError(f"run={run}: there is no such folder")
    return run


@dataclass(frozen=True, kw_only=True)
class VersionOptions:
    json: bool = option(False, "as data")
    examples: ClassVar = ("version", "version --json")


def version(asked: VersionOptions) -> int:
    found = {name: metadata.version(name) for name in ("hvdm", "torch", "ray", "deepspeed")}
    found["python"] = platform.python_version()
    text = " ".join(f"{name} {number}" for name, number in found.items())
    return tell(asked.json, found, text)
