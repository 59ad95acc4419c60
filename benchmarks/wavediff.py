"""`make bench-wavediff`: what WaveDiff's networks cost, and how fast they sample, beside others.

Multiply-adds of each generator; sampling of one picture against DDGAN's generator at equal calls,
and against the same network with the wavelet transform as matrix products, as the public code has
it; a clip against 100 steps of DDIM of HVDM's diffusion. Networks are untrained, which changes no
times. What is compared runs in turn in each round, on one thread; seconds are those of the
processor, so that what else runs on the machine counts for little; ratios are medians over rounds.
HVDM's clip is one step times 100 and what is left, which is its decoder.

`--part` measures one part anew and leaves the others as they are.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import experiment, full_size
from hvdm import building
from hvdm.recipe import Noise, Recipe
from hvdm.recipes.wavediff import layers
from hvdm.sampling import ask
from launcher import compose
from launcher.sizing.models import on_meta

PUBLISHED = {
    "cifar10": 1.671, "stl10": 7.135, "celeba_256": 28.421, "celeba_512": 73.954,
    "celeba_1024": 77.729,
}  # fmt: skip
"""Billions of multiply-adds of a call, as measured on the public code without its products."""
STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--part", choices=list(PARTS), action="append")
    asked = parser.parse_args()
    with torch.no_grad():
        for name in asked.part or PARTS:
            found = {name: PARTS[name]()}
            print(found, flush=True)
            if asked.write:
                known = experiment.read("wavediff")
                experiment.write("wavediff", {**known, **found, **experiment.about("--write")})


# Multiply-adds


def multiply_adds() -> dict[str, Any]:
    return {size: _of_a_call(size, published) for size, published in PUBLISHED.items()}


def _of_a_call(size: str, published: float) -> dict[str, float]:
    recipe: Any = on_meta(compose.run_config(f"wavediff/{size}"))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        y, z = torch.zeros(1, *recipe.bands.shape), torch.zeros(1, recipe.drawn)
        recipe.trained["generator"](y, torch.zeros(1, dtype=torch.long), z)
    billions = counter.get_total_flops() / 2e9
    return {"billions": round(billions, 3), "published": published,
            "apart": round(billions / published - 1, 5)}  # fmt: skip


# Sampling


def cifar10() -> dict[str, Any]:
    return _compared({"wavediff": _sampler("wavediff/cifar10"), "ddgan": _sampler("ddgan/cifar10")},
                     rounds=9)  # fmt: skip


def celeba_256() -> dict[str, Any]:
    ours = _sampler("wavediff/celeba_256")

    def of_products() -> None:
        with products():
            ours()

    others = {"ddgan": _sampler("ddgan/celeba_256"), "products": of_products}
    return _compared({"wavediff": ours, **others}, rounds=5)


def clip() -> dict[str, Any]:
    """A clip of 16x64x64."""
    hvdm = _built("hvdm_ucf101_64/diffusion")
    samplers = {
        "wavediff": _sampler("wavediff/ucf101_64"),
        "two steps": lambda: _sample(hvdm, steps=2),
        "four steps": lambda: _sample(hvdm, steps=4),
    }
    times = _in_turn(samplers, rounds=3)
    rounds = zip(*times.values(), strict=True)
    clips = [two + (STEPS - 2) * (four - two) / 2 for _, two, four in rounds]
    return _told({"wavediff": times["wavediff"], "hvdm": clips})


def _built(name: str) -> Recipe:
    config = compose.run_config(name, ["data.path=unused"])
    recipe = building.build_recipe(config, full_size.stages(config))
    recipe.trained.eval()
    return recipe


def _sampler(name: str) -> Callable[[], None]:
    recipe = _built(name)
    return lambda: _sample(recipe)


def _sample(recipe: Recipe, steps: int | None = None) -> None:
    recipe.sample(recipe.trained, ask(recipe, steps=steps), Noise(0, (0,)))


def _compared(samplers: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Any]:
    return _told(_in_turn(samplers, rounds))


def _in_turn(samplers: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds by round, after one call each that does not count."""
    for sample in samplers.values():
        sample()
    times: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            began = time.process_time()
            sample()
            times[name].append(time.process_time() - began)
    return times


def _told(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Median seconds, and how much slower than ours the others are."""
    ours = times["wavediff"]
    told: dict[str, Any] = {
        "seconds": {name: round(statistics.median(values), 4) for name, values in times.items()}
    }
    for name, values in times.items():
        if name != "wavediff":
            ratios = [other / own for other, own in zip(values, ours, strict=True)]
            told[f"times faster than {name}"] = round(statistics.median(ratios), 3)
    return told


# The wavelet transform as the public code has it


@contextmanager
def products() -> Iterator[None]:
    """Matrix products instead of slices, in the network."""
    own = layers.haar, layers.inverse_haar
    layers.haar, layers.inverse_haar = product_haar, inverse_product_haar
    try:
        yield
    finally:
        layers.haar, layers.inverse_haar = own


def product_haar(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    (low_h, high_h), (low_w, high_w) = (_matrices(x.shape[dim]) for dim in dims)
    low, high = low_h @ x, high_h @ x
    return torch.stack((low @ low_w.T, low @ high_w.T, high @ low_w.T, high @ high_w.T), 1)


def inverse_product_haar(bands: Tensor, dims: tuple[int, ...]) -> Tensor:
    (low_h, high_h), (low_w, high_w) = (_matrices(2 * bands.shape[dim + 1]) for dim in dims)
    ll, lh, hl, hh = bands.unbind(1)
    return low_h.T @ (ll @ low_w + lh @ high_w) + high_h.T @ (hl @ low_w + hh @ high_w)


def _matrices(size: int) -> tuple[Tensor, Tensor]:
    """Half as many rows as columns, of pairs' sums and of their differences."""
    pairs = torch.eye(size // 2)
    return tuple(torch.kron(pairs, torch.tensor([[1.0, sign]])) / 2**0.5 for sign in (1.0, -1.0))  # type: ignore[return-value]


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    part.__name__: part for part in (multiply_adds, cifar10, celeba_256, clip)
}

if __name__ == "__main__":
    main()
