"""The second pass: which clips are kept, where they go. A function of the probes, not of time."""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.items import Item
from data_tools.settings import Settings

ClipRows = npt.NDArray[np.int32]
"""Of each clip, the number of its source and its number in it: there are millions of clips."""


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

    splits: dict[str, ClipRows] = field(default_factory=dict)
    hashes: set[str] = field(default_factory=set)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    filtered: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)


class Gathered:
    """The clips of a split, and the hash of each key, which gives an order: clips of one source do
    not lie side by side.
    """

    def __init__(self, seed: int, split: str) -> None:
        self._before = f"{seed}:{split}:"
        self._rows, self._places = array("i"), bytearray()

    def add(self, source: int, number: int, key: str) -> None:
        self._rows.extend((source, number))
        self._places += hashlib.sha256(f"{self._before}{key}".encode()).digest()

    def in_order(self) -> ClipRows:
        rows = np.frombuffer(self._rows, np.int32).reshape(-1, 2)
        return rows[np.argsort(np.frombuffer(self._places, "S32"), kind="stable")]


def make(
    probed: Iterable[tuple[Item, Mapping[str, Any]]], settings: Settings, seen: Iterable[str] = ()
) -> Selection:
    """`probed` in the order of names; `seen` are the hashes of sources that came before."""
    plan, gathered = Selection(), dict[str, Gathered]()
    known = dict.fromkeys(seen, "an earlier part of the data set")
    for source, (item, found) in enumerate(probed):
        if "error" in found:
            plan.quarantine.append({"source": item.name, **found})
            continue
        plan.hashes.add(found["sha256"])
        if settings.duplicates == "drop" and found["sha256"] in known:
            same = known[found["sha256"]]
            plan.filtered.append({"source": item.name, "reason": f"duplicate of {same}"})
            continue
        known[found["sha256"]] = item.name
        plan.notes += _notes(item, found)
        split = item.split or split_of(str(found["sha256"]), settings)
        for number in _kept(plan, item, found, settings):
            clips = gathered.setdefault(split, Gathered(settings.seed, split))
            clips.add(source, number, key_of(item, number, settings))
    plan.splits = {split: clips.in_order() for split, clips in gathered.items()}
    return plan


def _kept(
    plan: Selection, item: Item, found: Mapping[str, Any], settings: Settings
) -> Iterable[int]:
    """The numbers of its clips; those that are left out are noted."""
    for number, piece in enumerate(found["clips"]):
        reason = refusal(found, piece, settings)
        if reason is None:
            yield number
            continue
        frames = {"start": piece["start"], "end": piece["end"]}
        plan.filtered.append({"source": item.name, **frames, "reason": reason})


def key_of(item: Item, number: int, settings: Settings) -> str:
    return item.key if settings.mode != "clips" else f"{item.key}-{number:04d}"


def clip(item: Item, found: Mapping[str, Any], number: int, settings: Settings) -> ClipPlan:
    """One of those that were chosen, from what was found in its source."""
    facts = {key: value for key, value in found.items() if key != "clips"}
    return ClipPlan(key_of(item, number, settings), item, facts, found["clips"][number])


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


def shards(clips: ClipRows, per_shard: int) -> list[ClipRows]:
    """As few shards as the limit allows, equal in length to one."""
    count = -(-len(clips) // per_shard)
    edges = [round(number * len(clips) / count) for number in range(count + 1)]
    return [clips[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def digest(clips: Sequence[ClipPlan]) -> str:
    """Changes with anything that a shard's bytes depend on."""
    whole = hashlib.sha256()
    for clip in clips:
        whole.update(repr((clip.key, asdict(clip.item), clip.probe, clip.piece)).encode())
    return whole.hexdigest()
