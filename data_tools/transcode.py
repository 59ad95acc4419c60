"""The third pass: a clip of a source as the parts of a sample. Runs in a child process."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.archives import png, suffix_of
from data_tools.finding import read_bytes
from data_tools.probe import digest, keyframe_times, mark, open_shots
from data_tools.selection import ClipPlan
from data_tools.settings import TOOL_VERSION, Settings
from data_tools.shots import Pixels, Timeline, Unusable, at_rate, opened
from hvdm.data.containers import enters_anywhere
from hvdm.data.dissimilarity import dissimilarity
from hvdm.data.schema import canonical
from hvdm.media.h264 import encode_h264, quick_yuv420

Frames = list[Pixels]
EARLY_S = (Fraction(1), Fraction(10))
COPIED = {".mp4": "mp4", ".mov": "mov", ".mkv": "mkv", ".webm": "webm", ".avi": "avi"}


def sample_parts(clip: ClipPlan, settings: Settings) -> dict[str, bytes]:
    """The parts of a sample by suffix."""
    if settings.mode == "images":
        return _image_parts(clip, settings)
    if settings.mode == "full" and _can_be_copied(clip):
        return _copied_parts(clip)
    return _clip_parts(clip, settings)


# Clips


def _clip_parts(clip: ClipPlan, settings: Settings) -> dict[str, bytes]:
    frames = _frames(clip, settings)
    height, width = frames[0].shape[:2]
    rate = Fraction(clip.probe["fps"])
    video = encode_h264(np.stack(frames), rate, settings.crf, settings.gop, quick_yuv420)
    stored = {
        "frames": len(frames),
        "height": height,
        "width": width,
        "fps": float(rate),
        "codec": "h264",
        "gop": settings.gop,
        **_motion(frames),
    }
    return {"mp4": video, "json": canonical(_about(clip, settings) | stored)}


def _motion(frames: Frames) -> dict[str, float]:
    """DSSIM between the first frame and the last: what a model's dynamics control is told."""
    value = round(dissimilarity(frames[0], frames[-1]), 6)
    return {"motion": value, "dssim": value}


def _frames(clip: ClipPlan, settings: Settings) -> Frames:
    """The clip's frames at their stored size: those that were seen when it was probed.

    A decoder that enters at a keyframe may lack what its first frames refer to, and give others.
    """
    probe, piece = clip.probe, clip.piece
    line = Timeline(
        Fraction(probe["first"]), Fraction(probe["fps"]), probe["frames"], probe["variable"]
    )
    for entry in _entries(clip, line):
        with suppress(Unusable):
            frames, seen = _read(clip, line, settings, entry, strict=False)
            if seen == piece["seen"]:
                return frames
    frames, seen = _read(clip, line, settings, None, probe["strict"])
    if seen != piece["seen"] and (probe["strict"] or len(frames) != piece["end"] - piece["start"]):
        raise Unusable("gave other frames when it was read again")
    return frames


def _read(
    clip: ClipPlan, line: Timeline, settings: Settings, entry: Fraction | None, strict: bool
) -> tuple[Frames, str]:
    frames, marks = [], []
    shots = open_shots(clip.item, strict, entry)
    for look in at_rate(shots, line, clip.piece["start"], clip.piece["end"]):
        pixels = look()
        marks.append(mark(pixels))
        frames.append(stored_size(pixels, settings))
    return frames, digest(marks)


def _entries(clip: ClipPlan, line: Timeline) -> Iterator[Fraction]:
    """Where to enter the video: early, as a keyframe's time may be that of its decoding."""
    start = line.first + clip.piece["start"] / line.rate
    for early in EARLY_S:
        if clip.probe["seekable"] and start - early > line.first:
            yield start - early


def stored_size(pixels: Pixels, settings: Settings) -> Pixels:
    """Never enlarged, always of even sides."""
    pixels = _middle(pixels, settings.centre)
    height, width, _ = pixels.shape
    if settings.height and settings.width:
        return _scaled(_cropped(pixels, settings.height, settings.width), settings)
    scale = min(1.0, settings.size / min(height, width))
    return _resized(pixels, _even(height * scale), _even(width * scale))


def _middle(pixels: Pixels, side: int | None) -> Pixels:
    """No more of it than there is."""
    if side is None:
        return pixels
    tall, wide = (min(side, length) for length in pixels.shape[:2])
    top, left = (pixels.shape[0] - tall) // 2, (pixels.shape[1] - wide) // 2
    return pixels[top : top + tall, left : left + wide]


