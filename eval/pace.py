"""How far an evaluation is, in a line now and then."""

import time
from collections.abc import Callable
from typing import Any

from hvdm.events import duration

EVERY_S = 5.0


class Pace:
    def __init__(self, blocks: int, clips: int, say: Callable[[str], Any]) -> None:
        self._blocks, self._clips, self._say = blocks, clips, say
        self._began = self._told = time.monotonic()
        self._done = self._seen = 0

    def tick(self, clips: int) -> None:
        self._done += 1
        self._seen += clips
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return
        self._told = now
        rate = self._seen / (now - self._began)
        left = duration((self._clips - self._seen) / rate)
        self._say(f"{self._done} of {self._blocks} blocks, {rate:.1f} clips/s, {left} left")
