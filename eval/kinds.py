"""What a kind of protocol brings: whom it can measure, one block, and the sum of all blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor

from eval.protocol import Protocol as Measure
from eval.subject import Task
from hvdm.build import Opened


@dataclass(frozen=True)
class Preview:
    """A few clips to look at: uint8 `B T H W C`."""

    original: Tensor
    generated: Tensor


class Block(Protocol):
    """One block's part of a result."""

    @property
    def number(self) -> int: ...

    @property
    def preview(self) -> Preview | None: ...


AnyBlock = TypeVar("AnyBlock", bound=Block)


@dataclass(frozen=True)
class Summary:
    """Values by name, each with what is known of its error, and the rest of the result."""

    values: Mapping[str, float]
    standard_error: Mapping[str, float | None]
    debiased: Mapping[str, float | None] = field(default_factory=dict)
    null_bias: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """`measure` runs in any process, so it is a function of a module; blocks come in order."""

    generated: Callable[[Opened, Measure, int | None], str]
    """What this model is measured by, from the run, the protocol, and steps=; or an error."""
    measure: Callable[[Task], Any]
    summarize: Callable[[Measure, list[Any]], Summary]


def preview_of(task: Task, original: Tensor, generated: Tensor) -> Preview | None:
    """Clips of the first block only."""
    return Preview(original[:4], generated[:4]) if task.number == 0 else None
