"""A data set of rendered clips: `hvdm data synthetic`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_tools.archives import png
from data_tools.synthetic import digits, scenes
from data_tools.synthetic.rendering import CLASSES, Rendered, render
from data_tools.synthetic.sway import SWAY_CLASSES, sway_clip
from data_tools.writer import commit_folder, part_folder, shard_name, write_shard
from hvdm import rng
from hvdm.data.depth import DEPTH_SUFFIX
from hvdm.data.derivation import saved
from hvdm.data.dissimilarity import dissimilarity
from hvdm.data.schema import (
    VERSION,
    Manifest,
    Sample,
    Shard,
    canonical,
    read_manifest,
    splits,
    write_manifest,
)
from hvdm.data.shards import sizes_problem
from hvdm.errors import RunError, UserError, closest
from hvdm.media.h264 import encode_h264

GENERATOR = "synthetic"
GENERATOR_VERSION = 2
SHAPES_KIND, PICTURES_KIND, SCENES_KIND, SWAY_KIND = "shapes", "digits", "scenes", "sway"
PICTURE_KINDS = (PICTURES_KIND, SCENES_KIND)
KINDS: Mapping[str, tuple[str, ...]] = {
    SHAPES_KIND: CLASSES,
    PICTURES_KIND: digits.DIGIT_CLASSES,
    "moving_digits": digits.DIGIT_CLASSES,
    SCENES_KIND: scenes.SCENE_CLASSES,
    SWAY_KIND: SWAY_CLASSES,
}
"""What can be made, and its classes."""


@dataclass(frozen=True)
class ClipStyle:
    """What all clips of a data set share."""

    seed: int
    frames: int
    height: int
    width: int
    fps: int
    kind: str = SHAPES_KIND

    def arguments(self) -> dict[str, Any]:
        """The kind is left out where it is the first that there was."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("kind", SHAPES_KIND)}

    def render(self, split: str, index: int) -> Rendered:
        if self.kind == SHAPES_KIND:
            seed = rng.seed_of(self.seed, split)
            return render(seed, index, self.frames, self.height, self.width)
        if self.kind == PICTURES_KIND:
            return digits.picture(split, index, self.height, self.width)
        if self.kind == SWAY_KIND:
            size = (self.frames, self.height, self.width)
            return sway_clip(self.seed, split, index, *size, self.fps)
        return digits.clip(self.seed, split, index, self.frames, self.height, self.width)


@dataclass(frozen=True)
class RenderJob:
    """One shard to render: samples `first` up to `last` of a split."""

    folder: str
    split: str
    number: int
    first: int
    last: int
    look: ClipStyle


Run = Callable[[Callable[[RenderJob], Shard], Iterable[RenderJob]], Iterable[Shard]]


@dataclass(frozen=True)
class Made:
    """A data set, and whether this call rendered it or found it complete."""

    folder: Path
    manifests: dict[str, Manifest]
    fresh: bool

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name} {manifest.samples} clips in {len(manifest.shards)} shards"
            for name, manifest in self.manifests.items()
        )
        state = "made" if self.fresh else "complete already, nothing to do"
        return f"{self.folder}: {state} ({counts})"


def make(
    out: str | Path,
    seed: int = 0,
    train: int = 512,
    test: int = 64,
    per_shard: int = 64,
    frames: int = 16,
    height: int = 64,
    width: int = 64,
    fps: int = 8,
    run: Run = map,
    kind: str = SHAPES_KIND,
) -> Made:
    """Renders the clips of both splits; one shard is one job of `run`."""
    look = ClipStyle(seed, frames, height, width, fps, kind)
    _check(look, train, test, per_shard)
    counts = {name: count for name, count in (("train", train), ("test", test)) if count}
    arguments = {**look.arguments(), "train": train, "test": test, "per_shard": per_shard}
    out = Path(out)
    if found := _found(out, counts, provenance(arguments)):
        return Made(out, found, fresh=False)
    part = part_folder(out)
    jobs = [job for name in counts for job in _jobs(part, name, counts[name], per_shard, look)]
    shards = list(run(render_shard, jobs))
    manifests = {name: _manifest(name, jobs, shards, arguments) for name in counts}
    for name, manifest in manifests.items():
        write_manifest(part / name, manifest)
    commit_folder(part, out)
    return Made(out, manifests, fresh=True)


