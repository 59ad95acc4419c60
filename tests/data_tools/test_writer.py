import tarfile
from pathlib import Path

import pytest

from data_tools.writer import Sample, commit_folder, part_folder, write_shard
from hvdm.data.schema import Manifest, read_index
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError

SAMPLES = [
    Sample("a", {"mp4": b"x" * 700, "json": b"{}"}),
    Sample("b" * 150, {"txt": b"", "json": b"{}"}),
]


def test_a_shard_does_not_say_when_or_by_whom_it_was_written(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard-000000.tar", SAMPLES)
    with tarfile.open(tmp_path / shard.name) as tar:
        members = tar.getmembers()
    assert [member.name for member in members][:2] == ["a.json", "a.mp4"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}


def test_the_index_covers_long_keys_and_empty_parts(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard-000000.tar", SAMPLES)
    entries = read_index(tmp_path, shard)
    assert entries[1].offset == entries[0].bytes
    reader = ShardReader(tmp_path, Manifest(1, "train", 2, (shard,), {}))
    assert [reader.sample(0, i) for i in range(2)] == [sample.parts for sample in SAMPLES]


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "é", "a b"])
def test_keys_that_webdataset_would_split_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match="use letters"):
        write_shard(tmp_path / "shard-000000.tar", [Sample(key, {"txt": b""})])


def test_equal_keys_and_empty_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="twice"):
        write_shard(tmp_path / "x.tar", [SAMPLES[0], SAMPLES[0]])
    with pytest.raises(UserError, match="no parts"):
        write_shard(tmp_path / "x.tar", [Sample("a", {})])


def test_a_folder_appears_with_the_rename(tmp_path: Path) -> None:
    leftover = part_folder(tmp_path / "set")
    (leftover / "old").write_text("from a killed run")
    part = part_folder(tmp_path / "set")
    assert part == leftover and not list(part.iterdir())
    (part / "new").write_text("")
    commit_folder(part, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
