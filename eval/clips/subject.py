"""What a run makes: samples by their numbers, and reconstructions of held-out clips."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.clips.data_rows import DataRows
from eval.clips.sources import NO_CLASS, Clips, FrameSelection, Shards
from hvdm import opening, sampling
from hvdm.errors import RunError, UserError
from hvdm.opening import Opened
from hvdm.recipe import Batch, as_batch, to_model, to_pixels

SAMPLES, RECONSTRUCTIONS = "samples", "reconstructions"


@dataclass(frozen=True)
class CheckpointModel:
    """The networks of one checkpoint: all that a worker needs to open them."""

    run: str
    step: int
    weights: str
    averaged: bool
    first_stage: str | None = None

    def identity(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "averaged": self.averaged,
            "first_stage": self.first_stage,
        }


_held: dict[tuple[CheckpointModel, str], Opened] = {}
"""The networks that this process has open: those of one checkpoint at most."""


def cache_model(model: CheckpointModel, opened: Opened, device: str) -> None:
    """Keeps networks that are open already; the hash tells a run from its successor."""
    _held.clear()
    _held[model, device] = opened


def open_model(model: CheckpointModel, device: str) -> Opened:
    """The networks of a checkpoint, opened once in each process."""
    if (model, device) not in _held:
        opened = opening.open_run(f"{model.run}@{model.step}", model.averaged, device)
        if opened.weights_hash != model.weights:
            raise RunError(
                f"step {model.step} of {model.run} was replaced while it was being evaluated; "
                "evaluate it again"
            )
        cache_model(model, opened, device)
    return _held[model, device]


def forget() -> None:
    """Lets go of the networks that this process holds."""
    _held.clear()


@contextmanager
def exact_arithmetic(threads: int) -> Iterator[None]:
    """A fixed thread count and full float32: features depend on both."""
    before_threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32)
    torch.set_num_threads(threads)
    cudnn.allow_tf32 = cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before_threads)
        cudnn.allow_tf32, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32 = before


@dataclass(frozen=True)
class Samples:
    """Clip i is a function of the seed and of i, the same one that `hvdm sample seed=` draws.

    Of a kind that reads some of the data, also of row i of that.
    """

    model: CheckpointModel
    seed: int
    steps: int | None = None
    what: str = "clip"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    given: DataRows | None = None

    def identity(self) -> dict[str, Any]:
        return {
            "what": SAMPLES,
            "seed": self.seed,
            "steps": self.steps,
            "sampled": self.what,
            "options": dict(self.options),
            **({"given": self.given.identity()} if self.given else {}),
            **self.model.identity(),
        }

    def count(self) -> int | None:
        return self.given.count() if self.given else None

    def read(self, indices: tuple[int, ...], look: FrameSelection, device: str) -> Clips:
        made = self.drawn(indices, device)
        video = made.unsqueeze(2) if made.ndim == 4 else made
        keys = [f"sample {index} of seed {self.seed}" for index in indices]
        return generated_clips(video, keys, look)

    def drawn(self, indices: tuple[int, ...], device: str) -> Tensor:
        """As the recipe makes them."""
        return self.made_of(self.rows(indices, device), indices, device)

    def rows(self, indices: tuple[int, ...], device: str) -> Batch | None:
        """What they are made of; after the last row comes the first."""
        if self.given is None:
            return None
        there = self.given.count()
        return self.given.rows(tuple(index % there for index in indices), device)

    def made_of(self, rows: Batch | None, indices: tuple[int, ...], device: str) -> Tensor:
        """Of rows that were read already."""
        opened = open_model(self.model, device)
        request = sampling.ask(opened.recipe, self.what, self.steps, self.options)
        made: Tensor = sampling.draw(opened, replace(request, rows=rows), self.seed, indices)
        return made

    def labels(self, indices: tuple[int, ...], device: str) -> list[int]:
        recipe = open_model(self.model, device).recipe
        request = sampling.ask(recipe, self.what, self.steps, self.options)
        found = [recipe.samples[self.what].label(request.options, index) for index in indices]
        return [NO_CLASS if label is None else label for label in found]


@dataclass(frozen=True)
class Reconstructions:
    """What the decoder makes of what the encoder saw; `given`, where that is more than clips."""

    model: CheckpointModel
    data: Shards
    given: DataRows | None = None

    def identity(self) -> dict[str, Any]:
        more = {"given": self.given.identity()} if self.given else {}
        own = {"what": RECONSTRUCTIONS, **self.model.identity(), "data": self.data.identity()}
        return own | more

    def count(self) -> int:
        return self.data.count()

    def read(self, indices: tuple[int, ...], look: FrameSelection, device: str) -> Clips:
        found, rows = self.seen(indices, look, device)
        return self.remade(found, rows, look, device)[0] if found.videos else found

    def labels(self, indices: tuple[int, ...], device: str) -> list[int]:
        return self.data.labels(indices, device)

    def seen(
        self, indices: tuple[int, ...], look: FrameSelection, device: str
    ) -> tuple[Clips, Batch]:
        """Clips, and rows of them as the encoder takes them."""
        if self.given is not None:
            rows = self.given.rows(indices, device)
            return Clips(list(rows.keys), list(rows["video"].cpu()), []), rows
        found = self.data.read(indices, look, device)
        videos = torch.stack(found.videos) if found.videos else torch.empty(0, 1, 1, 1, 3)
        return found, as_batch(to_model(videos.to(device)))

    def remade(
        self, found: Clips, rows: Batch, look: FrameSelection, device: str
    ) -> tuple[Clips, Mapping[str, Tensor]]:
        """Of clips that were seen: as pixels, and all fields as they are decoded."""
        opened = open_model(self.model, device)
        coder = opened.recipe.coder
        assert coder is not None
        made = coder.decode(opened.nets, coder.encode(opened.nets, rows))
        return generated_clips(made["video"], found.keys, replace(look, stride=1)), made


def generated_clips(video: Tensor, keys: list[str], look: FrameSelection) -> Clips:
    """Float `B C T H W` of a model, checked and rounded, as long as is looked at."""
    refuse_not_finite(video, keys, "the model's output")
    frames, height, width = video.shape[2:]
    if (frames < look.span and look.frames) or look.size not in (None, (height, width)):
        wanted = f"{look.span} frames" + (f" of {look.size[0]}x{look.size[1]}" if look.size else "")
        raise UserError(
            f"the model makes clips of {frames} frames of {height}x{width}, and {wanted} are to be "
            "compared; evaluate it under a protocol for its own length and size"
        )
    pixels = to_pixels(video).cpu()
    part = pixels[:, : look.span : look.stride] if look.frames else pixels[:, :: look.stride]
    return Clips(list(keys), list(part.contiguous()), [])


def refuse_not_finite(values: Tensor | Any, keys: list[str], what: str) -> None:
    """Names the first clip with a value that is not finite; rows are dealt evenly to clips."""
    rows = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
    each = max(1, len(rows) // max(1, len(keys)))
    finite = torch.isfinite(rows).flatten(1).all(1).tolist()
    for row, good in enumerate(finite):
        if not good:
            raise RunError(
                f"{keys[row // each]}: {what} is not finite; the checkpoint may be damaged by "
                "training, or the clip by what made it"
            )


def decoder_versions() -> str:
    """What turns video files into frames; another version may give other pixels."""
    return f"av {metadata.version('av')}, pillow {metadata.version('pillow')}"
