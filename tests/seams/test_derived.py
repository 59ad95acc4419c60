"""What was derived of clips is read beside them, by key, and by nobody who would mistake it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.derive import derive
from data_tools.synthetic.making import make
from hvdm import building, identity
from hvdm.config import DataConfig
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.schema import manifest_hash, read_manifest, write_manifest
from hvdm.errors import UserError
from launcher import compose
from launcher.cli import main
from tests.seams.derived import Shifts, reads
from tests.seams.moving import Config

SPEC = ClipSpec(8, 16, 16)


@pytest.fixture(scope="module")
def shifts(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("derived") / "shifts"
    derive(shapes, out, Shifts())
    return out


def typed(run: Path, data: Path, *more: str) -> list[str]:
    return ["train", "config=tests/seams/derived.yaml", f"run={run}", f"data.path={data}",
            "cluster=inline", "log.tensorboard=false", *more]  # fmt: skip


def loader(folder: Path, *beside: Path, **more: Any) -> Loader:
    fields = reads(Config(), DataConfig(str(folder), frames=8, height=16, width=16))
    return Loader(folder, SPEC, fields=fields, beside=[str(one) for one in beside], **more)


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_parts_are_joined_by_key(pool: Any, shapes: Path, shifts: Path) -> None:
    how = ReadOptions(pool=pool)
    with loader(shapes / "train", shifts / "train", threads=1, options=how) as both:
        found = both.sequential([17, 3])
    alone = found["video"].float().mean(-1).numpy() / 255
    down, right = np.gradient(alone, axis=(2, 3))
    expected = np.stack([right, down], 2)[:, :-1] * np.diff(alone, axis=1)[:, :, None]
    assert np.allclose(found["flow"], expected, atol=1e-6) and np.abs(expected).max() > 0.01


def test_a_family_trains_on_what_was_derived(
    shapes: Path, shifts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = typed(tmp_path / "run", shapes)
    assert main(run) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{shapes}/train has no field 'flow'" in line
    assert "`hvdm data derive tests.seams.derived:Shifts DIR out=OUT` makes it" in line
    assert main([*run, f"data.beside=[{shifts}]", "steps=2"]) == 0
    derive(shapes, tmp_path / "twice", Shifts(scale=2))
    capsys.readouterr()
    assert main([*run, f"data.beside=[{tmp_path}/twice]"]) == 2
    assert "data.beside" in capsys.readouterr().err.strip().splitlines()[-1]
    assert main([*run, f"data.beside={shifts}"]) == 0


def test_a_run_pins_what_it_reads_beside(shapes: Path, shifts: Path) -> None:
    with loader(shapes / "train", shifts / "train") as both, loader(shapes / "train") as clips:
        pinned = [manifest_hash(read_manifest(shifts / "train"))]
        assert both.identity() == {**clips.identity(), "beside": pinned}


def test_each_of_a_mixture_has_its_own(shapes: Path, shifts: Path, tmp_path: Path) -> None:
    make(tmp_path / "other", seed=4, train=8, test=1, frames=8, height=16, width=16)
    derive(tmp_path / "other", tmp_path / "its", Shifts())
    config = compose.run_config(
        "tests/seams/derived.yaml",
        [f"data.path={shapes}", f"data.mix={{{tmp_path}/other: 1}}",
         f"data.beside=[{tmp_path}/its,{shifts}]"],
    )  # fmt: skip
    with building.build_loader(config, "train") as both:
        assert both.rows(range(8))["flow"].shape == (8, 2, 2, 8, 8)
        assert len(both.identity()["beside"]) == 2


def test_what_was_derived_of_other_clips_is_refused(
    shapes: Path, shifts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "other", seed=4, train=8, test=1, frames=8, height=16, width=16)
    for data, beside in ((tmp_path / "other", shifts), (shapes, shapes)):
        capsys.readouterr()
        assert main(typed(tmp_path / "run", data, f"data.beside=[{beside}]")) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{beside}/train was not derived of {data}/train as it is now" in line


def test_a_missing_key_and_a_part_twice_are_refused(
    shapes: Path, shifts: Path, tmp_path: Path
) -> None:
    derive(shapes, tmp_path / "same", Shifts(scale=2))
    twice, there = (shifts / "train", tmp_path / "same/train"), "of .* which is there already"
    with loader(shapes / "train", *twice) as both, pytest.raises(UserError, match=there):
        both.sequential([0])
    folder = tmp_path / "same/train"
    manifest = read_manifest(folder)
    fewer = replace(manifest, samples=32, shards=manifest.shards[:4])
    write_manifest(folder, fewer)
    with loader(shapes / "train", folder) as cut:
        cut.sequential([31])
        with pytest.raises(UserError, match=r"has no sample '.*' beside the one of .*shapes/train"):
            cut.sequential([32])


@dataclass(frozen=True)
class Foreign(Shifts):
    def identity(self) -> dict[str, Any]:
        return {"first_stage": {"weights": "0" * 64}}


def test_latents_beside_are_of_the_run_below(shapes: Path, tmp_path: Path) -> None:
    derive(shapes, tmp_path / "latents", Foreign())
    config = compose.run_config(
        "tests/seams/derived.yaml", [f"data.path={shapes}", f"data.beside=[{tmp_path}/latents]"]
    )
    words = "latents/train were made by weights 000000000000"
    with building.build_loader(config, "train") as both, pytest.raises(UserError, match=words):
        identity.check_latents(config, both)
