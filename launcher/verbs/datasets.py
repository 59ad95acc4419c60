"""`hvdm data …`: makes data sets, reads them whole, mends and rearranges them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from data_tools.settings import Settings
from hvdm import config as configs
from hvdm.errors import UserError
from hvdm.options import gathered, option
from launcher.arguments import overrides
from launcher.run_options import OpensRuns
from launcher.verb import tell
from launcher.where import OnCluster

if TYPE_CHECKING:
    from launcher.workers.cluster import Executor

FOLDER, AS_DATA = "datasets/shapes", "as data"


@dataclass(frozen=True, kw_only=True)
class Shared(OnCluster):
    """A job of processes on this machine, or of a Ray cluster: equal bytes."""

    json: bool = option(False, AS_DATA)

    def executor(self) -> "Executor":
        from launcher.workers import cluster

        if self.cluster is None and not self.cluster_keys:
            return cluster.over_processes(self.workers or 1)
        return cluster.executor(self.where())


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(Shared):
    kind: str = option(
        "shapes",
        "moving shapes; real handwriting; solids with their depth; things in the wind",
        shown="shapes|digits|moving_digits|scenes|sway",
    )
    out: str = option(FOLDER, "where to", shown="DIR")
    train: int = option(256, "clips to train on")
    test: int = option(64, "clips held out")
    frames: int | None = option(None, "of a clip; default 16, of pictures 1", least=1)
    height: int = option(32, "in pixels", least=1)
    width: int = option(32, "in pixels", least=1)
    fps: int = option(8, "frames a second", least=1)
    per_shard: int = option(32, "clips in a shard", least=1)
    seed: int = option(0, "equal arguments give equal bytes")
    examples: ClassVar = (
        "data synthetic out=datasets/shapes train=256 test=64",
        "data synthetic kind=digits out=datasets/digits train=1400 test=397",
        "data synthetic kind=scenes out=datasets/scenes train=2048 test=64",
        "data synthetic kind=sway out=datasets/sway frames=32 height=40 width=64",
    )


def synthetic(asked: SyntheticOptions) -> int:
    from data_tools.synthetic import making

    keys = ("train", "test", "per_shard", "height", "width", "seed", "fps", "kind")
    given = {key: getattr(asked, key) for key in keys}
    frames = asked.frames or (1 if asked.kind in making.PICTURE_KINDS else 16)
    made = making.make(Path(asked.out), run=asked.executor(), frames=frames, **given)
    counts = {name: manifest.samples for name, manifest in made.manifests.items()}
    answer = {"folder": str(made.folder), "fresh": made.fresh, "clips": counts}
    return tell(asked.json, answer, made)


@dataclass(frozen=True, kw_only=True)
class ShardOptions(Shared):
    source: str = option(
        about="a folder, a glob, or a list (.txt, .csv, .jsonl: captions, labels)",
        shown="WHERE", example="videos/",
    )  # fmt: skip
    out: str = option(
        about="the data set; new sources append new shards to it",
        shown="DIR", example="datasets/mine",
    )  # fmt: skip
    layout: str | None = option(
        None,
        "with official splits: ucf101, skytimelapse, taichi-hd, celeba, celeba-hq, lsun, cifar10, "
        "stl10",
        shown="NAME",
    )
    settings: Mapping[str, str] = gathered(
        "how videos are cut, filtered and encoded", "KEY=VALUE",
        tuple(f.name for f in fields(Settings)),
        rows=(
            ("mode=clips|full|images", "cut at scene changes; whole videos as they are; pictures"),
            ("size=N", "shorter side of stored clips, default 256; or height=N width=N"),
            ("centre=N", "first of all, the middle square of so many pixels"),
            ("clip_frames=N min_frames=N fps=N", "default 64, 16, and the source's own rate"),
            ("crf=N gop=N scenes=true|false", "default 18, 16, true"),
            ("min_side= min_motion= max_motion= black= static=", "filters; see docs/data.md"),
            ("duplicates=drop|keep damaged=quarantine|repair", "default drop, quarantine"),
            ("test=F seed=N per_shard=N", "default 0.1, 0, 256; split by source video"),
            ("limit_s=N", "how long one video may take; default 600"),
        ),
    )  # fmt: skip
    examples: ClassVar = ("data shard source=videos/ out=datasets/mine size=256 workers=2",)


def shard(asked: ShardOptions) -> int:
    from data_tools import shard as sharder
    from data_tools import summary

    settings = configs.parse(Settings, asked.settings)
    whole = sharder.shard(
        asked.source, asked.out, settings, asked.layout, asked.executor(), quiet=asked.json
    )
    return tell(asked.json, whole, summary.text(whole))


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Shared):
    path: str = option(
        about="the data set, or one split of it", shown="DIR", example=FOLDER, word=True
    )
    full: bool = option(False, "decode every frame of every clip; default false")
    examples: ClassVar = ("data verify datasets/shapes full=true",)


def verify(asked: VerifyOptions) -> int:
    from data_tools import verify as verifier

    report = verifier.verify(asked.path, decode=asked.full, run=asked.executor(), quiet=asked.json)
    return tell(asked.json, report.as_json(), report, report.ok)


@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    path: str = option(about="the data set", shown="DIR", example=FOLDER, word=True)
    source: str | None = option(
        None, "a copy to take damaged shards from; else lost samples are taken out", shown="DIR"
    )
    json: bool = option(False, AS_DATA)
    examples: ClassVar = ("data repair datasets/shapes source=/backup/shapes",)


def repair(asked: RepairOptions) -> int:
    from data_tools import repair as mender

    answer = mender.repair(asked.path, asked.source)
    return tell(asked.json, answer, mender.text(answer), answer["ok"])


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    path: str = option(about="the data set", shown="DIR", example=FOLDER, word=True)
    json: bool = option(False, AS_DATA)
    examples: ClassVar = ("data stats datasets/shapes",)


def stats(asked: StatsOptions) -> int:
    from data_tools import summary

    found = summary.stats(asked.path)
    lines = [
        f"{split}: {key} {value}" for split, one in found.items() for key, value in one.items()
    ]
    return tell(asked.json, found, "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class PreviewOptions:
    path: str = option(about="the data set", shown="DIR", example=FOLDER, word=True)
    count: int = option(24, "how many clips of each split", least=1)
    seed: int = option(0, "which; default 0")
    out: str | None = option(None, "default DIR/preview", shown="DIR")
    config: str | None = option(
        None, "show what the recipe of this run config makes of them", shown="NAME"
    )
    json: bool = option(False, AS_DATA)
    keys: Mapping[str, str] = gathered(
        "keys of that config, such as model.frames=8", "model.KEY=VALUE", ("model", "data")
    )
    examples: ClassVar = (
        "data preview datasets/shapes count=12",
        "data preview datasets/digits config=tiny/pseudo_diffusion model.corruption=blur",
    )


def preview(asked: PreviewOptions) -> int:
    from data_tools import preview as previewer
    from launcher import compose

    if asked.keys and not asked.config:
        raise UserError(f"{next(iter(asked.keys))}= is of a run config: name it with config=NAME")
    config = None
    if asked.config:
        keys = [f"data.path={asked.path}", f"seed={asked.seed}", *overrides(asked.keys)]
        config = compose.run_config(asked.config, keys)
    page = previewer.preview(asked.path, asked.count, asked.seed, asked.out, config)
    return tell(asked.json, {"page": str(page)}, f"wrote {page}")


@dataclass(frozen=True, kw_only=True)
class ReshardOptions(Shared):
    path: str = option(about="the data set", shown="DIR", example=FOLDER, word=True)
    out: str = option(about="where to", shown="DIR", example="datasets/other")
    per_shard: int = option(256, "clips in a shard", least=1)
    seed: int | None = option(None, "of another order; default the order as it is")
    examples: ClassVar = ("data reshard datasets/shapes out=datasets/other per_shard=64",)


def reshard(asked: ReshardOptions) -> int:
    from data_tools import rearrange

    made = rearrange.reshard(
        asked.path, asked.out, asked.per_shard, asked.seed, asked.executor(), quiet=asked.json
    )
    return tell(asked.json, made, _made(made))


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Shared):
    sources: tuple[str, ...] = option((), "the data sets", shown="A B …", word=True)
    out: str = option(about="where to", shown="DIR", example="datasets/both")
    examples: ClassVar = ("data merge datasets/a datasets/b out=datasets/both",)


def merge(asked: MergeOptions) -> int:
    from data_tools import rearrange

    if len(asked.sources) < 2:
        raise UserError("two data sets or more are expected: hvdm data merge A B out=DIR")
    made = rearrange.merge(list(asked.sources), asked.out, asked.executor(), quiet=asked.json)
    return tell(asked.json, made, _made(made))


def _made(made: Mapping[str, Any]) -> str:
    lines = [f"  {split}: {count} clips" for split, count in made["clips"].items()]
    for split, reasons in made.get("left_out", {}).items():
        lines += [f"  {split}: left out {count}, {reason}" for reason, count in reasons.items()]
    return "\n".join([f"{made['folder']}: made", *lines])


@dataclass(frozen=True, kw_only=True)
class SharedSamplesOptions:
    sets: tuple[str, ...] = option((), "two data sets", shown="A B", word=True)
    json: bool = option(False, AS_DATA)
    examples: ClassVar = ("data diff datasets/a datasets/b",)


def diff(asked: SharedSamplesOptions) -> int:
    from data_tools import rearrange

    if len(asked.sets) != 2:
        raise UserError("two data sets are expected: hvdm data diff A B")
    answer = rearrange.diff(*asked.sets)
    return tell(asked.json, answer, rearrange.text(answer), answer["equal"])


@dataclass(frozen=True, kw_only=True)
class DeriveOptions(Shared, OpensRuns):
    kind: str = option(
        about="latents, depth, motion, or a derivation of a family or of a module of your own",
        shown="latents|depth|motion|FAMILY.NAME|MODULE:NAME", example="latents", word=True,
    )  # fmt: skip
    path: str = option(about="the data set", shown="DIR", example=FOLDER, word=True)
    out: str = option(about="where to", shown="DIR", example="datasets/derived")
    keys: Mapping[str, str] = gathered("what the kind takes", "KEY=VALUE")
    examples: ClassVar = (
        "data derive latents datasets/shapes out=datasets/latents first_stage=runs/autoencoder",
        "data derive depth datasets/photos out=datasets/depth files=depth/",
        "data derive motion datasets/sway out=datasets/motion bins=12 workers=2",
        "data derive my.module:Flow datasets/shapes out=datasets/flow workers=2",
    )


def derive(asked: DeriveOptions) -> int:
    from data_tools import derive as deriver
    from hvdm import opening

    run = asked.executor()
    with opening.kept(asked.keys.get("first_stage")):
        derivation = configs.parse(deriver.kind_of(asked.kind), asked.keys)
        made = deriver.derive(asked.path, asked.out, derivation, run, quiet=asked.json)
    return tell(asked.json, made, _made(made))


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(Shared, OpensRuns):
    path: str = option(about="the data set", shown="DIR", example=FOLDER, word=True)
    out: str = option(about="where to", shown="DIR", example="datasets/latents")
    first_stage: str = option(
        about="the autoencoder; its weights' hash goes into the manifest",
        shown="RUN[@STEP]", example="runs/tiny/hvdm_autoencoder",
    )  # fmt: skip
    stride: int | None = option(
        None, "between the first frames of two latents; default a clip's length", least=1
    )
    examples: ClassVar = (
        "data encode datasets/shapes out=datasets/latents first_stage=runs/autoencoder",
    )


def encode(asked: EncodeOptions) -> int:
    from data_tools import encode as encoder
    from hvdm import opening

    run = asked.executor()
    with opening.kept(asked.first_stage):
        made = encoder.encode(
            asked.path, asked.out, asked.first_stage, asked.stride, run, quiet=asked.json
        )
    return tell(asked.json, made, _made(made))


@dataclass(frozen=True, kw_only=True)
class TouchVideoOptions:
    video: str = option(
        about="a video of a still camera", shown="VIDEO", example="tree.mp4", word=True
    )
    out: str = option(about="the page", shown="PAGE.html", example="tree.html")
    frames: int = option(150, "of its beginning", least=16)
    bins: int = option(16, "how many frequencies", least=2)
    side: int = option(288, "pixels of the shorter side at most", least=16)
    filter: bool = option(True, "refuse a moving camera, and what does not move")
    json: bool = option(False, AS_DATA)
    examples: ClassVar = ("data touch tree.mp4 out=tree.html",)


def touch(asked: TouchVideoOptions) -> int:
    from data_tools import swinging

    out, video = Path(asked.out).expanduser(), Path(asked.video).expanduser()
    sizes = (asked.frames, asked.bins, asked.side)
    made = swinging.page_of_video(video, out, *sizes, asked.filter)
    return tell(asked.json, made, f"wrote {out}, of {made['frames']} frames; open it in a browser")
