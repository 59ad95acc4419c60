"""Paths as they are typed, through the command line: relative ones, and addresses.

That checkpoints at a relative path outlive Ray is for tests/whole/test_whole_way.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvdm.checkpoint import checkpoint
from launcher import compose, paths
from launcher.cli import main

ROOT = Path(__file__).resolve().parents[3]
YAML = str(ROOT / "tests/sixth/toy_flow.yaml")
QUICK = [f"config={YAML}", "log.tensorboard=false", "steps=2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "tests/sixth"))


@pytest.fixture
def bucket(shapes: Path) -> Iterator[str]:
    """The data set in an object store on loopback."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import fsspec
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "a")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        client = fsspec.filesystem("s3")
        client.makedirs("sets", exist_ok=True)
        client.put(f"{shapes}/", "sets/shapes/", recursive=True)
        yield "s3://sets/shapes"
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_run_trains_from_a_bucket(bucket: str, tmp_path: Path) -> None:
    typed = [f"data.path={bucket}", "run=r", "data.cache=kept", "cluster=inline"]
    assert main(["train", *QUICK, *typed]) == 0
    assert [found.step for found in checkpoint.listed(tmp_path / "r")] == [2]
    assert list((tmp_path / "kept").glob("??/*"))


def test_the_names_of_today_are_valid_and_every_file_has_one() -> None:
    names = compose.names()
    assert {"tiny/hvdm_autoencoder", "hvdm_sky_256/diffusion", "pvdm_released/autoencoder"} <= set(
        names
    )
    assert len(names) == len(list((ROOT / "configs/runs").rglob("*.yaml")))
    assert compose.run_config("tiny/hvdm_autoencoder").run.endswith("runs/tiny/hvdm_autoencoder")


def test_every_path_is_whole_and_no_address_is_changed(tmp_path: Path) -> None:
    config = compose.run_config(
        YAML,
        ["run=r", "init=a@3", "data.cache=~/c", "data.mix={more:2}", "checkpoint.path=s3://b/c",
         "data.path=https://host/set", "data.beside=[flow,s3://b/d]"],
    )  # fmt: skip
    assert config.data.beside == (f"{tmp_path}/flow", "s3://b/d")
    assert config.run == f"{tmp_path}/r" and config.init == f"{tmp_path}/a@3"
    assert config.data.cache == f"{Path.home()}/c" and config.data.path == "https://host/set"
    assert config.data.mix == {f"{tmp_path}/more": 2} and config.checkpoint.path == "s3://b/c"
    weights = paths.made_whole({"model": {"perceptual_weights": ["a.pt"], "width": 3}})
    assert weights == {"model": {"perceptual_weights": [f"{tmp_path}/a.pt"], "width": 3}}


def test_a_split_in_place_of_its_data_set_is_said(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *QUICK, f"data.path={shapes}/train"]) == 2
    assert f"data.path={shapes}" in (error := capsys.readouterr().err)
    assert "train/train" not in error
    assert main(["train", *QUICK, f"data.path={shapes}", "data.train=val"]) == 2
    assert "data.train=" in capsys.readouterr().err


def test_the_config_says_what_would_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", f"config={YAML}", "data.path=s3://a/b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["path"] == "s3://a/b"
