"""What makes parts of samples from their parts: `hvdm data derive` runs it over a data set."""

import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hvdm.data.clips import Values
from hvdm.data.schema import Sample


class LeftOut(NamedTuple):
    """A sample that is not made, and why, in a word."""

    key: str
    reason: str


@runtime_checkable
class Derivation(Protocol):
    """A dataclass of what it can be asked for; workers get it pickled."""

    def identity(self) -> dict[str, Any]:
        """What its samples depend on besides the clips, for the manifest."""
        ...

    def samples(self, key: str, parts: Mapping[str, bytes]) -> Iterator[Sample | LeftOut]:
        """Those that one sample gives; under its own key where they are read beside it."""
        ...


@runtime_checkable
class Measuring(Derivation, Protocol):
    """A derivation that counts its samples too; what comes of it is `measured` in the manifest."""

    def counts(self, sample: Sample) -> Mapping[str, npt.NDArray[np.int64]]:
        """Of one sample: counts of workers are added up."""
        ...

    def measured(self, counts: Mapping[str, npt.NDArray[np.int64]]) -> Mapping[str, Any]: ...


def saved(values: Values) -> bytes:
    """As fields that are an `array` are read."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def derived_by(kind: str) -> str:
    """For `made_by` of a field."""
    return f"`hvdm data derive {kind} DIR out=OUT` makes it, data.beside=[OUT] reads it"
