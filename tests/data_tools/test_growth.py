"""What a sharding job reads of its own data set does not grow with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import shard as sharder
from hvdm.data.store import LocalStore
from launcher import cli
from tests.data_tools import videos


def pictures(folder: Path, first: int, last: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(first, last):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        (folder / f"{number}.png").write_bytes(videos.png(pixels))


def appended(
    folder: Path, before: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, int]:
    """A picture is added to as many shards: manifests and samples that are read then."""
    typed = ["data", "shard", f"source={folder / 'p'}", f"out={folder / 'set'}", "mode=images"]
    typed += ["per_shard=1", "test=0"]
    folder.mkdir()
    pictures(folder / "p", 0, before)
    assert cli.main(typed) == 0
    pictures(folder / "p", before, before + 1)
    manifests, samples = [], []
    with monkeypatch.context() as patch:
        manifest_of, ranges = sharder.read_manifest, LocalStore.read_range

        def counted(*given: Any) -> Any:
            manifests.append(given)
            return manifest_of(*given)

        def watched(*given: Any) -> bytes:
            samples.append(given)
            return ranges(*given)

        patch.setattr(sharder, "read_manifest", counted)
        patch.setattr(LocalStore, "read_range", watched)
        assert cli.main(typed) == 0
    capsys.readouterr()
    assert cli.main(["data", "stats", str(folder / "set"), "--json"]) == 0
    told = json.loads((folder / "set/stats.json").read_text())["splits"]
    assert json.loads(capsys.readouterr().out) == told
    assert told["train"]["sources"] == before + 1
    return len(manifests), len(samples)


def test_more_shards_are_not_more_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = appended(tmp_path / "few", 2, monkeypatch, capsys)
    assert few == appended(tmp_path / "many", 9, monkeypatch, capsys) and few[1] == 0
