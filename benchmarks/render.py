"""`make bench-render`: rendering a triplane beside the straightforward form of its mathematics.

That form looks planes up one by one with `grid_sample`, asks for all points at once, and keeps what
gradients need. In turn in each round in one process, on all threads; seconds are those of the
processor over the number of threads, so that what else runs on the machine counts for little.
Memory is by how much a process grows at the peak of forward and backward, each form in a process of
its own, on Linux. Both give one answer, which is looked at first.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import experiment
from hvdm.ops.cameras import Lens, rays, turned
from hvdm.ops.volume import AXES, Answer, Rays, Seen, contract, march, render
from hvdm.recipe import Noise
from hvdm.recipes.wildfusion.networks import PointNetwork, SuperResolution
from hvdm.recipes.wildfusion.scene import REACH, Camera, SceneNetwork, drawn

WIDTH, SIDE, PLACES = 32, 128, 48
RAYS = 64
"""A side, as at 256x256."""
THREADS = os.cpu_count() or 1


def one_by_one(planes: Tensor, points: Tensor) -> Tensor:
    """`B N C`: the mean of three lookups."""
    found = [
        functional.grid_sample(
            planes[:, plane], points[:, None, :, list(axes)], padding_mode="border",
            align_corners=False,
        )[:, :, 0].mT
        for plane, axes in enumerate(AXES)
    ]  # fmt: skip
    return torch.stack(found).mean(0)


class View:
    """One picture of a triplane, rendered either way."""

    def __init__(self, side: int) -> None:
        torch.manual_seed(0)
        camera = Camera(Lens(2.7, 18.0), side, PLACES, PLACES, 1.0)
        point = PointNetwork(WIDTH, 64, WIDTH)
        self.net = SceneNetwork(camera, point, SuperResolution(WIDTH, (8,)))
        self.planes = torch.randn(1, 3, WIDTH, SIDE, SIDE)
        draw = drawn(camera, Noise(0, (0,)), "rays")
        rotation = turned(torch.tensor([0.3]), torch.tensor([0.1]))
        self.at = Rays(*rays(rotation, camera.lens, side, side), draw.coarse, draw.fine)
        self.camera = camera

    def ours(self) -> Seen:
        answer: Answer = partial(self.net.answer, self.planes)
        return render(answer, self.at, self.camera.spacing)

    def plain(self) -> Seen:
        return march(self._plainly, self.camera.spacing, self.at)

    def _plainly(self, points: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.camera.inner
        where = contract(points, inner) / (REACH * inner)
        found: tuple[Tensor, Tensor] = self.net.point(one_by_one(self.planes, where))
        return found

    def forms(self) -> Mapping[str, Callable[[], Seen]]:
        return {"ours": self.ours, "plain": self.plain}

    def learned(self, form: str) -> None:
        """Forwards and back to the planes."""
        self.planes.requires_grad_().grad = None
        seen = self.forms()[form]()
        (seen.features.square().mean() + seen.depth.mean()).backward()


def took(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each in turn, of all threads together; the median."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.process_time()
            function()
            times[name].append((time.process_time() - began) / THREADS)
    return {name: statistics.median(taken) for name, taken in times.items()}


def looked(form: str, side: int = RAYS) -> Callable[[], Seen]:
    view = View(side)

    @torch.no_grad()
    def look() -> Seen:
        return view.forms()[form]()

    return look


def grown(form: str) -> int:
    """Bytes, in a fresh process, which has learned from a small picture before."""
    torch.set_num_threads(THREADS)
    View(8).learned(form)
    view = View(RAYS)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    view.learned(form)
    return peak() - before


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line)


def memory() -> dict[str, int]:
    context = multiprocessing.get_context("spawn")
    found = {}
    for form in ("ours", "plain"):
        with context.Pool(1) as pool:
            found[form] = pool.apply(grown, (form,))
    return found


def check() -> None:
    """The same picture, either way."""
    for mine, theirs in zip(looked("ours")(), looked("plain")(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    about = experiment.about("--write")
    torch.set_num_threads(THREADS)
    check()
    view = View(RAYS)
    seen = took({form: looked(form) for form in ("ours", "plain")}, asked.rounds)
    learned = took({f: partial(view.learned, f) for f in ("ours", "plain")}, asked.rounds)
    sides = {str(side**2): looked("ours", side) for side in (16, 32, 64)}
    by_rays = took(sides, asked.rounds)
    bytes_of = memory()
    report = {
        "rays_a_second": {form: round(RAYS**2 / taken) for form, taken in seen.items()},
        "without_gradients": round(seen["plain"] / seen["ours"], 2),
        "with_gradients": round(learned["ours"] / learned["plain"], 2),
        "megabytes": {form: round(size / 1e6, 1) for form, size in bytes_of.items()},
        "memory": round(bytes_of["ours"] / bytes_of["plain"], 2),
        "microseconds_a_ray": {
            count: round(taken / int(count) * 1e6, 1) for count, taken in by_rays.items()
        },
        **about,
    }
    print(json.dumps(report, indent=1))
    if asked.write:
        experiment.write("render", report)


if __name__ == "__main__":
    main()
