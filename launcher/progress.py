"""One line that moves where somebody watches, lines now and then where it goes to a file."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from hvdm.events import Console, duration

EVERY_S, MOVING_S = 10.0, 0.2
_BAR = 20
_HIDDEN = ("grad_norm", "_s", "lr")


class Progress:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._moving = out.isatty()
        self._title = ""
        self._shown = ""
        self._last = 0.0

    def begin(self, title: str, command: str) -> None:
        self._title, self._shown, self._last = title, "", 0.0
        self._line(f"[{title}]\n    $ {command}")

    def say(self, text: str) -> None:
        """Shown if it is new and the last one has stood for a while."""
        wait = MOVING_S if self._moving else EVERY_S
        if not text or text == self._shown or time.monotonic() - self._last < wait:
            return
        self._shown, self._last = text, time.monotonic()
        if self._moving:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r\033[K    {text}"[: width + 4])
            self._out.flush()
        else:
            self._line(f"    {text}")

    def step(self, row: Mapping[str, Any]) -> None:
        """A row of a run's metrics: how far, how good, how long."""
        share = row["step"] / max(1, row["steps"])
        bar = "#" * round(_BAR * share) + "." * (_BAR - round(_BAR * share))
        numbers = "  ".join(
            f"{name.rpartition('/')[2]} {value:.4g}"
            for name, value in row.items()
            if "/" in name and isinstance(value, int | float) and not name.endswith(_HIDDEN)
        )
        left = f"{duration(row.get('seconds_left', 0))} left"
        self.say(f"{bar} {row['step']}/{row['steps']}  {left}  {numbers}")

    def done(self, title: str, text: str) -> None:
        self._line(f"[{title}] {text}")

    def _line(self, text: str) -> None:
        if self._moving:
            self._out.write("\r\033[K")
        self._out.write(f"{text}\n")
        self._out.flush()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """A line that says what is being done, and ends with its seconds."""
    print(f"{what} …", end="", flush=True)
    began, end = time.monotonic(), ""
    try:
        yield
        end = f" {time.monotonic() - began:.1f} s"
    finally:
        print(end, flush=True)


class Onlooker(Console):
    """The console as long as somebody reads it."""

    def __init__(self, afterwards: str) -> None:
        super().__init__(self._line)
        self.gone = False
        self._afterwards = afterwards

    def _line(self, text: str) -> None:
        if self.gone:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:
            self.gone = True
            close_output()
            with suppress(BrokenPipeError):
                print(f"hvdm: nobody reads this any more: {self._afterwards}", file=sys.stderr)


def close_output() -> None:
    """What is still to be printed goes nowhere: Python complains at its end of a broken pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
