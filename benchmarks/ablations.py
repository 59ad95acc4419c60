"""The hybrid autoencoder against its branches alone: equal steps, three seeds, held-out clips.

`python -m benchmarks.ablations DIR`; results go to benchmarks/results/ablations.json.
"""

import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import experiment
from hvdm import opening
from hvdm.ops.wavelet import SPACE_TIME, haar
from hvdm.recipe import as_batch, to_model

SEEDS, STEPS = (0, 1, 2), 600
SETTINGS = (
    f"steps={STEPS}",
    f"optimizer.decay=[0,{8 * STEPS}]",
    "checkpoint.every=100k",
    "model.patch=8",
    "model.latent_channels=12",
)
VARIANTS = {
    "hybrid": ("model.branches=both",),
    "triplane only": ("model.branches=triplane",),
    "wavelet only": ("model.branches=wavelet",),
}


def main() -> None:
    where = experiment.folder()
    data = experiment.shapes(where)
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for name, overrides in VARIANTS.items():
            run = where / f"ablation-{name.replace(' ', '-')}-{seed}"
            rows.append({"variant": name, "seed": seed, **measured(run, data, seed, overrides)})
            print(rows[-1], flush=True)
    experiment.write("ablations", {**experiment.about("DIR"), **summary(rows), "runs": rows})


def measured(run: Path, data: Path, seed: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    typed = [f"data.path={data}", f"seed={seed}", *SETTINGS, *overrides]
    config = experiment.trained("tiny/hvdm_autoencoder", run, typed)
    video = to_model(experiment.held_out(config))
    opened = opening.open_run(run)
    with torch.no_grad():
        coder: Any = opened.recipe.coder
        output = coder.decode(opened.nets, coder.encode(opened.nets, as_batch(video)))["video"]
    parameters = sum(p.numel() for p in opened.nets.parameters())
    return {"parameters": parameters, **errors(video, output)}


def errors(video: Tensor, output: Tensor) -> dict[str, float]:
    """PSNR, and what is lost of the energy of each kind of Haar band: 1 is all of it."""
    mse = ((output - video) / 2).square().mean((1, 2, 3, 4))
    bands, lost = haar(video, SPACE_TIME), haar(output - video, SPACE_TIME)
    kinds = {"low": [0], "space": [1, 2, 3], "time": [4], "space and time": [5, 6, 7]}
    shares = {
        f"lost_{kind}": float(lost[:, of].square().sum() / bands[:, of].square().sum())
        for kind, of in kinds.items()
    }
    psnr = float((-10 * mse.log10()).mean())
    return {name: round(value, 4) for name, value in {"psnr": psnr, **shares}.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with their standard errors, and the hybrid's lead seed by seed."""
    keys = [key for key in rows[0] if key.startswith(("psnr", "lost"))]
    found: dict[str, Any] = {"steps": STEPS, "settings": list(SETTINGS), "mean": {}, "error": {}}
    for name in VARIANTS:
        own = [row for row in rows if row["variant"] == name]
        values = {key: [row[key] for row in own] for key in keys}
        found["mean"][name] = {k: round(statistics.mean(v), 4) for k, v in values.items()}
        found["error"][name] = {
            k: round(statistics.stdev(v) / math.sqrt(len(v)), 4) for k, v in values.items()
        }
    psnr = {(row["variant"], row["seed"]): row["psnr"] for row in rows}
    found["hybrid_ahead_db"] = {
        name: [round(psnr["hybrid", seed] - psnr[name, seed], 2) for seed in SEEDS]
        for name in list(VARIANTS)[1:]
    }
    return found


if __name__ == "__main__":
    main()
