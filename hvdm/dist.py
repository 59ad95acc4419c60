"""The only spelling of torch.distributed."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

_several = False


def rank() -> int:
    return torch_dist.get_rank() if _is_joined() else 0


def world() -> int:
    return torch_dist.get_world_size() if _is_joined() else 1


def _is_joined() -> bool:
    joined: bool = torch_dist.is_initialized()
    if _several and not joined:
        raise ConnectionError("the process group was taken down while this rank still trains")
    return joined


@contextmanager
def kept_together() -> Iterator[None]:
    """A rank whose group is taken down under it stops, and does not go on as a world of one.

    Ray Train destroys the group of workers whose peer died, from another thread.
    """
    global _several
    _several = world() > 1
    try:
        yield
    finally:
        _several = False


def is_of_peers(error: BaseException) -> bool:
    """Whether a collective call failed: the cause is another rank's, or the network's.

    gloo raises plain RuntimeErrors, which begin with the place in its source.
    """
    if isinstance(error, ConnectionError | torch_dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def is_started() -> bool:
    return torch_dist.is_initialized()


def backend() -> str:
    return torch_dist.get_backend() if torch_dist.is_initialized() else "none"


def is_main() -> bool:
    return rank() == 0


def launched_by_environment() -> bool:
    """True under torchrun and the like, where each process already knows its rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def start(device: torch.device, timeout_s: int) -> bool:
    """Joins the process group that the environment describes; False where there is none to join."""
    if torch_dist.is_initialized() or not launched_by_environment():
        return False
    join(backend_of(device), timeout_s)
    return True


def join(library: str, timeout_s: int) -> None:
    torch_dist.init_process_group(library, timeout=timedelta(seconds=timeout_s))


def start_alone(device: torch.device, timeout_s: int) -> None:
    """A group of one, for DeepSpeed, which cannot do without."""
    if torch_dist.is_initialized():
        return
    store = torch_dist.HashStore()  # type: ignore[attr-defined]
    timeout = timedelta(seconds=timeout_s)
    torch_dist.init_process_group(
        backend_of(device), store=store, rank=0, world_size=1, timeout=timeout
    )


def backend_of(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def stop() -> None:
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


def barrier() -> None:
    if world() > 1:
        torch_dist.barrier()


def all_sum(tensor: Tensor) -> Tensor:
    """Sums in place over the ranks."""
    if world() > 1:
        torch_dist.all_reduce(tensor, op=torch_dist.ReduceOp.SUM)
    return tensor


class Largest:
    """The largest of the ranks' numbers; it is found while they go on, until it is asked for."""

    def __init__(self, value: int) -> None:
        self._value, self._work = torch.tensor(value), None
        if world() > 1:
            self._value = self._value.to("cuda" if backend() == "nccl" else "cpu")
            self._work = torch_dist.all_reduce(
                self._value, op=torch_dist.ReduceOp.MAX, async_op=True
            )

    def result(self) -> int:
        if self._work is not None:
            self._work.wait()
        return int(self._value)


def all_max(value: int) -> int:
    """The largest of the ranks' numbers; one small call, cheap enough for every step."""
    return value if world() == 1 else Largest(value).result()


def all_gather(value: Any) -> list[Any]:
    """A picklable value of every rank, in rank order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    torch_dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Rank 0's picklable value, on every rank."""
    if world() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src=0)
    return box[0]


def share(tensors: Iterable[Tensor]) -> None:
    """Rank 0's numbers into every rank's tensors."""
    if world() > 1:
        for tensor in tensors:
            torch_dist.broadcast(tensor, src=0)
