"""Sources as frames in time: video files, folders of frames. Runs in a child process."""

import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from hvdm.data.containers import frames_of, open_video
from hvdm.data.decode import CannotDecode, decode_image, upright
from hvdm.errors import RunError

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]
FRAME_FOLDER_FPS = 25
REGULAR = 0.25
"""A frame may be this share of a frame's time off, and the rate still counts as constant."""


class Unusable(RunError):
    """A source that cannot be used, and why."""


class Shot(NamedTuple):
    """A frame as it is seen, and when, in seconds.

    Pixels are made when they are looked at: most of what is decoded on the way to a clip never is.
    """

    time: Fraction
    look: Callable[[], Pixels]


@dataclass(frozen=True)
class Facts:
    """What a container says of its video."""

    codec: str
    width: int
    height: int
    rate: Fraction
    announced: int
    rotation: int = 0
    pixel_format: str = ""
    interlaced: bool = False


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A container, with errors that say what is wrong with it."""
    import av

    if Path(path).stat().st_size == 0:
        raise Unusable("is empty")
    try:
        with open_video(path) as container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
                raise Unusable(f"has no video, only {', '.join(kinds)}")
            yield container
    except (av.FFmpegError, ValueError) as error:
        raise Unusable(_unreadable(error).replace(path, "file")) from None


def _unreadable(error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"is unreadable as video ({reason})"


def shots_of_video(
    path: str, strict: bool, start: Fraction | None = None, facts: list[Facts] | None = None
) -> Iterator[Shot]:
    """Every frame in order; from the keyframe before `start` where one is given.

    Strict: damage that decoders conceal is an error. What the stream says of itself is put into
    `facts` before the first frame.
    """
    with opened(path) as container:
        stream = container.streams.video[0]
        if start is not None and start > 0:
            container.seek(int(start / stream.time_base), stream=stream, backward=True)
        graph = None
        for number, frame in enumerate(frames_of(container, strict)):
            if number == 0:
                graph = _deinterlacer(stream) if frame.interlaced_frame else None
                if facts is not None:
                    facts.append(_facts(stream, frame))
            yield _shot(frame, graph, stream, number, start)


def _shot(frame: Any, graph: Any, stream: Any, number: int, start: Fraction | None) -> Shot:
    rate = _rate(stream)
    if frame.pts is None:
        if start is not None:
            raise Unusable("has frames without a time, so it cannot be sought in")
        time = number / rate
    else:
        time = frame.pts * stream.time_base
    rotation = frame.rotation
    if graph is not None:
        graph.push(frame)
        frame = graph.pull()
    return Shot(time, partial(_look, frame, rotation))


def _look(frame: Any, rotation: int) -> Pixels:
    import av

    try:
        return upright(frame, rotation)
    except (av.FFmpegError, ValueError) as error:
        raise Unusable(_unreadable(error)) from None


def _deinterlacer(stream: Any) -> Any:
    """One whole frame for each interlaced one."""
    import av

    graph = av.filter.Graph()
    source, blend, sink = (
        graph.add_buffer(template=stream),
        graph.add("bwdif", "mode=send_frame:parity=auto:deint=all"),
        graph.add("buffersink"),
    )
    source.link_to(blend)
    blend.link_to(sink)
    graph.configure()
    return _Primed(graph)


class _Primed:
    """bwdif answers one frame late: the first frame goes in twice, and each push gives a pull."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._first = graph, True

    def push(self, frame: Any) -> None:
        if self._first:
            self._graph.push(frame)
            self._first = False
        self._graph.push(frame)

    def pull(self) -> Any:
        return self._graph.pull()


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.base_rate or FRAME_FOLDER_FPS)


def _facts(stream: Any, frame: Any) -> Facts:
    context = stream.codec_context
    return Facts(
        codec=context.name,
        width=frame.width,
        height=frame.height,
        rate=_rate(stream),
        announced=int(stream.frames),
        rotation=int(frame.rotation),
        pixel_format=frame.format.name,
        interlaced=bool(frame.interlaced_frame),
    )


def shots_of_pictures(paths: Iterable[str], facts: list[Facts] | None = None) -> Iterator[Shot]:
    """A folder of frames, in the order of its names, at a rate that it does not say."""
    paths = list(paths)
    shape: tuple[int, ...] | None = None
    for number, path in enumerate(paths):
        pixels = picture(Path(path).read_bytes(), Path(path).name)
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise Unusable(f"has frames of several sizes: {Path(path).name} is another")
        if number == 0 and facts is not None:
            height, width, _ = pixels.shape
            rate = Fraction(FRAME_FOLDER_FPS)
            facts.append(Facts("pictures", width, height, rate, len(paths)))
        yield Shot(Fraction(number, FRAME_FOLDER_FPS), partial(np.asarray, pixels))


def picture(data: bytes, name: str) -> Pixels:
    try:
        return decode_image(data, name)[0]
    except CannotDecode as error:
        raise Unusable(str(error)) from None


# Time


class Timeline(NamedTuple):
    """Frames at a constant rate: number k is the one that is on at first + k / rate."""

    first: Fraction
    rate: Fraction
    length: int
    variable: bool


def timeline(times: list[Fraction], rate: Fraction, wanted: Fraction | None) -> Timeline:
    """The frames' own rate where it is constant, the most common one where it is not."""
    steps = [b - a for a, b in zip(times, times[1:], strict=False)]
    step = statistics.median(steps) if steps else 1 / rate
    if step <= 0:
        raise Unusable("has frames whose times do not advance")
    variable = any(abs(one - step) > REGULAR * step for one in steps)
    chosen = wanted or _own_rate(times, rate, 1 / step if variable else None)
    length = len(times)
    if variable or wanted is not None:
        length = max(1, int((times[-1] - times[0] + step) * chosen + Fraction(1, 2)))
    return Timeline(times[0], chosen, length, variable)


def _own_rate(times: list[Fraction], rate: Fraction, common: Fraction | None) -> Fraction:
    if common is not None:
        return common.limit_denominator(1001)
    steps, span = len(times) - 1, times[-1] - times[0]
    # A container's rate is exact where frame times are rounded, such as 1/1000 s in Matroska.
    if abs(span * rate - steps) < Fraction(1, 2):
        return rate
    return (steps / span).limit_denominator(1001)


def at_rate(
    shots: Iterable[tuple[Fraction, T]], line: Timeline, start: int, end: int
) -> Iterator[T]:
    """What is seen at start up to end of the timeline: each time the newest shot."""
    half = 1 / (2 * line.rate)
    number, held = start, None
    for time, seen in shots:
        while number < end and held is not None and time > _time(line, number) + half:
            yield held
            number += 1
        if number >= end:
            return
        held = seen
    while number < end and held is not None:
        yield held
        number += 1


def _time(line: Timeline, number: int) -> Fraction:
    return line.first + number / line.rate
