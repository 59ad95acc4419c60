"""What is damaged: a small data set, a run with two checkpoints, weights and a list of sources."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from data_tools.synthetic.making import make
from launcher.cli import main

FLOW = Path(__file__).parents[1] / "sixth" / "toy_flow.yaml"


def base(folder: Path) -> None:
    """In the folder: `set`, `run`, `weights`, `sources`."""
    make(folder / "set", seed=3, train=6, test=2, per_shard=3, frames=8, height=16, width=16, fps=8)
    words = [f"config={FLOW}", f"data.path={folder}/set", f"run={folder}/run", "steps=4"]
    more = ["checkpoint.every=10", "cluster=inline", "log.tensorboard=false", "data.lanes=2"]
    assert main(["train", *words, *more]) == 0
    evaluated(folder)
    _weights(folder / "weights")
    _sources(folder / "sources")


def evaluated(folder: Path) -> None:
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", np.random.default_rng(ord(name)).normal(size=(12, 4)))
    sides = [f"real={folder}/a.npy", f"generated={folder}/b.npy"]
    assert main(["evaluate", *sides, "protocol=features@1", f"out={folder}/run/evaluations"]) == 0


def _weights(folder: Path) -> None:
    folder.mkdir()
    state = {f"layer{i}.weight": torch.arange(12.0).reshape(3, 4) + i for i in range(3)}
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "a.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)


def _sources(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    rows = [{"path": f"{n}.png", "label": n, "split": ("train", "test")[n % 2], "caption": "a"}
            for n in range(4)]  # fmt: skip
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    (folder / "list.txt").write_text("\n".join(row["path"] for row in rows) + "\n")
