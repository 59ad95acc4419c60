import json
import shutil
from pathlib import Path

import pytest

from hvdm.data.schema import MANIFEST, manifest_hash, read_index, read_manifest
from hvdm.errors import RunError, UserError


def test_a_manifest_says_what_there_is(clips_folder: Path) -> None:
    manifest = read_manifest(clips_folder / "train")
    assert (manifest.split, manifest.samples) == ("train", 26)
    assert [shard.samples for shard in manifest.shards] == [7, 7, 7, 5]
    assert manifest_hash(manifest) != manifest_hash(read_manifest(clips_folder / "test"))


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist.*hvdm data synthetic out="):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"not a data set.*hvdm data synthetic out="):
        read_manifest(tmp_path)


def test_a_data_set_is_not_one_of_its_splits(clips_folder: Path) -> None:
    with pytest.raises(UserError, match=r"/test or .*/train"):
        read_manifest(clips_folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 99}, "schema version 99"),
        ({"samples": 4}, "add up"),
        ({"shards": "all"}, "'shards' is missing or not of type list"),
        ({"shards": [{"name": "../x.tar"}]}, "plain file name"),
    ],
)
def test_a_wrong_manifest_is_refused(
    clips_folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    content = json.loads((clips_folder / "test" / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_manifest(tmp_path)


def test_an_index_of_other_data_is_refused(clips_folder: Path, tmp_path: Path) -> None:
    split = Path(shutil.copytree(clips_folder / "test", tmp_path / "test"))
    shard = read_manifest(split).shards[0]
    index = split / "shard-000000.index.json"
    index.write_bytes(index.read_bytes().replace(b'"offset":0', b'"offset":1'))
    with pytest.raises(RunError, match="not the one of the manifest"):
        read_index(split, shard)
    index.unlink()
    with pytest.raises(RunError, match="missing"):
        read_index(split, shard)
