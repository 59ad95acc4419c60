"""Batches of clips: draws become rows, the same whatever rank or thread decodes them."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hvdm import rng
from hvdm.data.decode import CannotDecode, ClipSpec, Frames, count_frames, decode
from hvdm.data.order import MicroBatch, Order, share
from hvdm.data.schema import DamagedSample, manifest_hash, read_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import RunError, UserError
from hvdm.recipe import Batch

__all__ = ["ClipSpec", "Loader"]

VIDEO_SUFFIXES = ("mp4", "mkv", "mov", "webm", "avi")


class Row(NamedTuple):
    """One decoded sample."""

    video: Frames
    label: int
    motion: float
    key: str
    draw: int


class Loader:
    """Reads a split, such as `DIR/train`. Close it, or use it as a context, to stop its threads."""

    def __init__(
        self,
        folder: str | Path,
        spec: ClipSpec,
        seed: int = 0,
        lanes: int = 64,
        window: int = 256,
        threads: int = 2,
        ahead: int = 2,
    ) -> None:
        if threads < 1 or ahead < 0:
            raise UserError(f"threads is at least 1 and ahead at least 0, got {threads}, {ahead}")
        self.spec, self.seed, self.ahead = spec, seed, ahead
        self.manifest = read_manifest(folder)
        counts = [shard.samples for shard in self.manifest.shards]
        self.order = Order(counts, seed, lanes, window)
        self._ends = np.cumsum(counts)
        self._reader = ShardReader(folder, self.manifest)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def __len__(self) -> int:
        return self.manifest.samples

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads; what was being decoded is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def identity(self) -> dict[str, Any]:
        """What a run pins: with all of it equal, the order is equal."""
        return {
            "manifest": manifest_hash(self.manifest),
            "split": self.manifest.split,
            "samples": self.manifest.samples,
            "shards": len(self.manifest.shards),
            "lanes": self.order.lanes,
            "window": self.order.window,
        }

    def rows(self, draws: Sequence[int]) -> Batch:
        """The clips of these draws, all of weight 1."""
        return collate(list(self._pool.map(self._drawn, draws)), [1.0] * len(draws))

    def sequential(self, indices: Sequence[int]) -> Batch:
        """Samples by their number in the manifest, each from its first frame; draws are numbers."""
        return collate(list(self._pool.map(self._numbered, indices)), [1.0] * len(indices))

    def steps(
        self, first_step: int, last_step: int, batch: int, micro_batch: int, rank: int, world: int
    ) -> Iterator[list[Batch]]:
        """This rank's micro-batches of steps first_step up to, not including, last_step."""
        plan = share(batch, micro_batch, rank, world)
        coming: deque[dict[int, Future[Row]]] = deque()
        to_start = first_step
        try:
            for step in range(first_step, last_step):
                while to_start < last_step and to_start <= step + self.ahead:
                    coming.append(self._start(to_start * batch, plan))
                    to_start += 1
                rows = {row: future.result() for row, future in coming[0].items()}
                coming.popleft()
                yield [_micro_batch(rows, part) for part in plan]
        finally:
            for step_futures in coming:
                for future in step_futures.values():
                    future.cancel()

    def _start(self, first_draw: int, plan: tuple[MicroBatch, ...]) -> dict[int, Future[Row]]:
        wanted = sorted({row for part in plan for row, _ in part})
        return {row: self._pool.submit(self._drawn, first_draw + row) for row in wanted}

    def _drawn(self, draw: int) -> Row:
        place = self.order.locate(draw)
        return self._row(place.shard, place.sample, draw, shuffled=True)

    def _numbered(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise UserError(f"sample {index} of {len(self)} does not exist; ask for fewer clips")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[shard]) - self.manifest.shards[shard].samples
        return self._row(shard, index - first, index, shuffled=False)

    def _row(self, shard: int, sample: int, draw: int, shuffled: bool) -> Row:
        name, key = self.manifest.shards[shard].name, self._reader.key(shard, sample)
        parts = self._reader.sample(shard, sample)
        try:
            return self._decoded(parts, f"{name}/{key}", draw, shuffled)
        except (CannotDecode, TypeError, ValueError) as error:
            raise DamagedSample(name, key, str(error)) from error

    def _decoded(self, parts: Mapping[str, bytes], name: str, draw: int, shuffled: bool) -> Row:
        about, video = about_of(parts), video_of(parts)
        total = int(about.get("frames", 0)) or count_frames(video)
        room = total - self.spec.span
        if room < 0:
            raise RunError(_too_short(name, total, self.spec))
        start = self._window_start(draw, room) if shuffled else 0
        clip = decode(video, self.spec, start, promised=total)
        label, motion = int(about.get("label", -1)), float(about.get("motion", 0.0))
        return Row(clip, label, motion, name, draw)

    def _window_start(self, draw: int, room: int) -> int:
        return int(rng.numpy_generator(self.seed, draw, "window").integers(room + 1))


def _too_short(name: str, total: int, spec: ClipSpec) -> str:
    return (
        f"{name} has {total} frames, a clip of {spec.frames} frames at stride {spec.stride} "
        f"needs {spec.span}; set fewer frames or a smaller stride"
    )


def about_of(parts: Mapping[str, bytes]) -> dict[str, Any]:
    """What the sample's json says; nothing when there is none."""
    about = json.loads(parts.get("json", b"{}"))
    if not isinstance(about, dict):
        raise CannotDecode("its json is not an object")
    return about


def video_of(parts: Mapping[str, bytes]) -> bytes:
    """The sample's video file."""
    for suffix in VIDEO_SUFFIXES:
        if suffix in parts:
            return parts[suffix]
    raise CannotDecode(f"no video ({', '.join(VIDEO_SUFFIXES)}) among its parts: {sorted(parts)}")


def collate(rows: Sequence[Row], weight: Sequence[float]) -> Batch:
    """Rows as tensors: video uint8 `B T H W C`, label int64, motion float32."""
    fields = {
        "video": torch.from_numpy(np.stack([row.video for row in rows])),
        "label": torch.tensor([row.label for row in rows], dtype=torch.int64),
        "motion": torch.tensor([row.motion for row in rows], dtype=torch.float32),
    }
    keys, draws = tuple(row.key for row in rows), tuple(row.draw for row in rows)
    return Batch(fields, keys, draws, torch.tensor(weight, dtype=torch.float32))


def _micro_batch(rows: Mapping[int, Row], part: MicroBatch) -> Batch:
    return collate([rows[row] for row, _ in part], [weight for _, weight in part])
