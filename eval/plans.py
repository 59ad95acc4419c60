"""From a request to what has to be measured, with every name resolved and every misfit refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.blocks.extract import Extraction
from eval.blocks.tasks import BlockJob
from eval.catalogue import kind_of
from eval.clips.sources import ClipFolder, FrameSelection, Function
from eval.clips.subject import Samples, decoder_versions
from eval.networks import detectors, weights
from eval.networks.detectors import DetectorChoice
from eval.protocol.protocol import Protocol, find, fingerprint
from eval.protocol.request import Request
from eval.sides import FOLDER, Pair, check_frames, counts_of, keeps_averages, pair_of
from hvdm import config as configs
from hvdm import opening
from hvdm.errors import UserError
from hvdm.opening import Opened

Say = Callable[[str], Any]


@dataclass(frozen=True)
class Subject:
    """What is judged: a checkpoint of a run, or clips that came from anywhere."""

    name: str
    weights: str
    opened: Opened | None = None
    averaged: bool | None = None
    """None where the run keeps no averages."""

    @property
    def run(self) -> str | None:
        return str(self.opened.run) if self.opened else None

    @property
    def step(self) -> int | None:
        return self.opened.step if self.opened else None


@dataclass(frozen=True)
class Plan:
    """One protocol's part of a request."""

    request: Request
    protocol: Protocol
    subject: Subject
    detector: DetectorChoice | None
    works: Mapping[str, BlockJob]
    """`real` and `generated` for features, `rows` for comparisons clip by clip."""
    fields: Mapping[str, Any]
    asked: int
    baselines: tuple[str, ...] = ()
    """Works whose numbers stand beside those of `generated`."""
    warnings: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.fields)


def plans(request: Request, say: Say) -> list[Plan]:
    """One for each protocol that is named, over the same two sets."""
    protocols = [find(name, request.clips) for name in request.protocol.split(",")]
    _check_words(request, protocols)
    for protocol in protocols:
        _detector(request, protocol)
    opened = _opened(request)
    return [_plan(request, protocol, opened, say) for protocol in protocols]


def _check_words(request: Request, protocols: list[Protocol]) -> None:
    if request.run is None and request.generated is None:
        raise UserError("run= or generated= is missing; for example run=runs/tiny/hvdm_autoencoder")
    if request.run is None and request.real is None:
        needing = [p.full_name for p in protocols if kind_of(p).real]
        if needing:
            raise UserError(f"real= is missing: {needing[0]} compares with real clips")
    if request.run is None and request.steps is not None:
        raise UserError(f"steps={request.steps}: nothing is sampled without a run")


def _detector(request: Request, protocol: Protocol) -> DetectorChoice | None:
    name, kind = request.detector or protocol.detector_default, kind_of(protocol)
    if name is None or kind.rows and not kind.reconstructs:
        return None
    if kind.classes and detectors.PLACE not in detectors.find(name).layers:
        raise UserError(
            f"detector={name} does not read, which {protocol.full_name} asks for; leave it out"
        )
    return detectors.choose(name, protocol.takes, protocol.way, _folder(request))


def _folder(request: Request) -> Path:
    return weights.folder_of(request.weights)


def _opened(request: Request) -> Opened | None:
    if request.run is None:
        return None
    # on the CPU: whoever hands out the work may have no GPU
    opened = opening.open_run(request.run, averaged=request.averaged)
    then = opened.checkpoint.manifest.get("identity", {})
    for stage, now in opening.stage_hashes(opened.config).items():
        if then.get(f"{stage}_weights") not in (None, now):
            raise UserError(
                f"{opening.key_of(opened.config, stage)}: its run has other weights now than when "
                f"step {opened.step} of {opened.run} was trained on it; bring that checkpoint back"
            )
    return opened


def _plan(request: Request, protocol: Protocol, opened: Opened | None, say: Say) -> Plan:
    pair = pair_of(request, protocol, opened)
    detector = _detector(request, protocol)
    check_frames(protocol, detector, pair)
    counts, there = counts_of(protocol, pair), pair.real.count() if pair.real else None
    if there is not None and there < (most := protocol.most_real or 0):
        say(f"{protocol.full_name} asks for {most} clips, real= has {there}: all used")
    works = _works(request, protocol, pair, detector, counts)
    return Plan(
        request,
        protocol,
        _subject(request, opened, pair),
        detector,
        works,
        _fields(protocol, pair, works, detector, request),
        protocol.clips,
        tuple(name for name in pair.baselines if name in works),
        tuple(_remarks(request, protocol, pair, detector)),
    )


# Work and fingerprint


