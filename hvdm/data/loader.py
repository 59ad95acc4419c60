"""Batches of clips: draws become rows, the same whatever rank, thread or process decodes them."""

import functools
import math
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hvdm import rng
from hvdm.data.batches import collate, log_keys
from hvdm.data.batches import micro_batch as as_micro_batch
from hvdm.data.clips import ClipSpec
from hvdm.data.decode import check_decoder
from hvdm.data.fields import Field, video
from hvdm.data.mix import Mixture
from hvdm.data.order import DrawOrder, MicroBatch, share
from hvdm.data.pool import ContainedReader, DecoderPool, ReadTask
from hvdm.data.rows import Reading, Row, SplitReader, Unreadable
from hvdm.data.schema import Manifest, manifest_hash
from hvdm.data.store import OUTAGE_S
from hvdm.errors import RunError, UserError
from hvdm.recipe import Batch

__all__ = ["ClipSpec", "Loader", "ReadOptions", "Substitution"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read; none of it changes which rows come in which order."""

    decoder: str = "decord"
    pool: Literal["threads", "processes"] = "threads"
    stall_s: float = 300.0
    damaged: float = 0.01
    timeout_s: float = 60.0
    outage_s: float = OUTAGE_S
    cache: str | None = None
    cache_gb: float = 100.0


class Substitution(NamedTuple):
    """A draw whose sample could not be read, why, and what came instead."""

    draw: int
    source: int
    shard: str
    key: str | None
    reason: str
    instead: str


class Loader:
    """Reads a split, such as `DIR/train`, or several by weight. Close it to stop its workers.

    Rows have these fields, the video where none are named, also of splits that were derived of
    those and lie `beside`.
    """

    def __init__(
        self,
        folder: str | Path | Mapping[str, float],
        spec: ClipSpec,
        seed: int = 0,
        lanes: int = 64,
        window: int = 256,
        threads: int = 2,
        ahead: int = 2,
        options: ReadOptions | None = None,
        key_log: Path | None = None,
        fields: Sequence[Field] = (),
        beside: Sequence[str] = (),
    ) -> None:
        if threads < 0 or ahead < 0:
            raise UserError(f"threads and ahead are at least 0, got {threads}, {ahead}")
        self.options = options or ReadOptions()
        check_decoder(self.options.decoder)
        weights = dict(folder) if isinstance(folder, Mapping) else {str(folder): 1.0}
        self.seed, self.ahead = seed, ahead
        reading = _reading(spec, tuple(fields) or (video(spec),), seed, self.options)
        self._reading = replace(reading, beside=tuple(beside))
        reader = ContainedReader if self.options.pool == "processes" else SplitReader
        self.sources = [reader(path, self._reading, i) for i, path in enumerate(weights)]
        _check_beside(beside, self.sources)
        self.mixture = Mixture(list(weights.values()), seed)
        self.orders = [_order(source, seed, lanes, window) for source in self.sources]
        self._pool = DecoderPool(threads, self.sources)
        self._lost: dict[tuple[int, str, str | None], Substitution] = {}
        self._lost_samples, self._single = 0, Counter[tuple[int, str]]()
        self._told: set[tuple[int, str, str | None]] = set()
        self._key_log = key_log
        self.waited_s = 0.0

    @property
    def manifest(self) -> Manifest:
        """Of the data set, or of the first one in a mixture."""
        return self.sources[0].manifest

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Of all that is read, by its place."""
        readers = {one.place: one.reader for one in self.sources}
        for source in self.sources:
            readers |= source.beside
        return {place: reader.manifest for place, reader in readers.items()}

    @property
    def _patience(self) -> float | None:
        """Processes have limits of their own, for each sample."""
        return None if self.options.pool == "processes" else self.options.stall_s

    @property
    def order(self) -> DrawOrder:
        return self.orders[0]

    def __len__(self) -> int:
        return sum(source.manifest.samples for source in self.sources)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers; what was being decoded is dropped."""
        self._pool.close()

    def identity(self) -> dict[str, Any]:
        """What a run pins: with all of it equal, the order is equal."""
        own = {
            "manifest": manifest_hash(self.manifest),
            "split": self.manifest.split,
            "samples": len(self),
            "shards": sum(len(source.manifest.shards) for source in self.sources),
            "lanes": self.order.lanes,
            "window": self.order.window,
        }
        if len(self.sources) > 1:
            own["mixture"] = {
                manifest_hash(source.manifest): share
                for source, share in zip(self.sources, self.mixture.shares, strict=True)
            }
        if beside := [one for source in self.sources for one in source.beside.values()]:
            own["beside"] = sorted(manifest_hash(one.manifest) for one in beside)
        return own

    def size_problem(self, part: tuple[int, int] = (0, 1)) -> str | None:
        """A shard that is missing or cut; `part` of how many share the work."""
        readers = [source.reader for source in self.sources]
        readers += [reader for source in self.sources for reader in source.beside.values()]
        return next((text for reader in readers if (text := reader.size_problem(part))), None)

    # Rows

    def rows(self, draws: Sequence[int]) -> Batch:
        """The clips of these draws, all of weight 1."""
        futures = [self._start_draw(draw) for draw in draws]
        rows = [self._result(draw, future) for draw, future in zip(draws, futures, strict=True)]
        return collate(rows, [1.0] * len(draws))

    def sequential(self, indices: Sequence[int]) -> Batch:
        """Samples by their number in the manifest, each from its first frame; draws are numbers.

        For evaluation: a damaged sample is an error here, since a substitute would change a number.
        """
        tasks = [self._numbered(index) for index in indices]
        futures = [self._pool.submit(task) for task in tasks]
        rows = [self._finished(future)[0] for future in futures]
        return collate(rows, [1.0] * len(indices))

    def steps(
        self,
        first_step: int,
        last_step: int,
        batch: int,
        micro_batch: int,
        rank: int,
        world: int,
        group: int = 1,
    ) -> Iterator[list[Batch]]:
        """This rank's micro-batches of steps first_step up to, not including, last_step."""
        plan = share(batch, micro_batch, rank, world, group)
        coming: deque[dict[int, Future[Any]]] = deque()
        to_start = first_step
        try:
            for step in range(first_step, last_step):
                while to_start < last_step and to_start <= step + self.ahead:
                    coming.append(self._start(to_start * batch, plan))
                    to_start += 1
                began = time.monotonic()
                first = step * batch
                rows = {row: self._result(first + row, f) for row, f in coming[0].items()}
                coming.popleft()
                micro_batches = [as_micro_batch(rows, part) for part in plan]
                self.waited_s += time.monotonic() - began
                if self._key_log:
                    log_keys(self._key_log, rank, micro_batches)
                yield micro_batches
        finally:
            for step_futures in coming:
                for future in step_futures.values():
                    future.cancel()

    def take_wait(self) -> float:
        """Seconds that the caller of `steps` has waited for rows since the last call."""
        waited, self.waited_s = self.waited_s, 0.0
        return waited

    def _start(self, first_draw: int, plan: tuple[MicroBatch, ...]) -> dict[int, Future[Any]]:
        wanted = sorted({row for part in plan for row, _ in part})
        return {row: self._start_draw(first_draw + row) for row in wanted}

    def _start_draw(self, draw: int) -> Future[Any]:
        turn = self.mixture.turn(draw)
        place = self.orders[turn.source].locate(turn.draw)
        return self._pool.submit(ReadTask(turn.source, place.shard, place.sample, draw, True))

    def _numbered(self, index: int) -> ReadTask:
        if len(self.sources) > 1:
            raise UserError("samples of a mixture have no numbers; evaluate one data set")
        if not 0 <= index < len(self):
            raise UserError(f"sample {index} of {len(self)} does not exist; ask for fewer clips")
        return ReadTask(0, *self.sources[0].reader.place(index), index, False)

    def _result(self, draw: int, future: Future[Any]) -> Row:
        row, losses = self._finished(future)
        for loss in losses:
            self._note(Substitution(draw, *loss, row.key))
        return row

    def _finished(self, future: Future[Any]) -> tuple[Row, list[Unreadable]]:
        try:
            answer: tuple[Row, list[Unreadable]] = future.result(timeout=self._patience)
        except TimeoutError:
            self._pool.abandon()
            raise RunError(
                f"a sample was not decoded within data.stall_s={self.options.stall_s:g} s; "
                "`hvdm data verify … full=true` finds which one, and data.pool=processes goes on "
                "without it"
            ) from None
        return answer

    # Damage

    def substitutions(self) -> list[Substitution]:
        """Everything that could not be read so far, in the order of the draws that met it."""
        return sorted(self._lost.values(), key=_by_draw)

    def new_substitutions(self) -> list[Substitution]:
        """What was not told before."""
        new = [one for one in self.substitutions() if _what(one) not in self._told]
        self._told |= {_what(one) for one in new}
        return new

    def remember(self, substitutions: Sequence[Sequence[Any]]) -> None:
        """What an earlier part of the run could not read is left out again, and counts."""
        for one in sorted((Substitution(*entry) for entry in substitutions), key=_by_draw):
            self._told.add(_what(one))
            if not self._add(one):
                continue
            if one.source < len(self.sources):
                self._pool.learn(Unreadable(one.source, one.shard, one.key, one.reason))
            self._stop_if_too_many(one)

    def _note(self, one: Substitution) -> None:
        self._add(one)
        self._pool.learn(Unreadable(one.source, one.shard, one.key, one.reason))
        self._stop_if_too_many(one)

    def _stop_if_too_many(self, last: Substitution) -> None:
        lost, allowed = self._lost_samples, math.ceil(self.options.damaged * len(self))
        if lost > allowed:
            where = last.shard if last.key is None else f"{last.shard}/{last.key}"
            raise RunError(
                f"{lost} of {len(self)} samples cannot be read, more than the {allowed} that "
                f"data.damaged={self.options.damaged:g} allows; the last is {where}: {last.reason}"
            )

    def _add(self, one: Substitution) -> bool:
        """Whether it is new. Counted as it comes: to count all anew for each takes its square."""
        if _what(one) in self._lost:
            return False
        self._lost[_what(one)] = one
        place = (one.source, one.shard)
        if one.key is None:
            self._lost_samples += self._samples.get(place, 0) - self._single.pop(place, 0)
        elif (*place, None) not in self._lost:
            self._lost_samples += 1
            self._single[place] += 1
        return True

    @functools.cached_property
    def _samples(self) -> dict[tuple[int, str], int]:
        """Of each shard of each source."""
        return {
            (number, shard.name): shard.samples
            for number, source in enumerate(self.sources)
            for shard in source.manifest.shards
        }


def _by_draw(one: Substitution) -> tuple[int, str, str]:
    return one.draw, one.shard, one.key or ""


def _what(one: Substitution) -> tuple[int, str, str | None]:
    return one.source, one.shard, one.key


def _reading(spec: ClipSpec, fields: tuple[Field, ...], seed: int, options: ReadOptions) -> Reading:
    """Clips are as long as the longest of their fields."""
    given = {key: value for key, value in asdict(options).items() if key in _READING_KEYS}
    frames = max(field.frames for field in fields) or spec.frames
    return Reading(replace(spec, frames=frames), fields, seed, **given)


_READING_KEYS = ("decoder", "timeout_s", "outage_s", "cache", "cache_gb", "stall_s")


def _check_beside(places: Sequence[str], sources: Sequence[SplitReader]) -> None:
    for place in places:
        if not any(place in source.beside for source in sources):
            raise UserError(
                f"{place} was not derived of {' or '.join(one.place for one in sources)} as it is "
                "now: derive it anew with `hvdm data derive`, or leave it out of data.beside"
            )


def _order(source: SplitReader, seed: int, lanes: int, window: int) -> DrawOrder:
    counts = [shard.samples for shard in source.manifest.shards]
    own = rng.seed_of(seed, source.number, "source") if source.number else seed
    return DrawOrder(counts, own, lanes, window)
