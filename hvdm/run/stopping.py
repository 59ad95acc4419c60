"""Why training ends before its last step: a signal, a node that is taken away, or a request."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNAL, DRAINED, RESIZED, ASKED = "signal", "drained", "resized", "asked"
REASONS = ("", SIGNAL, DRAINED, RESIZED, ASKED)
"""What is further behind wins where ranks have different reasons."""

StopSource = Callable[[], str]
"""Gives one of the reasons, or an empty string."""

_heard: list[int] = []
_training = threading.Event()


@contextmanager
def listening() -> Iterator[None]:
    """A signal that comes meanwhile is noted; a second one ends the process at once.

    Handlers can be set in the main thread only. Where training runs in another one, whoever owns
    the main thread calls `listen` there.
    """
    _heard.clear()
    on_main = threading.current_thread() is threading.main_thread()
    before = listen((signal.SIGTERM, signal.SIGINT)) if on_main else {}
    _training.set()
    try:
        yield
    finally:
        _training.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(numbers: Sequence[int]) -> dict[int, Any]:
    """Sets the handlers, and gives those that were there; they still get what no training hears."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        if _heard:
            os._exit(128 + number)
        if _training.is_set():
            _heard.append(number)
        elif callable(before[number]):
            before[number](number, frame)
        else:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    for number in numbers:
        signal.signal(number, note)
    return before


def agreed(sources: Sequence[StopSource]) -> str:
    """All ranks together, between two steps: why to stop now, the same on all of them."""
    from hvdm import dist  # the rest is for Ray's controller too, which does without torch

    own = [SIGNAL] if _heard else []
    own += [source() for source in sources]
    return REASONS[dist.all_max(max((REASONS.index(reason) for reason in own), default=0))]
