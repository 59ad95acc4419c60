"""What WaveDiff learns from: its wavelet components, its losses, and how soon, beside DDGAN.

    python -m benchmarks.wavediff_learning DIR [curve] [losses] [components]

Runs that are there already are used; results go to benchmarks/results/wavediff_learning.json, each
as soon as it is there. One CPU core; three seeds of each variant, at most 4 minutes a run.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks import experiment
from data_tools.synthetic.making import make
from eval.evaluate import Request, evaluate
from hvdm import opening, sampling
from hvdm.checkpoint import checkpoint
from hvdm.config import RunConfig
from hvdm.ops.wavelet import haar
from hvdm.recipe import to_model

SEEDS, CLIPS = (0, 1, 2), 1000
SHORT = ("samples=6Ki", "optimizer.decay=[3Ki,6Ki]")
SYSTEMS = {"WaveDiff": (), "DDGAN": ("model.space=pixels", "model.multipliers=[1,1,2,2]")}
LOSSES = {
    "whole": (),
    "no reconstruction term": ("model.reconstruction=0",),
    "no critic": ("model.adversarial=false",),
}
EMBEDDED = (
    "batch=16", "micro_batch=16", "samples=3Ki", "optimizer.decay=[1536,3Ki]",
    "data.height=64", "data.width=64", "model.labels=0", "model.blocks=1", "model.critic=large",
)  # fmt: skip
PARTS = ("bottleneck", "resampling", "pyramid")
COMPONENTS = {
    "all three": PARTS,
    **{f"no {part}": tuple(kept for kept in PARTS if kept != part) for part in PARTS},
    "none": (),
}
SIDES = (2, 3)

Row = dict[str, Any]
"""The variant, its seed, and figures by name."""


def main() -> None:
    where, asked = experiment.folder(), sys.argv[2:]
    for name, part in {"curve": curve, "losses": losses, "components": components}.items():
        if not asked or name in asked:
            part(where)


def keep(part: str, rows: Sequence[Row], **told: Any) -> None:
    """Beside what other parts have found."""
    found = experiment.read("wavediff_learning")
    mine = {**told, "mean": averaged(rows), "runs": list(rows)}
    about = experiment.about(f"DIR {part}")
    experiment.write("wavediff_learning", {**found, part: {**about, **mine}})
    print(rows[-1], flush=True)


def averaged(rows: Sequence[Row]) -> dict[str, Any]:
    """Of each variant over its seeds: means, and standard errors where there are several."""
    found = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        found[name] = {key: _spread([row[key] for row in own]) for key in figures(own[0])}
    return found


def figures(row: Row) -> list[str]:
    return [key for key in row if key not in ("variant", "seed", "curve")]


def _spread(values: Sequence[float]) -> list[float]:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return [round(mean(values), 4), round(error, 4)]


def trained(
    where: Path, name: str, overrides: Sequence[str], seed: int, data: Path
) -> tuple[Path, RunConfig]:
    run = where / f"{name.replace(' ', '-')}-{seed}"
    typed = [f"data.path={data}", f"seed={seed}", *overrides]
    return run, experiment.trained("tiny/wavediff", run, typed)


# Digits


def digits(where: Path) -> Path:
    out = where / "digits"
    make(out, kind="digits", train=1400, test=397, frames=1, height=32, width=32)
    return out


def read(run: Path, step: int | None = None) -> dict[str, float]:
    """By the reader of digits."""
    at = f"{run}@{step}" if step else str(run)
    found = evaluate(Request(at, "digits@1", clips=CLIPS, pictures=False), say=lambda text: None)
    whole = {**found["values"], "debiased": found["debiased"]["distance"]}
    return {name: round(value, 4) for name, value in whole.items() if name != "distance_blurred"}


def curve(where: Path) -> None:
    """Distance against samples seen, of the seed that each variant has first."""
    rows: list[Row] = []
    for name, overrides in SYSTEMS.items():
        kept = ("checkpoint.every=1Ki", "checkpoint.keep=100", *SHORT)
        run, config = trained(where, f"curve {name}", (*overrides, *kept), 0, digits(where))
        steps = [found.step for found in checkpoint.listed(run) if found.step]
        points = [{"samples": step * config.batch, **read(run, step)} for step in steps]
        rows.append({"variant": name, "seed": 0, "curve": points, **read(run)})
        keep("curve", rows, settings=kept)


def losses(where: Path) -> None:
    def measured(run: Path, config: RunConfig) -> dict[str, float]:
        return read(run)

    _each("losses", where, LOSSES, SHORT, digits(where), measured)


# Frames of textured shapes


def components(where: Path) -> None:
    """Frames have high bands, which digits have hardly any of."""
    data = where / "frames"
    if not data.exists():
        make(data, train=1024, test=256, frames=1, height=64, width=64)
    variants = {
        name: tuple(f"model.{part}={str(part in kept).lower()}" for part in PARTS)
        for name, kept in COMPONENTS.items()
    }
    _each("components", where, variants, EMBEDDED, data, textured)


def textured(run: Path, config: RunConfig) -> dict[str, float]:
    """Distance by untrained features, and the energy of high bands over that of real frames."""
    asked = Request(str(run), "fid@1", "untrained", clips=256, pictures=False)
    found = evaluate(asked, say=lambda text: None)
    opened = opening.open_run(run)
    made = sampling.draw(opened, sampling.ask(opened.recipe), 0, tuple(range(256)))
    real = to_model(experiment.held_out(config))[:, :, 0]
    ratio = float(high(made) / high(real))
    return {"distance": round(found["values"]["fid"], 4), "high_bands": round(ratio, 4)}


def high(pictures: torch.Tensor) -> torch.Tensor:
    return haar(pictures, SIDES)[:, 1:].square().mean()


def _each(
    part: str,
    where: Path,
    variants: Mapping[str, Sequence[str]],
    settings: Sequence[str],
    data: Path,
    measured: Callable[[Path, RunConfig], dict[str, float]],
) -> None:
    rows: list[Row] = []
    for seed in SEEDS:
        for name, overrides in variants.items():
            run, config = trained(where, f"{part} {name}", (*settings, *overrides), seed, data)
            rows.append({"variant": name, "seed": seed, **measured(run, config)})
            keep(part, rows, settings=settings)


if __name__ == "__main__":
    main()
