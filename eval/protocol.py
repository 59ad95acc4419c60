"""Protocols: named and versioned ways to measure, and the fingerprint that each number carries."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hvdm import config as configs
from hvdm.errors import UserError, closest


@dataclass(frozen=True)
class Protocol:
    """What a name and a version fix. `frames` and `stride` of None are those of the run."""

    name: str
    version: int
    kind: Literal["reconstruction", "frechet"]
    about: str
    clips: int
    block: int
    """Clips that one worker measures at a time, and that the jackknife leaves out together."""
    batch: int
    """Rows of a forward pass; fixed, because float sums depend on it."""
    frames: int | None = None
    stride: int | None = None
    detector_default: str | None = None
    covariance: Literal["N-1", "N"] | None = None
    least_blocks: int = 8

    @property
    def full_name(self) -> str:
        return f"{self.name}@{self.version}"

    def block_of(self, clips: int) -> int:
        """Smaller blocks where there are few clips: the jackknife needs several."""
        return min(self.block, max(1, -(-clips // self.least_blocks)))


_ALL = (
    Protocol(
        name="reconstruction",
        version=1,
        kind="reconstruction",
        about="PSNR and SSIM of held-out clips, encoded, decoded and rounded to uint8",
        clips=256,
        block=16,
        batch=4,
    ),
    Protocol(
        name="fvd/tf-reference",
        version=1,
        kind="frechet",
        about="Frechet distance of a detector's features, covariance over N-1",
        clips=2048,
        block=64,
        batch=8,
        detector_default="i3d",
        covariance="N-1",
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.full_name: protocol for protocol in _ALL}


def find(name: str, clips: int | None = None) -> Protocol:
    """NAME@VERSION, or NAME for its newest version; `clips` replaces the protocol's count."""
    versions = [p for p in PROTOCOLS.values() if name in (p.name, p.full_name)]
    if not versions:
        raise UserError(f"protocol={name!r} is not known; {closest(name, PROTOCOLS)}")
    found = max(versions, key=lambda p: p.version)
    if clips is None:
        return found
    if clips < 2:
        raise UserError(f"clips={clips}: a spread needs at least 2 clips")
    return replace(found, clips=clips)


def fields_of(
    protocol: Protocol,
    clips: int,
    video: Mapping[str, Any],
    data: Mapping[str, Any],
    detector: Mapping[str, Any] | None,
    generated: Mapping[str, Any],
) -> dict[str, Any]:
    """All that a number depends on besides the model; `clips` are those that were there."""
    return {
        "protocol": protocol.full_name,
        "kind": protocol.kind,
        "clips": clips,
        "block": protocol.block_of(clips),
        "batch": protocol.batch,
        "covariance": protocol.covariance,
        "video": dict(video),
        "data": dict(data),
        "detector": dict(detector) if detector else None,
        "generated": dict(generated),
    }


def fingerprint(fields: Mapping[str, Any]) -> str:
    """sha256 of the fields: equal for two models that were measured alike."""
    return configs.digest(fields)
