"""WaveDiff's runs are measured alike wherever their blocks are."""

import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_tools.synthetic.making import make
from eval.clips import subject
from eval.evaluate import Request, evaluate
from hvdm import building, opening
from hvdm import config as configs
from hvdm.checkpoint import checkpoint
from launcher import compose

NARROW = [
    "model.width=8", "model.multipliers=[1,2]", "model.critic_width=4", "model.mapping=1",
    "model.critic_layers=2",
]  # fmt: skip
FRAMES = {"wavediff": 1, "wavediff_video": 8}


@pytest.fixture(params=list(FRAMES))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    frames = FRAMES[request.param]
    kind = "digits" if frames == 1 else "moving_digits"
    make(tmp_path / "data", kind=kind, train=24, test=24, per_shard=12, frames=frames, height=32,
         width=32)  # fmt: skip
    folder = tmp_path / "run"
    where = [f"run={folder}", f"data.path={tmp_path}/data"]
    config = compose.run_config(f"tiny/{request.param}", [*NARROW, *where])
    checkpoint.save_weights(folder, 0, building.build_recipe(config).trained, {})
    (folder / opening.CONFIG_FILE).write_text(yaml.safe_dump(configs.plain(config)))
    return folder


def dealt(workers: int) -> Callable[[Any, Iterable[Any]], Iterator[Any]]:
    """As workers elsewhere would: by bytes, in turns, the last one first."""

    def work(function: Any, items: Iterable[Any]) -> Iterator[Any]:
        every = list(items)
        for worker in reversed(range(workers)):
            for item in every[worker::workers]:
                subject.forget()
                yield pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(item)))))

    return work


def test_equal_json_on_1_2_and_3_workers(run: Path, cache: Path) -> None:
    config = opening.read_config(run)
    protocol = "digits@1" if config.data.frames == 1 else "fvd/tf-reference@1"
    detector = None if config.data.frames == 1 else "untrained"
    asked = Request(str(run), protocol, clips=24, detector=detector, again=True, pictures=False)
    found = []
    for workers in (1, 2, 3):
        result = evaluate(asked, dealt(workers), lambda text: None)
        found.append({k: v for k, v in result.items() if k not in ("time", "seconds")})
        shutil.rmtree(cache / "features")
    assert found[0] == found[1] == found[2] and found[0]["values"]
