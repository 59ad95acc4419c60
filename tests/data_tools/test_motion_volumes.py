"""Planted motion is found again, by `hvdm data derive motion`."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from data_tools.histogram import counted, percentile
from data_tools.motion_tiles import flow_colours, motion_tiles
from data_tools.preview import preview
from data_tools.synthetic.making import make
from data_tools.synthetic.sway import BANDS, SWAY_CLASSES, sway_clip
from data_tools.writer import write_shard
from hvdm.data.flow import FILTERS, fault, flow_from_first
from hvdm.data.schema import VERSION, Manifest, Sample, read_manifest, write_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError
from hvdm.media.h264 import encode_h264
from launcher.cli import main
from launcher.workers.cluster import over_processes

FRAMES, FPS = 32, 8


def loaded(part: bytes) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(part), allow_pickle=False)
    return found


@pytest.fixture(scope="module")
def sway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("motion") / "sway"
    make(out, 0, train=2, test=1, per_shard=1, frames=FRAMES, height=32, width=48, fps=FPS,
         kind="sway")  # fmt: skip
    return out


def derived(source: Path, out: Path, *typed: str) -> int:
    return main(["data", "derive", "motion", str(source), f"out={out}", "bins=12", *typed])


def test_truth_is_in_the_shards_and_the_ground_keeps_still(sway: Path) -> None:
    manifest = read_manifest(sway / "train")
    parts = ShardReader(sway / "train", manifest).sample(0, 0)
    flow, things = loaded(parts["true_flow.npy"]), loaded(parts["things.npy"])
    assert flow.shape == (FRAMES, 2, 32, 48) and not flow[0].any()
    assert not flow[:, :, things == 0].any() and np.abs(flow).max() > 0.5
    volume = loaded(parts["true_spectrum.npy"]).astype(np.float64)
    expected = np.fft.rfft(flow.astype(np.float64), axis=0)[:16]
    assert np.abs(volume[:, 0] + 1j * volume[:, 1] - expected).max() < 0.1


@pytest.mark.parametrize("kind", range(2 if "HVDM_SOAK" not in os.environ else 4))
def test_flow_finds_what_was_planted(kind: int) -> None:
    """Frequencies within a bin; amplitudes within 15 %, 4 pixels inside, above one pixel."""
    index = next(i for i in range(99) if _class(i) == SWAY_CLASSES[kind])
    clip = sway_clip(0, "train", index, 40, 128, 192, FPS)
    true = np.fft.rfft(loaded(clip.parts["true_flow.npy"]).astype(np.float64), axis=0)
    found = np.fft.rfft(flow_from_first(clip.video).astype(np.float64), axis=0)
    things = loaded(clip.parts["things.npy"])
    low, high = BANDS[SWAY_CLASSES[kind]].low, BANDS[SWAY_CLASSES[kind]].high
    for number in range(1, things.max() + 1):
        inner = ndimage.binary_erosion(things == number, iterations=4)
        peak, place = (_energy(one, inner)[1:].argmax() + 1 for one in (true, found))
        assert abs(int(peak) - int(place)) <= 1
        assert low - 2 * FPS / 40 <= place * FPS / 40 <= high + 2 * FPS / 40
        large = inner & (np.abs(true[peak]).max(0) * 2 / 40 > 1)
        sizes = (np.linalg.norm(one[peak][:, large], axis=0) for one in (found, true))
        if large.sum() > 20:
            assert abs(np.median(np.divide(*sizes)) - 1) < 0.15
    still = things == 0
    still = ndimage.binary_erosion(still, iterations=8)
    assert np.abs(found[:, :, still]).mean() < 0.2 * np.abs(found[:, :, things > 0]).mean()


def _class(index: int) -> str:
    from data_tools.synthetic.sway import compose_scene
    from hvdm import rng

    random = rng.numpy_generator(rng.seed_of(0, "train"), index, "sway")
    return compose_scene(random, 1.0).things[0].kind


def _energy(spectrum: np.ndarray[Any, Any], inside: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray((np.abs(spectrum[:, :, inside]) ** 2).sum((1, 2)))


def test_derived_volumes_and_their_scales(sway: Path, tmp_path: Path) -> None:
    assert derived(sway, tmp_path / "one") == 0
    train = read_manifest(tmp_path / "one/train")
    scales = train.provenance["measured"]["scales"]
    reader, volumes = ShardReader(tmp_path / "one/train", train), []
    for shard, one in enumerate(train.shards):
        for index in range(one.samples):
            parts = reader.sample(shard, index)
            assert set(parts) == {"json", "png", "spectrum.npy"}
            volumes.append(np.abs(loaded(parts["spectrum.npy"]).astype(np.float64)))
    assert volumes[0].shape == (12, 2, 2, 32, 48)
    exact = [np.quantile(np.stack(volumes)[:, k], 0.95) for k in range(12)]
    assert np.allclose(scales, exact, rtol=0.03)


@pytest.mark.skipif("HVDM_SOAK" not in os.environ, reason="two more processes: for make soak")
@pytest.mark.processes
def test_more_workers_make_the_same_bytes(sway: Path, tmp_path: Path) -> None:
    from data_tools.derive import derive
    from data_tools.motion_volumes import MotionVolumes

    made = MotionVolumes(bins=12)
    derive(sway, tmp_path / "one", made)
    derive(sway, tmp_path / "two", made, over_processes(2))
    for name in ("train/manifest.json", "test/shard-000000.tar"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_beside_it_is_one_part_by_key(sway: Path, tmp_path: Path) -> None:
    assert derived(sway, tmp_path / "motion", "beside=true") == 0
    folder = tmp_path / "motion/test"
    parts = ShardReader(folder, read_manifest(folder)).sample(0, 0)
    assert set(parts) == {"spectrum.npy"}


def test_what_is_still_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"height": 32, "width": 32}
    make(tmp_path / "digits", 0, train=2, test=0, frames=1, kind="digits", **size)
    assert derived(tmp_path / "digits", tmp_path / "out") == 2
    assert "has 1 frames, and a window of all of them" in capsys.readouterr().err
    assert derived(tmp_path / "digits", tmp_path / "out", "filter=papers") == 2
    assert "filter=" in capsys.readouterr().err
    make(tmp_path / "shapes", 0, train=2, test=0, frames=22, **size)
    assert derived(tmp_path / "shapes", tmp_path / "moved") == 2
    assert "is left, all of it was left out (" in capsys.readouterr().err


def test_faults() -> None:
    usual, paper = FILTERS["usual"], FILTERS["paper"]
    motion = np.zeros((5, 2, 160, 256), np.float32)
    assert fault(motion, usual) == "still" == fault(motion, paper)
    motion[:, 0, :, :60] = 2
    assert fault(motion, usual) is None and fault(motion, paper) == "still"
    motion[:, 0, :, :200] = 2
    assert fault(motion, paper) is None
    motion[:, 0] = 2
    assert fault(motion, usual) == "camera" == fault(motion, paper)
    motion[:, 0] = 0
    motion[3, 0, :, :128] = 20
    assert fault(motion, usual) == "failed"
    with pytest.raises(UserError, match="frames=20 has 11 frequencies, bins=16"):
        from data_tools.motion_volumes import MotionVolumes

        MotionVolumes(frames=20)


def test_percentiles_of_counts_that_were_added() -> None:
    values = np.random.default_rng(0).lognormal(0, 2, (4, 5000)).astype(np.float32)
    counts = np.sum([counted(row) for row in values], axis=0)
    for share in (0.05, 0.5, 0.95, 0.999):
        assert percentile(counts, share) == pytest.approx(np.quantile(values, share), rel=0.03)


def test_colours_and_arrows_show_where_it_goes(sway: Path, tmp_path: Path) -> None:
    vectors = np.zeros((2, 4, 6))
    vectors[0, :, :2], vectors[0, :, 4:] = 1, -2
    colours = flow_colours(vectors)
    assert colours[0, 0].argmax() == 0 and colours[0, 0].max() == 128
    assert colours[0, 5].tolist() == [0, 255, 255] and not colours[:, 2:4].any()
    volume = np.zeros((5, 2, 2, 24, 24), np.float16)
    volume[3, 0, 0, 8:16, 8:16] = 5
    tiles = motion_tiles(np.full((24, 24, 3), 90, np.uint8), volume, 96)
    assert [tile.shape for tile in tiles] == [(96, 96, 3)] * 4
    assert tiles[1][48, 48].tolist() == [255, 0, 0] and not tiles[1][:8].any()
    bars = (tiles[3] == (125, 179, 255)).all(-1).any(0)
    assert bars.nonzero()[0].tolist() == list(range(57, 75))
    assert derived(sway, tmp_path / "motion") == 0
    page = preview(tmp_path / "motion", count=1)
    assert page.is_file() and page.with_name("train.png").is_file()


@pytest.mark.parametrize("fps", ['"x"', "0", "1e9", "NaN", "-1e30"])
def test_a_rate_that_cannot_be_ends_in_one_line(
    fps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = encode_h264(np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8), 8)
    folder = tmp_path / "set/train"
    folder.mkdir(parents=True)
    about = f'{{"frames": 8, "fps": {fps}}}'.encode()
    shard = write_shard(folder / "shard-000000.tar", [Sample("a", {"mp4": clip, "json": about})])
    write_manifest(folder, Manifest(VERSION, "train", 1, (shard,), {}))
    typed = ["data", "derive", "motion", str(tmp_path / "set"), f"out={tmp_path / 'out'}"]
    assert main([*typed, "bins=2", "filter=none", "flows=true"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "shard-000000.tar/a: its json says fps" in line
