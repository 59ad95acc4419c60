"""Clips by number: from a folder of files, from shards, or from a function of the user's own."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from eval.clips.files import (
    ARRAYS,
    FILMS,
    GIF,
    LOSSY,
    PICTURES,
    content_of,
    files_of,
    label_of,
    opened,
    read_files,
    sample,
)
from hvdm import rng
from hvdm.data.decode import Frames, resize
from hvdm.data.schema import MANIFEST, manifest_hash
from hvdm.errors import RunError, UserError
from hvdm.ops.softness import soft
from hvdm.recipe import to_pixels

PYTHON = "python:"
NO_CLASS = -1
WIDEST = 1.5
"""Floats beyond this are not video in [-1, 1]; a model may well overshoot a little."""


@dataclass(frozen=True)
class FrameSelection:
    """What is taken of a video. Without frames all of it, without a size its own."""

    frames: int | None = None
    stride: int = 1
    start: Literal["first", "random"] = "first"
    short: Literal["refuse", "leave out"] = "refuse"
    size: tuple[int, int] | None = None
    blurred: bool = False

    @property
    def span(self) -> int:
        return ((self.frames or 1) - 1) * self.stride + 1


@dataclass(frozen=True)
class Clips:
    """uint8 `T H W C` each, their names, and the names of those that were too short."""

    keys: list[str]
    videos: list[Tensor]
    short: list[str]


class ClipSource(Protocol):
    """What clips come from. Plain and small: it travels to workers, which open it themselves."""

    def identity(self) -> dict[str, Any]:
        """Equal for equal clips, wherever they lie."""
        ...

    def count(self) -> int | None:
        """How many videos there are; None where they are made on demand."""
        ...

    def read(self, indices: tuple[int, ...], look: FrameSelection, device: str) -> Clips: ...

    def labels(self, indices: tuple[int, ...], device: str) -> list[int]:
        """The class of each, `NO_CLASS` where it has none."""
        ...


@dataclass(frozen=True)
class ClipFolder:
    """Each file a video, or each subfolder of pictures; lone pictures are clips of one frame."""

    path: str

    def identity(self) -> dict[str, Any]:
        return {
            "what": "folder",
            "sha256": content_of(self.path),
            "videos": self.count(),
            "files": ", ".join(sorted({s.lstrip(".") for s in self.suffixes()})),
        }

    def lossy(self) -> str:
        """Suffixes of files that are not what a model made, to the bit."""
        return ", ".join(sorted(self.suffixes() & set(LOSSY)))

    def suffixes(self) -> set[str]:
        return {file.suffix.lower() for files in files_of(self.path).values() for file in files}

    def count(self) -> int:
        return len(files_of(self.path))

    def read(self, indices: tuple[int, ...], look: FrameSelection, device: str) -> Clips:
        videos = list(files_of(self.path).items())
        return cut(
            ((key, read_files(files)) for key, files in [videos[index] for index in indices]), look
        )

    def labels(self, indices: tuple[int, ...], device: str) -> list[int]:
        return [NO_CLASS for _ in indices]


@dataclass(frozen=True)
class Shards:
    """One split of a data set."""

    path: str

    def identity(self) -> dict[str, Any]:
        reader = opened(self.path)
        if problem := reader.size_problem():
            raise RunError(problem)
        manifest = reader.manifest
        return {"what": "shards", "manifest": manifest_hash(manifest), "split": manifest.split}

    def count(self) -> int:
        return opened(self.path).manifest.samples

    def read(self, indices: tuple[int, ...], look: FrameSelection, device: str) -> Clips:
        reader = opened(self.path)
        return cut((sample(reader, index) for index in indices), look)

    def labels(self, indices: tuple[int, ...], device: str) -> list[int]:
        reader = opened(self.path)
        return [label_of(reader, index) for index in indices]


@dataclass(frozen=True)
class Function:
    """`function(seed, indices)`: uint8 `B T H W C`, or float `B C T H W` in [-1, 1]."""

    name: str
    seed: int

    def identity(self) -> dict[str, Any]:
        return {"what": "function", "name": self.name, "seed": self.seed}

    def count(self) -> None:
        return None

    def read(self, indices: tuple[int, ...], look: FrameSelection, device: str) -> Clips:
        made = _called(self.name, self.seed, indices)
        pixels = checked_pixels(made, indices, self.name)
        keys = (f"{self.name} {index} of seed {self.seed}" for index in indices)
        return cut(zip(keys, (clip.numpy() for clip in pixels), strict=True), look)

    def labels(self, indices: tuple[int, ...], device: str) -> list[int]:
        return [NO_CLASS for _ in indices]


def source_of(given: str, seed: int = 0) -> ClipSource:
    """What real=… or generated=… names."""
    if given.startswith(PYTHON):
        function_of(given)
        return Function(given, seed)
    path = Path(given).expanduser().absolute()
    if not path.exists():
        raise UserError(f"{given}: there is no such folder")
    if path.is_file():
        raise UserError(f"{given} is a file; give the folder that holds the clips")
    if (path / MANIFEST).is_file():
        return Shards(str(path))
    splits = sorted(found.parent.name for found in path.glob(f"*/{MANIFEST}"))
    if splits:
        raise UserError(f"{given} is a data set; give one of its splits: " + ", ".join(
            str(Path(given) / split) for split in splits))  # fmt: skip
    if not files_of(str(path)):
        kinds = ", ".join((*FILMS, GIF, *ARRAYS, *PICTURES))
        raise UserError(f"{given} holds no clips: expected {kinds}, or subfolders of pictures")
    return ClipFolder(str(path))


def cut(found: Iterable[tuple[str, Frames]], look: FrameSelection) -> Clips:
    """The part of each video that is looked at."""
    clips = Clips([], [], [])
    for key, frames in found:
        length = look.frames or len(frames)
        span = (length - 1) * look.stride + 1
        if len(frames) < span:
            if look.short == "refuse":
                raise RunError(
                    f"{key} has {len(frames)} frames, and clips of {length} at stride "
                    f"{look.stride} need {span}; leave it away, or ask for fewer frames"
                )
            clips.short.append(key)
            continue
        room = len(frames) - span
        first = _random_start(key, room) if look.start == "random" else 0
        part = frames[first : first + span : look.stride]
        if look.size:
            part = resize(part, *look.size)
        clips.keys.append(key)
        video = torch.from_numpy(np.ascontiguousarray(part))
        clips.videos.append(soft(video) if look.blurred else video)
    return clips


def _random_start(key: str, room: int) -> int:
    """A function of the clip's name, so that one worker or ten see the same."""
    return int(rng.numpy_generator("clip of an evaluation", key).integers(room + 1))


