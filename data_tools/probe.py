"""The first pass: what a source is, whether it decodes to its end, and which clips it holds."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.finding import read_bytes
from data_tools.items import Item
from data_tools.settings import Settings
from data_tools.shots import (
    Facts,
    Pixels,
    Shot,
    Timeline,
    Unusable,
    at_rate,
    opened,
    shots_of_pictures,
    shots_of_video,
    timeline,
)
from hvdm.data.dissimilarity import dissimilarity

PROBE_VERSION = 2
"""Of what a probe's entry in the journal holds; an older one is not used."""

SMALL = 64
SCENE_WIDTH = 256
DARK = 20
"""Luma below which a pixel counts as black."""

Small = npt.NDArray[np.uint8]


def probe(item: Item, settings: Settings) -> dict[str, Any]:
    """Facts and clips of one source; runs in a child, since a decoder may not come back."""
    if item.kind == "image":
        return _probe_image(item)
    try:
        return _probe_video(item, settings, strict=True)
    except Unusable as error:
        if settings.damaged != "repair":
            raise
        return {**_probe_video(item, settings, strict=False), "repaired": str(error)}


def hash_of(item: Item) -> str:
    """sha256 of the source's bytes, of all its frames for a folder."""
    whole = hashlib.sha256()
    if item.kind == "image":
        whole.update(read_bytes(item))
    for path in item.members or ((item.path,) if item.kind != "image" else ()):
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                whole.update(block)
    return whole.hexdigest()


def _probe_image(item: Item) -> dict[str, Any]:
    from data_tools.shots import picture

    data = read_bytes(item)
    if not data:
        raise Unusable("is empty")
    pixels = picture(data, "it")
    height, width, _ = pixels.shape
    clip = {"start": 0, "end": 1, "dark": _dark(pixels.mean(-1)), "change": None, "motion": None}
    sha256 = hashlib.sha256(data).hexdigest()
    return {"sha256": sha256, "bytes": len(data), "width": width, "height": height, "clips": [clip]}


def _probe_video(item: Item, settings: Settings, strict: bool) -> dict[str, Any]:
    facts: list[Facts] = []
    shots = open_shots(item, strict, facts=facts)
    times, smalls, cuts, marks = _watch(shots, facts, settings)
    if not facts:
        raise Unusable("has no frame that decodes")
    line = timeline(times, facts[0].rate, settings.rate)
    places = _places(times, line)
    seen = list(at_rate(zip(times, marks, strict=True), line, 0, line.length))
    scenes = _scenes([int(np.searchsorted(places, cut)) for cut in cuts], line.length)
    clips = [
        {**_clip(smalls, places, start, end, scene), "seen": digest(seen[start:end])}
        for scene, (first, last) in enumerate(scenes)
        for start, end in _pieces(first, last, settings)
    ]
    return {
        "sha256": hash_of(item),
        "bytes": sum(Path(path).stat().st_size for path in item.members or (item.path,)),
        **{key: str(v) if isinstance(v, Fraction) else v for key, v in asdict(facts[0]).items()},
        "decoded": len(times),
        "first": str(line.first),
        "fps": str(line.rate),
        "frames": line.length,
        "variable": line.variable,
        "seekable": _seekable(item, times),
        "strict": strict,
        "scenes": len(scenes),
        "clips": clips,
    }


def open_shots(
    item: Item, strict: bool, start: Fraction | None = None, facts: list[Facts] | None = None
) -> Iterator[Shot]:
    if item.kind == "frames":
        return shots_of_pictures(item.members, facts)
    return shots_of_video(item.path, strict, start, facts)


def _seekable(item: Item, times: Sequence[Fraction]) -> bool:
    rising = all(a < b for a, b in zip(times, times[1:], strict=False))
    return rising and Path(item.path).suffix.lower() in (".mp4", ".mov", ".mkv", ".webm")


