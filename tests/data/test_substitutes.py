import json
import random
import shutil
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from data_tools.synthetic.making import encode_h264, make
from data_tools.synthetic.rendering import render
from data_tools.writer import Sample, write_shard
from hvdm.data import fields
from hvdm.data.batches import read_keys
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.schema import (
    VERSION,
    DamagedSample,
    Manifest,
    read_index,
    read_manifest,
    write_manifest,
)
from hvdm.errors import RunError

SPEC = ClipSpec(frames=4, height=32, width=32, stride=2)


@pytest.fixture
def split(clips_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clips_folder / "train", tmp_path / "train"))


def spoil(split: Path, shard: int, sample: int, at: int = 1200) -> str:
    """Flips a bit of a sample; gives its key."""
    found = read_manifest(split).shards[shard]
    entry = read_index(split, found)[sample]
    data = bytearray((split / found.name).read_bytes())
    data[entry.offset + at] ^= 1
    (split / found.name).write_bytes(data)
    return entry.key


def open_loader(split: Path, damaged: float = 0.2, threads: int = 2, **options: object) -> Loader:
    chosen = ReadOptions(damaged=damaged, **options)  # type: ignore[arg-type]
    return Loader(split, SPEC, lanes=4, window=3, threads=threads, options=chosen)


def test_a_damaged_sample_gives_way_to_the_next_of_its_shard(split: Path) -> None:
    first, second = spoil(split, 1, 2), spoil(split, 1, 3)
    with open_loader(split) as loader:
        keys = loader.rows(range(52)).keys
        lost = {one.key: one for one in loader.substitutions()}
    with open_loader(split) as whole:
        places = [whole.order.locate(draw) for draw in range(52)]
    assert set(lost) == {first, second}
    for one in lost.values():
        assert one.instead.endswith("train-00000011") and "bytes have changed" in one.reason
    for key, place in zip(keys, places, strict=True):
        if (place.shard, place.sample) in ((1, 2), (1, 3)):
            assert key.endswith("train-00000011")


def test_substitutes_are_the_same_for_any_world_and_pool(split: Path) -> None:
    spoil(split, 0, 1)
    spoil(split, 2, 6)

    def sequence(world: int, threads: int, pool: str) -> list[object]:
        rows: list[tuple[int, str, bytes]] = []
        for rank in range(world):
            with open_loader(split, threads=threads, pool=pool) as loader:
                for (part,) in loader.steps(0, 7, 4, 4, rank, world):
                    pixels = part["video"].numpy()
                    rows += [
                        (draw, key, pixels[i].tobytes())
                        for i, (draw, key) in enumerate(zip(part.draws, part.keys, strict=True))
                        if part.weight[i]
                    ]
        return sorted(rows)

    straight = sequence(1, 2, "threads")
    assert [row[0] for row in straight] == list(range(28))  # type: ignore[index]
    assert sequence(2, 0, "threads") == straight
    assert sequence(1, 2, "processes") == straight


def test_what_was_lost_stays_lost_and_counts_after_a_resume(split: Path) -> None:
    spoil(split, 1, 2)
    with open_loader(split) as loader:
        before = loader.rows(range(26)).keys
        found = json.loads(json.dumps(loader.substitutions()))
        assert len(loader.new_substitutions()) == 1 and not loader.new_substitutions()
    spoil(split, 1, 2)  # mends it
    with open_loader(split) as loader:
        loader.remember(found)
        assert loader.rows(range(26)).keys == before
        assert len(loader.substitutions()) == 1 and not loader.new_substitutions()
    with open_loader(split, damaged=0.0) as loader, pytest.raises(RunError, match="1 of 26"):
        loader.remember(found)


def test_past_the_threshold_the_run_stops(split: Path) -> None:
    for sample in range(4):
        spoil(split, 3, sample)
    with (
        open_loader(split, damaged=0.1) as loader,
        pytest.raises(RunError, match=r"4 of 26 samples cannot be read, more than the 3 .*shard-0"),
    ):
        loader.rows(range(26))


def test_evaluation_takes_no_substitute(split: Path) -> None:
    spoil(split, 0, 3)
    with open_loader(split) as loader, pytest.raises(DamagedSample, match="train-00000003"):
        loader.sequential(range(7))


def test_one_bit_anywhere_in_a_shard_is_never_silent(tmp_path: Path) -> None:
    make(tmp_path / "set", train=4, test=0, per_shard=4, frames=2, height=16, width=16)
    split = tmp_path / "set" / "train"
    path = split / "shard-000000.tar"
    whole = path.read_bytes()
    spec, chosen = ClipSpec(2, 16, 16), random.Random(0)
    places = [chosen.randrange(len(whole)) for _ in range(60)] + [0, 300, len(whole) - 1]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        options = ReadOptions(damaged=1.0)
        with Loader(split, spec, lanes=1, window=4, threads=0, options=options) as loader:
            try:
                loader.rows(range(4))
                assert len(loader.substitutions()) == 1
            except RunError as error:
                assert "after its last sample" in str(error)


