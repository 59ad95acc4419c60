"""KVD, KID, inception score, precision and recall, from the features of two sets."""

from typing import Any

import numpy as np

from eval.blocks.feature_store import FeatureStore
from eval.networks.detectors import FEATURES, LOGITS
from eval.numbers import similarity
from eval.numbers.jackknife import interval, jackknife
from eval.numbers.similarity import Scored, Subsets
from eval.numbers.statistics import Floats
from eval.protocol.kinds import MeasureOptions, Summary
from eval.protocol.protocol import Protocol
from eval.summaries.frechet import Side, sides


def grouped(side: Side) -> list[Floats]:
    return [side.rows([k]) for k in side.numbers]


def kvd(
    protocol: Protocol, real: FeatureStore, generated: FeatureStore, options: MeasureOptions
) -> Summary:
    a, b = sides(protocol, real, generated)
    groups = grouped(a)
    return of_scores({protocol.metric: similarity.mmd2(groups, grouped(b))}, groups, {})


def kid(
    protocol: Protocol, real: FeatureStore, generated: FeatureStore, options: MeasureOptions
) -> Summary:
    a, b = sides(protocol, real, generated)
    return kid_of(grouped(a), grouped(b))


def kid_of(real: list[Floats], generated: list[Floats]) -> Summary:
    """torch-fidelity's number over subsets, and the same quantity over all pairs with its error."""
    subsets = similarity.kid(np.concatenate(real), np.concatenate(generated))
    scores = {"mmd2": similarity.mmd2(real, generated)}
    found = of_scores(scores, real, {"subsets": subsets._asdict()})
    return _with(found, "kid", subsets, _subset_warning(subsets))


def _subset_warning(subsets: Subsets) -> tuple[str, ...]:
    if subsets.size == similarity.SUBSET_SIZE:
        return ()
    return (f"subsets of {subsets.size} and not {similarity.SUBSET_SIZE}: too few samples",)


def _with(found: Summary, name: str, subsets: Subsets, warnings: tuple[str, ...]) -> Summary:
    return Summary(
        values={name: subsets.value, **found.values},
        standard_error={name: None, **found.standard_error},
        interval=found.interval,
        warnings=(*warnings, *found.warnings),
        details=found.details,
    )


def precision(
    protocol: Protocol, real: FeatureStore, generated: FeatureStore, options: MeasureOptions
) -> Summary:
    a, b = sides(protocol, real, generated)
    return precision_of(grouped(a), grouped(b))


def precision_of(real: list[Floats], generated: list[Floats]) -> Summary:
    scores = similarity.precision_recall(real, generated)
    return of_scores(scores, real, {"neighbours": similarity.NEIGHBOURS})


def inception(
    protocol: Protocol, real: FeatureStore, generated: FeatureStore, options: MeasureOptions
) -> Summary:
    """Of what was generated alone; the error leaves out blocks of clips."""
    layer = LOGITS if LOGITS in generated.layers() else FEATURES
    groups = generated.groups(protocol.groups)
    side = Side(generated, layer, groups)
    whole = similarity.inception_score(side.rows(side.numbers))
    left_out = []
    if len(groups) > 1:
        kept = ([k for k in side.numbers if k != j] for j in side.numbers)
        left_out = [similarity.inception_score(side.rows(numbers)).value for numbers in kept]
    clips = generated.sizes()
    sizes = [sum(clips[number] for number in group) for group in groups]
    error = jackknife(whole.value, left_out, sizes).standard_error if left_out else None
    scored = Scored(whole.value, error, left_out)
    return of_scores({"is": scored}, grouped(side), {"splits": whole._asdict()})


def of_scores(scores: dict[str, Scored], groups: list[Floats], details: dict[str, Any]) -> Summary:
    """Values with the errors of their blocks."""
    blocks = [
        {"block": k, "clips": len(groups[k]), "without": value, "of": name}
        for name, score in scores.items()
        for k, value in enumerate(score.left_out)
    ]
    return Summary(
        values={name: score.value for name, score in scores.items()},
        standard_error={name: score.standard_error for name, score in scores.items()},
        interval={name: _interval(score) for name, score in scores.items()},
        details={"features": groups[0].shape[1], "blocks": blocks, **details},
    )


def _interval(score: Scored) -> tuple[float, float] | None:
    if score.standard_error is None:
        return None
    return interval(score.value, score.standard_error, len(score.left_out))
