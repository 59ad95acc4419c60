"""Rank processes that live through the test session: imports are paid once, not per test.

They are forked from one process that has imported what they need, and has no threads.
"""

import multiprocessing as mp
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any


def forked() -> ForkServerContext:
    """Processes start there without an import; `tests/support/imported.py` says of what."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.imported"])
    return context


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _serve(rank: int, world: int, port: int, pipe: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
    }
    import torch

    from hvdm import dist
    from hvdm.data import child

    child.end_with_starter()  # what it runs may not heed the signal that ended the session
    torch.set_num_threads(1)
    dist.start(torch.device("cpu"), 120)
    while (call := pipe.recv()) is not None:
        function, arguments = call
        try:
            answer = (True, function(*arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        pipe.send(answer)
    dist.stop()


class Ranks:
    """`run(function, *arguments)` on every rank; gives each rank's result."""

    def __init__(self, world: int) -> None:
        context = forked()
        port = free_port()
        self.world = world
        self._pipes, self._processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world, port, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        pickle.dumps((function, arguments))
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = [pipe.recv() for pipe in self._pipes]
        for rank, (fine, value) in enumerate(answers):
            assert fine, f"rank {rank} of {self.world}:\n{value}"
        return [value for _, value in answers]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.kill()
