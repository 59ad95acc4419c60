"""Depth beside pictures: read, checked, placed by a rule, and by estimators that are trusted."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.derive import derive
from data_tools.estimators import Depth
from data_tools.synthetic.making import make
from hvdm.config import DataConfig
from hvdm.data.decode import CannotDecode
from hvdm.data.depth import Placing, checked, read_depth
from hvdm.data.fields import array, read_media, video
from hvdm.data.loader import ClipSpec, Loader
from hvdm.data.moves import DEPTH
from hvdm.data.schema import read_manifest
from hvdm.data.shards import ShardReader
from hvdm.errors import UserError
from launcher.cli import main

GUESS = "tests.data_tools.depth_guess:bright"
GUESS_HASH = hashlib.sha256(Path(__file__).with_name("depth_guess.py").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("depth") / "digits"
    make(out, train=4, test=2, per_shard=4, frames=1, height=12, width=12, kind="digits")
    return out


def sample(folder: Path, index: int) -> dict[str, bytes]:
    return dict(ShardReader(str(folder), read_manifest(folder)).sample(0, index))


def slope() -> np.ndarray:
    return np.linspace(10, 20, 144, dtype=np.float32).reshape(12, 12)


def files(folder: Path, suffix: str) -> Path:
    folder.mkdir()
    for split, count in (("train", 4), ("test", 2)):
        for index in range(count):
            path = folder / f"{split}-{index:08d}.{suffix}"
            if suffix == "png":
                Image.fromarray((slope() * 100).astype(np.uint16)).save(path)
            else:
                np.savez(path, depth=slope(), other=np.zeros(3))
    return folder


@pytest.mark.parametrize("suffix", ["png", "npz"])
def test_depth_from_files_joins_its_pictures(suffix: str, digits: Path, tmp_path: Path) -> None:
    found = files(tmp_path / "files", suffix)
    typed = ["data", "derive", "depth", str(digits), f"out={tmp_path}/depth", f"files={found}"]
    assert main(typed) == 0
    data = DataConfig(str(digits), frames=1, height=12, width=12)
    fields = (video(data), array("depth", "depth.npy", (12, 12), DEPTH))
    beside = [str(tmp_path / "depth/train")]
    with Loader(digits / "train", ClipSpec(1, 12, 12), fields=fields, beside=beside) as loader:
        depth = loader.sequential([0, 3])["depth"]
    assert depth.shape == (2, 12, 12) and depth.dtype == torch.float32
    assert float(depth.min()) == pytest.approx(1.9) and float(depth.max()) == pytest.approx(4.2)
    assert bool((depth.flatten(1).diff() >= 0).all())


def test_an_estimator_runs_only_when_its_hash_is_given(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["data", "derive", "depth", str(digits), f"out={tmp_path}/d", f"estimator={GUESS}"]
    for wrong in ([], [f"sha256={'0' * 64}"]):
        assert main([*typed, *wrong]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"sha256 is {GUESS_HASH}" in line and not (tmp_path / "d").exists()
    assert main([*typed, f"sha256={GUESS_HASH}", "rule=robust", "near=1", "far=3"]) == 0
    capsys.readouterr()
    other = [f"out={tmp_path}/other", f"estimator={GUESS.replace('bright', 'dark')}"]
    assert main([*typed[:4], *other, f"sha256={GUESS_HASH}"]) == 2
    assert "depth_guess has no dark" in capsys.readouterr().err
    made = np.load(io.BytesIO(sample(tmp_path / "d/test", 1)["depth.npy"]))
    bright = read_media(sample(digits / "test", 1))[0].mean(-1)
    low, high = np.percentile(bright, (2, 98))
    expected = 1 + 2 * np.clip((bright - low) / (high - low), 0, 1)
    assert np.allclose(made, expected, atol=1e-5)


class Flat(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def test_a_scripted_network_is_an_estimator(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(Flat()).save(str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for name, estimator, sha256 in (("a", str(path), digest), ("b", GUESS, GUESS_HASH)):
        derive(digits, tmp_path / name, Depth(estimator=estimator, sha256=sha256))
    a, b = (np.load(io.BytesIO(sample(tmp_path / n / "train", 0)["depth.npy"])) for n in "ab")
    assert np.allclose(a, b, atol=1e-4) and a.std() > 0.1


def test_disparity_is_placed_evenly_in_what_it_is() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)[None]
    depth = Placing(gives="disparity", near=1.0, far=4.0).placed(values)
    assert depth.max() == pytest.approx(4) and depth.min() == pytest.approx(1)
    assert depth[0, 0] > depth[0, -1] and depth[0, 50] == pytest.approx(1 / 0.625)
    kept = Placing(rule="none").placed(values + 1)
    assert np.array_equal(kept, values + 1)


BAD = [
    (np.full((4, 4), np.nan), "not finite"),
    (np.zeros((3, 4, 4)), "expected numbers H W"),
    (np.zeros((4, 5)), "4x5, the picture 4x4"),
]


@pytest.mark.parametrize("values, words", BAD)
def test_what_is_no_depth_is_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(CannotDecode, match=words):
        checked(values, (4, 4))


def test_files_that_are_no_depth_are_refused() -> None:
    picture = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(picture, "PNG")
    with pytest.raises(CannotDecode, match="png of mode L; depth needs 16 bits"):
        read_depth(picture.getvalue(), "png")
    with pytest.raises(CannotDecode, match="cannot be read"):
        read_depth(b"nothing", "npz")
    with pytest.raises(CannotDecode, match="the same nearly everywhere"):
        Placing().placed(np.ones((4, 4), np.float32))
    with pytest.raises(CannotDecode, match="0 or below"):
        Placing(rule="none").placed(np.zeros((4, 4), np.float32))


def test_a_picture_bomb_or_a_script_is_no_depth() -> None:
    """Few bytes that would fill the memory, and a format that runs another program."""
    bomb = io.BytesIO()
    Image.new("I;16", (14_000, 14_000)).save(bomb, "PNG")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for data in (bomb.getvalue(), script, npz_of(b"")):
        for suffix in ("png", "npz"):
            with pytest.raises(CannotDecode, match="cannot be read"):
                read_depth(data, suffix)


def npz_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", content)
        archive.writestr("b.npy", content)
    return file.getvalue()


def test_a_package_does_not_run_before_the_hash_of_its_module_is_given(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To find a module in a package, Python would import the package."""
    ran, package = tmp_path / "ran", tmp_path / "modules/strange_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    (package / "guess.py").write_text("def flat(picture):\n    return picture.mean(-1)\n")
    monkeypatch.syspath_prepend(package.parent)
    name = "strange_package.guess:flat"
    typed = ["data", "derive", "depth", str(digits), f"out={tmp_path}/d", f"estimator={name}"]
    assert main(typed) == 2 and "guess.py" in capsys.readouterr().err
    assert not ran.exists()
    digest = hashlib.sha256((package / "guess.py").read_bytes()).hexdigest()
    assert main([*typed, f"sha256={digest}"]) == 0 and ran.exists()


def test_a_network_that_was_changed_after_its_hash_was_given_does_not_run(
    digits: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(Flat()).save(str(path))
    asked = Depth(
        estimator=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest(), rule="robust"
    )
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="has another sha256 than"):
        derive(digits, tmp_path / "out", asked)


def test_a_missing_file_names_its_sample(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = files(tmp_path / "files", "npz")
    (found / "train-00000002.npz").unlink()
    typed = ["data", "derive", "depth", str(digits), f"out={tmp_path}/d", f"files={found}"]
    assert main(typed) != 0
    assert "train-00000002" in capsys.readouterr().err
    with pytest.raises(UserError, match="files=DIR, or from estimator="):
        Depth()
