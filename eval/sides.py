"""The two sides of an evaluation, and what does not go together."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from eval.blocks.tasks import chosen
from eval.catalogue import kind_of
from eval.clips.data_rows import DataRows, Still, rows_of
from eval.clips.sources import ClipSource, FrameSelection, Shards, source_of
from eval.clips.subject import (
    RECONSTRUCTIONS,
    SAMPLES,
    CheckpointModel,
    Reconstructions,
    Samples,
    cache_model,
)
from eval.networks import detectors
from eval.networks.detectors import DetectorChoice
from eval.protocol.protocol import Protocol, frames_of
from eval.protocol.request import Request
from hvdm import sampling
from hvdm.checkpoint.checkpoint import Checkpoint
from hvdm.errors import UserError
from hvdm.opening import Opened
from hvdm.recipe import encoded_by

FOLDER = "clips"


@dataclass(frozen=True)
class Pair:
    """Both sides of a comparison, and how their clips are looked at."""

    real: ClipSource | None
    generated: ClipSource
    what: str
    stride: int
    size: tuple[int, int] | None
    frames: int | None
    threads: int
    known: ClipSource | None = None
    """What the model learned from, for kinds that look for copies."""
    baselines: Mapping[str, ClipSource] = field(default_factory=dict)
    """What is measured beside the generated clips, in the same way."""


def keeps_averages(found: Checkpoint) -> bool:
    return any(row.get("ema_updates") is not None for row in found.nets.values())


def pair_of(request: Request, protocol: Protocol, opened: Opened | None) -> Pair:
    real = source_of(request.real) if request.real else None
    if opened is not None:
        return _run_pair(request, protocol, opened, real)
    assert request.generated is not None
    if kind_of(protocol).rows:
        able = "encodes" if kind_of(protocol).reconstructs else "samples"
        raise UserError(f"protocol={protocol.full_name} needs run=: a model that {able}")
    if kind_of(protocol).classes:
        raise UserError(f"protocol={protocol.full_name} needs run=: what it learned, and was asked")
    generated = source_of(request.generated, request.seed)
    real = real if kind_of(protocol).real else None
    if real is not None and real.identity() == generated.identity():
        raise UserError(f"real={request.real} and generated={request.generated}: the same clips")
    frames = _shapes(request, protocol, real, generated)
    stride = request.stride or protocol.stride or 1
    return Pair(real, generated, FOLDER, stride, request.size, frames, threads=1)


def _run_pair(
    request: Request, protocol: Protocol, opened: Opened, real: ClipSource | None
) -> Pair:
    data, run = opened.config.data, opened.run
    split = data.train if protocol.real_split == "train" else data.held_out
    own = Shards(f"{str(data.path).rstrip('/')}/{split}")
    if request.generated is not None:
        raise UserError("run= and generated= are two answers to one question; give one of them")
    model = CheckpointModel(
        str(run.absolute()),
        opened.step,
        opened.weights_hash,
        request.averaged and keeps_averages(opened.checkpoint),
        opened.checkpoint.manifest.get("identity", {}).get("first_stage_weights"),
    )
    cache_model(model, opened, "cpu")
    if request.size is not None:
        raise UserError("size= goes with generated=: a run's clips have the size that it makes")
    kind, what, baselines = kind_of(protocol), None, {}
    if not kind.reconstructs and (opened.recipe.samples or kind.rows):
        what = _kind(request, protocol, opened)
        reads = (*opened.recipe.samples[what].reads, *protocol.reads)
        given = rows_of(opened, split, reads, real) if reads else None
        generated: ClipSource = Samples(
            model,
            request.seed,
            request.steps,
            what,
            {**request.options, **protocol.options},
            given,
        )
        baselines = _baselines(opened, what, given)
    else:
        generated = _reconstructions(request, protocol, opened, Reconstructions(model, own))
    return Pair(
        (real or own) if kind.real else None,
        generated,
        SAMPLES if what else RECONSTRUCTIONS,
        request.stride or data.stride,
        (data.height, data.width),
        _run_frames(request, protocol, opened, what),
        opened.config.engine.threads,
        Shards(f"{str(data.path).rstrip('/')}/{data.train}") if kind.classes else None,
        baselines,
    )


def _baselines(opened: Opened, what: str, given: DataRows | None) -> dict[str, ClipSource]:
    """Of films that begin with a picture that was given: that picture, which never moves."""
    frames = opened.recipe.samples[what].frames
    return {"still": Still(given, frames)} if given and frames else {}


def _kind(request: Request, protocol: Protocol, opened: Opened) -> str:
    """What is sampled: the protocol's kind, the one that was asked for, or the recipe's first."""
    if protocol.what and request.what not in (None, protocol.what):
        raise UserError(f"what={request.what}: {protocol.full_name} samples what={protocol.what}")
    asked = sampling.ask(
        opened.recipe, protocol.what or request.what, request.steps, request.options
    ).what
    medium, media = opened.recipe.samples[asked].medium, kind_of(protocol).media
    if medium not in media:
        raise UserError(
            f"what={asked} gives {medium}, and {protocol.full_name} looks at "
            f"{' and '.join(media)}; choose another what="
        )
    for key in sorted(set(request.options) & set(protocol.options)):
        raise UserError(f"sample.{key}: {protocol.full_name} fixes it; leave it out")
    return asked


def _run_frames(
    request: Request, protocol: Protocol, opened: Opened, what: str | None
) -> int | None:
    kinds, own = opened.recipe.samples, opened.config.data.frames
    usual = what is None or what == next(iter(kinds))
    if what and (kinds[what].frames or kinds[what].medium == "images"):
        own, usual = kinds[what].frames or 1, True
    length = own if usual and not protocol.window else None
    frames = frames_of(protocol, request.frames, length)
    if length is not None and frames is not None and frames > own:
        raise UserError(
            f"protocol={protocol.full_name} is for clips with data.frames={frames}, and "
            f"{opened.run} has {own}"
        )
    if protocol.window and usual and own < protocol.window[0]:
        raise UserError(
            f"protocol={protocol.full_name} looks through windows of {protocol.window[0]} frames, "
            f"and the clips of {opened.run} have {own}"
        )
    return frames


def _reconstructions(
    request: Request, protocol: Protocol, opened: Opened, made: Reconstructions
) -> Reconstructions:
    """With all fields that the encoder takes."""
    coder = opened.recipe.coder
    if coder is None:
        raise UserError(
            f"protocol={protocol.full_name} needs an autoencoder, and {opened.config.recipe} does "
            "not decode what it encodes; use protocol=fvd/tf-reference@1"
        )
    if request.steps is not None:
        raise UserError(
            f"steps={request.steps}: {protocol.full_name} samples nothing of {opened.run.name}; "
            "leave it out"
        )
    fields = encoded_by(coder)
    if fields == ("video",):
        return made
    return replace(made, given=rows_of(opened, made.data.path.rpartition("/")[2], fields, None))


def _shapes(
    request: Request, protocol: Protocol, real: ClipSource | None, generated: ClipSource
) -> int | None:
    """How many frames clips have, from the first of each side; refuses sizes that differ."""
    look = FrameSelection(size=request.size)
    first = {
        name: source.read((chosen(source.count(), 1)[0],), look, "cpu").videos[0].shape
        for name, source in (("real", real), ("generated", generated))
        if source is not None and source.count() != 0
    }
    sizes = {name: tuple(shape[1:3]) for name, shape in first.items()}
    if len(set(sizes.values())) > 1:
        both = " and ".join(f"{name} clips {h}x{w}" for name, (h, w) in sizes.items())
        raise UserError(f"{both}: give size=HxW, and both sides are brought to it alike")
    if protocol.window:
        return request.frames
    return frames_of(protocol, request.frames, first["generated"][0])


def check_frames(protocol: Protocol, detector: DetectorChoice | None, pair: Pair) -> None:
    if detector is None or detector.takes == "frames":
        return
    frames = protocol.window[0] if protocol.window else pair.frames
    least = detectors.find(detector.name).least_frames
    if frames is not None and frames < least:
        raise UserError(
            f"detector={detector.name} needs clips of at least {least} frames, and these have "
            f"{frames}; use longer clips or another detector"
        )


def counts_of(protocol: Protocol, pair: Pair) -> dict[str, int]:
    """Clips of each side: what the protocol asks for, as far as they are there."""
    there, made = pair.real.count() if pair.real else None, pair.generated.count()
    if there is None and protocol.most_real is None:
        raise UserError(
            f"{protocol.full_name} compares with all real clips: give real= a folder, no function"
        )
    real = min(n for n in (there, protocol.most_real) if n is not None)
    if made is None and protocol.real_clips is None:
        made = real
    generated = protocol.clips if made is None else min(made, protocol.clips)
    for name, count in (("real", real), ("generated", generated)):
        if count < 2 and (name == "generated" or pair.real):
            raise UserError(f"{name} set: {count} clip there, and a spread needs at least 2")
    return {"real": real, "generated": generated}
