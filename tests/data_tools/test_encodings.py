"""Every frame that a decode in sequence gives is in a clip, or named as left out."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.writer import Sample, write_shard
from hvdm.data.decode import decode_all, read_frames
from hvdm.data.schema import VERSION, Manifest, write_manifest
from launcher import cli
from tests.data_tools import encodings

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
SHARD = ["scenes=false", "static=0", "test=0", "size=32", "clip_frames=16", "min_frames=8"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encodings") / "films"
    encodings.write_all(folder)
    return folder


def real(name: str) -> Path:
    path = CLIPS / name
    if not path.exists():
        pytest.skip(f"{path} is not here: real clips are no part of the project")
    return path


def sharded(capsys: pytest.CaptureFixture[str], source: Path, out: Path, *keys: str) -> Any:
    assert cli.main(["data", "shard", f"source={source}", f"out={out}", *keys, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def verified(capsys: pytest.CaptureFixture[str], out: Path) -> int:
    """The frames that are decoded; nothing is damaged."""
    assert cli.main(["data", "verify", str(out), "full=true", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    return sum(one["frames"] for one in report["shards"])


def test_no_frame_of_any_encoding_is_lost(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = sharded(capsys, films, tmp_path / "set", *SHARD)
    assert not whole["quarantine"]
    assert {entry["source"] for entry in whole["notes"]} == {"h264-edited.mp4", "h264-variable.mkv"}
    left = Counter[str]()
    for entry in whole["filtered"]:
        assert "fewer than min_frames=8" in entry["reason"]
        left[entry["source"]] += entry["end"] - entry["start"]
    repeated = 6  # what makes the variable rate constant
    expected = {name: encodings.in_sequence(films / name) for name in encodings.ENCODINGS}
    assert len(expected) >= 20 and expected["h264-edited.mp4"] == encodings.FRAMES - 12
    assert verified(capsys, tmp_path / "set") + left.total() == sum(expected.values()) + repeated


def test_whole_videos_are_read_as_they_decode_in_sequence(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = sharded(capsys, films, tmp_path / "set", *SHARD, "mode=full")
    assert whole["splits"]["train"]["clips"] == len(encodings.ENCODINGS)
    verified(capsys, tmp_path / "set")


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_a_seek_gives_the_frames_of_a_decode_in_sequence(films: Path, name: str) -> None:
    data = (films / name).read_bytes()
    straight = decode_all(data, strict=True)
    for first in range(1, len(straight) - 2, 7):
        found = read_frames(data, [first, first + 2], len(straight), name)
        apart = np.abs(found.astype(int) - straight[[first, first + 2]])
        assert apart.max() <= 3, (name, first)


def test_a_healthy_video_keeps_all_of_its_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["clip_frames=32", "size=32", "test=0"]
    whole = sharded(capsys, real("cockatoo.mp4"), tmp_path / "set", *keys)
    assert whole["splits"]["train"]["clips"] == 9 and not whole["quarantine"]
    assert verified(capsys, tmp_path / "set") == 280


def test_a_gif_is_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = encodings.write(tmp_path / "film.gif")
    assert sharded(capsys, path, tmp_path / "set", *SHARD)["splits"]["train"]["clips"] == 3
    source = real("newtonscradle.gif")
    whole = sharded(capsys, source, tmp_path / "real", "scenes=false", "test=0", "static=0")
    assert whole["splits"]["train"]["frames"]["mean"] == 41  # of 36, some are shown longer


def test_what_is_lost_names_clip_and_time_and_equal_reasons_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file changes between the passes: its clips are not what was seen."""
    from data_tools import shard as sharder

    source = encodings.write(tmp_path / "h264-closed.mp4")
    other = encodings.write(tmp_path / "h264-long.mp4", number=5)
    passes = sharder.selection.make

    def changing(*given: Any) -> Any:
        source.write_bytes(other.read_bytes())
        return passes(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharder.selection, "make", changing)
        cli.main(["data", "shard", f"source={source}", f"out={tmp_path / 'set'}", *SHARD])
    lines = [line for line in capsys.readouterr().out.splitlines() if "quarantine" in line]
    assert len(lines) == 1
    for words in ("gave other frames", "3 times: clip h264-closed-", "0.64 to 1.28 s"):
        assert words in lines[0], lines


def test_a_shard_of_a_stranger_with_open_groups_verifies(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["h264-open.mp4", "h265-open.mp4", "mpeg4.mp4"]
    facts = json.dumps({"frames": encodings.FRAMES}).encode()
    samples = [
        Sample(f"s{i}", {"mp4": (films / name).read_bytes(), "json": facts})
        for i, name in enumerate(names)
    ]
    shard = write_shard(tmp_path / "shard-000000.tar", samples)
    write_manifest(tmp_path, Manifest(VERSION, "train", len(names), (shard,), {}))
    assert verified(capsys, tmp_path) == len(names) * encodings.FRAMES
