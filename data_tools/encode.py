"""Clips become the latents of a frozen first stage: `hvdm data encode`.

The latents of one set of weights mean nothing to another, so the hash of the weights goes into the
manifest, and training refuses a manifest that other weights made.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_tools.summary import split_folders
from data_tools.ticks import shown, tick
from data_tools.writer import Sample, commit_folder, part_folder, write_shard
from hvdm import config as configs
from hvdm import opening
from hvdm.checkpoint import checkpoint
from hvdm.data import child
from hvdm.data.clips import ClipSpec, Frames, resize
from hvdm.data.decode import CannotDecode
from hvdm.data.fields import LATENT_SUFFIX, about_of, media_frames
from hvdm.data.schema import (
    VERSION,
    DamagedSample,
    Manifest,
    Shard,
    canonical,
    manifest_hash,
    read_manifest,
    write_manifest,
)
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError
from hvdm.recipe import Coder, as_batch, to_model

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class FrozenStage:
    """A frozen first stage, by run and step, and what its weights are."""

    run: str
    step: int
    weights: str


@dataclass(frozen=True)
class EncodeJob:
    """One shard of clips to encode."""

    source: str
    folder: str
    number: int
    stage: FrozenStage
    stride: int | None
    ticks: str


def encode(
    source: str | Path,
    out: str | Path,
    first_stage: str,
    stride: int | None = None,
    run: Run = map,
    quiet: bool = True,
) -> dict[str, Any]:
    """One shard of latents for each shard of clips; `stride` frames from one latent to the next."""
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists; give another out=DIR, or remove it")
    if stride is not None and stride < 1:
        raise UserError(f"stride={stride} is below 1")
    stage = stage_of(first_stage)
    _opened(stage)
    folders = split_folders(Path(source))
    part = part_folder(out)
    ticks = part / "progress.lines"
    jobs = [
        EncodeJob(
            str(folder.absolute()), str(part / folder.name), number, stage, stride, str(ticks)
        )
        for folder in folders
        for number in range(len(read_manifest(folder).shards))
    ]
    for folder in folders:
        (part / folder.name).mkdir()
    with shown(ticks, "encoded shards", len(jobs), quiet):
        shards = iter(list(run(encode_shard, jobs)))
    counts = {folder.name: _finish(part, folder, stage, stride, shards) for folder in folders}
    commit_folder(part, out)
    return {"folder": str(out), "clips": counts, "weights": stage.weights}


def stage_of(reference: str) -> FrozenStage:
    run, step = opening.split_reference(reference)
    opening.trusted_config(run)
    found = checkpoint.choose(run, step)
    return FrozenStage(str(run.absolute()), found.step, configs.digest(checkpoint.hashes(found)))


def _finish(
    part: Path, folder: Path, stage: FrozenStage, stride: int | None, shards: Iterator[Shard]
) -> int:
    before = read_manifest(folder)
    written = tuple(next(shards) for _ in before.shards)
    provenance = {
        "generator": "encode",
        "version": 1,
        "from": manifest_hash(before),
        "first_stage": {"weights": stage.weights, "step": stage.step},
        "arguments": {"stride": stride},
    }
    total = sum(shard.samples for shard in written)
    manifest = Manifest(VERSION, before.split, total, written, provenance)
    write_manifest(part / folder.name, manifest)
    return total


def encode_shard(job: EncodeJob) -> Shard:
    manifest = read_manifest(job.source)
    name = manifest.shards[job.number].name
    shard = write_shard(Path(job.folder) / name, _samples(job, manifest))
    tick(job.ticks, shard.samples, shard.bytes)
    return shard


def _samples(job: EncodeJob, manifest: Manifest) -> Iterator[Sample]:
    reader = ShardReader(job.source, manifest)
    spec = configs.take(ClipSpec, _opened(job.stage)[0].config.data)
    for index in range(manifest.shards[job.number].samples):
        key, parts = reader.key(job.number, index), reader.sample(job.number, index)
        try:
            about = about_of(parts)
            frames = child.call(_small, parts, spec.height, spec.width)
        except (CannotDecode, child.Failed) as error:
            raise DamagedSample(manifest.shards[job.number].name, key, str(error)) from None
        starts = _starts(len(frames), spec, job.stride)
        if not starts:
            raise UserError(
                f"{key} has {len(frames)} frames, the first stage's clips need {spec.span}; "
                "shard with a larger min_frames"
            )
        for start in starts:
            clip = np.ascontiguousarray(frames[start : start + spec.span : spec.stride])
            facts: dict[str, Any] = {
                k: about[k] for k in ("label", "class", "caption", "source", "motion") if k in about
            }
            facts |= {"clip": key, "start": start}
            own = key if len(starts) == 1 else f"{key}-{start:04d}"
            latent = _latent(job.stage, torch.from_numpy(clip)[None])
            yield Sample(own, {LATENT_SUFFIX: latent, "json": canonical(facts)})


def _small(parts: dict[str, bytes], height: int, width: int) -> Frames:
    """Every frame at the first stage's size; in a child."""
    return np.concatenate([resize(one[None], height, width) for one in media_frames(parts)])


def _starts(total: int, spec: ClipSpec, stride: int | None) -> list[int]:
    return list(range(0, total - spec.span + 1, stride or spec.span))


@lru_cache(maxsize=1)
def _opened(stage: FrozenStage) -> tuple[opening.Opened, Coder]:
    """In each process once; the weights have to be those of the manifest."""
    opened = opening.open_run(f"{stage.run}@{stage.step}")
    coder = opened.recipe.coder
    if coder is None:
        raise UserError(f"first_stage={stage.run} has no encoder: name the run of an autoencoder")
    return opened, coder


@torch.no_grad()
def _latent(stage: FrozenStage, video: Tensor) -> bytes:
    """One clip at a time under fixed threads, so that equal clips give equal bytes."""
    opened, coder = _opened(stage)
    torch.set_num_threads(opened.config.engine.threads)
    latent = coder.encode(opened.nets, as_batch(to_model(video)))[0].float().numpy()
    file = io.BytesIO()
    np.save(file, latent.astype(np.float32))
    return file.getvalue()
