"""Pictures and films of a run in its report: grouped by checkpoint, embedded as data."""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from hvdm.media.writers import FRAMES

MOST_BYTES = 24 * 2**20
"""What all pictures and films of a report may weigh together; older ones are named only."""
MIME = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
FILMS = (".mp4", ".webm")
_STEP = re.compile(r"step-(\d+)")
_NUMBERED = re.compile(r"(.+)-\d{4,}\.png")


@dataclass(frozen=True)
class Medium:
    """A file below samples/, and the checkpoint it was made from, where its name says so."""

    path: Path
    name: str
    step: int

    @property
    def reconstruction(self) -> bool:
        return "reconstruction" in self.name


def found(folder: Path) -> list[Medium]:
    """Whole files, by step: of a film and a gif that show the same the film, of single pictures
    their sheet."""
    paths = [
        p
        for p in folder.rglob("*")
        if p.suffix in MIME and p.is_file() and FRAMES not in p.relative_to(folder).parts
    ]
    stems = {p.with_suffix("") for p in paths if p.suffix in FILMS}
    media = [
        Medium(p, str(p.relative_to(folder)), _step(p.relative_to(folder)))
        for p in paths
        if not p.name.startswith(".")
        and not (p.suffix == ".gif" and p.with_suffix("") in stems)
        and not _has_sheet(p)
    ]
    return sorted(media, key=lambda m: (m.step, m.path.suffix in FILMS, m.name))


def _has_sheet(path: Path) -> bool:
    one = _NUMBERED.fullmatch(path.name)
    return one is not None and path.with_name(f"{one[1]}-sheet.png").is_file()


def _step(name: Path) -> int:
    steps = _STEP.findall(str(name))
    return int(steps[-1]) if steps else -1


def within_weight(media: Sequence[Medium]) -> tuple[list[Medium], list[str]]:
    """The newest that weigh little enough together, and the names of the rest."""
    kept: list[Medium] = []
    left: list[str] = []
    weight = 0
    for medium in sorted(media, key=lambda m: m.step, reverse=True):
        weight += medium.path.stat().st_size
        if weight > MOST_BYTES:
            left.append(medium.name)
        else:
            kept.append(medium)
    return [m for m in media if m in kept], left


def by_step(media: Iterable[Medium]) -> str:
    """One figure group for each step, and the slider that chooses among them."""
    groups: dict[int, list[Medium]] = {}
    for medium in media:
        groups.setdefault(medium.step, []).append(medium)
    if not groups:
        return ""
    shown = "".join(_group(step, group) for step, group in sorted(groups.items()))
    last = len(groups) - 1
    control = (
        '<label class="control" hidden>step <output></output>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="step"></label>'
    )
    return f'<div class="by-step">{control}{shown}</div>'


def _group(step: int, media: Sequence[Medium]) -> str:
    name = str(step) if step >= 0 else "unknown"
    figures = "".join(map(_figure, media))
    return f'<div class="media" data-step="{name}">{figures}</div>'


def _figure(medium: Medium) -> str:
    name = escape(medium.name)
    data = base64.b64encode(medium.path.read_bytes()).decode()
    uri = f"data:{MIME[medium.path.suffix]};base64,{data}"
    if medium.path.suffix in FILMS:
        shown = f'<video src="{uri}" controls autoplay loop muted playsinline></video>'
    else:
        shown = f'<img src="{uri}" alt="{name}">'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"
