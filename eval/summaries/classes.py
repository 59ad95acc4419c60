"""Which class is shown, and whether what was learned is repeated, from the features of a reader.

A clip is read in its first frame and in its last one; distances are those of first frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.blocks.extract import LABEL
from eval.blocks.feature_store import FeatureStore
from eval.clips.sources import NO_CLASS
from eval.networks.detectors import FEATURES, LOGITS, PLACE
from eval.numbers.jackknife import interval, jackknife
from eval.protocol.kinds import Measured, MeasureOptions, Stores, Summary
from eval.protocol.protocol import Protocol
from eval.summaries import frechet
from hvdm.errors import UserError


@dataclass(frozen=True)
class Read:
    """Clips as the reader sees them, frame by frame."""

    features: Tensor
    """`B D` of first frames."""
    digits: Tensor
    """`B T`."""
    places: Tensor
    """`B T 2`, in shares of the picture."""
    labels: Tensor
    """`B`, `NO_CLASS` where a clip has none."""

    def chosen(self, kept: Tensor) -> "Read":
        return Read(*(part[kept] for part in vars(self).values()))


def read(store: FeatureStore) -> Read:
    numbers = [number for number, size in enumerate(store.sizes()) if size]
    labels = torch.from_numpy(store.rows(LABEL, numbers)).long()
    features, logits, places = (
        torch.from_numpy(store.rows(layer, numbers)).unflatten(0, (len(labels), -1))
        for layer in (FEATURES, LOGITS, PLACE)
    )
    return Read(features[:, 0], logits.argmax(2), places, labels)


def summarize(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    real, made, known = (read(stores[name]) for name in ("real", "generated", "known"))
    figures: dict[str, Callable[[Read], float]] = {"nearest": nearest(real, known)}
    if bool((made.labels != NO_CLASS).any()):
        figures |= {"class": first_as_asked, "within_class": within_class(real)}
    if made.digits.shape[1] > 1:
        figures |= {"class_last": last_as_asked, "kept": kept, "motion": motion(real)}
    if "class" not in figures:
        figures.pop("class_last", None)
    sizes = [size for size in stores["generated"].sizes() if size]
    found = {name: _measured(of, made, sizes, protocol.groups) for name, of in figures.items()}
    blurred = {"real": stores["real"], "generated": stores["blurred"]}
    scale = frechet.measured(*frechet.sides(protocol, blurred), protocol.ddof)
    found["distance_blurred"] = frechet.with_error(scale)
    return frechet.summarize(protocol, stores, options).joined(Summary(found))


def _measured(
    of: Callable[[Read], float], made: Read, sizes: Sequence[int], groups: int
) -> Measured:
    """With the error over groups of blocks of what was made."""
    value, blocks = of(made), torch.repeat_interleave(torch.tensor(sizes))
    count = min(groups, len(sizes))
    group = blocks * count // len(sizes)
    if count < 2:
        return Measured(value=value, standard_error=None)
    without = [of(made.chosen(group != k)) for k in range(count)]
    weights = torch.bincount(group).tolist()
    error = jackknife(value, without, weights).standard_error
    return Measured(value=value, standard_error=error, interval=interval(value, error, count))


# Classes


def first_as_asked(made: Read) -> float:
    return _share(made.digits[:, 0] == made.labels)


def last_as_asked(made: Read) -> float:
    return _share(made.digits[:, -1] == made.labels)


def kept(made: Read) -> float:
    """How many show the same digit in their first frame and in their last."""
    return _share(made.digits[:, 0] == made.digits[:, -1])


def _share(those: Tensor) -> float:
    return float(those.double().mean())


def motion(real: Read) -> Callable[[Read], float]:
    """How far digits go from frame to frame, over how far real ones do."""

    def of(clips: Read) -> float:
        return float(clips.places.diff(dim=1).norm(dim=2).mean())

    usual = of(real)
    return lambda made: of(made) / usual


# Copies


def within_class(real: Read) -> Callable[[Read], float]:
    """The mean distance of two of a class, over that of two real ones."""

    def of(clips: Read) -> float:
        rows = [clips.features[clips.labels == label] for label in clips.labels.unique()]
        apart = [torch.pdist(row) for row in rows if len(row) > 1]
        if not apart:
            raise UserError(f"clips: no class comes twice among {len(clips.labels)}; ask for more")
        return float(torch.cat(apart).mean())

    usual = of(real)
    return lambda made: of(made) / usual


def nearest(real: Read, known: Read) -> Callable[[Read], float]:
    """The median distance to the nearest that was learned from, over that of held-out ones."""

    def of(clips: Read) -> float:
        return float(torch.cdist(clips.features, known.features).amin(1).median())

    usual = of(real)
    return lambda made: of(made) / usual
