"""What a kind of protocol makes of the features of two sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Required, TypedDict

from eval.blocks.feature_store import FeatureStore
from eval.protocol.protocol import Protocol


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


@dataclass(frozen=True)
class MeasureOptions:
    """What may be asked for besides the protocol."""

    extrapolate: bool = False


Summarize = Callable[[Protocol, FeatureStore, FeatureStore, MeasureOptions], Summary]
"""From the real set and the generated one."""
