import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.synthetic.making import encode_h264
from data_tools.synthetic.rendering import render
from data_tools.writer import Sample, write_shard
from hvdm.data.clips import random_window
from hvdm.data.fields import Field, label, number, video
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.schema import VERSION, DamagedSample, Manifest, read_manifest, write_manifest
from hvdm.errors import RunError, UserError
from hvdm.recipe import Batch

SPEC = ClipSpec(frames=4, height=32, width=32, stride=2)
FACTS = (label(8), number("motion"))


def open_loader(
    split: Path,
    seed: int = 0,
    spec: ClipSpec = SPEC,
    ahead: int = 1,
    damaged: float = 0.01,
    facts: tuple[Field, ...] = (),
) -> Loader:
    options = ReadOptions(damaged=damaged)
    return Loader(
        split, spec, seed, lanes=4, window=3, threads=2, ahead=ahead, options=options,
        fields=(video(spec), *facts),
    )  # fmt: skip


@pytest.fixture
def loader(clips_folder: Path) -> Iterator[Loader]:
    with open_loader(clips_folder / "train") as loader:
        yield loader


def write_split(folder: Path, samples: list[Sample]) -> None:
    folder.mkdir()
    shard = write_shard(folder / "shard-000000.tar", samples)
    write_manifest(folder, Manifest(VERSION, folder.name, shard.samples, (shard,), {}))


def real_rows(batch: Batch) -> list[tuple[int, str, bytes]]:
    rows = zip(batch.draws, batch.keys, batch["video"], batch.weight.tolist(), strict=True)
    return [(draw, key, video.numpy().tobytes()) for draw, key, video, weight in rows if weight]


def all_rows(split: Path, first: int, last: int, world: int, micro: int = 2) -> list[object]:
    """The global sequence of real rows, put together from all ranks."""
    with open_loader(split) as loader:
        ranks = [list(loader.steps(first, last, 5, micro, r, world)) for r in range(world)]
    steps = zip(*ranks, strict=True)
    return [row for step in steps for parts in step for batch in parts for row in real_rows(batch)]


def test_rows_have_the_shape_and_the_facts_of_their_clips(clips_folder: Path) -> None:
    with open_loader(clips_folder / "train", facts=FACTS) as loader:
        batch = loader.rows([0, 1, 2])
    assert batch["video"].shape == (3, 4, 32, 32, 3) and batch["video"].dtype == torch.uint8
    assert batch["label"].dtype == torch.int64 and batch["motion"].dtype == torch.float32
    assert batch.draws == (0, 1, 2) and batch.weight.tolist() == [1, 1, 1]
    for key, kind in zip(batch.keys, batch["label"].tolist(), strict=True):
        shard, sample = key.split("/")
        assert shard.startswith("shard-") and 0 <= kind < 8 and sample.startswith("train-")


def test_an_epoch_has_every_clip_once(loader: Loader) -> None:
    first, second = loader.rows(range(26)), loader.rows(range(26, 52))
    assert len(set(first.keys)) == 26 and set(first.keys) == set(second.keys)
    assert first.keys != second.keys


def test_a_clip_met_again_has_another_window(loader: Loader) -> None:
    source = loader.sources[0]
    windows = [random_window(SPEC, 12, source._generators(draw)) for draw in range(60)]
    assert {window.start for window in windows} == set(range(6))


def test_the_global_sequence_is_the_same_for_any_world(clips_folder: Path) -> None:
    split = clips_folder / "train"
    alone = all_rows(split, 0, 7, world=1)
    assert [row[0] for row in alone] == list(range(35))  # type: ignore[index]
    assert all(all_rows(split, 0, 7, world) == alone for world in (2, 3, 8))
    with open_loader(split, seed=1) as other:
        assert real_rows(other.rows(range(35))) != alone


def test_a_resumed_run_goes_on_as_the_straight_one(clips_folder: Path) -> None:
    split = clips_folder / "train"
    straight = all_rows(split, 0, 8, world=2)
    assert all_rows(split, 0, 3, world=2) + all_rows(split, 3, 8, world=3) == straight


