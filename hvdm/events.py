"""One event stream of a run: JSON lines always; console, TensorBoard and W&B read the same."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from hvdm.redaction import redacted


class Sink(Protocol):
    def metrics(self, values: Mapping[str, Any]) -> None: ...

    def event(self, values: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`, or a file of another name, and `events.jsonl`, a whole line at a time."""

    def __init__(self, run: Path, metrics: str = "metrics.jsonl") -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._metrics = _open_lines(run / metrics)
        self._events = _open_lines(run / "events.jsonl")

    def metrics(self, values: Mapping[str, Any]) -> None:
        _write_line(self._metrics, values)

    def event(self, values: Mapping[str, Any]) -> None:
        _write_line(self._events, values)

    def close(self) -> None:
        os.close(self._metrics)
        os.close(self._events)


def _open_lines(path: Path) -> int:
    """Opens for appending; a line cut short by a crash is closed off, so it spoils no other."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        with _lossy():
            os.write(descriptor, b"\n")
    return descriptor


_failed: set[str] = set()
"""Reasons that were told already: a log that cannot be written costs its lines, not the run."""


def _write_line(descriptor: int, values: Mapping[str, Any]) -> None:
    line = (redacted(json.dumps(values)) + "\n").encode()
    with _lossy():
        if os.write(descriptor, line) < len(line):  # the next one begins on its own
            os.write(descriptor, b"\n")


@contextmanager
def _lossy() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if reason not in _failed:
            _failed.add(reason)
            print(f"warning: lines of the run's logs are lost ({reason})", file=sys.stderr)


class TensorBoard:
    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "logs" / "tensorboard"))

    def metrics(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float) and name not in ("step", "time"):
                self._writer.add_scalar(name, value, values["step"])

    def event(self, values: Mapping[str, Any]) -> None:
        self._writer.add_text("events", redacted(json.dumps(values)), values.get("step") or 0)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            dir=str(run), name=run.name, id=run.name, resume="allow", config=config
        )

    def metrics(self, values: Mapping[str, Any]) -> None:
        self._run.log(dict(values), step=values["step"])

    def event(self, values: Mapping[str, Any]) -> None:
        return None

    def close(self) -> None:
        self._run.finish()


class Console:
    """One short line per logged step and per event."""

    def __init__(self, write: Callable[[str], Any] = print) -> None:
        self._write = write

    def metrics(self, values: Mapping[str, Any]) -> None:
        self._write(metric_line(values))

    def event(self, values: Mapping[str, Any]) -> None:
        self._write(event_line(values))

    def close(self) -> None:
        return None


_SHOWN = ("step", "steps", "time", "clips_per_s", "seconds_left", "samples", "lr")


def metric_line(values: Mapping[str, Any]) -> str:
    numbers = "  ".join(
        f"{name} {value:.4g}"
        for name, value in values.items()
        if name not in _SHOWN and isinstance(value, int | float)
    )
    speed = f"{values['clips_per_s']:.1f} clips/s  {duration(values['seconds_left'])} left"
    width = len(str(values["steps"]))
    return f"step {values['step']:>{width}}/{values['steps']}  {numbers}  {speed}"


_KEPT_TO_THE_FILE = ("event", "time", "commit", "versions", "spent")


def event_line(values: Mapping[str, Any]) -> str:
    """What a person wants to see of it; `events.jsonl` has the rest."""
    if "text" in values:
        return str(values["text"])
    shown = {k: v for k, v in values.items() if k not in _KEPT_TO_THE_FILE}
    return f"{values['event']}: " + "  ".join(f"{k}={_short(v)}" for k, v in shown.items())


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    if isinstance(value, int) and abs(value) >= 10**6:
        return f"{value / 1e6:.1f} M"
    return str(value)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Reporter:
    """Hands every event to all sinks; ranks other than the first hold none."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def metrics(self, **values: Any) -> None:
        for sink in self._sinks:
            with _lossy():
                sink.metrics({**values, "time": time.time()})

    def event(self, name: str, **values: Any) -> None:
        for sink in self._sinks:
            with _lossy():
                sink.event({"event": name, "time": time.time(), **values})

    def close(self) -> None:
        for sink in self._sinks:
            with _lossy():
                sink.close()


def each_line(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON-lines file one after the other; what a crash cut short is left out."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        yield from rows_of(lines)


def newest_first(path: Path) -> Iterator[dict[str, Any]]:
    """The same lines from the end on, and no more of the file than is asked for."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        at, rest = handle.seek(0, os.SEEK_END), b""
        while at > 0:
            size = min(at, _PIECE)
            at = handle.seek(at - size)
            rest, *whole = (handle.read(size) + rest).split(b"\n")
            yield from rows_of(reversed(whole))
        yield from rows_of([rest])


_PIECE = 2**16


def rows_of(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Of each line that is a JSON object; bytes that are no text spoil their own line at most."""
    remaining = iter(lines)
    while some := list(islice(remaining, _AT_ONCE)):
        yield from (row for row in _parsed(some) if isinstance(row, dict))


_AT_ONCE = 100
"""Lines that are parsed as one text, which takes two thirds of the time."""


def _parsed(lines: list[bytes]) -> list[Any]:
    """What each says; nothing where it is no JSON."""
    try:
        rows: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        rows = []
    if len(rows) == len(lines):  # halves of rows would be whole together
        return rows
    if len(lines) == 1:
        return []
    return [row for line in lines for row in _parsed([line])]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All of them at once, of a file that is not long."""
    return list(each_line(path))


class Tail:
    """The lines of a JSON-lines file as they are written, from the end that it has now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.is_file() else 0

    def rows(self) -> list[dict[str, Any]]:
        """The whole lines added since the last call."""
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._at)
                text = handle.read()
        except OSError:  # the next look may see more
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        return list(rows_of(whole.splitlines()))
