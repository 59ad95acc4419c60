"""`hvdm new family` as it is typed: what it writes runs, as its own test says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import main

ROOT = Path(__file__).parents[3]


def test_what_it_writes_trains_samples_and_is_measured(tmp_path, capsys):
    folder = tmp_path / "shining"
    assert main(["new", "family", "shining", f"out={folder}"]) == 0
    told = capsys.readouterr().out
    assert f"export PYTHONPATH={folder}" in told
    assert sorted(path.name for path in folder.iterdir()) == [
        "shining.py", "shining.yaml", "test_shining.py",
    ]  # fmt: skip
    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HVDM_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0 and "3 passed" in asked.stdout, asked.stdout[-3000:]


@pytest.mark.parametrize(
    "typed, said",
    [
        (["2fast"], "name='2fast' cannot name a module; take small letters"),
        (["class"], "name='class' cannot name a module"),
        (["Mine"], "name='Mine' cannot name a module"),
        (["torch"], "name=torch: Python has a module of this name already; take another"),
        ([], "name= is missing; for example name=my_family"),
    ],
)
def test_a_wrong_name_is_one_line(typed, said, tmp_path, capsys):
    assert main(["new", "family", *typed, f"out={tmp_path}/x"]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1, error
    assert not (tmp_path / "x").exists()


def test_what_is_there_already_stays(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("mine")
    assert main(["new", "family", "mine", f"out={tmp_path}"]) == 2
    assert "mine.yaml is there already; give another name, or out=DIR" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
