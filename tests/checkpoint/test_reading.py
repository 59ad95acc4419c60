"""What of a checkpoint is opened, and manifests and files that a stranger made."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hvdm.checkpoint import checkpoint, storage
from hvdm.checkpoint.choosing import Checkpoint, opened
from hvdm.checkpoint.reading import Reader
from hvdm.errors import RunError
from hvdm.run import run
from launcher.cli import main
from tests.support.toys import run_config

RANKS, EACH = 8, 4


def sharded(folder: Path) -> Checkpoint:
    """One parameter in as many slices as there are ranks."""
    place = folder / "step-00000001"
    place.mkdir()
    files = {}
    for rank in range(RANKS):
        name = f"net.weights.rank{rank:05d}.safetensors"
        first = rank * EACH
        save_file({f"master/w@{first}": torch.arange(first, first + EACH).float()}, place / name)
        files[name] = {"bytes": 0, "sha256": ""}
    nets = {"net": {"parameters": {"w": [RANKS * EACH]}, "buffers": {}}}
    return Checkpoint(storage.Folder(folder), place.name, {"step": 1, "files": files, "nets": nets})


def test_a_rank_opens_its_own_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = sharded(tmp_path), Counter[str]()
    honest = Checkpoint.file
    monkeypatch.setattr(
        Checkpoint, "file", lambda self, name: (asked.update([name]), honest(self, name))[1]
    )
    for rank in range(RANKS):
        values = Reader(found, "net", rank).read("master", "w", rank * EACH, EACH)
        assert values.tolist() == list(range(rank * EACH, (rank + 1) * EACH))
    assert set(asked.values()) == {1}
    assert Reader(found, "net", 5).whole("master", "w").tolist() == list(range(RANKS * EACH))
    with pytest.raises(RunError, match="lacks master of w from element 32"):
        Reader(found, "net", 5).read("master", "w", 30, EACH)


@pytest.fixture(scope="module")
def saved(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    run.train(run_config(folder, shapes, steps=1), sinks=())
    return folder / "checkpoints" / "step-00000001"


NO_MANIFEST: list[tuple[str, Any]] = [
    ("world", 10**30), ("world", "2"), ("time", "<script>"), ("nets", {"../../x": {}}),
    ("files", {"../../x.weights.y": {"bytes": 0, "sha256": "0" * 64}}), ("files", 5),
    ("files", {"net.weights.rank00000.safetensors": {"bytes": 0, "sha256": "zero"}}),
    ("cursor", {"draw": "many"}), ("substitutions", [[1, 2]]), ("attempt", "../.."),
    ("identity", {"data": 3}), ("stages", {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize("name, value", NO_MANIFEST)
def test_a_manifest_that_we_would_not_write_is_refused(saved: Path, name: str, value: Any) -> None:
    """Though its own hash is right: whoever writes it writes that too."""
    path = saved / "manifest.json"
    before = path.read_bytes()
    try:
        path.write_bytes(storage.dumped({**json.loads(before), name: value}))
        found = opened(storage.Folder(saved.parent), saved.name)
        assert isinstance(found, str) and f"its {name} cannot be used" in found
    finally:
        path.write_bytes(before)
    assert isinstance(opened(storage.Folder(saved.parent), saved.name), Checkpoint)


def test_a_file_that_holds_no_slices_is_one_line(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, run_folder = saved / "manifest.json", saved.parents[1]
    content = json.loads(manifest.read_bytes())
    name = next(file for file in content["files"] if ".weights." in file)
    for data in (b"", b"\xff" * 99, (2).to_bytes(8, "little") + b"{]", b"\2" + bytes(7) + b"[]"):
        (saved / name).write_bytes(data)
        with (saved / name).open("rb") as handle:
            size, digest = storage.hashed(handle)
        content["files"][name] = {"bytes": size, "sha256": digest}
        manifest.write_bytes(storage.dumped(content))
        assert checkpoint.damage(checkpoint.listed(run_folder)[0]) is None
        assert main(["checkpoint", "list", f"run={run_folder}", "--json"]) == 1
        assert "no file of a checkpoint" in capsys.readouterr().err
