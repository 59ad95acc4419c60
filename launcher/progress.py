"""One line that moves where somebody watches, lines now and then where it goes to a file."""

import shutil
import time
from collections.abc import Mapping
from typing import Any, TextIO

from hvdm.events import duration

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
