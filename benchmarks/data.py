"""`make bench-data`: what reading and sharding cost, as ratios measured side by side.

Each ratio is the median over rounds, and in each round both sides run one after the other, so that
whatever else the machine does weighs on both.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import experiment
from data_tools.settings import Settings
from data_tools.shard import shard
from data_tools.synthetic.rendering import render
from data_tools.writer import Sample, shard_name, write_shard
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.schema import VERSION, Manifest, canonical, read_manifest, write_manifest
from hvdm.data.shards import ShardReader
from hvdm.media.h264 import encode_h264, quick_yuv420
from tests.support.data_server import served

SPEC = ClipSpec(frames=16, height=256, width=256)
CLIPS, FRAMES, VIDEOS = 384, 32, 96


# Clips to read


def clips(folder: Path, count: int, per_shard: int, size: int, frames: int, kinds: int = 6) -> Path:
    """`count` samples of a few kinds of rendered clips."""
    folder.mkdir(parents=True)
    media = [
        encode_h264(render(0, kind, frames, size, size).video, 16, 23, 16, quick_yuv420)
        for kind in range(kinds)
    ]
    about = canonical({"frames": frames, "fps": 16, "label": 0})
    shards = [
        write_shard(
            folder / shard_name(number),
            [
                Sample(f"c{n:07d}", {"json": about, "mp4": media[n % kinds]})
                for n in range(first, min(first + per_shard, count))
            ],
        )
        for number, first in enumerate(range(0, count, per_shard))
    ]
    write_manifest(folder, Manifest(VERSION, "train", count, tuple(shards), {}))
    return folder


def extracted(folder: Path, out: Path, count: int) -> list[Path]:
    """The videos of the first samples, as files."""
    out.mkdir()
    reader = ShardReader(folder, read_manifest(folder))
    for number in range(count):
        (out / f"{number}.mp4").write_bytes(reader.sample(0, number)["mp4"])
    return sorted(out.iterdir())


# Rates of one epoch over the same clips, by two decoding workers


def by_loader(folder: Path) -> float:
    with Loader(folder, SPEC, lanes=8, window=16, threads=2, ahead=2) as loader:
        next(loader.steps(0, 1, 4, 4, 0, 1))
        steps = loader.steps(1, 1 + CLIPS // 4, 4, 4, 0, 1)
        began = time.monotonic()
        for _ in steps:
            pass
        return CLIPS / (time.monotonic() - began)


def bare(paths: list[str], count: int) -> int:
    """decord and nothing else: no hash, no draw, no batch; windows begin as often at each frame."""
    import decord

    media = [Path(path).read_bytes() for path in paths]
    for number in range(count):
        reader = decord.VideoReader(io.BytesIO(media[number % len(media)]), num_threads=1)
        start = number % (FRAMES - 16 + 1)
        reader.get_batch(range(start, start + 16)).asnumpy()
    return count


def by_bare_processes(pool: ProcessPoolExecutor, paths: list[str]) -> float:
    began = time.monotonic()
    done = sum(pool.map(bare, [paths] * 2, [CLIPS // 2] * 2))
    return done / (time.monotonic() - began)


def _decode_sample(sample: dict[str, Any]) -> tuple[np.ndarray]:
    import decord

    reader = decord.VideoReader(io.BytesIO(sample["mp4"]), num_threads=1)
    return (np.asarray(reader.get_batch(range(8, 24)).asnumpy()),)


def by_webdataset(folder: Path) -> float:
    """Two workers of a DataLoader over WebDataset, with the same decoder."""
    import torch
    import webdataset

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    data = webdataset.WebDataset(urls, shardshuffle=False).shuffle(16).map(_decode_sample)
    loader = torch.utils.data.DataLoader(
        data.batched(4), batch_size=None, num_workers=2, multiprocessing_context="spawn"
    )
    batches = iter(loader)
    next(batches)
    began = time.monotonic()
    seen = sum(len(video) for (video,) in batches)
    return seen / (time.monotonic() - began)


def seek(path: str, starts: list[int]) -> int:
    import decord

    for start in starts:
        reader = decord.VideoReader(path, num_threads=1)
        reader.get_batch(range(start, start + 16)).asnumpy()
    return len(starts)


def by_seeking(pool: ProcessPoolExecutor, path: str, frames: int) -> float:
    """A random window of a long video, opened anew each time."""
    random = np.random.default_rng(0)
    halves = [random.integers(0, frames - 16, 12).tolist() for _ in range(2)]
    began = time.monotonic()
    done = sum(pool.map(seek, [path] * 2, halves))
    return done / (time.monotonic() - began)


def long_video(path: Path) -> int:
    """30 seconds of 640 x 360 with a keyframe every 250 frames."""
    piece = render(0, 3, 25, 360, 640).video
    video = np.concatenate([piece, piece[::-1]] * 15)
    path.write_bytes(encode_h264(video, 25, 23, 250, quick_yuv420))
    return len(video)


def reading(work: Path, rounds: int) -> dict[str, float]:
    folder = clips(work / "read", CLIPS + 8, 8, 256, FRAMES)
    same = [str(path) for path in extracted(folder, work / "media", 6)]
    frames = long_video(work / "long.mp4")
    found: dict[str, list[float]] = {}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        by_bare_processes(pool, same)
        for _ in range(rounds):
            ours = by_loader(folder)
            others = {
                "two_bare_decord_processes": by_bare_processes(pool, same),
                "webdataset": by_webdataset(folder),
                "seeking_in_long_videos": by_seeking(pool, str(work / "long.mp4"), frames),
            }
            found.setdefault("clips_per_s", []).append(ours)
            for name, rate in others.items():
                found.setdefault(f"over_{name}", []).append(ours / rate)
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def pools(work: Path, rounds: int) -> dict[str, float]:
    """Threads against processes, for the choice of the default."""
    folder = clips(work / "pools", CLIPS + 8, 8, 256, FRAMES)
    ratios = []
    for _ in range(rounds):
        rates = {}
        for kind in ("threads", "processes"):
            options = ReadOptions(pool=kind)  # type: ignore[arg-type]
            with Loader(folder, SPEC, lanes=8, window=16, threads=2, options=options) as loader:
                loader.rows(range(8))
                began = time.monotonic()
                for _ in loader.steps(2, 2 + CLIPS // 4, 4, 4, 0, 1):
                    pass
                rates[kind] = CLIPS / (time.monotonic() - began)
        ratios.append(rates["threads"] / rates["processes"])
    return {"threads_over_processes": round(statistics.median(ratios), 3)}


# Resuming, memory, bytes, planning, sharding


def resuming(work: Path, rounds: int) -> dict[str, float]:
    """First batch of a data set of 1,000 shards: at the start, and at a random place."""
    folder = clips(work / "many", 4000, 4, 32, 8, kinds=2)
    spec, random = ClipSpec(8, 32, 32), np.random.default_rng(0)
    later = []
    for _ in range(rounds):
        times = []
        for step in (0, int(random.integers(100, 100_000))):
            began = time.monotonic()
            with Loader(folder, spec) as loader:
                next(loader.steps(step, step + 1, 16, 16, 0, 1))
            times.append(time.monotonic() - began)
        later.append(times[1] - times[0])
    return {"seconds_more_than_a_fresh_start": round(statistics.median(later), 3)}


def memory(work: Path, total: int = 20_000) -> dict[str, float]:
    """Resident memory over many clips, after warm-up: the slope of a straight line."""
    folder = clips(work / "memory", 512, 64, 64, 16)
    own, seen, used = psutil.Process(), [], []
    with Loader(folder, ClipSpec(16, 64, 64), lanes=8) as loader:
        for number, _ in enumerate(loader.steps(0, total // 16, 16, 16, 0, 1)):
            if number % 25 == 0 and number * 16 > total // 5:
                seen.append(number * 16 / 1000)
                used.append(own.memory_info().rss / 1e6)
    slope = float(np.polyfit(seen, used, 1)[0])
    return {"clips": total, "mb_per_1000_clips": round(slope, 4), "mb": round(used[-1], 1)}


def fetching(work: Path) -> dict[str, float]:
    """Bytes that an epoch takes from a web server, over those of the data set."""
    folder = clips(work / "web" / "train", 512, 64, 128, 16)
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    found = {}
    with served(work / "web") as server:
        for world in (1, 2, 4, 8):
            server.sent = 0
            for rank in range(world):
                with Loader(f"{server.url}/train", ClipSpec(16, 128, 128), lanes=64) as loader:
                    for _ in loader.steps(0, 8, 64, 8, rank, world):
                        pass
            found[f"{world}_ranks"] = round(server.sent / size, 4)
    return found


PLAN = """
import time, json
import numpy as np
from hvdm.data.order import Order, share
before = time.monotonic()
counts = np.full(10**6, 500)
order = Order(counts, 0, lanes=8192, window=256)
batch, world, rank = 8192, 4096, 1234
rows = [row for part in share(batch, 2, rank, world) for row, _ in part]
places = [order.locate(step * batch + row) for step in range(100) for row in rows]
took = time.monotonic() - before
status = open("/proc/self/status").read().split()
print(json.dumps([took, int(status[status.index("VmHWM:") + 1])]))
"""


def planning() -> dict[str, float]:
    """10^6 shards, 4,096 ranks: the order and one rank's first 100 steps."""
    done = subprocess.run([sys.executable, "-c", PLAN], capture_output=True, text=True, check=True)
    seconds, kilobytes = json.loads(done.stdout)
    state = len(json.dumps({"seed": 0, "draw": 10**15}))
    return {"seconds": round(seconds, 3), "gb": round(kilobytes / 1e6, 3), "state_bytes": state}