def _watch(
    shots: Iterator[Shot], facts: list[Facts], settings: Settings
) -> tuple[list[Fraction], list[Small], list[int], list[int]]:
    """Times, small grey pictures, scene cuts and checksums, in one pass over the frames."""
    times: list[Fraction] = []
    smalls: list[Small] = []
    cuts: list[int] = []
    marks: list[int] = []
    detector: Any = None
    for number, shot in enumerate(shots):
        pixels = shot.look()
        if detector is None and settings.scenes and settings.mode == "clips":
            detector = SceneCuts(float(facts[0].rate))
        if detector is not None:
            cuts += detector.see(number, pixels)
        times.append(shot.time)
        smalls.append(_small(pixels))
        marks.append(mark(pixels))
    return times, smalls, cuts, marks


def mark(pixels: Pixels) -> int:
    """A checksum of a frame: what says that it is the same frame again."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def digest(marks: Iterable[int]) -> str:
    """What the frames of a clip are, in their order."""
    return hashlib.sha256(",".join(map(str, marks)).encode()).hexdigest()[:16]


class SceneCuts:
    """PySceneDetect's adaptive detector, at the settings that did best in its own benchmark."""

    def __init__(self, rate: float) -> None:
        import cv2
        from scenedetect.detectors import AdaptiveDetector

        cv2.setNumThreads(1)
        self._rate = rate
        shortest = max(2, round(0.6 * rate))
        self._detector = AdaptiveDetector(
            adaptive_threshold=3.5, window_width=3, min_scene_len=shortest
        )

    def see(self, number: int, pixels: Pixels) -> list[int]:
        """Frames before which there was a cut, as far as they are known by now."""
        from scenedetect import FrameTimecode

        frame = _shrunk(pixels, SCENE_WIDTH)[..., ::-1]
        found = self._detector.process_frame(
            FrameTimecode(number, self._rate), np.ascontiguousarray(frame)
        )
        return [int(cut.frame_num) for cut in found]


def _shrunk(pixels: Pixels, width: int) -> Pixels:
    import cv2

    height, full, _ = pixels.shape
    if full <= width:
        return pixels
    size = (width, max(1, round(height * width / full)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _small(pixels: Pixels) -> Small:
    return np.asarray(_shrunk(pixels, SMALL).mean(-1).round().astype(np.uint8))


def _places(times: Sequence[Fraction], line: Timeline) -> npt.NDArray[np.int64]:
    """Where the decoded frames are on the timeline."""
    rate, first = float(line.rate), float(line.first)
    return np.rint((np.array([float(time) for time in times]) - first) * rate).astype(np.int64)


def _scenes(cuts: Sequence[int], length: int) -> list[tuple[int, int]]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < length}), length]
    return list(zip(edges, edges[1:], strict=False))


def _pieces(first: int, last: int, settings: Settings) -> Iterator[tuple[int, int]]:
    """A scene in clips of equal length; its rest is a clip too, to be judged by its length."""
    if settings.mode == "full":
        yield first, last
        return
    for start in range(first, last, settings.clip_frames):
        yield start, min(start + settings.clip_frames, last)


def _clip(
    smalls: Sequence[Small], places: npt.NDArray[np.int64], start: int, end: int, scene: int
) -> dict[str, Any]:
    """Where a clip is, and what the filters judge it by."""
    left = max(0, int(np.searchsorted(places, start, side="right")) - 1)
    right = max(left + 1, int(np.searchsorted(places, end - 1, side="right")))
    seen = np.stack(smalls[left:right]).astype(np.float32)
    change = np.abs(np.diff(seen, axis=0)).mean((1, 2)).max() if len(seen) > 1 else 0.0
    motion = dissimilarity(smalls[left][..., None], smalls[right - 1][..., None])
    return {
        "start": start,
        "end": end,
        "scene": scene,
        "dark": _dark(seen),
        "change": round(float(change), 4),
        "motion": round(float(motion), 6),
    }


def _dark(grey: npt.NDArray[Any]) -> float:
    return round(float((grey < DARK).mean()), 4)


def keyframe_times(path: str) -> list[float]:
    """When a video can be entered, in seconds."""
    with opened(path) as container:
        stream = container.streams.video[0]
        return [
            round(float(packet.pts * stream.time_base), 6)
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.pts is not None
        ]
