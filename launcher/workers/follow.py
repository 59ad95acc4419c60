"""Reads a run's lines as they are written, from the end that was there at the start."""

from pathlib import Path

from hvdm.events import Sink, Tail


class Follower:
    def __init__(self, run: Path, sink: Sink) -> None:
        self._metrics = Tail(run / "metrics.jsonl")
        self._events = Tail(run / "events.jsonl")
        self._sink = sink

    def poll(self) -> None:
        """Shows what is new, metrics and events in the order of their times."""
        rows = [(row.get("time", 0), row) for row in self._metrics.rows() + self._events.rows()]
        for _, row in sorted(rows, key=lambda pair: pair[0]):
            if "event" in row:
                self._sink.event(row)
            else:
                self._sink.metrics(row)
