"""What jobs on a data set read and hold of it does not grow as it does."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import derive as deriver
from data_tools import rearrange, selection
from data_tools import shard as sharder
from data_tools.items import Item
from data_tools.settings import Settings
from hvdm.data.schema import (
    VERSION,
    Entry,
    Manifest,
    Shard,
    index_bytes,
    index_path,
    write_manifest,
)
from hvdm.data.store import LocalStore
from hvdm.disk import sha256_of
from launcher import cli
from tests.data_tools import videos
from tests.seams.derived import Shifts


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


def test_a_derived_shard_costs_no_manifest(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for per_shard in (4, 20):
        source, read = tmp_path / f"by-{per_shard}", []
        rearrange.reshard(shapes, source, per_shard=per_shard)
        honest = deriver.read_manifest
        with monkeypatch.context() as patch:
            patch.setattr(
                deriver, "read_manifest", lambda *g, n=read, h=honest: n.append(g) or h(*g)
            )
            deriver.derive(source, tmp_path / f"of-{per_shard}", Shifts())
        counts.append(len(read))
    assert counts[0] == counts[1]


def probed(sources: int, each: int) -> Iterator[tuple[Item, dict[str, Any]]]:
    piece = {"dark": 0.0, "change": 9.0, "motion": 0.5, "seen": "0" * 32}
    for number in range(sources):
        pieces = [{"start": 64 * n, "end": 64 * n + 64, **piece} for n in range(each)]
        about = {"sha256": sha256_of(str(number).encode()), "width": 64, "height": 64}
        yield Item(f"{number}.mp4", f"/{number}.mp4", "video"), {**about, "clips": pieces}


def indexed(folder: Path, samples: int, per_shard: int = 50) -> Path:
    """A split of shards that are not there, with their indices."""
    folder.mkdir(parents=True)
    rows = []
    for first in range(0, samples, per_shard):
        keys = (f"a-long-name-of-a-clip-{n:09d}" for n in range(first, first + per_shard))
        data = index_bytes(tuple(Entry(key, 0, 1, sha256_of(key.encode())) for key in keys))
        name = f"shard-{first // per_shard:06d}.tar"
        index_path(folder, name).write_bytes(data)
        rows.append(Shard(name, 1, sha256_of(b""), per_shard, sha256_of(data)))
    write_manifest(folder, Manifest(VERSION, folder.name, samples, tuple(rows), {}))
    return folder


def bytes_of_each(use: Callable[[int], Any], few: int, many: int) -> float:
    peaks = []
    use(few)  # what is imported and kept on the way is not counted
    for count in (few, many):
        tracemalloc.start()
        use(count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (many - few)


def test_clips_that_are_chosen_are_rows_of_numbers() -> None:
    settings = Settings(test=0.0)

    def chosen(count: int) -> None:
        rows = selection.make(probed(20, count // 20), settings).splits["train"]
        assert sorted(map(tuple, rows.tolist())) == [
            (source, number) for source in range(20) for number in range(count // 20)
        ]

    assert bytes_of_each(lambda n: selection.make(probed(20, n // 20), settings), 2000, 6000) < 200
    chosen(200)


def test_samples_that_are_compared_are_rows_of_numbers(tmp_path: Path) -> None:
    sets = {n: indexed(tmp_path / f"{n}" / "train", n) for n in (2000, 6000)}
    assert bytes_of_each(lambda n: rearrange.diff(sets[n], sets[n]), 2000, 6000) < 450
    ordered = bytes_of_each(
        lambda n: rearrange._ordered(rearrange._places([sets[n]], 1), 1), 2000, 6000
    )
    assert ordered < 200
    answer = rearrange.diff(sets[2000], sets[6000])["splits"]["train"]
    assert answer["same"] == 2000 and not answer["only_first"] and not answer["changed"]
    names = [f"a-long-name-of-a-clip-{n:09d}" for n in range(2000, 6000)]
    assert answer["only_second"] == names
