"""What is counted of clips, shard by shard: as small for a million clips as for a few kinds."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

COUNTED = ("sources", "frames", "motion", "sizes", "classes")


class Census:
    """How often each value was met, and how long the clips are together."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.counts: dict[str, Counter[Any]] = {name: Counter() for name in COUNTED}

    def add(self, about: Mapping[str, Any]) -> None:
        """What one clip's json says."""
        if about.get("fps") and "frames" in about:
            self.seconds += about["frames"] / about["fps"]
        self.counts["sources"][str(about.get("source"))] += 1
        self.counts["sizes"][f"{about.get('height')}x{about.get('width')}"] += 1
        self.counts["classes"][str(about.get("class", about.get("label", -1)))] += 1
        for name in ("frames", "motion"):
            if name in about:
                self.counts[name][about[name]] += 1

    def merge(self, other: Mapping[str, Any]) -> None:
        self.seconds += other["seconds"]
        for name, counts in self.counts.items():
            counts.update(dict(other[name]))

    def as_json(self) -> dict[str, Any]:
        counts = {name: sorted(own.items()) for name, own in self.counts.items()}
        return {"seconds": self.seconds, **counts}

    def text(self) -> dict[str, Any]:
        """For `stats.json` and the page."""
        return {
            "sources": len(self.counts["sources"]),
            "frames": spread(self.counts["frames"]),
            "seconds": round(self.seconds, 3),
            "motion": spread(self.counts["motion"]),
            "sizes": dict(sorted(self.counts["sizes"].items())),
            "classes": dict(sorted(self.counts["classes"].items())),
        }


def spread(counts: Mapping[float, int]) -> dict[str, float] | None:
    if not counts:
        return None
    ordered, total = sorted(counts), sum(counts.values())
    mean = sum(value * count for value, count in counts.items()) / total
    at, middle = 0, ordered[0]
    for middle in ordered:
        at += counts[middle]
        if at > total // 2:
            break
    return {"least": ordered[0], "median": middle, "mean": round(mean, 6), "most": ordered[-1]}
