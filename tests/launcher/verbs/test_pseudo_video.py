"""Pseudo video from the command line: a tokenizer and what is on top, trained, seen, measured."""

import json
from pathlib import Path

import pytest

from launcher.cli import main

QUICK = [
    "steps=2", "batch=4", "micro_batch=4", "data.lanes=4", "data.window=4", "data.threads=1",
    "log.tensorboard=false", "cluster=inline", "model.width=24", "model.heads=2",
]  # fmt: skip
TOKENIZER = ["model.head_dim=8", "model.spatial=1", "model.critic_width=4"]


def told(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    capsys.readouterr()
    assert main(list(typed)) == 0
    return capsys.readouterr().out


def test_tokens_and_frames_are_trained_sampled_and_measured(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"data.path={shapes}"
    below, prior, frames, heat = (f"{tmp_path}/{name}" for name in ("t", "m", "f", "h"))
    told(capsys, "train", "config=tiny/pseudo_tokenizer", f"run={below}", data, *QUICK, *TOKENIZER)
    told(
        capsys, "train", "config=tiny/pseudo_masked", f"run={prior}", f"first_stage={below}", data,
        *QUICK, "model.depth=1", "model.head_dim=12",
    )  # fmt: skip
    told(
        capsys, "train", "config=tiny/pseudo_diffusion", f"run={frames}", data, *QUICK,
        "model.multipliers=[1,2]", "model.sampling_steps=2",
    )  # fmt: skip
    told(
        capsys, "train", "config=tiny/pseudo_heat", f"run={heat}", data, *QUICK,
        "model.multipliers=[1,2]", "model.frames=3",
    )  # fmt: skip
    for run in (prior, frames, heat):
        typed = ("sample", f"run={run}", "count=2", "cluster=inline")
        told(capsys, *typed, "what=images", f"out={run}/images")
        assert list(Path(run, "images").rglob("*.png"))
        told(capsys, *typed, "what=frames", f"out={run}/frames")
        assert list(Path(run, "frames").rglob("*.mp4"))
    measured = ("cluster=inline", "--json")
    found = told(
        capsys, "evaluate", f"run={below}", "protocol=reconstruction@1", "clips=4", *measured
    )
    assert json.loads(found)["values"]["psnr"] > 0
    score = ("protocol=is@1", "detector=digits", "clips=12")
    found = told(capsys, "evaluate", f"run={frames}", *score, *measured)
    assert 1 <= json.loads(found)["values"]["is"] <= 10
