"""What a sample costs: calls of each network, and multiply-adds, counted while it is drawn."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from eval.blocks.tasks import Arrays

NETS, CALLS, WORK = "cost_nets", "cost_calls", "cost_multiply_adds"


@dataclass
class Cost:
    """Of a few samples that are drawn together, which takes as many calls as one of them.

    A call is one into a network from outside, whichever of its parts is called.
    """

    calls: Counter[str] = field(default_factory=Counter)
    multiply_adds: int = 0
    _depth: int = 0

    def enter(self, name: str) -> None:
        self.calls.update([name] if self._depth == 0 else [])
        self._depth += 1

    def leave(self) -> None:
        self._depth -= 1

    def arrays(self, samples: int) -> Arrays:
        """Of one sample."""
        names = sorted(self.calls)
        return {
            NETS: np.asarray(names, dtype=np.str_),
            CALLS: np.asarray([self.calls[name] for name in names], dtype=np.int64),
            WORK: np.asarray(self.multiply_adds / samples),
        }


class Product:
    """Operations of a matrix product; of a sparse matrix those of what is in it."""

    _get_raw = True
    """So that the counter hands over matrices, not their shapes."""

    def __call__(self, a: Tensor, b: Tensor, **more: Any) -> int:
        if a.layout is torch.strided:
            return 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return 2 * a._nnz() * b.shape[1]


@contextmanager
def counted(nets: nn.ModuleDict) -> Iterator[Cost]:
    """Changes no number that is computed meanwhile."""
    cost = Cost()
    with ExitStack() as stack:
        for name, net in nets.items():
            enter = partial(_enter, cost, name)
            for module in net.modules():
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(partial(_leave, cost)).remove)
        products = {torch.ops.aten.mm: Product()}
        counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=products))
        yield cost
        cost.multiply_adds = counter.get_total_flops() // 2


def _enter(cost: Cost, name: str, *_: Any) -> None:
    cost.enter(name)


def _leave(cost: Cost, *_: Any) -> None:
    cost.leave()


def told(arrays: Arrays) -> dict[str, Any] | None:
    """As a result has it; None where nothing was counted."""
    if WORK not in arrays:
        return None
    calls = dict(zip(arrays[NETS].tolist(), arrays[CALLS].tolist(), strict=True))
    return {"calls": calls, "multiply_adds": float(arrays[WORK])}
