"""Whether a demo's models learned: figures beside baselines that need no learning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hvdm import building, opening
from hvdm.checkpoint import checkpoint
from hvdm.config import parse
from hvdm.data.decode import decode_all
from hvdm.data.fields import video
from hvdm.errors import RunError, UserError, closest
from hvdm.ops.softness import soft


@dataclass(frozen=True)
class Figure:
    name: str
    text: str
    met: bool
    values: dict[str, float]


def figures(told: Mapping[str, Mapping[str, Any]]) -> list[Callable[[Path], Figure]]:
    """By name, with their arguments; each is then asked for of the demo's folder."""
    for name in told:
        if name not in FIGURES:
            raise UserError(f"figures.{name} is not known; {closest(name, FIGURES)}")
    return [parse(FIGURES[name], given, f"figures.{name}") for name, given in told.items()]


def held_out(run: Path) -> Tensor:
    """uint8 `B T H W C`, all of them."""
    config = opening.read_config(run)
    with building.build_loader(config, config.data.held_out, (video(config.data),)) as loader:
        return loader.sequential(range(len(loader))).fields["video"]


def _measured(run: Path, protocol: str) -> dict[str, Any]:
    """The newest checkpoint's result."""
    from eval.report.report import evaluations

    found = [result for result in evaluations(run) if result["protocol"] == protocol]
    if not found:
        raise RunError(f"{run} has no evaluation under {protocol}; run the demo again")
    return max(found, key=lambda result: (result.get("step") or 0, result.get("time") or 0))


# How near the reconstructions are


@dataclass(frozen=True)
class ReconstructionGain:
    run: str
    protocol: str
    least_db: float

    @torch.no_grad()
    def __call__(self, out: Path) -> Figure:
        from eval.numbers.metrics import psnr

        run = out / self.run
        coder, real = opening.open_run(run).recipe.coder, held_out(run)
        if coder is None:
            raise UserError(f"figures.reconstruction.run={self.run}: it is no autoencoder")
        latent = torch.Size(coder.latent_shape).numel()
        small, values = thumbnail_size(real, latent)
        ours = _measured(run, self.protocol)["values"]["psnr"]
        theirs = float(psnr(real, thumbnails(real, small)).values.mean())
        gain = ours - theirs
        text = (
            f"reconstructions of held-out clips {ours:.2f} dB, bicubic thumbnails of "
            f"{small[0]}x{small[1]} ({values} values, the latent {latent}) {theirs:.2f} dB: "
            f"{gain:+.2f} dB, at least {self.least_db:+.0f} is asked for"
        )
        found = {"psnr": ours, "thumbnail_psnr": theirs, "gain_db": gain}
        return Figure("reconstruction", text, gain >= self.least_db, found)


def thumbnail_size(real: Tensor, latent: int) -> tuple[tuple[int, int], int]:
    """The smallest frames of the clip's shape that hold no fewer values than the latent."""
    _, frames, height, width, colours = real.shape
    for rows in range(1, height + 1):
        columns = max(1, round(rows * width / height))
        values = frames * rows * columns * colours
        if values >= latent:
            return (rows, columns), values
    return (height, width), frames * height * width * colours


def thumbnails(real: Tensor, small: tuple[int, int]) -> Tensor:
    """Every frame down and up again, rounded to pixels in between, as an image file would be."""
    frames = _frames(real)
    less = functional.interpolate(frames, small, mode="bicubic", antialias=True)
    less = less.round().clamp(0, 255)
    again = functional.interpolate(less, real.shape[2:4], mode="bicubic")
    return _clips(again, real)


def _frames(clips: Tensor) -> Tensor:
    return clips.flatten(0, 1).permute(0, 3, 1, 2).float()


def _clips(frames: Tensor, like: Tensor) -> Tensor:
    pixels = frames.round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).unflatten(0, like.shape[:2]).contiguous()


# How far the samples are


@dataclass(frozen=True)
class SampleDistance:
    run: str
    protocol: str
    detector: str
    most: float
    """As a share of the distance of flat, and of blurred clips."""

    @torch.no_grad()
    def __call__(self, out: Path) -> Figure:
        real = held_out(out / self.run)
        result = _measured(out / self.run, self.protocol)
        ours, error = result["values"]["fvd"], result["standard_error"].get("fvd")
        flat, blurred = (distance(real, of(real), self.detector) for of in (flat_colours, blur))
        told = f"{ours:.3g}" + (f" ± {error:.1g}" if error else "")
        text = (
            f"{self.detector} detector: samples {told}, flat-colour clips {flat:.3g} "
            f"(samples {ours / flat:.2f} of it), blurred real clips {blurred:.3g} "
            f"({ours / blurred:.2f} of it); at most {self.most:g} of each is asked for"
        )
        found = {"samples": ours, "flat": flat, "blurred": blurred}
        return Figure("distance", text, ours <= self.most * min(flat, blurred), found)


