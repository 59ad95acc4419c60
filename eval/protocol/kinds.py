"""What a kind of protocol makes of the features of two sets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eval.blocks.feature_store import FeatureStore
from eval.protocol.protocol import Protocol


@dataclass(frozen=True)
class Summary:
    """Values by name, each with what is known of its error, and the rest of the result."""

    values: Mapping[str, float]
    standard_error: Mapping[str, float | None]
    debiased: Mapping[str, float | None] = field(default_factory=dict)
    null_bias: Mapping[str, float] = field(default_factory=dict)
    interval: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureOptions:
    """What may be asked for besides the protocol."""

    extrapolate: bool = False


Summarize = Callable[[Protocol, FeatureStore, FeatureStore, MeasureOptions], Summary]
"""From the real set and the generated one."""
