"""What a kind of protocol needs and does, and what it makes of the features of two sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Required, TypedDict

from eval.blocks.feature_store import FeatureStore
from eval.blocks.tasks import BlockJob
from eval.networks.detectors import DetectorChoice
from eval.protocol.protocol import Protocol

Stores = Mapping[str, FeatureStore]
"""`real` and `generated`, with some kinds `known` and `blurred`; or `rows` of comparisons."""


class Measured(TypedDict, total=False):
    """A number and what is known of its error; a key that has no meaning for it is left out."""

    value: Required[float]
    standard_error: Required[float | None]
    debiased: float | None
    null_bias: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Summary:
    """Numbers by name, and the rest of the result."""

    measured: Mapping[str, Measured]
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def columns(self) -> dict[str, dict[str, object]]:
        """As a result's file has them: the values by name, the standard errors by name, …"""
        rows: Mapping[str, Mapping[str, object]] = self.measured
        found = {
            key: {name: row[key] for name, row in rows.items() if key in row}
            for key in Measured.__annotations__
        }
        return {"values": found.pop("value"), **found}

    def beside(self, name: str) -> "Summary":
        """Of a baseline: its numbers under names of their own, and its curve."""
        curve = {key: self.details[key] for key in ("curve",) if key in self.details}
        measured = {f"{key}_{name}": row for key, row in self.measured.items()}
        return Summary(measured, details={"baselines": {name: curve}})

    def joined(self, other: "Summary") -> "Summary":
        return Summary(
            {**self.measured, **other.measured},
            (*self.warnings, *other.warnings),
            {**self.details, **other.details},
        )


@dataclass(frozen=True)
class MeasureOptions:
    """What may be asked for besides the protocol."""

    extrapolate: bool = False


@dataclass(frozen=True)
class Kind:
    """What protocols of one kind need, what is measured of it, and what comes of that."""

    name: str
    summarize: Callable[[Protocol, Any, MeasureOptions], Summary]
    """From what was measured, by the names of the sets."""
    real: bool = True
    """Whether there is a real side."""
    clips: bool = True
    """Of clips; or of files of features."""
    media: tuple[str, ...] = ("film", "images")
    """What can be looked at; an image is a clip of one frame."""
    classes: bool = False
    """Of a kind that asks which class is shown, and whether what was learned is repeated: clips
    come with their labels, and those of the training split are looked at too: as they are,
    as `known`, and `blurred`, whose distance is a scale for that of the others."""
    pairs: int = 0
    """How often each pair of clips is looked at for the number, the error's blocks left out."""
    rows: Callable[..., BlockJob] | None = None
    """Of a kind that measures what no detector sees: the job that does."""
    reconstructs: bool = False
    """Whether that job looks at reconstructions beside their originals; or else at samples."""
    remarks: Callable[[Path, DetectorChoice | None], list[str]] = lambda folder, detector: []
    """What is missing, in the folder of weights or for want of a detector, and done without."""
