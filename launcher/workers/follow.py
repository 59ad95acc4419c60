"""Reads a run's lines as they are written, from the end that was there at the start."""

from pathlib import Path
from typing import Any

from hvdm.events import Sink, rows_of


class Tail:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.is_file() else 0

    def rows(self) -> list[dict[str, Any]]:
        """The whole lines added since the last call."""
        if not self._path.is_file():
            return []
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._at)
                text = handle.read()
        except OSError:  # the next look may see more
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        return list(rows_of(whole.splitlines()))


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
