"""Blocks of features on disk: written whole, read one at a time, found again by their key."""

import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.blocks.tasks import Arrays, Payload
from eval.numbers.statistics import Floats, Moments, merge, moments
from hvdm.disk import replacing
from hvdm.trust import cache_folder

Groups = list[list[int]]


class FeatureStore:
    """The blocks of one extraction. A block that is written again replaces itself."""

    def __init__(self, key: str, blocks: int, folder: Path | None = None) -> None:
        self.key, self.blocks = key, blocks
        self.folder = (folder or cache_folder() / "features") / key[:32]

    def missing(self) -> list[int]:
        """Numbers of blocks that are not there, or not whole; damaged ones are removed."""
        return [number for number in range(self.blocks) if not self._whole(number)]

    def _whole(self, number: int) -> bool:
        path = self._path(number)
        if not path.is_file():
            return False
        try:
            self.read(number)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            path.unlink()
            return False
        return True

    def _path(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.npz"

    def put(self, payload: Payload) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path(payload.number), durable=False) as part:
            np.savez(part, **payload.arrays)  # type: ignore[arg-type]

    def read(self, number: int) -> Arrays:
        with np.load(self._path(number), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}

    def _member(self, number: int, name: str) -> npt.NDArray[Any] | None:
        with np.load(self._path(number), allow_pickle=False) as found:
            return found[name] if name in found.files else None

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # What is in it

    def sizes(self) -> list[int]:
        """Clips of each block."""
        return [len(self.keys_of(number)) for number in range(self.blocks)]

    def keys_of(self, number: int) -> list[str]:
        keys = self._member(number, "keys")
        return [] if keys is None else [str(key) for key in keys]

    def clips(self) -> int:
        return sum(self.sizes())

    def short(self) -> int:
        """Clips that were left out because they were too short."""
        found = (self._member(number, "short") for number in range(self.blocks))
        return sum(int(count) for count in found if count is not None)

    def layers(self) -> list[str]:
        return sorted(self.read(0)) if self.blocks else []

    def preview(self) -> npt.NDArray[np.uint8] | None:
        return self._member(0, "preview")

    def groups(self, most: int) -> Groups:
        """Blocks that hold clips, in at most so many runs of neighbours."""
        full = [number for number, size in enumerate(self.sizes()) if size]
        count = min(most, len(full))
        runs: Groups = [[] for _ in range(count)]
        for rank, number in enumerate(full):
            runs[rank * count // len(full)].append(number)
        return runs

    def rows(self, layer: str, numbers: list[int]) -> Floats:
        """Features of some blocks, in float64."""
        parts = [self._member(number, layer) for number in numbers]
        return np.concatenate([part for part in parts if part is not None]).astype(np.float64)

    def mapped(self, layer: str, groups: Groups) -> list[Floats]:
        """Features of each group as pages of one file without a name: no memory has to hold them"""
        shapes = [self._shape(number, layer) for group in groups for number in group]
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            size = (sum(rows for rows, _ in shapes), shapes[0][1])
            whole = np.memmap(file, np.float64, "w+", shape=size)
        at, edges = 0, [0]
        for group in groups:
            for number in group:
                part = self._member(number, layer)
                if part is not None:
                    whole[at : at + len(part)] = part
                    at += len(part)
            edges.append(at)
        return [whole[a:b] for a, b in zip(edges, edges[1:])]

    def _shape(self, number: int, layer: str) -> tuple[int, int]:
        part = self._member(number, layer)
        return (0, 0) if part is None else (len(part), part.shape[1])

    def moments(self, layer: str, groups: Groups) -> Mapping[int, Moments]:
        """Of each group, folded block by block: no more than a block is in memory besides."""
        return {k: self._fold(layer, numbers) for k, numbers in enumerate(groups)}

    def _fold(self, layer: str, numbers: list[int]) -> Moments:
        whole: Moments | None = None
        for number in numbers:
            part = moments(self.rows(layer, [number]))
            whole = part if whole is None else merge(whole, part)
        assert whole is not None
        return whole
