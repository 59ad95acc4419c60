"""What the verbs around a run can be asked for, apart from what does it: help loads nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from hvdm.config import RunConfig
from hvdm.options import gathered, option
from launcher.where import OnCluster

KEYS = (*(f.name for f in fields(RunConfig)),)
ANY_KEY = ("any key of the config, such as data.path=DIR or batch=16", "KEY=VALUE", KEYS)
NAME, RUN = "tiny/hvdm_autoencoder", "runs/tiny/hvdm_autoencoder"


@dataclass(frozen=True, kw_only=True)
class OpensRuns:
    """The key of the verbs that import the module which a run folder names.

    It holds for the whole command, and the command line sees to it.
    """

    trust: bool = option(False, "import the family that a run folder names, whoever wrote it")


@dataclass(frozen=True, kw_only=True)
class SampleOptions(OnCluster, OpensRuns):
    run: str = option(
        about="the run; its newest valid checkpoint unless told",
        shown="RUN[@STEP]", example="runs/tiny/hvdm_diffusion",
    )  # fmt: skip
    what: str | None = option(
        None, "one of the run's kinds, which run=RUN --help lists; default its first", shown="KIND"
    )
    options: Mapping[str, str] = gathered("what the kind takes, such as motion=fast", "KEY=VALUE")
    count: int = option(8, "how many", least=1)
    batch: int = option(8, "how many at a time", least=1)
    seed: int = option(0, "sample i depends on the seed and on i alone; default 0")
    steps: int | None = option(None, "of the sampler; default the config's")
    fit: str = option(
        "crop", "of pictures: the centre cropped to the clip's aspect, or all of it with its "
        "border repeated around it", shown="crop|pad",
    )  # fmt: skip
    write: tuple[str, ...] | None = option(
        None, "films: default mp4,gif; frames are a folder of png files; images: png; depth, "
        "spectrum: png,npy; mesh: glb; page: html", shown="mp4,gif,frames",
    )  # fmt: skip
    fps: int = option(8, "of films", least=1)
    out: str | None = option(None, "where to; default RUN/samples/step-…", shown="DIR")
    json: bool = option(False, "what was drawn, from which weights, and the files")
    examples: ClassVar = (
        "sample run=runs/tiny/hvdm_diffusion count=8",
        "sample run=RUN what=long frames=128 count=2 workers=2",
        "sample run=RUN what=image image=photo.jpg motion=slow,fast count=4",
        "sample run=RUN what=dynamics motion=slow,medium,fast count=6 guidance.motion=1",
    )


@dataclass(frozen=True, kw_only=True)
class PlanOptions(OpensRuns):
    config: str = option(about="the run that is planned", shown="NAME", example=NAME)
    gpus: int = option(8, "how many", least=1)
    gpu: str = option("h100", "of 80, 80 and 141 GB", shown="a100|h100|h200")
    mfu: float = option(0.3, "the share of the peak that is reached: measure yours")
    json: bool = option(False, "as data")
    keys: Mapping[str, str] = gathered(
        "any key of the config, such as engine.precision=bf16", "KEY=VALUE", KEYS
    )
    examples: ClassVar = (
        "plan config=tiny/hvdm_diffusion gpus=2",
        "plan config=tiny/hvdm_autoencoder gpus=8 gpu=h200 engine=deepspeed "
        "engine.zero=2 engine.precision=bf16 model.width=768 batch=64",
    )


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(OpensRuns):
    config: str | None = option(None, "only this one, and then any key of it", shown="NAME")
    json: bool = option(False, "as data")
    keys: Mapping[str, str] = gathered(
        "any key of that config, such as model.width=256", "KEY=VALUE", KEYS
    )
    examples: ClassVar = ("models", "models config=tiny/hvdm_diffusion --json")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    name: str = option("hvdm", "a demo, or the path of a YAML file", shown="NAME", word=True)
    out: str | None = option(
        None, "where to; default as its file says: runs/demo. What is there already is used",
        shown="DIR",
    )  # fmt: skip
    steps: int | None = option(None, "train the models for N steps only", least=1)
    clips: int | None = option(None, "evaluate N clips only", least=1)
    json: bool = option(False, "figures and where everything lies; progress goes to stderr")
    examples: ClassVar = ("demo", "demo hvdm out=/tmp/demo", "demo out=/tmp/quick steps=4 clips=4")
