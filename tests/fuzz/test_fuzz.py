"""What strangers and broken disks hand over ends in a substitute, in one line, or well."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from tests.fuzz import mutations
from tests.fuzz.base import evaluated

ROOT = Path(__file__).parents[2]
SOAK = bool(os.environ.get("HVDM_SOAK"))
SEEDS = int(os.environ.get("HVDM_FUZZ", "2000" if SOAK else "200"))
AT_ONCE, COMMANDS = 200, 10
"""Seeds of one process, and how many more go through the command line."""
MEMORY_MB = 2048


def fuzzed(folder: Path, first: int) -> list[dict[str, Any]]:
    """In a process of its own, so that a crash is one too, and its memory is known."""
    (folder / "base").mkdir()
    typed = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.runner", str(folder)]
    done = subprocess.run(
        [*typed, str(first), str(first + AT_ONCE), str(COMMANDS)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *rows, peak = map(json.loads, done.stdout.splitlines())
    assert len(rows) == AT_ONCE + COMMANDS
    assert max(peak["peak_mb"].values()) < MEMORY_MB, peak
    return rows


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_nothing_ends_in_a_traceback_or_a_wrong_number(first: int, tmp_path: Path) -> None:
    rows = fuzzed(tmp_path, first)
    assert not [row for row in rows if "wrong" in row]
    assert len({(row["what"].partition("/")[0], row["use"]) for row in rows}) > 20
    ended = [row["ended"] for row in rows]
    assert 40 < sum(text != "done" for text in ended) < 180


def test_a_strangers_result_is_compared_or_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path)
    (honest,) = (tmp_path / "run/evaluations").glob("*.json")
    strange, codes = tmp_path / "strange.json", set()
    for seed in range(150):
        shutil.copy(honest, strange)
        mutations.in_json(strange, random.Random(seed))
        for other in (honest, strange):
            codes.add(code := main(["compare", str(strange), str(other)]))
            said = capsys.readouterr().err.strip().splitlines()
            assert code == 0 or len(said) == 1 and said[0].startswith("hvdm: "), (seed, said)
    assert codes == {0, 2}
