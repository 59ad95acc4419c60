"""Run folders of a toy family over a small data set of rendered clips."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_tools.synthetic.making import make
from eval.clips import files
from eval.clips.subject import forget
from hvdm import building, opening
from hvdm import config as configs
from hvdm.checkpoint import checkpoint

MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features of one test are not found by another."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HVDM_CACHE", str(folder))
    monkeypatch.delenv("HVDM_WEIGHTS", raising=False)
    files.forget()
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "clips"
    make(folder, train=0, test=21, per_shard=8, frames=6, height=32, width=32)
    return folder


@pytest.fixture
def make_run(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRun]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def make_one(
        name: str = "run",
        kind: str = "autoencoder",
        scale: float = 1.0,
        step: int = 4,
        extra: Any = None,
        average: float | None = None,
        data: Path = clips,
    ) -> Path:
        run = tmp_path / name
        config = configs.load(
            {
                "recipe": "eval_toy_recipe",
                "model": {"kind": kind, "scale": scale, "averaged": average is not None},
                "data": {"path": str(data), "frames": 6, "height": 32, "width": 32},
                "optimizer": {"name": "sgd", "lr": 0.1},
                "engine": {"name": "local"},
                "cluster": {"name": "inline"},
                "batch": 4,
                "micro_batch": 4,
                "samples": 64,
                "run": str(run),
            }
        )
        run.mkdir(exist_ok=True)
        (run / opening.CONFIG_FILE).write_text(yaml.safe_dump(configs.plain(config)))
        recipe = building.build_recipe(config)
        engines = building.build_engines(config, recipe)
        averages = building.build_averages(config, recipe, engines)
        for kept in averages.values():
            kept.averages[0].fill_(average)
        checkpoint.save(run, step, engines, averages, extra or {})
        return run

    yield make_one
    forget()


@pytest.fixture
def video() -> torch.Tensor:
    """Two clips of noise, uint8 `B T H W C`."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (2, 5, 16, 18, 3), generator=generator, dtype=torch.uint8)
