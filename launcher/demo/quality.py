"""Whether the demo's models learned: three figures beside baselines that need no learning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hvdm import building, opening
from hvdm.data.decode import decode_all
from hvdm.data.fields import video
from hvdm.errors import RunError

RECONSTRUCTION, DISTANCE, DETECTOR = "reconstruction@1", "fvd/tf-reference@1", "untrained"
GAIN_DB, NEARER, STILLEST, WILDEST = 2.0, 0.5, 0.5, 2.0
BLUR = 1 / 16
"""Standard deviation of the blur, as a share of the shorter side: 2 pixels of 32."""


@dataclass(frozen=True)
class Figure:
    name: str
    text: str
    met: bool
    values: dict[str, float]


def figures(autoencoder: Path, diffusion: Path, samples: list[Path]) -> list[Figure]:
    """From the evaluations of both runs, the held-out clips, and the sampled films."""
    with torch.no_grad():
        real = held_out(autoencoder)
        return [
            _reconstruction(autoencoder, real),
            _distance(diffusion, real),
            _motion(real, samples),
        ]


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


def _reconstruction(run: Path, real: Tensor) -> Figure:
    from eval.numbers.metrics import psnr

    coder = opening.open_run(run).recipe.coder
    assert coder is not None
    latent = torch.Size(coder.latent_shape).numel()
    small, values = thumbnail_size(real, latent)
    ours = _measured(run, RECONSTRUCTION)["values"]["psnr"]
    theirs = float(psnr(real, thumbnails(real, small)).values.mean())
    gain = ours - theirs
    text = (
        f"reconstructions of held-out clips {ours:.2f} dB, bicubic thumbnails of "
        f"{small[0]}x{small[1]} ({values} values, the latent {latent}) {theirs:.2f} dB: "
        f"{gain:+.2f} dB, at least {GAIN_DB:+.0f} is asked for"
    )
    found = {"psnr": ours, "thumbnail_psnr": theirs, "gain_db": gain}
    return Figure("reconstruction", text, gain >= GAIN_DB, found)


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


def _distance(run: Path, real: Tensor) -> Figure:
    result = _measured(run, DISTANCE)
    ours, error = result["values"]["fvd"], result["standard_error"].get("fvd")
    flat, blurred = distance(real, flat_colours(real)), distance(real, blur(real))
    told = f"{ours:.3g}" + (f" ± {error:.1g}" if error else "")
    text = (
        f"untrained detector: samples {told}, flat-colour clips {flat:.3g} "
        f"(samples {ours / flat:.2f} of it), blurred real clips {blurred:.3g} "
        f"({ours / blurred:.2f} of it); at most {NEARER:g} of each is asked for"
    )
    found = {"samples": ours, "flat": flat, "blurred": blurred}
    return Figure("distance", text, ours <= NEARER * min(flat, blurred), found)


def distance(real: Tensor, other: Tensor) -> float:
    from eval.networks.detectors import make
    from eval.numbers.statistics import frechet_distance, moments

    detector = make(DETECTOR)
    ours, theirs = (moments(next(iter(detector.extract(c).values()))) for c in (real, other))
    return frechet_distance(ours, theirs)


def flat_colours(real: Tensor) -> Tensor:
    """Each clip's mean colour, everywhere and all the time."""
    mean = real.float().mean((1, 2, 3), keepdim=True).round().to(torch.uint8)
    return mean.expand_as(real).contiguous()


def blur(real: Tensor) -> Tensor:
    """A Gaussian over each frame, its edges repeated."""
    sigma = BLUR * min(real.shape[2:4])
    reach = round(3 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    frames = functional.pad(_frames(real), (reach,) * 4, mode="replicate")
    frames = functional.conv2d(functional.conv2d(frames, kernel, groups=3), kernel.mT, groups=3)
    return _clips(frames, real)


# How much the samples move


def _motion(real: Tensor, samples: list[Path]) -> Figure:
    films = torch.stack([_film(path, real.shape[2:4]) for path in samples])
    ours, theirs = moved(films), moved(real)
    ratio = ours / theirs
    text = (
        f"mean difference of successive frames: samples {ours:.2f}, real clips {theirs:.2f} of "
        f"255: {ratio:.2f} times, between {STILLEST:g} and {WILDEST:g} is asked for"
    )
    found = {"samples": ours, "real": theirs, "ratio": ratio}
    return Figure("motion", text, STILLEST <= ratio <= WILDEST, found)


def _film(path: Path, size: torch.Size) -> Tensor:
    """A film of enlarged pixels at the clip's own size."""
    frames = torch.from_numpy(decode_all(path.read_bytes(), path.name))
    video = frames.permute(0, 3, 1, 2).float()
    return functional.adaptive_avg_pool2d(video, (size[0], size[1])).permute(0, 2, 3, 1)


def moved(clips: Tensor) -> float:
    return float(clips.float().diff(dim=1).abs().mean())