def _works(
    request: Request,
    protocol: Protocol,
    pair: Pair,
    detector: DetectorChoice | None,
    counts: Mapping[str, int],
) -> dict[str, BlockJob]:
    stride = 1 if isinstance(pair.generated, Samples) else pair.stride
    common: dict[str, Any] = {
        "source": pair.generated,
        "look": FrameSelection(pair.frames, stride, size=pair.size),
        "clips": counts["generated"],
        "block": protocol.block_of(counts["generated"]),
        "batch": protocol.batch,
        "device": request.device,
        "threads": pair.threads,
    }
    works: dict[str, BlockJob] = {}
    if rows := kind_of(protocol).rows:
        works["rows"] = rows(_folder(request), **common)
    if detector is None:
        return works
    made = Extraction(
        **common,
        detector=detector,
        window=protocol.window,
        pooled=protocol.pooled,
        crop=protocol.crop,
        jpeg=protocol.jpeg,
        labelled=kind_of(protocol).classes,
    )
    if pair.real is not None:
        curve = protocol.window if not protocol.pooled else None
        frames = curve[0] if curve else pair.frames
        works["real"] = replace(
            made,
            source=pair.real,
            look=FrameSelection(frames, pair.stride, protocol.start, protocol.short, pair.size),
            clips=counts["real"],
            block=protocol.block_of(counts["real"]),
            shuffled=detector.takes == "clips" and not protocol.window,
        )
    if pair.known is not None and (there := pair.known.count()):
        known = replace(
            works["real"], source=pair.known, clips=there, block=protocol.block_of(there)
        )
        works |= {"known": known, "blurred": replace(known, look=replace(known.look, blurred=True))}
    for name, source in pair.baselines.items():
        works[name] = replace(made, source=source)
    return {**works, "generated": made}


def _fields(
    protocol: Protocol,
    pair: Pair,
    works: Mapping[str, BlockJob],
    detector: DetectorChoice | None,
    request: Request,
) -> dict[str, Any]:
    """All that a number depends on besides the model."""
    made = detectors.make(detector) if detector else None
    height, width = pair.size or (None, None)
    rows, main = works.get("rows"), works["generated" if "generated" in works else "rows"]
    return {
        "protocol": protocol.full_name,
        "kind": protocol.kind,
        "clips": main.clips,
        "real_clips": works["real"].clips if "real" in works else None,
        "block": main.block,
        "groups": protocol.groups,
        "batch": protocol.batch,
        "covariance": protocol.covariance,
        "video": {
            "frames": pair.frames, "stride": pair.stride, "height": height, "width": width,
            "start": protocol.start, "short": protocol.short, "window": protocol.window,
            "decoder": decoder_versions(), "resize": "crop, bilinear antialias",
            **({"pooled": True} if protocol.pooled else {}),
            **({"crop": protocol.crop} if protocol.crop else {}),
            **({"jpeg": protocol.jpeg} if protocol.jpeg else {}),
        },
        "data": pair.real.identity() if pair.real else None,
        "detector": made.fields() if made else None,
        "lpips": None,
        **(rows.particulars() if rows else {}),
        "generated": {**_made(pair, request), "rounding": "uint8, nearest"},
        "arithmetic": "float32 networks without TF32, float64 statistics",
    }  # fmt: skip


def _made(pair: Pair, request: Request) -> dict[str, Any]:
    if pair.what == FOLDER:
        seed = request.seed if isinstance(pair.generated, Function) else None
        return {"what": pair.what, "seed": seed, "steps": None}
    made = pair.generated if isinstance(pair.generated, Samples) else None
    return {
        "what": pair.what,
        "seed": made and made.seed,
        "steps": made and made.steps,
        "sampled": made and made.what,
        "options": made and dict(made.options),
        **({"given": made.given.identity()} if made and made.given else {}),
    }


def _subject(request: Request, opened: Opened | None, pair: Pair) -> Subject:
    if opened is None:
        name = str(request.generated).rstrip("/").rpartition("/")[2]
        return Subject(name, configs.digest(pair.generated.identity()))
    averaged = request.averaged if keeps_averages(opened.checkpoint) else None
    return Subject(opened.run.name, opened.weights_hash, opened, averaged)


def _remarks(
    request: Request, protocol: Protocol, pair: Pair, detector: DetectorChoice | None
) -> list[str]:
    found = []
    if isinstance(pair.generated, ClipFolder) and (lossy := pair.generated.lossy()):
        found.append(f"the generated clips went through a lossy codec ({lossy}): store png or npz")
    found += kind_of(protocol).remarks(_folder(request), detector)
    if detector and not detectors.find(detector.name).comparable:
        found.append(f"not comparable with published numbers: {_wanted_file(request, protocol)}")
    return found


def wanted(request: Request, protocol: Protocol) -> str:
    """Which file would make a number comparable, and where it comes from."""
    name = protocol.detector_default or "i3d"
    asked = detectors.KNOWN[name].weights
    source = f", from {weights.known(asked).url}" if asked else ""
    return _wanted_file(request, protocol) + source


def _wanted_file(request: Request, protocol: Protocol) -> str:
    name = protocol.detector_default or "i3d"
    asked = detectors.KNOWN[name].weights
    if asked is None:
        return f"detector={name} is of this package alone"
    file = weights.known(asked)
    return f"detector={name} would be, with {file.file} ({file.expected}) in {_folder(request)}"
