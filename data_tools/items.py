"""One source of a data set: a video, its frames, or a picture."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

VIDEOS = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".gif",
)  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Item:
    """One source. Its name is stable: where it lies may change, what it is called may not."""

    name: str
    path: str
    kind: Literal["video", "frames", "image"]
    label: int = -1
    class_name: str | None = None
    caption: str | None = None
    split: str | None = None
    members: tuple[str, ...] = ()
    member: tuple[str, int] | None = None

    @property
    def key(self) -> str:
        """A sample key: letters, digits, '_' and '-', the same for the same name."""
        stem = self.name.rsplit(".", 1)[0]
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in stem)
        short = plain[-48:].lstrip("_-") or "x"
        return f"{short}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def natural(path: Path) -> tuple[Any, ...]:
    """Frames in the order of their numbers: 9 comes before 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.stem)
    return tuple((1, int(part)) if part.isdecimal() else (0, part) for part in parts)
