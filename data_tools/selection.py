"""The second pass: which clips are kept, where they go. A function of the probes, not of time."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

from data_tools.items import Item
from data_tools.settings import Settings


@dataclass(frozen=True)
class ClipPlan:
    """One sample to write."""

    key: str
    item: Item
    probe: Mapping[str, Any]
    piece: Mapping[str, Any]

    @property
    def seconds(self) -> tuple[float, float]:
        """When the clip begins and ends in its video."""
        rate, first = Fraction(self.probe["fps"]), Fraction(self.probe["first"])
        start, end = (first + self.piece[edge] / rate for edge in ("start", "end"))
        return round(float(start), 6), round(float(end), 6)


@dataclass
class Selection:
    """Clips by split in their order, sources that cannot be used, clips that were left out."""

    splits: dict[str, list[ClipPlan]] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    filtered: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)


def make(
    probed: Iterable[tuple[Item, Mapping[str, Any]]], settings: Settings, seen: Iterable[str] = ()
) -> Selection:
    """`probed` in the order of names; `seen` are the hashes of sources that came before."""
    plan = Selection()
    known = dict.fromkeys(seen, "an earlier part of the data set")
    for item, found in probed:
        if "error" in found:
            plan.quarantine.append({"source": item.name, **found})
            continue
        if settings.duplicates == "drop" and found["sha256"] in known:
            same = known[found["sha256"]]
            plan.filtered.append({"source": item.name, "reason": f"duplicate of {same}"})
            continue
        known[found["sha256"]] = item.name
        plan.notes += _notes(item, found)
        _take_clips(plan, item, found, settings)
    for split, clips in plan.splits.items():
        plan.splits[split] = _shuffled(clips, split, settings.seed)
    return plan


def _take_clips(plan: Selection, item: Item, found: Mapping[str, Any], settings: Settings) -> None:
    split = item.split or split_of(str(found["sha256"]), settings)
    facts = {key: value for key, value in found.items() if key != "clips"}
    for number, piece in enumerate(found["clips"]):
        reason = refusal(found, piece, settings)
        if reason:
            frames = {"start": piece["start"], "end": piece["end"]}
            plan.filtered.append({"source": item.name, **frames, "reason": reason})
            continue
        key = item.key if settings.mode != "clips" else f"{item.key}-{number:04d}"
        plan.splits.setdefault(split, []).append(ClipPlan(key, item, facts, piece))


def split_of(sha256: str, settings: Settings) -> str:
    """By the content of the source, so that no two clips of one video are on both sides."""
    digest = hashlib.sha256(f"{settings.seed}:split:{sha256}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") / 2**64 < settings.test else "train"


def refusal(found: Mapping[str, Any], piece: Mapping[str, Any], settings: Settings) -> str | None:
    """Why a clip is left out, or None."""
    shortest = min(found["width"], found["height"])
    if shortest < settings.min_side:
        return f"shorter side of {shortest} is below min_side={settings.min_side}"
    length = piece["end"] - piece["start"]
    if settings.mode != "images" and length < settings.min_frames:
        return f"{length} frames are fewer than min_frames={settings.min_frames}"
    if piece["dark"] > settings.black:
        return f"black: {piece['dark']:.0%} of its pixels are dark (black={settings.black:g})"
    if settings.mode == "images":
        return None
    if piece["change"] < settings.static:
        return f"static: no frame changes by more than {piece['change']:g} (static)"
    if not settings.min_motion <= piece["motion"] <= settings.max_motion:
        return f"motion of {piece['motion']:.3f} is outside min_motion and max_motion"
    return None


def _notes(item: Item, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was mended on the way."""
    notes = []
    announced, decoded = found.get("announced", 0), found.get("decoded", 0)
    if announced and decoded and announced != decoded:
        notes.append(f"announces {announced} frames, {decoded} decode")
    if found.get("variable"):
        notes.append(f"variable frame rate, made constant at {found['fps']} per second")
    if found.get("interlaced"):
        notes.append("interlaced, made progressive")
    if found.get("repaired"):
        notes.append(f"{found['repaired']}; what decodes was kept")
    return [{"source": item.name, "note": note} for note in notes]


def _shuffled(clips: Sequence[ClipPlan], split: str, seed: int) -> list[ClipPlan]:
    """An order that a hash gives each key: clips of one source do not lie side by side."""

    def place(clip: ClipPlan) -> bytes:
        return hashlib.sha256(f"{seed}:{split}:{clip.key}".encode()).digest()

    return sorted(clips, key=place)


def shards(clips: Sequence[ClipPlan], per_shard: int) -> list[list[ClipPlan]]:
    """As few shards as the limit allows, equal in length to one."""
    count = -(-len(clips) // per_shard)
    edges = [round(number * len(clips) / count) for number in range(count + 1)]
    return [list(clips[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


def digest(clips: Sequence[ClipPlan]) -> str:
    """Changes with anything that a shard's bytes depend on."""
    whole = hashlib.sha256()
    for clip in clips:
        whole.update(repr((clip.key, asdict(clip.item), clip.probe, clip.piece)).encode())
    return whole.hexdigest()
