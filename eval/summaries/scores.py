"""KVD, KID, inception score, precision and recall, from the features of two sets."""

from typing import Any

from eval.networks.detectors import FEATURES, LOGITS
from eval.numbers import similarity
from eval.numbers.jackknife import interval, jackknife
from eval.numbers.similarity import Scored, Subsets
from eval.numbers.statistics import Floats
from eval.protocol.kinds import Measured, MeasureOptions, Stores, Summary
from eval.protocol.protocol import Protocol
from eval.summaries.frechet import Side, block_rows_of, sides


def grouped(side: Side) -> list[Floats]:
    return side.store.mapped(side.layer, side.groups)


def kvd(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    a, b = sides(protocol, stores)
    groups = grouped(a)
    return of_scores({protocol.metric: similarity.mmd2(groups, grouped(b))}, groups, {})


def kid(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    a, b = sides(protocol, stores)
    return kid_of(grouped(a), grouped(b))


def kid_of(real: list[Floats], generated: list[Floats]) -> Summary:
    """torch-fidelity's number over subsets, and the same quantity over all pairs with its error."""
    subsets = similarity.kid(similarity.joined(real), similarity.joined(generated))
    scores = {"mmd2": similarity.mmd2(real, generated)}
    found = of_scores(scores, real, {"subsets": subsets._asdict()})
    kid = Measured(value=subsets.value, standard_error=None)
    return Summary({"kid": kid, **found.measured}, _subset_warning(subsets), found.details)


def _subset_warning(subsets: Subsets) -> tuple[str, ...]:
    if subsets.size == similarity.SUBSET_SIZE:
        return ()
    return (f"subsets of {subsets.size} and not {similarity.SUBSET_SIZE}: too few samples",)


def precision(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    a, b = sides(protocol, stores)
    return precision_of(grouped(a), grouped(b))


def precision_of(real: list[Floats], generated: list[Floats]) -> Summary:
    scores = similarity.precision_recall(real, generated)
    return of_scores(scores, real, {"neighbours": similarity.NEIGHBOURS})


def inception(protocol: Protocol, stores: Stores, options: MeasureOptions) -> Summary:
    """Of what was generated alone; the error leaves out blocks of clips."""
    generated = stores["generated"]
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
    sizes = [len(group) for group in groups]
    rows = [block_rows_of(sizes, name, score.left_out) for name, score in scores.items()]
    return Summary(
        {name: _with_interval(score) for name, score in scores.items()},
        details={"features": groups[0].shape[1], "blocks": sum(rows, []), **details},
    )


def _with_interval(score: Scored) -> Measured:
    error = score.standard_error
    reach = None if error is None else interval(score.value, error, len(score.left_out))
    return Measured(value=score.value, standard_error=error, interval=reach)