def _scaled(pixels: Pixels, settings: Settings) -> Pixels:
    assert settings.height and settings.width
    return _resized(pixels, settings.height, settings.width)


def _cropped(pixels: Pixels, height: int, width: int) -> Pixels:
    """The largest centred part of the aspect height : width."""
    full_height, full_width, _ = pixels.shape
    tall = min(full_height, round(full_width * height / width))
    wide = min(full_width, round(full_height * width / height))
    top, left = (full_height - tall) // 2, (full_width - wide) // 2
    return pixels[top : top + tall, left : left + wide]


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    import cv2

    cv2.setNumThreads(1)
    smaller = height * width < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    source = np.ascontiguousarray(pixels)
    return np.asarray(cv2.resize(source, (width, height), interpolation=how))


def _about(clip: ClipPlan, settings: Settings) -> dict[str, Any]:
    """Where a sample comes from."""
    item, probe, piece = clip.item, clip.probe, clip.piece
    about: dict[str, Any] = {
        "label": item.label,
        "source": item.name,
        "source_sha256": probe["sha256"],
        "tool": TOOL_VERSION,
    }
    optional = {
        "class": item.class_name,
        "caption": item.caption,
        "repaired": probe.get("repaired"),
    }
    about |= {key: value for key, value in optional.items() if value is not None}
    if settings.mode != "images":
        start, end = clip.seconds
        about |= {
            "start": start,
            "end": end,
            "scene": piece["scene"],
            "scores": {key: piece[key] for key in ("dark", "change", "motion")},
            "original": _original(probe),
        }
    return about


def _original(probe: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("codec", "width", "height", "rate", "rotation", "variable", "interlaced", "decoded")
    return {key: probe[key] for key in keys}


# Whole videos


def _can_be_copied(clip: ClipPlan) -> bool:
    """What decord reads, frame for frame as PyAV does, goes in as it is."""
    path = Path(clip.item.path)
    if clip.item.kind != "video" or path.suffix.lower() not in COPIED or clip.probe.get("repaired"):
        return False
    if clip.probe["announced"] not in (0, clip.probe["decoded"]):
        return False  # decord may never come back
    with opened(str(path)) as container:
        if not enters_anywhere(container, clip.probe["decoded"]):
            return False  # decord would number frames wrong
    try:
        import decord

        reader = decord.VideoReader(str(path), num_threads=1)
        count = len(reader)
        reader.get_batch([0, count - 1])
    except Exception:  # decord raises more kinds than it exports
        return False
    return count == clip.probe["decoded"]


def _copied_parts(clip: ClipPlan) -> dict[str, bytes]:
    path, probe = Path(clip.item.path), clip.probe
    turned = probe["rotation"] % 180 != 0
    size = (probe["width"], probe["height"]) if turned else (probe["height"], probe["width"])
    ends = _ends(clip)
    stored = {
        "frames": probe["decoded"],
        "height": size[0],
        "width": size[1],
        "fps": float(Fraction(probe["rate"])),
        "codec": probe["codec"],
        "keyframes": keyframe_times(str(path)),
        **_motion(ends),
    }
    about = _about(clip, Settings(mode="full")) | stored
    return {COPIED[path.suffix.lower()]: path.read_bytes(), "json": canonical(about)}


def _ends(clip: ClipPlan) -> Frames:
    """The first frame and the last."""
    shots = open_shots(clip.item, clip.probe["strict"], None)
    first = last = next(shots, None)
    for shot in shots:
        last = shot
    if first is None or last is None:
        raise Unusable("has no frame that decodes")
    return [first.look(), last.look()]


# Images


def _image_parts(clip: ClipPlan, settings: Settings) -> dict[str, bytes]:
    from data_tools.shots import picture

    data = read_bytes(clip.item)
    own = Path(clip.item.path).suffix.lower().lstrip(".")
    suffix = suffix_of(data) if clip.item.member else own
    whole = picture(data, clip.item.name)
    sized = settings.height and settings.width
    pixels = stored_size(whole, settings) if sized else _middle(whole, settings.centre)
    if settings.centre or pixels.shape != whole.shape:
        data, suffix = png(pixels), "png"
    stored = {"frames": 1, "height": pixels.shape[0], "width": pixels.shape[1]}
    return {suffix: data, "json": canonical(_about(clip, settings) | stored)}