def distance(real: Tensor, other: Tensor, name: str) -> float:
    from eval.networks.detectors import make
    from eval.numbers.statistics import frechet_distance, moments

    detector = make(name)
    ours, theirs = (moments(next(iter(detector.extract(c).values()))) for c in (real, other))
    return frechet_distance(ours, theirs)


def flat_colours(real: Tensor) -> Tensor:
    """Each clip's mean colour, everywhere and all the time."""
    mean = real.float().mean((1, 2, 3), keepdim=True).round().to(torch.uint8)
    return mean.expand_as(real).contiguous()


def blur(real: Tensor) -> Tensor:
    return soft(real.flatten(0, 1)).unflatten(0, real.shape[:2])


# How much the samples move


@dataclass(frozen=True)
class MotionRatio:
    run: str
    films: int
    least: float
    most: float

    def __call__(self, out: Path) -> Figure:
        step = checkpoint.choose(out / self.run, None).step
        folder = out / self.run / "samples" / f"step-{step:08d}"
        films = [folder / f"seed-0-{i:04d}.mp4" for i in range(self.films)]
        return self.of(held_out(out / self.run), films)

    def of(self, real: Tensor, samples: list[Path]) -> Figure:
        films = torch.stack([_film(path, real.shape[2:4]) for path in samples])
        ours, theirs = moved(films), moved(real)
        ratio = ours / theirs
        text = (
            f"mean difference of successive frames: samples {ours:.2f}, real clips {theirs:.2f} of "
            f"255: {ratio:.2f} times, between {self.least:g} and {self.most:g} is asked for"
        )
        found = {"samples": ours, "real": theirs, "ratio": ratio}
        return Figure("motion", text, self.least <= ratio <= self.most, found)


def _film(path: Path, size: torch.Size) -> Tensor:
    """A film of enlarged pixels at the clip's own size."""
    frames = torch.from_numpy(decode_all(path.read_bytes(), path.name))
    video = frames.permute(0, 3, 1, 2).float()
    return functional.adaptive_avg_pool2d(video, (size[0], size[1])).permute(0, 2, 3, 1)


def moved(clips: Tensor) -> float:
    return float(clips.float().diff(dim=1).abs().mean())


# Whether digits can be read, and are not those that were learned from


@dataclass(frozen=True)
class DigitsRead:
    run: str
    protocol: str
    least: Mapping[str, float]
    """Of the protocol's shares and ratios."""
    most: float
    """The debiased distance, as a share of that of blurred digits."""

    def __call__(self, out: Path) -> Figure:
        result = _measured(out / self.run, self.protocol)
        of, debiased = result["values"], result["debiased"]
        far, blurred = (
            of[name] if debiased.get(name) is None else debiased[name]
            for name in ("distance", "distance_blurred")
        )
        asked = {name: (of[name], least) for name, least in self.least.items()}
        shares = ", ".join(
            f"{TOLD[name]} {value:.2f} ({least:g})" for name, (value, least) in asked.items()
        )
        text = (
            f"of {result['counts']['clips']} samples, at least the number in brackets is asked "
            f"for: {shares}; their distance {far:.3g} is {far / blurred:.2f} of that of blurred "
            f"digits, at most {self.most:g} is asked for"
        )
        met = all(value >= least for value, least in asked.values()) and far <= self.most * blurred
        return Figure("digits", text, met, {name: float(of[name]) for name in self.least})


TOLD = {
    "class": "read as the digit that was asked for",
    "class_last": "read so in the last frame",
    "kept": "the same digit from the first frame to the last",
    "motion": "motion over that of real ones",
    "within_class": "spread within a class over that of real ones",
    "nearest": "distance to the nearest learned digit over that of unseen ones",
}


# A number of an evaluation


@dataclass(frozen=True)
class MeasuredValue:
    run: str
    protocol: str
    name: str
    least: float

    def __call__(self, out: Path) -> Figure:
        result = _measured(out / self.run, self.protocol)
        value = result["values"][self.name]
        text = (
            f"{self.name} of {self.protocol}: {value:.3g} over {result['counts']['clips']} "
            f"samples, at least {self.least:g} is asked for"
        )
        return Figure("value", text, value >= self.least, {self.name: value})


FIGURES: Mapping[
    str, type[ReconstructionGain | SampleDistance | MotionRatio | DigitsRead | MeasuredValue]
] = {
    "reconstruction": ReconstructionGain,
    "distance": SampleDistance,
    "motion": MotionRatio,
    "digits": DigitsRead,
    "value": MeasuredValue,
}
