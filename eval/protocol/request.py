"""What may be asked of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """What is asked for. `run` is RUN or RUN@STEP; `clips` replaces the protocol's count."""

    run: str | None
    protocol: str
    detector: str | None = None
    clips: int | None = None
    seed: int = 0
    steps: int | None = None
    out: str | None = None
    device: str = "cpu"
    pictures: bool = True
    real: str | None = None
    generated: str | None = None
    frames: int | None = None
    stride: int | None = None
    size: tuple[int, int] | None = None
    averaged: bool = True
    what: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    extrapolate: bool = False
    again: bool = False
