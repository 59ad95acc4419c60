import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import selection
from data_tools.finding import find
from data_tools.probe import probe
from data_tools.selection import split_of
from data_tools.settings import Settings
from data_tools.shard import shard
from data_tools.transcode import sample_parts
from data_tools.verify import verify
from hvdm.config import ClusterConfig
from hvdm.data import child
from hvdm.data.fields import about_of
from hvdm.data.loader import ClipSpec, Loader
from hvdm.data.schema import read_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError
from tests.data_tools import videos
from tests.support.ranks import forked

KILLS = int(os.environ.get("HVDM_KILLS", "1"))
SMALL = Settings(size=32, clip_frames=16, min_frames=8, per_shard=4, test=0.0, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good videos, one of them twice."""
    root = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        videos.write(root / f"kind{seed}/v {seed}.mp4", videos.shapes(seed))
    (root / "again.mp4").write_bytes((root / "kind0/v 0.mp4").read_bytes())
    return root


def hashes(out: Path) -> dict[str, str]:
    """Everything that a job leaves, except its journal."""
    files = [path for path in out.rglob("*") if path.is_file() and "journal" not in path.parts]
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "report.html"
    }


def samples(split: Path) -> list[tuple[str, dict[str, Any]]]:
    manifest = read_manifest(split)
    reader = ShardReader(split, manifest)
    return [
        (reader.key(n, i), about_of(reader.sample(n, i)))
        for n, one in enumerate(manifest.shards)
        for i in range(one.samples)
    ]


def reasons(whole: dict[str, Any]) -> dict[str, str]:
    return {entry["source"]: entry["error"] for entry in whole["quarantine"]}


def test_a_folder_becomes_clips_that_verify_and_train(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    whole = shard(str(folder), out, SMALL)
    assert whole["splits"]["train"]["clips"] == 9 and not whole["quarantine"]
    assert [entry["reason"] for entry in whole["filtered"]] == ["duplicate of again.mp4"]
    report = verify(out)
    assert report.ok and sum(one.frames for one in report.shards) == 120
    found = samples(out / "train")
    assert Counter(about["source"] for _, about in found)["kind1/v 1.mp4"] == 3
    for _, about in found:
        assert (about["height"], about["width"]) == (32, 42)
        assert about["frames"] in (8, 16) and about["fps"] == 10
        assert 0 < about["motion"] <= 1 and about["end"] > about["start"]
    with Loader(out / "train", ClipSpec(8, 32, 32)) as loader:
        assert loader.rows(range(9))["video"].shape == (9, 8, 32, 32, 3)


def test_workers_and_order_of_work_change_nothing(folder: Path, tmp_path: Path) -> None:
    from launcher.workers.cluster import over_processes

    shard(str(folder), tmp_path / "a", SMALL)
    shard(str(folder), tmp_path / "b", SMALL, run=over_processes(2))
    shard(str(folder), tmp_path / "c", SMALL, run=lambda f, jobs: [f(j) for j in list(jobs)[::-1]])
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") == hashes(tmp_path / "c")


def test_the_same_job_again_has_nothing_to_do(folder: Path, tmp_path: Path) -> None:
    shard(str(folder), tmp_path / "a", SMALL)
    before = hashes(tmp_path / "a")
    assert shard(str(folder), tmp_path / "a", SMALL)["new_sources"] == 0
    assert hashes(tmp_path / "a") == before
    with pytest.raises(UserError, match="was begun with crf=18"):
        shard(str(folder), tmp_path / "a", Settings(**{**SMALL.as_json(), "crf": 20}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    with pytest.raises(UserError, match="was not made by"):
        shard(str(folder), tmp_path / "other", SMALL)


def test_new_sources_append_new_shards(folder: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "videos", tmp_path / "set"
    videos.write(source / "a.mp4", videos.shapes(7))
    shard(str(source), out, SMALL)
    first = read_manifest(out / "train")
    videos.write(source / "b.mp4", videos.shapes(8))
    (source / "c.mp4").write_bytes((source / "a.mp4").read_bytes())
    whole = shard(str(source), out, SMALL)
    second = read_manifest(out / "train")
    assert second.shards[: len(first.shards)] == first.shards
    assert second.samples == 6 and verify(out).ok
    assert whole["filtered"][-1]["reason"] == "duplicate of an earlier part of the data set"
    (source / "a.mp4").write_bytes(b"other")
    with pytest.raises(UserError, match=r"a.mp4 has changed since"):
        shard(str(source), out, SMALL)


def job(source: Path, out: Path) -> None:
    settings = Settings(size=32, clip_frames=16, min_frames=8, per_shard=2, test=0.3)
    shard(str(source), str(out), settings)


def start(source: Path, out: Path) -> BaseProcess:
    process = forked().Process(target=job, args=(source, out))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def under_way(process: BaseProcess, out: Path) -> float:
    """Waits for the job's first file; gives the time."""
    while not (out / "journal/job.json").exists() and process.is_alive():
        time.sleep(0.01)
    return time.monotonic()


def killed_at_random(source: Path, out: Path, times: int, seconds: float, seed: int) -> int:
    """Kills the job again and again, then lets it end; how often it was still running."""
    chosen, hit = random.Random(seed), 0
    for _ in range(times):
        process = start(source, out)
        under_way(process, out)
        process.join(chosen.uniform(0, 1) * seconds)
        hit += process.is_alive()
        process.kill()
        process.join()
    assert ended(start(source, out)) == 0
    return hit


@pytest.mark.processes
def test_a_killed_job_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Each job is killed three times; jobs, until as many kills as asked for met one at work."""
    straight = start(folder, tmp_path / "straight")
    began = under_way(straight, tmp_path / "straight")
    assert ended(straight) == 0
    seconds, hit, jobs = time.monotonic() - began, 0, 0
    while hit < KILLS:
        assert jobs < 2 * KILLS, "the kills come too late"
        out = tmp_path / f"killed-{jobs}"
        hit += killed_at_random(folder, out, 3, seconds, seed=jobs)
        jobs += 1
        assert hashes(tmp_path / "straight") == hashes(out)
        assert not list(out.rglob(".part-*"))
    print(f"{hit} kills in {jobs} jobs")


@pytest.mark.ray
@pytest.mark.skipif(not os.environ.get("HVDM_CLUSTER"), reason="Ray is for make test-cluster")
def test_ray_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    from launcher.workers.cluster import over_ray

    shard(str(folder), tmp_path / "here", SMALL)
    shard(str(folder), tmp_path / "ray", SMALL, run=over_ray(ClusterConfig("local", workers=2)))
    assert hashes(tmp_path / "here") == hashes(tmp_path / "ray")


def test_what_is_no_video_goes_into_quarantine(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    good = videos.write(source / "good.mp4", videos.shapes(1)).read_bytes()
    (source / "zero.mp4").write_bytes(b"")
    (source / "text.mp4").write_text("words " * 200)
    (source / "nomoov.mp4").write_bytes(good[:600] + b"\0" * 500)
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0x55
    (source / "damaged.mp4").write_bytes(damaged)
    videos.sound_only(source / "sound.mp4")
    whole = shard(str(source), tmp_path / "set", SMALL)
    found = reasons(whole)
    assert found.keys() == {"zero.mp4", "text.mp4", "nomoov.mp4", "damaged.mp4", "sound.mp4"}
    assert found["zero.mp4"] == "is empty"
    assert found["sound.mp4"] == "has no video, only audio"
    assert "unreadable as video" in found["text.mp4"]
    assert found["nomoov.mp4"] == "has no frame that decodes"
    lines = (tmp_path / "set/quarantine.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in lines} == found.keys()
    assert whole["splits"]["train"]["sources"] == 1 and verify(tmp_path / "set").ok


def test_damage_is_repaired_when_asked_for(tmp_path: Path) -> None:
    data = bytearray(videos.write(tmp_path / "v/a.mp4", videos.shapes(1)).read_bytes())
    data[len(data) // 2] ^= 0x55
    (tmp_path / "v/a.mp4").write_bytes(data)
    settings = Settings(**{**SMALL.as_json(), "damaged": "repair"})
    whole = shard(str(tmp_path / "v"), tmp_path / "set", settings)
    assert not whole["quarantine"] and whole["splits"]["train"]["clips"] > 0
    assert "what decodes was kept" in str(whole["notes"]) and verify(tmp_path / "set").ok


def test_a_container_that_announces_too_much_does_not_hang(tmp_path: Path) -> None:
    data = videos.write(tmp_path / "v/a.mp4", videos.shapes(1)).read_bytes()
    (tmp_path / "v/a.mp4").write_bytes(videos.announcing(data, 60))
    for mode in ("clips", "full"):
        settings = Settings(**{**SMALL.as_json(), "mode": mode, "limit_s": 60.0})
        whole = shard(str(tmp_path / "v"), tmp_path / mode, settings)
        assert whole["quarantine"] or verify(tmp_path / mode).ok


def test_a_child_that_hangs_or_crashes_is_replaced() -> None:
    own = child.Child()
    try:
        with pytest.raises(child.Failed, match=r"took longer than 0.2 s"):
            own.call(time.sleep, 60, limit_s=0.2)
        with pytest.raises(child.Failed, match="crashed the decoder"):
            own.call(signal.raise_signal, signal.SIGSEGV, limit_s=20)
        assert own.call(len, (1, 2), limit_s=20) == 2
        with pytest.raises(child.Failed, match="TypeError"):
            own.call(len, 3, limit_s=20)
    finally:
        own.close()


def test_odd_videos_are_made_regular(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    video = videos.shapes(2, frames=20)
    videos.write(source / "plain.mp4", video)
    videos.with_times(source / "variable.mkv", video, [i * 10 + (i > 9) * 55 for i in range(20)])
    videos.of_codec(
        source / "deep.mp4", video, "libx265", "yuv420p10le", **{"x265-params": "log-level=none"}
    )
    odd = np.ascontiguousarray(video[:, :47, :63])
    videos.of_codec(source / "odd.mkv", odd, "ffv1", "yuv444p")
    videos.of_codec(source / "laced.mp4", video, "libx264", "yuv420p", **{"x264-params": "tff=1"})
    whole = shard(str(source), tmp_path / "set", Settings(**{**SMALL.as_json(), "scenes": False}))
    assert not whole["quarantine"], whole["quarantine"]
    notes = {entry["source"]: entry["note"] for entry in whole["notes"]}
    assert "variable frame rate" in notes["variable.mkv"]
    assert "interlaced" in notes["laced.mp4"]
    by_source = {about["source"]: about for _, about in samples(tmp_path / "set/train")}
    assert by_source.keys() == {"plain.mp4", "variable.mkv", "deep.mp4", "odd.mkv", "laced.mp4"}
    assert all(a["height"] % 2 == 0 and a["width"] % 2 == 0 for a in by_source.values())
    assert verify(tmp_path / "set").ok


def test_clips_are_the_frames_that_they_say(tmp_path: Path) -> None:
    """The number of each frame is in its brightness; cut clips show their own numbers."""
    ramp = np.repeat(np.arange(30, 190, 4, dtype=np.uint8), 32 * 32 * 3)
    video = ramp.reshape(40, 32, 32, 3).copy()
    video[:, :, :16] = 255 - video[:, :, :16]
    videos.write(tmp_path / "v/a.mp4", video)
    settings = Settings(**{**SMALL.as_json(), "scenes": False, "static": 0.0, "crf": 1})
    shard(str(tmp_path / "v"), tmp_path / "set", settings)
    split = tmp_path / "set/train"
    with Loader(split, ClipSpec(8, 32, 32)) as loader:
        for index, (_, about) in enumerate(samples(split)):
            seen = loader.sequential([index])["video"][0, :, 16, 24, 0].tolist()
            first = round(about["start"] * 10)
            expected = [30 + 4 * (first + i) for i in range(8)]
            assert np.abs(np.array(seen) - expected).max() <= 2


def test_scenes_are_not_mixed(tmp_path: Path) -> None:
    video = np.concatenate([videos.shapes(3, 20), 255 - videos.shapes(11, 20)])
    videos.write(tmp_path / "v/a.mp4", video)
    whole = shard(str(tmp_path / "v"), tmp_path / "set", SMALL)
    found = [
        (about["scene"], round(about["start"] * 10)) for _, about in samples(tmp_path / "set/train")
    ]
    assert whole["splits"]["train"]["clips"] == 2 and sorted(found) == [(0, 0), (1, 20)]


def test_filters_say_what_they_left_out(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    videos.write(source / "black.mp4", np.zeros((16, 32, 32, 3), np.uint8))
    videos.write(source / "static.mp4", np.full((16, 32, 32, 3), 120, np.uint8))
    videos.write(source / "short.mp4", videos.shapes(1, frames=4))
    videos.write(source / "tiny.mp4", videos.shapes(1, 16, 8, 8))
    videos.write(source / "good.mp4", videos.shapes(1, 16))
    whole = shard(str(source), tmp_path / "set", SMALL)
    why = {entry["source"]: entry["reason"] for entry in whole["filtered"]}
    assert why.keys() == {"black.mp4", "static.mp4", "short.mp4", "tiny.mp4"}
    for name, words in {
        "black.mp4": "black: 100%",
        "static.mp4": "static",
        "short.mp4": "4 frames are fewer than min_frames=8",
        "tiny.mp4": "shorter side of 8 is below min_side=16",
    }.items():
        assert words in why[name]


def test_full_mode_keeps_the_bytes_and_says_where_to_enter(folder: Path, tmp_path: Path) -> None:
    settings = Settings(**{**SMALL.as_json(), "mode": "full"})
    shard(str(folder / "kind1"), tmp_path / "set", settings)
    split = tmp_path / "set/train"
    reader = ShardReader(split, read_manifest(split))
    parts = reader.sample(0, 0)
    assert parts["mp4"] == (folder / "kind1/v 1.mp4").read_bytes()
    about = about_of(parts)
    assert about["frames"] == 40 and about["keyframes"][:2] == [0.0, 0.8]


def test_splits_are_by_source(folder: Path, tmp_path: Path) -> None:
    settings = _splitting({**SMALL.as_json(), "test": 0.5}, folder)
    shard(str(folder), tmp_path / "set", settings)
    sides = {
        split: {about["source"] for _, about in samples(tmp_path / "set" / split)}
        for split in ("train", "test")
    }
    assert sides["train"] and sides["test"] and not sides["train"] & sides["test"]


def _splitting(about: dict[str, Any], folder: Path) -> Settings:
    """The first seed that puts the three sources on both sides."""
    known = [hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("kind*/*.mp4")]
    for seed in range(20):
        settings = Settings(**{**about, "seed": seed})
        if len({split_of(sha256, settings) for sha256 in known}) == 2:
            return settings
    raise AssertionError("twenty seeds put all sources on one side")


def cut_after_others(items: list[Any], settings: Settings) -> bytes:
    """The last item's first clip, after all of the others; runs in a child."""
    clips = []
    for item in items:
        found = probe(item, settings)
        number = selection.make([(item, found)], settings).splits["train"][0, 1]
        clips.append(selection.clip(item, found, number, settings))
    return [sample_parts(clip, settings)["mp4"] for clip in clips][-1]


def test_a_clip_does_not_depend_on_what_was_encoded_before(folder: Path) -> None:
    settings = Settings(height=32, width=32, clip_frames=32, min_frames=8, test=0.0)
    items = find(str(folder), False)
    seen = set()
    for others in (0, 1, 2, 3):
        own = child.Child()
        chosen = [*items[1 : 1 + others], items[0]]
        seen.add(own.call(cut_after_others, chosen, settings, limit_s=60))
        own.close()
    assert len(seen) == 1
