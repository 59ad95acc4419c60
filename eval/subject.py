"""What is measured: a block of held-out clips, and what the model makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

import torch
from torch import Tensor

from eval.protocol import Protocol
from hvdm import build
from hvdm.build import Opened
from hvdm.errors import RunError, UserError
from hvdm.recipe import Noise, Reconstructs, SampleRequest, to_model, to_pixels

SAMPLES, RECONSTRUCTIONS = "samples", "reconstructions"


@dataclass(frozen=True)
class Task:
    """One block: all that a worker needs, small enough to send anywhere."""

    run: str
    step: int
    weights: str
    manifest: str
    protocol: Protocol
    detector: str | None
    generated: str
    seed: int
    steps: int | None
    device: str
    number: int
    indices: tuple[int, ...]

    @property
    def parts(self) -> Iterator[tuple[int, ...]]:
        """The rows of each forward pass."""
        for at in range(0, len(self.indices), self.protocol.batch):
            yield self.indices[at : at + self.protocol.batch]


@dataclass(frozen=True)
class Part:
    """A few clips, original and generated: uint8 `B T H W C`, and their names."""

    keys: tuple[str, ...]
    original: Tensor
    generated: Tensor


_held: dict[tuple[str, int, str, str], Opened] = {}
"""The networks that this process has open: those of one checkpoint at most."""


def hold(opened: Opened, device: str) -> None:
    """Keeps networks that are open already; the hash tells a run from its successor."""
    _held.clear()
    _held[str(opened.run.absolute()), opened.step, opened.weights_hash, device] = opened


def open_step(run: str, step: int, weights: str, device: str) -> Opened:
    """The networks of a checkpoint, opened once in each process."""
    key = (run, step, weights, device)
    if key not in _held:
        opened = build.open_run(f"{run}@{step}", device=device)
        if opened.weights_hash != weights:
            raise RunError(
                f"step {step} of {run} was replaced while it was being evaluated; evaluate it again"
            )
        hold(opened, device)
    return _held[key]


def forget() -> None:
    """Lets go of the networks that this process holds."""
    _held.clear()


@contextmanager
def exact(opened: Opened) -> Iterator[None]:
    """The run's thread count and full float32: features depend on both."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32)
    torch.set_num_threads(opened.config.engine.threads)
    cudnn.allow_tf32 = cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.allow_tf32, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def block(task: Task) -> Iterator[Iterator[Part]]:
    """The clips of a task, a forward pass at a time, under fixed arithmetic."""
    opened = open_step(task.run, task.step, task.weights, task.device)
    split = opened.config.data.held_out
    with exact(opened), build.build_loader(opened.config, split) as loader:
        if loader.identity()["manifest"] != task.manifest:
            raise RunError(f"data split {split!r} changed while it was being evaluated")
        yield (_part(opened, task, loader.sequential(part), part) for part in task.parts)


def _part(opened: Opened, task: Task, batch: Any, indices: tuple[int, ...]) -> Part:
    original = batch["video"]
    if task.generated == RECONSTRUCTIONS:
        video = reconstruct(opened, original.to(task.device))
        names = batch.keys
    else:
        video = sample(opened, task, indices)
        names = tuple(f"sample {index} of seed {task.seed}" for index in indices)
    _check_video(video, original, names)
    return Part(batch.keys, original, to_pixels(video).cpu())


def _check_video(video: Tensor, original: Tensor, names: tuple[str, ...]) -> None:
    refuse_not_finite(video, names, "the model's output")
    _, frames, height, width, channels = original.shape
    if video.shape[1:] != (channels, frames, height, width):
        got = "x".join(map(str, video.shape[1:]))
        raise UserError(
            f"the model makes clips of {got} (C T H W) and the data set has "
            f"{channels}x{frames}x{height}x{width}; this protocol needs them alike"
        )


def refuse_not_finite(values: Tensor, names: tuple[str, ...], what: str) -> None:
    """Names the first clip with a value that is not finite."""
    finite = torch.isfinite(values).flatten(1).all(1).tolist()
    for name, good in zip(names, finite, strict=True):
        if not good:
            raise RunError(
                f"{name}: {what} is not finite; the checkpoint may be damaged by training"
            )


def reconstruct(opened: Opened, original: Tensor) -> Tensor:
    """uint8 `B T H W C` -> float `B C T H W`, through the latent."""
    recipe = cast(Reconstructs, opened.recipe)
    return recipe.decode(opened.nets, recipe.encode(opened.nets, to_model(original)))


def sample(opened: Opened, task: Task, indices: tuple[int, ...]) -> Tensor:
    """Clip i is a function of the seed and i, the same one that `hvdm sample seed=` draws."""
    noise = Noise(task.seed, indices, device=task.device)
    return opened.recipe.sample(opened.nets, SampleRequest(steps=task.steps), noise)


def reconstructs(opened: Opened) -> bool:
    """Whether the recipe has an autoencoder of its own."""
    return hasattr(opened.recipe, "encode") and hasattr(opened.recipe, "decode")


def decoder_versions() -> str:
    """What turns video files into frames; another version may give other pixels."""
    found = []
    for package in ("decord", "av"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
