"""Rows of a run's data: what samples are made of, beside what, and what an encoder sees."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from eval.clips.files import opened
from eval.clips.sources import NO_CLASS, Clips, ClipSource, FrameSelection, Shards, cut
from hvdm import building
from hvdm.config import RunConfig
from hvdm.data.fields import Field
from hvdm.data.loader import Loader
from hvdm.data.schema import manifest_hash
from hvdm.data.store import join
from hvdm.errors import UserError, closest
from hvdm.opening import Opened, read_config
from hvdm.recipe import Batch


@dataclass(frozen=True)
class DataRows:
    """Samples of a split by their number, as the run reads them; `fields` are names."""

    run: str
    path: str
    split: str
    fields: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        config = _config(self)
        beside = [join(place, self.split) for place in config.data.beside]
        hashes = [manifest_hash(opened(place).manifest) for place in (self.folder, *beside)]
        return {"what": "rows", "manifests": hashes, "fields": list(self.fields)}

    @property
    def folder(self) -> str:
        return join(self.path, self.split)

    def count(self) -> int:
        return opened(self.folder).manifest.samples

    def rows(self, indices: tuple[int, ...], device: str) -> Batch:
        batch = _loader(self).sequential(indices)
        return batch.to(torch.device(device), torch.get_default_dtype())


def rows_of(opened_run: Opened, split: str, fields: tuple[str, ...],
            real: ClipSource | None) -> DataRows:  # fmt: skip
    """Of the clips that are compared with, where those are shards, or else of the run's own."""
    config, path = opened_run.config, str(opened_run.config.data.path)
    if isinstance(real, Shards):
        path, _, split = real.path.rpartition("/")
    found = DataRows(str(opened_run.run.absolute()), path, split, fields)
    _fields(found, config)
    return found


def _config(asked: DataRows) -> RunConfig:
    """The run's, over the data that is asked for."""
    config = read_config(Path(asked.run))
    own = config.data.path == asked.path
    data = replace(
        config.data, path=asked.path, mix={}, threads=0, beside=config.data.beside if own else ()
    )
    return replace(config, data=data)


def _fields(asked: DataRows, config: RunConfig) -> tuple[Field, ...]:
    there = {field.name: field for field in building.fields_to_measure(config)}
    for name in asked.fields:
        if name not in there:
            raise UserError(
                f"{config.recipe} has no field {name!r} to be measured with; {closest(name, there)}"
            )
    return tuple(there[name] for name in asked.fields)


@lru_cache(maxsize=2)
def _loader(asked: DataRows) -> Loader:
    """Without threads of its own, so there is nothing to close."""
    config = _config(asked)
    return building.build_loader(config, asked.split, _fields(asked, config))


def forget() -> None:
    """Lets go of data sets: they may have changed since."""
    _loader.cache_clear()


@dataclass(frozen=True)
class Still:
    """The first frame of each row's video, again and again: what no motion at all would score."""

    rows: DataRows
    frames: int

    def identity(self) -> dict[str, Any]:
        return {"what": "still", "frames": self.frames, **self.rows.identity()}

    def count(self) -> int:
        return self.rows.count()

    def read(self, indices: tuple[int, ...], look: FrameSelection, device: str) -> Clips:
        batch = self.rows.rows(indices, "cpu")
        first = batch["video"][:, :1].expand(-1, self.frames, -1, -1, -1).numpy()
        return cut(zip(batch.keys, first, strict=True), look)

    def labels(self, indices: tuple[int, ...], device: str) -> list[int]:
        return [NO_CLASS for _ in indices]
