import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools.preview import preview
from data_tools.rearrange import diff, merge, reshard, text
from data_tools.repair import repair
from data_tools.summary import stats
from data_tools.synthetic.making import make
from data_tools.verify import verify
from hvdm.data.schema import index_path, read_manifest
from hvdm.errors import RunError, UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rearrange") / "set"
    make(out, train=10, test=2, per_shard=4, frames=4, height=32, width=32)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_other_shards_hold_the_same_samples(whole: Path, tmp_path: Path) -> None:
    reshard(whole, tmp_path / "small", per_shard=3)
    assert [s.samples for s in read_manifest(tmp_path / "small/train").shards] == [2, 3, 3, 2]
    reshard(tmp_path / "small", tmp_path / "mixed", per_shard=4, seed=1)
    assert diff(whole, tmp_path / "mixed")["equal"] and verify(tmp_path / "mixed").ok
    reshard(tmp_path / "mixed", tmp_path / "again", per_shard=4, seed=1)
    again, mixed = (read_manifest(tmp_path / name / "train") for name in ("again", "mixed"))
    assert again.shards == mixed.shards
    with pytest.raises(UserError, match="exists"):
        reshard(whole, tmp_path / "small")


def test_merging_puts_splits_together_and_refuses_doubles(whole: Path, tmp_path: Path) -> None:
    make(tmp_path / "b", seed=1, train=3, test=0, per_shard=4, frames=4, height=32, width=32)
    with pytest.raises(UserError, match=r"3 keys of split 'train' .* train-00000000"):
        merge([whole, tmp_path / "b"], tmp_path / "both")
    (tmp_path / "b/train").rename(tmp_path / "b/extra")
    made = merge([whole, tmp_path / "b"], tmp_path / "both")
    assert made["clips"] == {"train": 10, "test": 2, "extra": 3} and verify(tmp_path / "both").ok


def test_what_differs_is_named(whole: Path, tmp_path: Path) -> None:
    make(tmp_path / "b", seed=1, train=3, test=2, per_shard=4, frames=4, height=32, width=32)
    answer = diff(whole, tmp_path / "b")
    assert not answer["equal"] and len(answer["splits"]["train"]["only_first"]) == 7
    assert len(answer["splits"]["train"]["changed"]) == 3 and "train-00000009" in text(answer)


def test_a_copy_restores_what_was_lost(whole: Path, copy: Path) -> None:
    flip(copy / "train/shard-000000.tar", 700)
    (copy / "train/shard-000001.tar").unlink()
    index_path(copy / "test", "shard-000000.tar").unlink()
    answer = repair(copy, whole)
    assert answer["ok"] and verify(copy).ok and diff(whole, copy)["equal"]
    assert read_manifest(copy / "train") == read_manifest(whole / "train")


def test_an_index_is_made_anew_from_its_shard(whole: Path, copy: Path) -> None:
    index_path(copy / "train", "shard-000002.tar").write_text("{}")
    answer = repair(copy)
    assert answer["ok"] and answer["repaired"][0]["how"] == "its index was made anew"
    assert read_manifest(copy / "train") == read_manifest(whole / "train")


def test_without_a_copy_lost_samples_are_taken_out(whole: Path, copy: Path) -> None:
    flip(copy / "train/shard-000001.tar", 700)
    answer = repair(copy)
    assert answer["ok"] and answer["repaired"][0]["lost"] == ["train-00000004"]
    manifest = read_manifest(copy / "train")
    assert manifest.samples == 9 and manifest.provenance["repairs"][0]["lost"] == ["train-00000004"]
    assert verify(copy).ok and repair(copy)["repaired"] == []
    with pytest.raises(UserError, match="is no copy of"):
        flip(copy / "train/shard-000000.tar", 700)
        repair(copy, whole)


def test_a_shard_without_tar_and_index_is_beyond_repair(copy: Path) -> None:
    (copy / "train/shard-000001.tar").unlink()
    index_path(copy / "train", "shard-000001.tar").unlink()
    with pytest.raises(RunError, match="beyond repair without source="):
        repair(copy)


def test_one_bit_or_a_cut_anywhere_is_found_without_decoding(copy: Path) -> None:
    """Every flip names its shard, and its sample where it is in one; every cut what it lost."""
    path, chosen = copy / "train/shard-000000.tar", random.Random(3)
    whole = path.read_bytes()
    for trial in range(120):
        if trial % 2:
            path.write_bytes(whole[: chosen.randrange(len(whole))])
        else:
            path.write_bytes(whole)
            flip(path, chosen.randrange(len(whole)), 1 << chosen.randrange(8))
        damage = verify(copy, decode=False).damage
        assert damage and {one.shard for one in damage} == {"shard-000000.tar"}
        inside = damage[0].key is None and len(damage) > 1
        after_the_last = len(path.read_bytes()) > 4 * 512 and not inside
        assert inside or after_the_last


def test_numbers_are_those_of_the_samples(whole: Path) -> None:
    one = stats(whole)["train"]
    assert (one["clips"], one["shards"], one["sizes"]) == (10, 3, {"32x32": 10})
    assert one["frames"]["most"] == 4 and one["seconds"] == 5.0


def test_a_page_plays_clips(whole: Path, tmp_path: Path) -> None:
    page = preview(whole, count=3, out=str(tmp_path / "page"))
    text = page.read_text()
    assert text.count("<video") == 5 and "train.png" in text
    assert len(list(page.parent.glob("*.mp4"))) == 5
    from PIL import Image

    with Image.open(page.parent / "train.png") as sheet:
        assert sheet.size == (8 * 96, 3 * 96) and np.asarray(sheet).std() > 5
