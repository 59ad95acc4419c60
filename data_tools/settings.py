"""What a sharding job is asked for: all that its result depends on, besides its sources."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from hvdm.errors import UserError

TOOL_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """`size` is the shorter side of stored clips; or `height` and `width` fix both, by cropping.

    With `centre`, the middle square of so many pixels is all that is there.
    """

    mode: Literal["clips", "full", "images"] = "clips"
    size: int = 256
    height: int | None = None
    width: int | None = None
    centre: int | None = None
    fps: str | None = None
    clip_frames: int = 64
    min_frames: int = 16
    scenes: bool = True
    crf: int = 18
    gop: int = 16
    per_shard: int = 256
    test: float = 0.1
    seed: int = 0
    damaged: Literal["quarantine", "repair"] = "quarantine"
    duplicates: Literal["drop", "keep"] = "drop"
    min_side: int = 16
    min_motion: float = 0.0
    max_motion: float = 1.0
    black: float = 0.95
    static: float = 0.25
    limit_s: float = 600.0

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise UserError(problem)

    def _problem(self) -> str | None:
        if (self.height is None) != (self.width is None):
            return "height and width come together; or give size alone"
        if self.centre is not None and self.centre < 2:
            return f"centre={self.centre}: a square of at least 2 pixels"
        for name in ("height", "width", "size"):
            side = getattr(self, name)
            if side is not None and (side < 2 or side % 2):
                return f"{name}={side}: sides are even in h264 video, and at least 2"
        if not 1 <= self.gop <= 16:
            return f"gop={self.gop}: 1 to 16, or random windows start far from a keyframe"
        if not 1 <= self.min_frames <= self.clip_frames:
            return f"min_frames={self.min_frames} is not from 1 to clip_frames={self.clip_frames}"
        if self.per_shard < 1 or not 0 <= self.test <= 1:
            return (
                f"per_shard is at least 1 and test from 0 to 1, got {self.per_shard}, {self.test}"
            )
        return None

    @property
    def rate(self) -> Fraction | None:
        return Fraction(self.fps).limit_denominator(1001) if self.fps else None

    def as_json(self) -> dict[str, Any]:
        """Without what does not change the result."""
        unsaid = {"limit_s", *(["centre"] if self.centre is None else [])}
        return {key: value for key, value in asdict(self).items() if key not in unsaid}
