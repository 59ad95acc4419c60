import io
import sys
import time
from pathlib import Path

import pytest

from hvdm import progress
from hvdm.progress import Pace, tick, ticking


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_follows_from_the_pace_so_far(clock: list[float]) -> None:
    pace = Pace(40)
    assert pace.left() == "0 s left" and not pace.due(5)
    clock[0] += 5
    pace.done = 10
    assert pace.per_second(pace.done) == 2 and pace.left() == "15 s left"
    assert pace.due(5) and not pace.due(5)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Screen])
def test_the_ticks_of_workers_are_summed(
    kind: type[io.StringIO], clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ticks = kind(), tmp_path / progress.TICKS
    monkeypatch.setattr(sys, "stderr", out)
    with ticking(ticks, "wrote shards", 3, quiet=False):
        tick(ticks, clips=8, size=6_000_000)
        until = time.time() + 30
        while "1/3" not in out.getvalue():
            assert time.time() < until
            time.sleep(0.01)
        clock[0] += 2
        tick(ticks, clips=4, size=2_000_000, failures=1)
    assert not ticks.exists()
    assert out.getvalue().endswith(
        "    wrote shards 2/3: 6.0 clips/s, 4.0 MB/s, 1 failed, 1 s left\n"
    )
    lines = out.getvalue().count("\n")
    assert lines == (1 if kind is Screen else 2)


def test_a_quiet_job_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticks = tmp_path / progress.TICKS
    with ticking(ticks, "wrote shards", 3):
        tick(ticks)
        assert ticks.exists()
    assert not ticks.exists() and capsys.readouterr().err == ""


def test_a_tick_that_cannot_be_written_is_lost_alone(tmp_path: Path) -> None:
    tick(None)
    tick(tmp_path / "nowhere" / progress.TICKS)
    assert not list(tmp_path.iterdir())
