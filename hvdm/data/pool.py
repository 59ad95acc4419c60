"""Who decodes: this thread, threads, or processes started fresh.

Threads are the default: decoders let go of the interpreter and rows need no copying, so two threads
decode twice as much as two processes. Processes keep a decoder's crash or endless loop out of the
trainer. They are never forked: decord breaks in a fork.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any, Literal, NamedTuple

from hvdm.data.rows import Reading, Row, SplitReader, Unreadable


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


_sources: list[SplitReader] = []


def _open(folders: Sequence[str], reading: Reading, known: Sequence[Unreadable]) -> None:
    import torch

    torch.set_num_threads(1)
    _sources[:] = [SplitReader(folder, reading, i) for i, folder in enumerate(folders)]
    for loss in known:
        _sources[loss.source].known.add(loss)


def _perform_here(task: ReadTask) -> tuple[Row, list[Unreadable]]:
    return perform(_sources, task)


class DecoderPool:
    def __init__(
        self,
        workers: int,
        kind: Literal["threads", "processes"],
        sources: Sequence[SplitReader],
        folders: Sequence[str],
        reading: Reading,
    ) -> None:
        self._workers, self._kind, self._sources = workers, kind, sources
        self._folders, self._reading = folders, reading
        self._known: list[Unreadable] = []
        self._executor: Executor | None = None

    def submit(self, task: ReadTask) -> Future[Any]:
        if self._workers == 0:
            return self._at_once(task)
        executor = self._executor = self._executor or self._start()
        if self._kind == "processes":
            return executor.submit(_perform_here, task)
        return executor.submit(perform, self._sources, task)

    def learn(self, loss: Unreadable) -> None:
        """Damage that need not be met again."""
        self._sources[loss.source].known.add(loss)
        self._known.append(loss)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def abandon(self) -> None:
        """Gives up on workers that do not answer."""
        executor, self._executor = self._executor, None
        if isinstance(executor, ProcessPoolExecutor):
            for process in list((executor._processes or {}).values()):
                process.kill()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _at_once(self, task: ReadTask) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(perform(self._sources, task))
        except Exception as error:
            future.set_exception(error)
        return future

    def _start(self) -> Executor:
        if self._kind == "threads":
            return ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        return ProcessPoolExecutor(
            self._workers,
            mp_context=get_context("spawn"),
            initializer=_open,
            initargs=(self._folders, self._reading, tuple(self._known)),
        )
