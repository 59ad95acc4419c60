"""What a trained run makes of the past, a picture, a motion strength, and a long video.

`python -m benchmarks.conditions DIR RUN` takes a run as it is, such as runs/demo/diffusion;
`python -m benchmarks.conditions DIR` trains tiny/hvdm_autoencoder and tiny/hvdm_diffusion.
Results go to benchmarks/results/conditions.json.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import experiment
from hvdm import building, opening
from hvdm.data.loader import Loader
from hvdm.ops.motion import strength
from hvdm.recipe import Noise, SampleRequest, to_model
from hvdm.recipes.hvdm.conditions import still_of
from hvdm.recipes.hvdm.generation import Generation, joined
from hvdm.recipes.hvdm.requests import asked

SEED, ROWS, IMAGES, MOTIONS, LONG, LONG_FRAMES = 0, 64, 50, 96, 16, 128


def main() -> None:
    where = experiment.folder()
    opened = opening.open_run(sys.argv[2] if len(sys.argv) > 2 else run_of(where))
    rows = past_and_next(opened)
    found = experiment.read("conditions")
    if found.get("weights") != opened.weights_hash:
        found = {"weights": opened.weights_hash, "seed": SEED, "training": training(opened)}
    with torch.no_grad():
        for part in (autoencoder, seam, image, motion, motion_of_pictures, long):
            if part.__name__ not in found:
                found[part.__name__] = part(opened, rows)
                experiment.write("conditions", {**found, **experiment.about("DIR RUN")})
            print(part.__name__, found[part.__name__], flush=True)


def run_of(where: Path) -> Path:
    """Both stages, as they are configured."""
    data = f"data.path={experiment.shapes(where)}"
    first, run = where / "autoencoder", where / "applications"
    experiment.trained("tiny/hvdm_autoencoder", first, [data])
    experiment.trained("tiny/hvdm_diffusion", run, [data, f"first_stage={first}"])
    return run


def training(opened: opening.Opened) -> dict[str, Any]:
    config = opened.config
    stage = opening.open_run(config.first_stage or "").config
    return {
        "autoencoder": {"steps": stage.total_steps, "batch": stage.batch, **stage.model},
        "steps": opened.step,
        "batch": config.batch,
        "model": dict(config.model),
        "parameters": sum(p.numel() for p in opened.nets.parameters()),
    }


def past_and_next(opened: opening.Opened) -> Tensor:
    """Held-out rows, float `B C 2T H W`."""
    config = opened.config
    loader: Loader
    with building.build_loader(config, config.data.held_out) as loader:
        return to_model(loader.sequential(range(min(ROWS, len(loader)))).fields["video"])


def drawn(
    opened: opening.Opened, beside: Tensor | None, what: str, count: int, **options: Any
) -> Any:
    """Clips, each told what is beside it."""
    recipe: Any = opened.recipe
    wanted = asked(SampleRequest("clip", None, options), recipe.abilities)
    made = Generation(recipe, opened.nets, wanted, Noise(SEED, tuple(range(count))))
    return recipe.to_video(made.latent(0, beside, what)).clamp(-1, 1)


def apart(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference in grey levels of 255."""
    return round(float((a - b).abs().mean() * 127.5), 3)