def test_padding_repeats_real_rows_with_weight_zero(loader: Loader) -> None:
    for rank in range(8):
        (parts,) = loader.steps(2, 3, batch=5, micro_batch=4, rank=rank, world=8)
        (batch,) = parts
        own = range(10 + rank * 5 // 8, 10 + (rank + 1) * 5 // 8)
        assert batch["video"].shape[0] == 1 and batch.weight.sum() == len(own)
        assert set(batch.draws) == (set(own) or {10})


def test_sequential_clips_are_the_first_frames_in_the_order_of_the_manifest(
    loader: Loader,
) -> None:
    batch = loader.sequential(range(6, 9))
    assert batch.keys == (
        "shard-000000.tar/train-00000006",
        "shard-000001.tar/train-00000007",
        "shard-000001.tar/train-00000008",
    )
    assert batch.draws == (6, 7, 8)
    with pytest.raises(UserError, match="sample 26 of 26"):
        loader.sequential([26])


def test_identity_pins_the_data_and_its_order(clips_folder: Path, loader: Loader) -> None:
    with open_loader(clips_folder / "test") as other:
        assert other.identity() != loader.identity()
    assert loader.identity()["samples"] == 26
    assert json.loads(json.dumps(loader.identity())) == loader.identity()


def test_damage_surfaces_at_its_own_step(clips_folder: Path, tmp_path: Path) -> None:
    split = Path(shutil.copytree(clips_folder / "train", tmp_path / "train"))
    with open_loader(split, ahead=3, damaged=0.0) as loader:
        bad = loader.order.locate(13)
        entry = loader.sources[0].reader._index(bad.shard)[bad.sample]
        path = split / read_manifest(split).shards[bad.shard].name
        data = bytearray(path.read_bytes())
        data[entry.offset + 1500] ^= 1
        path.write_bytes(data)
        steps = loader.steps(0, 6, batch=4, micro_batch=4, rank=0, world=1)
        assert [next(steps)[0].draws[0] for _ in range(3)] == [0, 4, 8]
        with pytest.raises(RunError, match=rf"1 of 26 samples.*{entry.key}: its bytes have"):
            next(steps)


def test_a_video_too_short_for_the_clip_is_named(clips_folder: Path) -> None:
    spec = ClipSpec(frames=7, height=32, width=32, stride=2)
    message = r"test-\d+ has 12 frames.*stride 2 needs 13; set"
    with (
        open_loader(clips_folder / "test", spec=spec) as loader,
        pytest.raises(RunError, match=message),
    ):
        loader.rows([0])


def test_clips_without_facts_are_read(tmp_path: Path) -> None:
    video = encode_h264(render(0, 0, 8, 32, 32).video, 8)
    write_split(tmp_path / "train", [Sample("a", {"mp4": video})])
    with open_loader(tmp_path / "train") as loader:
        assert loader.rows([0]).fields.keys() == {"video"}
    for fact in FACTS:
        message = rf"train has no field '{fact.name}', which.*/a is without it; `hvdm data shard`"
        with (
            open_loader(tmp_path / "train", facts=(fact,)) as loader,
            pytest.raises(UserError, match=message),
        ):
            loader.rows([0])


@pytest.mark.parametrize(
    "about, message",
    [
        (b"[]", "not an object"),
        (b"{", "Expecting"),
        (b'{"label": 0, "frames": 9}', "8 frames where 9 were promised"),
        (b'{"label": "cat"}', "cat"),
    ],
)
def test_a_sample_with_a_wrong_json_is_named(tmp_path: Path, about: bytes, message: str) -> None:
    video = encode_h264(np.zeros((8, 32, 32, 3), np.uint8), 8)
    write_split(tmp_path / "train", [Sample("a", {"mp4": video, "json": about})])
    message = rf"shard-000000.tar/a: .*{message}"
    with (
        open_loader(tmp_path / "train", facts=(label(8),)) as loader,
        pytest.raises(DamagedSample, match=message),
    ):
        loader.sequential([0])


def test_a_sample_without_video_is_named(tmp_path: Path) -> None:
    write_split(tmp_path / "train", [Sample("a", {"txt": b"words"})])
    with (
        open_loader(tmp_path / "train") as loader,
        pytest.raises(UserError, match="has no field 'video'"),
    ):
        loader.sequential([0])


def test_closing_stops_the_threads(clips_folder: Path) -> None:
    loader = open_loader(clips_folder / "train", ahead=5)
    next(loader.steps(0, 100, batch=8, micro_batch=8, rank=0, world=1))
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_only_so_many_steps_are_decoded_ahead(loader: Loader) -> None:
    started: list[int] = []
    start = loader._start
    loader._start = lambda draw, plan: started.append(draw) or start(draw, plan)  # type: ignore
    steps = loader.steps(0, 50, batch=2, micro_batch=2, rank=0, world=1)
    next(steps)
    next(steps)
    assert started == [0, 2, 4]


def test_a_label_beyond_the_classes_is_named(clips_folder: Path) -> None:
    with (
        open_loader(clips_folder / "train", facts=(label(3),)) as loader,
        pytest.raises(UserError, match=r"model.labels=3, and .*train-\d+ has label [4-7]: set"),
    ):
        loader.rows(range(26))
