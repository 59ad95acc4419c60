"""Runs in processes that may be killed: forked from one that has imported everything."""

import os
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from typing import Any

from tests.support.ranks import forked, free_port


def _rank(config: Any, environment: Mapping[str, str], quiet: bool) -> None:
    os.environ.update(environment)
    import torch

    from hvdm.run import run

    torch.set_num_threads(1)
    if quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    run.train(config, sinks=())


def start(config: Any, world: int = 1, **environment: str) -> list[BaseProcess]:
    """The ranks of a run; as `cluster=inline` where there is one."""
    context = forked()
    port = str(free_port())
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = []
    for rank in range(world):
        named = {"RANK": str(rank), "LOCAL_RANK": str(rank), **group} if world > 1 else {}
        process = context.Process(
            target=_rank, args=(config, {**named, **environment}, bool(environment))
        )
        process.start()
        ranks.append(process)
    return ranks


def exit_codes(ranks: list[BaseProcess], timeout_s: float = 120.0) -> list[int | None]:
    """Of all ranks. Once one is dead the others follow, or are killed."""
    until = time.monotonic() + timeout_s
    for process in ranks:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in ranks]