def test_a_shard_cut_anywhere_is_an_error(split: Path) -> None:
    path = split / "shard-000001.tar"
    whole, chosen = path.read_bytes(), random.Random(1)
    for _ in range(200):
        path.write_bytes(whole[: chosen.randrange(len(whole))])
        with open_loader(split, threads=0) as loader:
            assert "shard-000001.tar has" in str(loader.size_problem())


@pytest.mark.parametrize("seed", range(25))
def test_the_draws_are_complete_and_the_same_for_all(seed: int, tmp_path: Path) -> None:
    """Random shards, worlds, workers, stops and resumes: one sequence, no repeat in an epoch."""
    chosen = random.Random(seed)
    video = encode_h264(np.full((1, 16, 16, 3), 90, np.uint8), 8)
    counts = [chosen.randint(1, 6) for _ in range(chosen.randint(1, 6))]
    shards = tuple(
        write_shard(
            tmp_path / f"shard-{number:06d}.tar",
            [Sample(f"s{number}-{i}", {"mp4": video, "json": b'{"frames":1}'}) for i in range(n)],
        )
        for number, n in enumerate(counts)
    )
    total = sum(counts)
    write_manifest(tmp_path, Manifest(VERSION, "train", total, shards, {}))
    batch, steps = chosen.randint(1, 9), 12
    lanes, window = chosen.randint(1, 8), chosen.randint(1, 5)

    def part(first: int, last: int) -> dict[int, str]:
        world, threads = chosen.randint(1, 16), chosen.choice((0, 1, 2, 4))
        found: dict[int, str] = {}
        for rank in range(world):
            spec, micro = ClipSpec(1, 16, 16), chosen.randint(1, 4)
            with Loader(tmp_path, spec, seed, lanes, window, threads) as loader:
                for parts in loader.steps(first, last, batch, micro, rank, world):
                    for rows in parts:
                        for draw, key, weight in zip(
                            rows.draws, rows.keys, rows.weight.tolist(), strict=True
                        ):
                            if weight:
                                assert draw not in found
                                found[draw] = key
        return found

    straight = part(0, steps)
    assert sorted(straight) == list(range(steps * batch))
    stop = chosen.randint(1, steps - 1)
    assert part(0, stop) | part(stop, steps) == straight
    for epoch in range(steps * batch // total):
        assert len({straight[epoch * total + i] for i in range(total)}) == total


def test_short_videos_are_padded_where_the_run_says_so(tmp_path: Path) -> None:
    samples = [
        Sample(f"v{n}", {"mp4": encode_h264(render(0, n, n, 32, 32).video, 8)}) for n in (3, 9)
    ]
    shard = write_shard(tmp_path / "shard-000000.tar", samples)
    write_manifest(tmp_path, Manifest(VERSION, "train", 2, (shard,), {}))
    spec = ClipSpec(frames=4, height=32, width=32, stride=2, short="pad")
    with Loader(tmp_path, spec) as loader:
        batch = loader.sequential([0, 1])
    assert batch["video"].shape == (2, 4, 32, 32, 3)
    assert batch["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_pictures_are_clips_of_one_frame(tmp_path: Path) -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 77, np.uint8)).save(file, "PNG")
    samples = [Sample("good", {"png": file.getvalue()}), Sample("bad", {"png": b"no"})]
    shard = write_shard(tmp_path / "shard-000000.tar", samples)
    write_manifest(tmp_path, Manifest(VERSION, "train", 2, (shard,), {}))
    with Loader(tmp_path, ClipSpec(1, 16, 16)) as loader:
        assert loader.sequential([0])["video"].unique().tolist() == [77]
        with pytest.raises(DamagedSample, match="unreadable as a picture"):
            loader.sequential([1])


def test_the_log_of_keys_says_what_each_draw_was(split: Path, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    for rank, world in product((0, 1), (2,)):
        with Loader(split, SPEC, lanes=4, window=3, key_log=folder) as loader:
            list(loader.steps(0, 4, 5, 2, rank, world))
            expected = loader.rows(range(20)).keys
    assert read_keys(folder) == dict(enumerate(expected))
    with open(folder / "rank-1.jsonl", "a") as file:
        file.write('[[3,"other"]]\n')
    with pytest.raises(RunError, match="draw 3 was"):
        read_keys(folder)


def test_waiting_for_rows_is_counted(split: Path) -> None:
    with open_loader(split, threads=0) as loader:
        list(loader.steps(0, 3, 2, 2, 0, 1))
        assert loader.take_wait() > 0 and loader.take_wait() == 0


def test_a_decoder_that_never_returns_ends_the_run(
    split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(fields, "read_frames", lambda *_: over.wait(60))
    with open_loader(split, stall_s=0.2) as loader:
        with pytest.raises(RunError, match=r"not decoded within data.stall_s=0.2 s"):
            loader.rows(range(2))
        over.set()
