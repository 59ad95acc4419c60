"""Speed and time left, over the steps since the last line."""

import time


class Meter:
    def __init__(self, batch: int, total_steps: int) -> None:
        self._batch = batch
        self._total = total_steps
        self._since = time.monotonic()
        self._steps = 0

    def tick(self) -> None:
        self._steps += 1

    @property
    def steps(self) -> int:
        """Steps since the last reading."""
        return max(1, self._steps)

    def read(self, step: int) -> dict[str, float]:
        """Clips per second over all workers since the last reading, and seconds to the end."""
        now = time.monotonic()
        per_step = (now - self._since) / self.steps
        self._since, self._steps = now, 0
        return {
            "clips_per_s": self._batch / per_step if per_step else 0.0,
            "seconds_left": per_step * (self._total - step),
        }