def sharding(work: Path, rounds: int) -> dict[str, float]:
    """The same videos by one worker and by two."""
    from launcher.workers.cluster import over_processes

    source = work / "videos"
    source.mkdir()
    video = render(0, 0, 96, 240, 320).video
    for number in range(VIDEOS):
        shifted = np.roll(video, 3 * number, axis=2)
        (source / f"v{number}.mp4").write_bytes(encode_h264(shifted, 24, 20, 48, quick_yuv420))
    size = sum(path.stat().st_size for path in source.iterdir())
    settings = Settings(size=192, clip_frames=48, per_shard=4, test=0.0)
    ratios, rates = [], []
    for number in range(rounds):
        seconds = {}
        for workers in (1, 2):
            out = work / f"out-{number}-{workers}"
            began = time.monotonic()
            whole = shard(str(source), out, settings, run=over_processes(workers))
            seconds[workers] = time.monotonic() - began
        ratios.append(seconds[1] / seconds[2])
        rates.append(whole["splits"]["train"]["clips"] / seconds[1])
    megabytes = statistics.median(rates) / (2 * VIDEOS) * size / 1e6
    return {
        "two_workers_over_one": round(statistics.median(ratios), 3),
        "clips_per_s_and_core": round(statistics.median(rates), 3),
        "mb_per_s_and_core": round(megabytes, 3),
    }


@contextmanager
def workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
        yield Path(folder)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--only", action="append")
    given = asked.parse_args()
    parts: dict[str, Callable[[Path], dict[str, float]]] = {
        "reading": lambda work: reading(work, given.rounds),
        "pools": lambda work: pools(work, given.rounds),
        "resuming": lambda work: resuming(work, given.rounds),
        "memory": memory,
        "fetching": fetching,
        "planning": lambda work: planning(),
        "sharding": lambda work: sharding(work, min(3, given.rounds)),
    }
    found = experiment.read("data") if given.only else {}
    for name, measure in parts.items():
        if given.only and name not in given.only:
            continue
        about = experiment.about(f"--only {name} --rounds {given.rounds}")
        with workplace() as work:
            found[name] = {**measure(work), **about}
        print(json.dumps({name: found[name]}), flush=True)
    experiment.write("data", found)


if __name__ == "__main__":
    main()
