"""The verbs around a run: train, sample, report."""

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from hvdm import build
from hvdm.errors import UserError, closest
from hvdm.recipe import Noise, SampleRequest, to_pixels
from launcher import compose
from launcher import train as training
from launcher.arguments import Arguments


def train(given: Arguments) -> int:
    name = given.need("config", "tiny/hvdm_autoencoder")
    return training.train(compose.run_config(name, given.rest()))


# Sampling

SAMPLED = ("clip",)
_ROWS_AT_ONCE = 8


def sample(given: Arguments) -> int:
    reference = given.need("run", "runs/tiny/hvdm_diffusion")
    what = given.take("what", "clip") or "clip"
    if what not in SAMPLED:
        raise UserError(f"what={what!r} cannot be sampled; {closest(what, SAMPLED)}")
    count = given.integer("count", 8) or 0
    if count < 1:
        raise UserError(f"count={count} is below 1")
    seed = given.integer("seed", 0) or 0
    request = SampleRequest(what, given.integer("steps"))
    out = given.take("out")
    given.done()
    opened = build.open_run(reference)
    folder = Path(out) if out else opened.run / "samples" / f"step-{opened.step:08d}"
    began = time.monotonic()
    videos = _draw(opened, request, seed, count)
    paths = _write(videos, folder, seed)
    _tell_samples(given.json, opened, paths, time.monotonic() - began)
    return 0


def _draw(opened: build.Opened, request: SampleRequest, seed: int, count: int) -> Tensor:
    """Rows of a fixed number at a time, so that equal seeds give equal bits at any count."""
    videos = []
    with torch.no_grad():
        for first in range(0, count, _ROWS_AT_ONCE):
            draws = tuple(range(first, first + _ROWS_AT_ONCE))
            video = opened.recipe.sample(opened.nets, request, Noise(seed, draws))
            videos.append(to_pixels(video))
            done = min(first + _ROWS_AT_ONCE, count)
            print(f"sampled {done} of {count}", file=sys.stderr, flush=True)
    return torch.cat(videos)[:count]


def _write(videos: Tensor, folder: Path, seed: int) -> list[Path]:
    from eval import pictures

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, video in enumerate(videos):
        for write, suffix in ((pictures.write_mp4, "mp4"), (pictures.write_gif, "gif")):
            path = folder / f"seed-{seed}-{i:04d}.{suffix}"
            write(video, path, fps=8)
            paths.append(path)
    sheet = folder / f"seed-{seed}-sheet.png"
    sheet.write_bytes(
        pictures.contact_sheet(videos, [f"seed {seed}, {i}" for i in range(len(videos))])
    )
    return [sheet, *paths]


def _tell_samples(as_json: bool, opened: build.Opened, paths: list[Path], seconds: float) -> None:
    if as_json:
        answer = {"step": opened.step, "weights": opened.weights_hash, "seconds": seconds}
        print(json.dumps({**answer, "files": [str(p) for p in paths]}, indent=1))
        return
    print(f"{len(paths)} files in {paths[0].parent} ({seconds:.1f} s); look at {paths[0]}")


# Report
