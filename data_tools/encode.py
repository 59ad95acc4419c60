"""Clips become the latents of a frozen first stage: `hvdm data encode`.

The latents of one set of weights mean nothing to another, so the hash of the weights goes into the
manifest, and training refuses a manifest that other weights made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_tools.derive import Run, derive
from hvdm import building, opening
from hvdm import config as configs
from hvdm.checkpoint import checkpoint
from hvdm.data import child
from hvdm.data.clips import ClipSpec, Frames, resize
from hvdm.data.derivation import saved
from hvdm.data.fields import LATENT_SUFFIX, RawSample, about_of, media_frames, present
from hvdm.data.schema import Sample, canonical
from hvdm.errors import UserError
from hvdm.recipe import Coder, as_batch, encoded_by, to_model

FACTS = ("label", "class", "caption", "source", "motion")
"""What a latent's json keeps of its clip's."""


@dataclass
class Latents:
    """Of clips of the first stage's length; `stride` frames from one to the next, or as many."""

    first_stage: str
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride < 1:
            raise UserError(f"stride={self.stride} is below 1")
        run, step = opening.split_reference(self.first_stage)
        opening.trusted_config(run)
        # One step for all workers, also where the run goes on meanwhile.
        self.first_stage = f"{run.absolute()}@{checkpoint.choose(run, step).step}"

    @property
    def weights(self) -> str:
        return opening.hash_of_run(self.first_stage)

    def identity(self) -> dict[str, Any]:
        """Opens the networks, so that what is no autoencoder is refused before work begins."""
        opened, _ = _opened(self.first_stage)
        return {
            "generator": "encode",
            "first_stage": {"weights": self.weights, "step": opened.step},
            "arguments": {"stride": self.stride},
        }

    def samples(self, key: str, parts: Mapping[str, bytes]) -> Iterator[Sample]:
        spec = configs.take(ClipSpec, _opened(self.first_stage)[0].config.data)
        about = about_of(parts)
        frames = child.call(_small, parts, spec.height, spec.width)
        starts = range(0, len(frames) - spec.span + 1, self.stride or spec.span)
        if not starts:
            raise UserError(
                f"{key} has {len(frames)} frames, the first stage's clips need {spec.span}; "
                "shard with a larger min_frames"
            )
        for start in starts:
            clip = np.ascontiguousarray(frames[start : start + spec.span : spec.stride])
            facts = {name: about[name] for name in FACTS if name in about}
            facts |= {"clip": key, "start": start}
            own = key if len(starts) == 1 else f"{key}-{start:04d}"
            more = _more(self.first_stage, key, parts, range(start, start + spec.span, spec.stride))
            latent = _latent(self.first_stage, torch.from_numpy(clip)[None], more)
            yield Sample(own, {LATENT_SUFFIX: latent, "json": canonical(facts)})


def encode(
    source: str | Path,
    out: str | Path,
    first_stage: str,
    stride: int | None = None,
    run: Run = map,
    quiet: bool = True,
) -> dict[str, Any]:
    """The latents of all clips, as a data set."""
    latents = Latents(first_stage, stride)
    return {**derive(source, out, latents, run, quiet), "weights": latents.weights}


def _small(parts: dict[str, bytes], height: int, width: int) -> Frames:
    """Every frame at the first stage's size; in a child."""
    return np.concatenate([resize(one[None], height, width) for one in media_frames(parts)])


@lru_cache(maxsize=1)
def _opened(reference: str) -> tuple[opening.Opened, Coder]:
    """In each process once."""
    opened = opening.open_run(reference)
    coder = opened.recipe.coder
    if coder is None:
        raise UserError(f"first_stage={reference} has no encoder: name the run of an autoencoder")
    return opened, coder


def _more(
    reference: str, key: str, parts: Mapping[str, bytes], frames: Sequence[int]
) -> dict[str, Tensor]:
    """What the encoder takes besides the clip, as it lies beside it: of the run's own size."""
    opened, coder = _opened(reference)
    wanted = [name for name in encoded_by(coder) if name != "video"]
    fields = [field for field in building.fields_of(opened.config) if field.name in wanted]
    raw = RawSample(parts, key, about_of(parts))
    found = {}
    for field in present(fields, raw, key):
        values = field.decode(raw, frames if field.timed else None)
        field.check(values)
        found[field.name] = torch.from_numpy(values)[None]
    return found


@torch.no_grad()
def _latent(reference: str, video: Tensor, more: Mapping[str, Tensor]) -> bytes:
    """One clip at a time under fixed threads, so that equal clips give equal bytes."""
    opened, coder = _opened(reference)
    torch.set_num_threads(opened.config.engine.threads)
    batch = as_batch(to_model(video))
    batch = replace(batch, fields={**batch.fields, **more})
    latent = coder.encode(opened.nets, batch)[0].float().numpy()
    return saved(latent.astype(np.float32))
