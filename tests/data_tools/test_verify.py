import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools.synthetic.making import encode_h264, make
from data_tools.synthetic.rendering import render
from data_tools.verify import verify
from data_tools.writer import Sample, write_shard
from hvdm.data.schema import VERSION, Manifest, read_index, read_manifest, write_manifest
from hvdm.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "set"
    make(out, train=6, test=2, per_shard=3, frames=4, height=32, width=32)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def found(folder: Path) -> list[tuple[str, str, str | None]]:
    report = verify(folder)
    assert not report.ok and json.loads(json.dumps(report.as_json()))["ok"] is False
    return [(damage.split, damage.shard, damage.key) for damage in report.damage]


def test_a_whole_set_passes(whole: Path) -> None:
    report = verify(whole)
    assert report.ok and "3 shards, 8 clips, 32 frames decoded, no damage" in str(report)
    assert json.loads(json.dumps(report.as_json()))["shards"][0]["samples"] == 2
    assert verify(whole / "train").ok
    assert sum(shard.frames for shard in verify(whole, decode=False).shards) == 0


def test_a_flipped_byte_is_found_with_its_key(copy: Path) -> None:
    shard = read_manifest(copy / "train").shards[1]
    entry = read_index(copy / "train", shard)[2]
    flip(copy / "train" / shard.name, entry.offset + entry.bytes // 2)
    assert found(copy) == [
        ("train", "shard-000001.tar", None),
        ("train", "shard-000001.tar", "train-00000005"),
    ]


def test_a_flipped_byte_in_the_padding_is_found(copy: Path) -> None:
    flip(copy / "test/shard-000000.tar", -1)
    assert found(copy) == [("test", "shard-000000.tar", None)]


def test_a_cut_shard_names_the_keys_that_are_lost(copy: Path) -> None:
    path = copy / "train/shard-000000.tar"
    entry = read_index(copy / "train", read_manifest(copy / "train").shards[0])[1]
    path.write_bytes(path.read_bytes()[: entry.offset + entry.bytes])
    assert found(copy) == [
        ("train", "shard-000000.tar", None),
        ("train", "shard-000000.tar", "train-00000002"),
    ]


def test_damage_anywhere_is_named(copy: Path) -> None:
    """One bit flipped, and a shard cut, at 100 random places each: its samples by their keys."""
    chosen, shards = random.Random(0), read_manifest(copy / "train").shards
    for turn in range(200):
        shard = chosen.choice(shards)
        path, entries = copy / "train" / shard.name, read_index(copy / "train", shard)
        whole, place = path.read_bytes(), chosen.randrange(shard.bytes)
        if turn % 2:
            flip(path, place)
            keys = {e.key for e in entries if e.offset <= place < e.offset + e.bytes}
        else:
            path.write_bytes(whole[:place])
            keys = {e.key for e in entries if e.offset + e.bytes > place}
        named = {damage.key for damage in verify(copy, decode=False).damage}
        assert named == {None, *keys}, (turn, place)
        path.write_bytes(whole)


def test_missing_and_strange_files_are_found(copy: Path) -> None:
    (copy / "train/shard-000000.tar").rename(copy / "train/other.tar")
    (copy / "train/shard-000001.index.json").unlink()
    (copy / "test/manifest.json").write_text("{}")
    assert found(copy) == [
        ("test", "manifest.json", None),
        ("train", "other.tar", None),
        ("train", "shard-000000.tar", None),
        *(("train", "shard-000000.tar", f"train-0000000{n}") for n in range(3)),
        ("train", "shard-000001.tar", None),
    ]


def test_a_split_that_lost_its_manifest_is_damage_and_no_data_is_a_mistake(
    copy: Path, tmp_path: Path
) -> None:
    (copy / "test/manifest.json").unlink()
    assert found(copy) == [("test", "manifest.json", None)]
    with pytest.raises(UserError, match="does not exist"):
        verify(tmp_path / "nothing")
    with pytest.raises(UserError, match="not a data set"):
        verify(tmp_path / "set/..")


def test_what_was_written_wrong_is_found_by_decoding(tmp_path: Path) -> None:
    video = encode_h264(np.zeros((4, 32, 32, 3), np.uint8), 8)
    concealed = bytearray(encode_h264(render(0, 1, 4, 64, 64).video, 8))
    concealed[len(concealed) // 2] ^= 0x55
    samples = [
        Sample("good", {"mp4": video}),
        Sample("count", {"mp4": video, "json": b'{"frames": 5}'}),
        Sample("cut", {"mp4": video[:-40]}),
        Sample("concealed", {"mp4": bytes(concealed)}),
        Sample("text", {"json": b"{}"}),
        Sample("json", {"mp4": video, "json": b"{"}),
    ]
    shard = write_shard(tmp_path / "shard-000000.tar", samples)
    write_manifest(tmp_path, Manifest(VERSION, "train", 6, (shard,), {}))
    assert [key for _, _, key in found(tmp_path)] == ["count", "cut", "concealed", "text", "json"]
    assert verify(tmp_path, decode=False).ok
