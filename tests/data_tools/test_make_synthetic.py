import gc
import hashlib
import io
import json
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import webdataset

from data_tools.synthetic.making import encode_h264, make
from data_tools.synthetic.rendering import CLASSES, render
from data_tools.verify import verify
from hvdm.data.decode import ClipSpec, decode
from hvdm.errors import RunError, UserError
from tests.support.ranks import forked

SMALL: dict[str, Any] = dict(
    seed=1, train=5, test=2, per_shard=2, frames=4, height=32, width=32, fps=8
)


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_two_makes_give_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a", **SMALL)
    make(tmp_path / "b", **SMALL, run=lambda f, jobs: reversed([f(j) for j in jobs][::-1]))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert set(tree(tmp_path / "a")) >= {"train/manifest.json", "test/shard-000000.index.json"}
    make(tmp_path / "c", **{**SMALL, "seed": 2})
    assert tree(tmp_path / "c") != tree(tmp_path / "a")


def test_a_second_call_finds_it_complete(tmp_path: Path) -> None:
    first = make(tmp_path / "set", **SMALL)
    before = tree(tmp_path / "set")
    again = make(tmp_path / "set", **SMALL, run=lambda f, jobs: pytest.fail("renders again"))
    assert first.fresh and not again.fresh and again.manifests == first.manifests
    assert "complete already" in str(again) and tree(tmp_path / "set") == before


def test_other_arguments_do_not_overwrite(tmp_path: Path) -> None:
    make(tmp_path / "set", **SMALL)
    with pytest.raises(UserError, match="made with seed=1 frames=4; give another"):
        make(tmp_path / "set", **{**SMALL, "seed": 2, "frames": 5})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="not a data set"):
        make(tmp_path / "mine", **SMALL)


def test_a_complete_set_that_lost_a_shard_is_not_called_complete(tmp_path: Path) -> None:
    make(tmp_path / "set", **SMALL)
    (tmp_path / "set/train/shard-000001.tar").unlink()
    with pytest.raises(RunError, match=r"shard-000001.tar is missing"):
        make(tmp_path / "set", **SMALL)


@pytest.mark.parametrize(
    "change, message",
    [({"height": 31}, "even"), ({"frames": 0}, "at least 1"), ({"train": 0, "test": 0}, "nothing")],
)
def test_impossible_requests_are_refused(
    tmp_path: Path, change: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path / "set", **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
def test_a_killed_run_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    killed = forked().Process(target=make, args=(tmp_path / "set",), kwargs={"train": 5000})
    killed.start()
    while not list(tmp_path.glob(".part-set/train/*.tar")):
        assert killed.is_alive()
        time.sleep(0.05)
    killed.kill()
    killed.join()
    assert not (tmp_path / "set").exists()
    make(tmp_path / "set", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert verify(tmp_path / "set").ok


@pytest.mark.processes
def test_the_jobs_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    make(tmp_path / "a", **SMALL)
    with ProcessPoolExecutor(1, mp_context=forked()) as pool:
        make(tmp_path / "b", **SMALL, run=pool.map)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_without_a_test_split_there_is_none(tmp_path: Path) -> None:
    made = make(tmp_path / "set", **{**SMALL, "test": 0})
    assert list(made.manifests) == ["train"] and not (tmp_path / "set/test").exists()
    assert not make(tmp_path / "set", **{**SMALL, "test": 0}).fresh


def test_any_webdataset_reader_can_use_it(tmp_path: Path) -> None:
    make(tmp_path / "set", **SMALL)
    urls = str(tmp_path / "set/train/shard-{000000..000002}.tar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # WebDataset leaves closing to the GC
        samples = list(webdataset.WebDataset(urls, shardshuffle=False))
        gc.collect()
    facts = [json.loads(sample["json"]) for sample in samples]
    assert [sample["__key__"] for sample in samples] == [f"train-{i:08d}" for i in range(5)]
    assert all(CLASSES[fact["label"]] == fact["class"] and fact["frames"] == 4 for fact in facts)


def test_splits_share_no_clip(tmp_path: Path) -> None:
    made = make(tmp_path / "set", **{**SMALL, "train": 2, "per_shard": 4})
    train, test = made.manifests["train"].shards[0], made.manifests["test"].shards[0]
    assert train.sha256 != test.sha256


def test_clips_have_close_keyframes_no_b_frames_and_the_index_in_front() -> None:
    data = encode_h264(render(0, 0, 20, 32, 32).video, 8)
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 8, 16]
    assert np.all(np.diff([packet.pts for packet in packets]) > 0)


def test_bytes_do_not_depend_on_what_the_process_encoded_before() -> None:
    video = render(1, 3, 4, 32, 32).video
    before = encode_h264(video, 8)
    for width in (16, 24, 48, 72):
        other = encode_h264(np.full((4, 32, width, 3), 120, np.uint8), 8)
        decode(other, ClipSpec(4, 32, width))
        assert encode_h264(video, 8) == before
