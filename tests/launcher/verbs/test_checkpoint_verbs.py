"""`hvdm checkpoint list|verify|prune|export` on a small run."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hvdm.checkpoint import checkpoint
from hvdm.config import CheckpointConfig, Samples
from hvdm.run import run
from launcher import cli
from tests.support.toys import run_config


@pytest.fixture
def folder(shapes: Path, tmp_path: Path) -> Path:
    saving = CheckpointConfig(every=Samples(5), keep=9)
    run.train(run_config(tmp_path / "run", shapes, steps=4, checkpoint=saving), sinks=())
    return tmp_path / "run"


def answer(capsys: pytest.CaptureFixture[str], *typed: str) -> Any:
    capsys.readouterr()
    code = cli.main(["checkpoint", *typed, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_prune_says_first_and_removes_then(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ("prune", f"run={folder}", "keep=1", "pinned=2")
    assert answer(capsys, *typed, "dry=true")[1] == {
        "dry": True, "removed": [1, 3], "left": [1, 2, 3, 4]
    }  # fmt: skip
    assert answer(capsys, *typed)[1] == {"dry": False, "removed": [1, 3], "left": [2, 4]}
    assert [row["step"] for row in answer(capsys, "list", f"run={folder}")[1]] == [2, 4]


@pytest.mark.parametrize(
    "typed, said",
    [
        ("keep=0", "keep=0 would remove every checkpoint"),
        ("pinned=x", "pinned[0]='x' is a str; expected int"),
    ],
)
def test_prune_refuses(
    typed: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["checkpoint", "prune", f"run={folder}", typed]) == 2
    assert said in capsys.readouterr().err
    assert len(checkpoint.listed(folder)) == 4


def test_verify_names_what_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "verify", f"run={folder}")[0] == 0
    (folder / "checkpoints/step-00000002/manifest.json").unlink()
    next((folder / "checkpoints/step-00000003").glob("critic.weights.*")).write_bytes(b"")
    code, rows = answer(capsys, "verify", f"run={folder}")
    found = {row["step"]: row["damage"] for row in rows}
    assert code == 1 and found[1] is found[4] is None
    assert "critic.weights.rank00000.safetensors has 0 bytes" in found[3]
    assert "step-00000002 has no readable manifest" in found[None]


def test_export_has_a_model_card(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    _, paths = answer(capsys, "export", f"run={folder}@3", "to=safetensors", f"out={out}")
    assert [Path(p).name for p in paths] == [
        "critic.safetensors", "generator.safetensors", "README.md"
    ]  # fmt: skip
    card = (out / "README.md").read_text()
    assert "tests.support.toys, step 3" in card and "samples seen: 15" in card
    found = checkpoint.choose(folder, 3)
    state = load_file(out / "generator.safetensors")
    expected = checkpoint.weights(found, "generator", averaged=True)
    assert state.keys() == expected.keys()
    assert all(bool((state[name] == expected[name]).all()) for name in state)
