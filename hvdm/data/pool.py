"""Who decodes: this thread, threads, or processes started fresh.

Threads are the default: decoders let go of the interpreter and rows need no copying, so two threads
decode twice as much as two processes. A process that crashes, hangs or fills its memory is killed,
and its sample is damaged like any other. They are never forked: decord breaks in a fork.
"""

import uuid
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from hvdm.data import child
from hvdm.data.rows import Manifests, Reading, Row, SplitReader, Unreadable
from hvdm.data.schema import DamagedSample
from hvdm.data.shards import INDICES_KEPT


class ReadTask(NamedTuple):
    """A sample to read, for a draw; `shuffled` is training, with substitutes for damage."""

    source: int
    shard: int
    sample: int
    draw: int
    shuffled: bool


def perform(sources: Sequence[SplitReader], task: ReadTask) -> tuple[Row, list[Unreadable]]:
    source = sources[task.source]
    if task.shuffled:
        return source.row_or_substitute(task.shard, task.sample, task.draw)
    return source.row(task.shard, task.sample, task.draw, shuffled=False), []


class ContainedReader(SplitReader):
    """Reads each row in a child process, within limits of time and memory.

    A child knows the shards that it reads, and no manifest.
    """

    def __init__(self, folder: str | Path, reading: Reading, number: int = 0) -> None:
        super().__init__(folder, reading, number)
        self._name = uuid.uuid4().hex

    def row(self, shard: int, sample: int, draw: int, shuffled: bool) -> Row:
        limit_s = self.reading.stall_s
        try:
            name = f"{self._name} {shard}"
            own = (self.place, self.reading, self.number, self.of_shard(shard))
            return child.call(_row, name, own, sample, draw, shuffled, limit_s=limit_s)
        except child.Failed as error:
            name, key = self.manifest.shards[shard].name, self.reader.key(shard, sample)
            raise DamagedSample(name, key, str(error)) from None


_readers: dict[str, SplitReader] = {}


def _row(name: str, own: tuple[str, Reading, int, Manifests], *which: Any) -> Row:
    """In a child, which opens each shard once, and holds as many as a reader has indices."""
    if name not in _readers:
        import torch

        torch.set_num_threads(1)
        if len(_readers) >= INDICES_KEPT:
            _readers.clear()
        _readers[name] = SplitReader(*own)
    return _readers[name].row(0, *which)


class DecoderPool:
    def __init__(self, workers: int, sources: Sequence[SplitReader]) -> None:
        self._workers, self._sources = workers, sources
        self._executor: Executor | None = None

    def submit(self, task: ReadTask) -> Future[Any]:
        if self._workers == 0:
            return self._at_once(task)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        return self._executor.submit(perform, self._sources, task)

    def learn(self, loss: Unreadable) -> None:
        """Damage that need not be met again."""
        self._sources[loss.source].known.add(loss)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def abandon(self) -> None:
        """Gives up on workers that do not answer."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _at_once(self, task: ReadTask) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(perform(self._sources, task))
        except Exception as error:
            future.set_exception(error)
        return future
