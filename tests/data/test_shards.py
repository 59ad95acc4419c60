import gc
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import webdataset

from hvdm.data import shards
from hvdm.data.schema import DamagedSample, read_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import RunError


@pytest.fixture
def split(clips_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(clips_folder / "train", tmp_path / "train"))


def by_webdataset(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # WebDataset leaves closing to the GC
        samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
        gc.collect()
    return [
        (sample["__key__"], {name: part for name, part in sample.items() if name[0] != "_"})
        for sample in samples
    ]


def test_random_access_gives_what_webdataset_reads(clips_folder: Path) -> None:
    manifest = read_manifest(clips_folder / "train")
    reader = ShardReader(clips_folder / "train", manifest)
    for number, shard in enumerate(manifest.shards):
        expected = by_webdataset(clips_folder / "train" / shard.name)
        places = range(shard.samples)
        assert [(reader.key(number, i), reader.sample(number, i)) for i in places] == expected


def test_many_threads_read_the_same(clips_folder: Path) -> None:
    reader = ShardReader(clips_folder / "train", read_manifest(clips_folder / "train"))
    alone = [reader.sample(shard, 2) for shard in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: reader.sample(n % 4, 2), range(64)))
    assert together == alone * 16


def test_a_short_or_missing_shard_is_found_when_sizes_are_asked_for(split: Path) -> None:
    reader, shard = ShardReader(split, read_manifest(split)), split / "shard-000002.tar"
    assert reader.size_problem() is None
    shard.write_bytes(shard.read_bytes()[: 20 * 512])
    assert "shard-000002.tar has 10240 bytes instead of" in str(reader.size_problem())
    shard.unlink()
    (split / "shard-000003.tar").unlink()
    assert "shard-000002.tar is missing (and 1 more" in str(reader.size_problem())
    assert "shard-000003.tar is missing; restore" in str(reader.size_problem((1, 2)))
    assert reader.size_problem((1, 4)) is None


def test_ranks_share_the_question_for_sizes(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening asks for none; what the ranks ask for is every shard once."""
    asked: list[str] = []
    honest = shards.size_problem
    monkeypatch.setattr(
        shards, "size_problem", lambda folder, one: asked.append(one.name) or honest(folder, one)
    )
    reader, world = ShardReader(split, read_manifest(split)), 3
    assert reader.sample(0, 0) and not asked
    assert [reader.size_problem((rank, world)) for rank in range(world)] == [None] * world
    assert sorted(asked) == sorted(shard.name for shard in reader.manifest.shards)


def test_a_changed_byte_is_found_at_reading(split: Path) -> None:
    reader = ShardReader(split, read_manifest(split))
    entry, shard = reader._index(1)[4], split / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[entry.offset + entry.bytes - 1000] ^= 4
    shard.write_bytes(data)
    with pytest.raises(DamagedSample, match=f"shard-000001.tar/{entry.key}: its bytes"):
        reader.sample(1, 4)
    reader.sample(1, 3)
    reader.sample(1, 5)


def test_a_shard_that_shrinks_later_is_found_at_reading(split: Path) -> None:
    reader = ShardReader(split, read_manifest(split))
    reader.key(0, 0)
    for number in (0, 1):
        shard = split / f"shard-00000{number}.tar"
        shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DamagedSample, match="bytes are there"):
        reader.sample(0, 6)
    with pytest.raises(RunError, match=r"shard-000001.tar has fewer bytes"):
        reader.sample(1, 0)


def test_a_failing_file_system_is_named(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvdm.data.store.PAUSES", (0.0,))
    reader = ShardReader(split, read_manifest(split))
    (split / "shard-000000.tar").unlink()
    with pytest.raises(RunError, match=r"cannot read .*shard-000000.tar: there is no such"):
        reader.sample(0, 0)


def test_a_damaged_sample_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DamagedSample("shard-000001.tar", "a", "is cut")))
    assert (error.shard, error.key, error.reason) == ("shard-000001.tar", "a", "is cut")