def autoencoder(opened: opening.Opened, rows: Tensor) -> dict[str, Any]:
    """How well it reconstructs, and what overlapping tiles do where two clips meet."""
    recipe: Any = opened.recipe
    frames = recipe.clip.frames
    latent = torch.cat([recipe.to_latent(part) for part in rows.split(frames, 2)], 2)
    found: dict[str, Any] = {}
    for shared in range(0, frames // 2 + 1, 2):
        wanted = asked(SampleRequest("long", None, {"overlap": shared}), recipe.abilities)
        video = Generation(recipe, opened.nets, wanted, Noise(0, (0,))).decode(latent)
        off = (video - rows).square().mean((0, 1, 3, 4)) / 4
        found[f"overlap {shared}"] = {
            "psnr": round(float(-10 * off.mean().log10()), 3),
            "psnr_at_seam": round(float(-10 * off[frames - 1 : frames + 1].mean().log10()), 3),
            "difference_at_seam": apart(video[:, :, frames - 1], video[:, :, frames]),
        }
    found["real difference at seam"] = apart(rows[:, :, frames - 1], rows[:, :, frames])
    return found


def seam(opened: opening.Opened, rows: Tensor) -> dict[str, Any]:
    """From the last real frame to the first drawn one, and from there to the frame that came."""
    recipe: Any = opened.recipe
    frames = recipe.clip.frames
    past, coming = rows[:, :, :frames], rows[:, :, frames:]
    last = recipe.to_video(recipe.to_latent(past))[:, :, -1]
    beside = recipe.to_latent(past)
    told = {"told": beside, "told another's": beside.roll(1, 0), "untold": None}
    found: dict[str, Any] = {}
    for name, latent in told.items():
        made = drawn(opened, latent, "past", len(rows))
        found[name] = {
            "step_at_seam": apart(last, made[:, :, 0]),
            "error_of_first_frame": apart(coming[:, :, 0], made[:, :, 0]),
            "error_of_clip": apart(coming, made),
        }
    best = recipe.to_video(recipe.to_latent(coming))
    found["real, reconstructed"] = {
        "step_at_seam": apart(last, best[:, :, 0]),
        "error_of_first_frame": apart(coming[:, :, 0], best[:, :, 0]),
        "error_of_clip": apart(coming, best),
    }
    return found


def image(opened: opening.Opened, rows: Tensor) -> dict[str, Any]:
    """Of how many pictures is the drawn first frame nearer to its own than to all others."""
    recipe: Any = opened.recipe
    pictures = rows[:IMAGES, :, recipe.clip.frames]
    beside = recipe.to_latent(still_of(pictures, recipe.clip.frames))
    found = {}
    for name, latent in {"told": beside, "untold": None}.items():
        first = drawn(opened, latent, "image", len(pictures))[:, :, 0]
        distance = (first[:, None] - pictures[None]).square().mean((2, 3, 4))
        nearest = distance.argmin(1) == torch.arange(len(pictures))
        found[name] = {
            "nearest_is_its_own": int(nearest.sum()),
            "of": len(pictures),
            "first_frame_off": apart(first, pictures),
        }
    return found


def motion(opened: opening.Opened, rows: Tensor) -> dict[str, Any]:
    """Requested level against DSSIM of the drawn clips."""
    levels = [(i + 0.5) / MOTIONS for i in range(MOTIONS)]
    found = {}
    for weight in (0.0, 2.0):
        made = drawn(opened, None, "past", MOTIONS, motion=levels, guidance=weight)
        found[f"guidance {weight:g}"] = correlated(torch.tensor(levels), strength(made))
    return found


def motion_of_pictures(opened: opening.Opened, rows: Tensor) -> dict[str, Any]:
    """The same pictures slow, medium and fast: mean strengths, and how often the order holds."""
    recipe: Any = opened.recipe
    pictures = rows[:32, :, recipe.clip.frames]
    beside = recipe.to_latent(still_of(pictures, recipe.clip.frames))
    found = {}
    for weight in (0.0, 2.0):
        strengths = torch.stack(
            [
                strength(
                    drawn(opened, beside, "image", 32, motion=level, **{"guidance.motion": weight})
                )
                for level in ("slow", "medium", "fast")
            ]
        )
        found[f"guidance {weight:g}"] = {
            "slow, medium, fast": [round(float(s), 4) for s in strengths.mean(1)],
            "fast above slow": round(float((strengths[2] > strengths[0]).float().mean()), 3),
        }
    return found


def correlated(wanted: Tensor, got: Tensor) -> dict[str, Any]:
    """Spearman's coefficient, and mean strength by thirds of what was wanted."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (wanted, got)])
    coefficient = float(torch.corrcoef(ranks)[0, 1])
    thirds = [round(float(part.mean()), 4) for part in got.tensor_split(3)]
    return {"rank_correlation": round(coefficient, 3), "mean_dssim_by_thirds": thirds}


def long(opened: opening.Opened, rows: Tensor) -> dict[str, Any]:
    """Frame differences at the seams and elsewhere, and how mean colours go."""
    recipe: Any = opened.recipe
    noise = Noise(SEED, tuple(range(LONG)))
    found: dict[str, Any] = {}
    for reuse in ("latent", "pixels"):
        options = {"frames": LONG_FRAMES, "reuse": reuse}
        wanted = asked(SampleRequest("long", None, options), recipe.abilities)
        made = Generation(recipe, opened.nets, wanted, noise)
        pieces = made.pieces()
        for fade in (0, recipe.clip.frames // 2, recipe.clip.frames):
            for shared in (0, recipe.clip.frames // 4):
                decoder = replace(made, asked=replace(wanted, overlap=shared))
                video = decoder.decode(joined(pieces, fade, recipe.bound)).clamp(-1, 1)
                key = f"reuse {reuse}, fade {fade}, overlap {shared}"
                found[key] = {
                    **seams(video, recipe.clip.frames),
                    **drift(video, recipe.clip.frames),
                }
    real = [apart(rows[:, :, i], rows[:, :, i + 1]) for i in range(rows.shape[2] - 1)]
    again = recipe.to_video(recipe.to_latent(rows[:, :, : recipe.clip.frames]))
    found["reconstructed difference of frames"] = apart(again[:, :, 1:], again[:, :, :-1])
    found["real difference of frames"] = round(sum(real) / len(real), 3)
    return found


def seams(video: Tensor, frames: int) -> dict[str, Any]:
    steps = video.diff(dim=2).abs().mean((0, 1, 3, 4)) * 127.5
    at = torch.arange(1, video.shape[2]) % frames == 0
    inside, across = float(steps[~at].mean()), float(steps[at].mean())
    return {
        "seams": int(at.sum()),
        "difference_at_seams": round(across, 3),
        "difference_elsewhere": round(inside, 3),
        "ratio": round(across / inside, 3),
    }


def drift(video: Tensor, frames: int) -> dict[str, Any]:
    """Mean colour of each clip of each video, in standard deviations over videos and clips."""
    colour = torch.stack([part.mean((2, 3, 4)) for part in video.split(frames, 2)], 1)
    spread = colour.flatten(0, 1).std(0)
    first, last = colour[:, : colour.shape[1] // 4], colour[:, -(colour.shape[1] // 4) :]
    moved = (last.mean(1) - first.mean(1)) / spread
    error = moved.std(0) / len(moved) ** 0.5
    return {
        "colour_drift": [round(float(v), 3) for v in moved.mean(0)],
        "colour_drift_error": [round(float(v), 3) for v in error],
        "contrast_by_quarters": [
            round(float(part.std((2, 3, 4)).mean() * 127.5), 2)
            for part in video.split(video.shape[2] // 4, 2)
        ],
    }


if __name__ == "__main__":
    main()