def _check(look: ClipStyle, train: int, test: int, per_shard: int) -> None:
    if look.kind not in KINDS:
        raise UserError(f"kind={look.kind!r} is not known; {closest(look.kind, KINDS)}")
    if look.kind in PICTURE_KINDS and look.frames != 1:
        raise UserError(
            f"frames={look.frames}: kind={look.kind} makes pictures, frames=1; "
            "kind=moving_digits makes clips"
        )
    if look.kind == SCENES_KIND and look.height != look.width:
        raise UserError(f"height={look.height} width={look.width}: kind={look.kind} is square")
    if min(look.frames, look.height, look.width, look.fps, per_shard) < 1 or min(train, test) < 0:
        raise UserError("frames, height, width, fps and per_shard are at least 1, train and test 0")
    if train + test < 1:
        raise UserError("train and test are both 0: nothing to make")
    if look.height % 2 or look.width % 2:
        raise UserError(
            f"height and width are even in h264 video, got {look.height} x {look.width}"
        )


def provenance(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "generator": GENERATOR,
        "version": GENERATOR_VERSION,
        "arguments": arguments,
        "classes": list(KINDS[arguments.get("kind", SHAPES_KIND)]),
    }


def _found(out: Path, counts: dict[str, int], wanted: dict[str, Any]) -> dict[str, Manifest] | None:
    """What an earlier call with equal arguments left; None where nothing is in the way."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not splits(out):
        raise UserError(f"{out} exists and is not a data set; give another out=DIR")
    manifests = {name: read_manifest(out / name) for name in splits(out)}
    if any(canonical(manifest.provenance) != canonical(wanted) for manifest in manifests.values()):
        raise UserError(
            f"{out} holds a data set that was made with {_difference(manifests, wanted)}; "
            "give another out=DIR, or remove it"
        )
    if set(manifests) != set(counts):
        raise UserError(f"{out} lacks a split that it was made with; remove it and make it anew")
    for name, manifest in manifests.items():
        if problem := sizes_problem(out / name, manifest.shards):
            raise RunError(problem)
    return {name: manifests[name] for name in counts}


def _difference(manifests: dict[str, Manifest], wanted: dict[str, Any]) -> str:
    """The arguments that differ, as they were."""
    there = next(iter(manifests.values())).provenance
    before, now = there.get("arguments", {}), wanted["arguments"]
    if there.get("generator") != GENERATOR or not isinstance(before, dict):
        return f"another tool ({there.get('generator')})"
    changed = [f"{key}={before.get(key)}" for key in now if before.get(key) != now[key]]
    return " ".join(changed) or f"version {there.get('version')} of the renderer"


def _jobs(
    part: Path, split: str, count: int, per_shard: int, look: ClipStyle
) -> Iterator[RenderJob]:
    (part / split).mkdir()
    for number, first in enumerate(range(0, count, per_shard)):
        last = min(first + per_shard, count)
        yield RenderJob(str(part / split), split, number, first, last, look)


def _manifest(
    split: str, jobs: list[RenderJob], shards: list[Shard], arguments: dict[str, Any]
) -> Manifest:
    own = tuple(shard for job, shard in zip(jobs, shards, strict=True) if job.split == split)
    total = sum(shard.samples for shard in own)
    return Manifest(VERSION, split, total, own, provenance(arguments))


def render_shard(job: RenderJob) -> Shard:
    """One shard, a function of its job alone."""
    samples = (render_sample(job.look, job.split, index) for index in range(job.first, job.last))
    return write_shard(Path(job.folder) / shard_name(job.number), samples)


def render_sample(look: ClipStyle, split: str, index: int) -> Sample:
    if look.kind == SCENES_KIND:
        return _scene(look, split, index)
    clip = look.render(split, index)
    about, key = _about(look, split, index, clip), f"{split}-{index:08d}"
    if look.kind == PICTURES_KIND:
        return Sample(key, {"json": canonical(about), "png": png(clip.video[0])})
    about |= {
        "motion": clip.strength,
        "dssim": dissimilarity(clip.video[0], clip.video[-1]),
        "frames": look.frames,
        "fps": look.fps,
    }
    about |= clip.facts
    film = encode_h264(clip.video, look.fps)
    return Sample(key, {"json": canonical(about), "mp4": film, **clip.parts})


def _about(look: ClipStyle, split: str, index: int, clip: Rendered) -> dict[str, Any]:
    return {
        "label": clip.label,
        "class": KINDS[look.kind][clip.label],
        "description": clip.description,
        "height": look.height,
        "width": look.width,
        "source": f"{GENERATOR}-{look.seed}-{split}-{index}",
    }


def _scene(look: ClipStyle, split: str, index: int) -> Sample:
    """With its depth; held out, also with what other cameras see."""
    seed, held_out = rng.seed_of(look.seed, split), split != "train"
    made = scenes.picture(seed, index, look.height, look.width, views=held_out)
    parts = {
        "json": canonical(_about(look, split, index, made.picture)),
        "png": png(made.picture.video[0]),
        DEPTH_SUFFIX: saved(made.depth),
    }
    if held_out:
        parts |= {"views.npy": saved(made.views), "seen.npy": saved(made.seen)}
    return Sample(f"{split}-{index:08d}", parts)
