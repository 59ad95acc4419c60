"""A real check of geometry: `python -m benchmarks.stereo FOLDER --write`.

The stereo pair with dense disparity that scikit-image carries (motorcycle, Middlebury 2014). An
autoencoder is fitted to the left picture and its depth alone, and rendered by the right one's
camera; beside it stand the left picture's pixels moved by their depth, holes filled from the
nearest, and the left picture as it is. Pixels that no pixel of the left picture comes to are
counted apart.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from skimage.data import stereo_motorcycle
from torch import Tensor
from torch.nn import functional

from benchmarks import experiment
from data_tools.archives import png
from data_tools.writer import shard_name, write_shard
from hvdm import opening
from hvdm.data.depth import DEPTH_SUFFIX
from hvdm.data.derivation import saved
from hvdm.data.schema import VERSION, Manifest, Sample, canonical, write_manifest
from hvdm.ops.warp import Moved, filled, moved
from hvdm.recipe import Batch
from hvdm.recipes.wildfusion.autoencoder import PictureCoder, WildNetwork
from hvdm.recipes.wildfusion.scene import middle, straight

FOCAL, BASELINE = 994.978, 193.001
"""In pixels and in millimetres, as scikit-image documents them."""
CENTRE, ASIDE = (255, 311), 31
"""Row and column where the left camera looks; the right one looks so many columns further."""
REACH = 242
"""Half of the square around it."""
SIDE, RADIUS = 64, 2.7
DEGREES = 2 * math.degrees(math.atan(REACH / FOCAL))
TRAINING = [
    f"data.height={SIDE}", f"data.width={SIDE}", "data.lanes=1", "data.window=1", "batch=1",
    "micro_batch=1", "model.rays=32", "model.coarse=24", "model.fine=8", "model.critics=false",
    "model.plane_kept=1", f"model.degrees={DEGREES}", "optimizer.of={}", "optimizer.decay=null",
    "checkpoint.every=256", "ema.decay=0.99",
]  # fmt: skip


def square(whole: npt.NDArray[Any], aside: int = 0) -> Tensor:
    """What a camera sees of its middle."""
    row, column = CENTRE[0], CENTRE[1] + aside
    part = whole[row - REACH : row + REACH, column - REACH : column + REACH]
    return torch.from_numpy(np.ascontiguousarray(part)).float()


def small(whole: npt.NDArray[Any], aside: int = 0) -> Tensor:
    """`1 3 H W` in [-1, 1]."""
    picture = square(whole, aside).permute(2, 0, 1)[None] / 127.5 - 1
    return functional.interpolate(picture, (SIDE, SIDE), mode="area")


def depth_of(disparity: npt.NDArray[Any]) -> Tensor:
    """`1 H W` in millimetres; where it is not known, that of the nearest pixel."""
    values = square(disparity)[None, None]
    values = functional.interpolate(values, (SIDE, SIDE), mode="nearest-exact")
    there = values.isfinite() & (values > 0)
    found = torch.where(there, FOCAL * BASELINE / (values + ASIDE), 0)
    return filled(Moved(found, there[:, 0]))[:, 0]


def data_set(folder: Path, picture: Tensor, depth: Tensor) -> None:
    """One sample to learn from."""
    pixels = ((picture[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    parts = {
        "json": canonical({"frames": 1, "height": SIDE, "width": SIDE}),
        "png": png(pixels),
        DEPTH_SUFFIX: saved(depth[0].numpy()),
    }
    (folder / "train").mkdir(parents=True, exist_ok=True)
    shard = write_shard(folder / "train" / shard_name(0), [Sample("motorcycle", parts)])
    about = {"generator": "a stereo pair"}
    write_manifest(folder / "train", Manifest(VERSION, "train", 1, (shard,), about))


@torch.no_grad()
def measured(run: Path, left: Tensor, right: Tensor, depth: Tensor, beside: Tensor) -> Any:
    """PSNR of the right picture; `beside` is where its camera stands, `1 3`."""
    opened = opening.open_run(run)
    net, coder = opened.nets["autoencoder"], opened.recipe.coder
    assert isinstance(net, WildNetwork) and isinstance(coder, PictureCoder)
    rows = Batch({"video": left[:, :, None], "depth": depth}, ("",), (0,), torch.ones(1))
    planes = coder.planes(opened.nets, coder.encode(opened.nets, rows))
    at = net.scene.at(straight(planes), middle(net.camera, planes))
    looked = net.scene.seen_along(planes, at._replace(origins=at.origins + beside[:, None]))
    warp = moved(left, depth, straight(planes), net.camera.lens, beside)
    answers = {"ours": looked.image.clamp(-1, 1), "warp": filled(warp), "left": left}
    error = {name: (one - right).square().mean(1) / 4 for name, one in answers.items()}
    own = (net.look(planes).image.clamp(-1, 1) - left).square() / 4
    return {
        "psnr": {name: decibels(one) for name, one in error.items()},
        "psnr_seen": {name: decibels(one[warp.there]) for name, one in error.items()},
        "psnr_unseen": {name: decibels(one[~warp.there]) for name, one in error.items()},
        "share_unseen": round(float((~warp.there).float().mean()), 4),
        "psnr_of_the_left": decibels(own),
    }


def decibels(error: Tensor) -> float:
    return round(float(-10 * error.mean().log10()), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    where = experiment.folder()
    first, second, disparity = stereo_motorcycle()
    left, right, millimetres = small(first), small(second, ASIDE), depth_of(disparity)
    unit = float(millimetres.median()) / RADIUS
    depth, beside = millimetres / unit, torch.tensor([[BASELINE / unit, 0.0, 0.0]])
    if not (where / "pair").exists():
        data_set(where / "pair", left, depth)
    run = where / f"stereo-{asked.steps}"
    typed = [f"data.path={where}/pair", f"steps={asked.steps}", *TRAINING]
    experiment.trained("tiny/wildfusion_autoencoder", run, typed)
    found = measured(run, left, right, depth, beside)
    report = {"steps": asked.steps, **found, **experiment.about("FOLDER --write")}
    print(json.dumps(report, indent=1))
    if asked.write:
        experiment.write("stereo", report)


if __name__ == "__main__":
    main()
