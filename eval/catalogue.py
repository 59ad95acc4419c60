"""The kinds of protocols by name: what each of them needs and does."""

from eval.protocol.kinds import Kind
from eval.protocol.protocol import Protocol
from eval.summaries import (
    classes,
    flatness,
    frechet,
    novel_views,
    reconstruction,
    scores,
    seconds,
    tables,
)

_ALL = (
    Kind(
        "reconstruction",
        reconstruction.summarize,
        rows=reconstruction.job,
        reconstructs=True,
        remarks=reconstruction.remarks,
    ),
    Kind("frechet", frechet.summarize),
    Kind("classes", classes.summarize, classes=True),
    Kind("mmd", scores.kvd, pairs=3),
    Kind("kid", scores.kid, pairs=3),
    Kind("precision", scores.precision, pairs=4),
    Kind("inception", scores.inception, real=False),
    Kind("seconds", seconds.summarize, real=False, rows=seconds.job),
    Kind("views", novel_views.summarize, real=False, rows=novel_views.job),
    Kind("flatness", flatness.summarize, real=False, rows=flatness.job, media=("depth",)),
    Kind("features", tables.summarize, clips=False),
)
KINDS = {kind.name: kind for kind in _ALL}


def kind_of(protocol: Protocol) -> Kind:
    return KINDS[protocol.kind]
