"""`make bench-splat`: splatting at 256x160 with 64 channels, beside what it replaces.

In turn in one process, on one thread: ours, a `scatter_add` for each corner and channel, and Python
loops over pixels (over a strip of the picture; their time is proportional to pixels). Seconds are
those of the processor, so that what else runs on the machine counts for little. Memory is by how
much the process grew at the peak of our operation, which was called once before on a small picture,
so that libraries are loaded. The tiny and the default renderer draw frames at the same size, on all
threads, in seconds as they pass.
"""

import argparse
import json
import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks import experiment
from hvdm.ops.splat import front, splat
from hvdm.recipe import Clip, Given, Noise
from hvdm.recipes.image_dynamics import renderer

HEIGHT, WIDTH, CHANNELS = 160, 256, 64
LINES = 4
"""Of the picture that Python loops over."""


def took(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Seconds of each, in turn in each round; the median."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = clock()
            function()
            times[name].append(clock() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


def by_channel(values: Tensor, flow: Tensor, logits: Tensor) -> Tensor:
    """A scatter_add for each corner and channel."""
    weight = (logits - logits.amax()).exp()
    carried = torch.cat((values * weight, weight), 1)[0]
    rows = torch.arange(HEIGHT)[:, None] + flow[0, 1]
    columns = torch.arange(WIDTH) + flow[0, 0]
    top, left = rows.floor(), columns.floor()
    out = torch.zeros(len(carried), HEIGHT * WIDTH)
    for right in (0, 1):
        for below in (0, 1):
            y, x = top + below, left + right
            share = (1 - (rows - y).abs()) * (1 - (columns - x).abs())
            inside = (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
            place = (y.clamp(0, HEIGHT - 1) * WIDTH + x.clamp(0, WIDTH - 1)).long().flatten()
            for channel, plane in enumerate(carried):
                out[channel].scatter_add_(0, place, (plane * share * inside).flatten())
    total = out[-1:]
    found = out[:-1] / torch.where(total == 0, torch.ones_like(total), total)
    return found.unflatten(1, (HEIGHT, WIDTH))[None]


def by_pixel(values: Tensor, flow: Tensor, logits: Tensor) -> list[list[list[float]]]:
    """Python loops over `LINES` lines."""
    weight = (logits - logits.amax()).exp()[0, 0].tolist()
    (across, down), planes = flow[0].tolist(), values[0].tolist()
    sums = [[[0.0] * (CHANNELS + 1) for _ in range(WIDTH)] for _ in range(HEIGHT)]
    for row in range(LINES):
        for column in range(WIDTH):
            y, x = row + down[row][column], column + across[row][column]
            for below in (math.floor(y), math.floor(y) + 1):
                for right in (math.floor(x), math.floor(x) + 1):
                    if not (0 <= below < HEIGHT and 0 <= right < WIDTH):
                        continue
                    share = (1 - abs(y - below)) * (1 - abs(x - right)) * weight[row][column]
                    place = sums[below][right]
                    for channel in range(CHANNELS):
                        place[channel] += share * planes[channel][row][column]
                    place[CHANNELS] += share
    return sums


def frames_a_second(config: renderer.Config, frames: int) -> float:
    recipe = renderer.build(config, Given(Clip(2, HEIGHT, WIDTH)))
    assert isinstance(recipe, renderer.Renderer)
    picture, motion = torch.rand(1, 3, HEIGHT, WIDTH), torch.randn(1, frames, 2, HEIGHT, WIDTH)
    recipe.film(picture, motion[:, :1], motion, Noise(0, (0,)))
    whole = {"film": lambda: recipe.film(picture, motion, motion, Noise(0, (0,)))}
    return frames / took(whole, 1, time.perf_counter)["film"]


def added_memory(function: Callable[[], object]) -> int:
    """Bytes by which the process has grown at its largest."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    about, threads = experiment.about("--write"), os.cpu_count() or 1
    torch.manual_seed(0)
    values, flow = torch.rand(1, CHANNELS, HEIGHT, WIDTH), 3 * torch.randn(1, 2, HEIGHT, WIDTH)
    logits = front(flow[:, None])
    torch.set_num_threads(1)
    splat(values[..., :8, :8], flow[..., :8, :8], logits[..., :8, :8])
    held = 2 * values.numel() * values.element_size()
    grown = added_memory(lambda: splat(values, flow, logits))
    assert torch.allclose(splat(values, flow, logits).values, by_channel(values, flow, logits),
                          atol=1e-4)  # fmt: skip
    seconds = took(
        {
            "ours": lambda: splat(values, flow, logits),
            "scatter_add": lambda: by_channel(values, flow, logits),
        },
        asked.rounds,
    )
    seconds |= took({"python": lambda: by_pixel(values, flow, logits)}, 1)
    seconds["python"] *= HEIGHT / LINES
    torch.set_num_threads(threads)
    tiny = renderer.Config(widths=(16, 32, 64), blocks=(1, 1, 1), style=32, perceptual="untrained")
    paper = renderer.Config(perceptual="untrained")
    report = {
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "times": {name: round(seconds[name] / seconds["ours"], 2) for name in seconds},
        "memory": round((grown + held / 2) / held, 2),
        "frames_a_second": {
            "tiny": round(frames_a_second(tiny, asked.frames), 2),
            "default": round(frames_a_second(paper, asked.frames), 2),
        },
        **about,
    }
    print(json.dumps(report, indent=1))
    if asked.write:
        experiment.write("splat", report)


if __name__ == "__main__":
    main()