# Functions


def function_of(name: str) -> Callable[[int, tuple[int, ...]], Any]:
    """python:MODULE:FUNCTION, or python:FILE.py:FUNCTION."""
    place, colon, function = name.removeprefix(PYTHON).rpartition(":")
    if not colon:
        raise UserError(f"{name}: expected python:MODULE:FUNCTION or python:FILE.py:FUNCTION")
    try:
        module = _from_file(place) if place.endswith(".py") else importlib.import_module(place)
        found: Callable[[int, tuple[int, ...]], Any] = getattr(module, function)
    except (ImportError, FileNotFoundError, AttributeError) as error:
        raise UserError(f"{name} cannot be imported ({error})") from None
    return found


def _from_file(path: str) -> Any:
    name = f"hvdm_evaluated_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def _called(name: str, seed: int, indices: tuple[int, ...]) -> Any:
    """What goes wrong in code of the user's own is told as that."""
    try:
        return function_of(name)(seed, indices)
    except UserError:
        raise
    except Exception as error:
        raise RunError(f"{name} failed for clips {indices}: {error!r}") from error


def checked_pixels(made: Any, indices: tuple[int, ...], name: str) -> Tensor:
    """What a function of the user's own gave, as uint8 `B T H W C`; or what is wrong with it."""
    if not isinstance(made, Tensor):
        made = torch.as_tensor(np.asarray(made))
    made = made.detach().cpu()
    if made.dim() != 5 or len(made) != len(indices):
        shape = "x".join(map(str, made.shape))
        raise UserError(f"{name}: expected {len(indices)} clips of 4 axes each, got {shape}")
    if made.dtype == torch.uint8 and made.shape[-1] == 3:
        return made
    if made.is_floating_point() and made.shape[1] == 3:
        _check_range(made, indices, name)
        return to_pixels(made)
    raise UserError(
        f"{name}: expected uint8 B T H W 3 or float B 3 T H W, got {made.dtype} "
        f"{'x'.join(map(str, made.shape))}"
    )


def _check_range(made: Tensor, indices: tuple[int, ...], name: str) -> None:
    finite = torch.isfinite(made).flatten(1).all(1).tolist()
    for index, good in zip(indices, finite, strict=True):
        if not good:
            raise RunError(f"{name} {index}: not every value is finite")
    low, high = float(made.min()), float(made.max())
    if low < -WIDEST or high > WIDEST or (low >= 0 and high > 0):
        raise RunError(
            f"{name}: values from {low:.3g} to {high:.3g}; floats are expected in [-1, 1], and "
            "pixels of 0…255 as uint8"
        )
