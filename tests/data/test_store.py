import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvdm.data import store
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.rows import Reading, SplitReader
from hvdm.data.store import Absent, Cache, Outage, open_store
from hvdm.errors import RunError, UserError
from tests.support.data_server import FileServer, served

SPEC = ClipSpec(frames=4, height=32, width=32, stride=2)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAUSES", (0.0, 0.0))


@pytest.fixture
def server(clips_folder: Path) -> Iterator[FileServer]:
    with served(clips_folder) as server:
        yield server


def keys(location: str | Path, options: ReadOptions | None = None, count: int = 30) -> list[object]:
    with Loader(location, SPEC, lanes=4, window=3, options=options) as loader:
        batch = loader.rows(range(count))
    return [batch.keys, batch["video"].numpy().tobytes()]


def test_a_web_server_gives_what_the_disk_gives(clips_folder: Path, server: FileServer) -> None:
    assert keys(f"{server.url}/train") == keys(clips_folder / "train")


@pytest.mark.parametrize("fault", ["error", "cut", "wrong"])
def test_what_fails_once_is_asked_for_again(
    clips_folder: Path, server: FileServer, fault: str
) -> None:
    server.fault = lambda path, before: fault if path.endswith(".tar") and before % 3 == 1 else None
    options = ReadOptions(damaged=0.0)
    assert keys(f"{server.url}/train", options, 8) == keys(clips_folder / "train", None, 8)
    assert max(server.asked.values()) > 2


def test_a_request_that_never_answers_ends(server: FileServer) -> None:
    server.fault = lambda path, before: "stall" if before == 0 else None
    assert open_store(server.url + "/train", timeout_s=0.3).read("manifest.json")
    server.fault = lambda path, before: "stall"
    with pytest.raises(Outage, match=r"cannot read http.*/train/manifest.json"):
        open_store(server.url + "/train", timeout_s=0.1).read("manifest.json")


def test_what_is_not_there_is_not_asked_for_again(server: FileServer) -> None:
    with pytest.raises(Absent, match=r"no such file"):
        open_store(server.url + "/train").read("nothing.json")
    assert server.asked == {"/train/nothing.json": 1}
    with pytest.raises(UserError, match="data.path= is the folder or address above"):
        keys(server.url)


def test_a_shard_that_cannot_be_reached_is_left_out(server: FileServer) -> None:
    server.fault = lambda path, before: "error" if "shard-000001.tar" in path else None
    with Loader(
        f"{server.url}/train", SPEC, lanes=4, window=3, options=ReadOptions(damaged=0.5)
    ) as loader:
        batch = loader.rows(range(26))
        lost = loader.substitutions()
    assert not [key for key in batch.keys if "shard-000001" in key]
    assert [(one.shard, one.key) for one in lost] == [("shard-000001.tar", None)]
    assert "503" in lost[0].reason
    with pytest.raises(RunError, match=r"7 of 26 samples cannot be read.*shard-000001"):
        keys(f"{server.url}/train")


def test_an_outage_is_waited_for_and_is_no_damage(
    clips_folder: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four tries in three seconds were all; a server that is updated takes longer."""
    paused: list[float] = []
    monkeypatch.undo()
    monkeypatch.setattr(store.time, "sleep", paused.append)
    server.fault = lambda path, before: "error" if path.endswith(".tar") and before < 12 else None
    found = keys(f"{server.url}/train", ReadOptions(damaged=0.0, outage_s=600), 8)
    assert found == keys(clips_folder / "train", None, 8)
    assert max(paused) > 10 and sum(paused) > 60


def test_a_store_that_answers_nobody_loses_no_sample(server: FileServer) -> None:
    options = ReadOptions(damaged=1.0)
    with Loader(f"{server.url}/train", SPEC, lanes=4, window=3, options=options) as loader:
        server.fault = lambda path, before: "error"
        with pytest.raises(Outage, match=r"cannot read http.*503"):
            loader.rows(range(8))
        assert not loader.substitutions()


def test_an_epoch_fetches_the_data_set_once(clips_folder: Path, server: FileServer) -> None:
    folder = clips_folder / "train"
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    options = ReadOptions(decoder="pyav")
    for rank in range(2):
        with Loader(f"{server.url}/train", SPEC, lanes=4, window=3, options=options) as loader:
            for _ in loader.steps(0, 13, batch=2, micro_batch=1, rank=rank, world=2):
                pass
    clips = sum(loader_bytes(folder))
    assert server.sent < 1.1 * size + 2 * sum(p.stat().st_size for p in folder.glob("*.json"))
    assert server.sent >= clips


def loader_bytes(folder: Path) -> list[int]:
    from hvdm.data.schema import read_index, read_manifest

    manifest = read_manifest(folder)
    return [entry.bytes for shard in manifest.shards for entry in read_index(folder, shard)]


def test_a_cache_spares_the_second_epoch(
    clips_folder: Path, server: FileServer, tmp_path: Path
) -> None:
    options = ReadOptions(cache=str(tmp_path / "kept"))
    first = keys(f"{server.url}/train", options)
    sent, server.sent = server.sent, 0
    assert keys(f"{server.url}/train", options) == first
    assert server.sent < sent / 3


def test_readers_of_single_shards_keep_to_one_limit(
    clips_folder: Path, server: FileServer, tmp_path: Path
) -> None:
    """Children have one for each shard."""
    limit = 1.5 * max(loader_bytes(clips_folder / "train"))
    place, kept = f"{server.url}/train", tmp_path / "kept"
    reading = Reading(SPEC, (), seed=0, decoder="pyav", cache=str(kept), cache_gb=limit / 1e9)
    whole = SplitReader(place, reading)
    parts = [SplitReader(place, reading, 0, whole.of_shard(n)) for n in (0, 1)]
    for reader in (*parts, *parts):
        for sample in range(reader.manifest.samples):
            reader.reader.sample(0, sample)
    assert 0 < sum(path.stat().st_size for path in kept.glob("??/*")) <= limit


def test_a_cache_is_bounded_and_trusts_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=10)
    name = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # sha256 of foo
    cache.put(name, b"foo")
    assert cache.get(name) == b"foo"
    cache.put("0" * 64, b"12345678")
    assert cache.get("0" * 64) is None
    (tmp_path / name[:2] / name).write_bytes(b"bar")
    assert cache.get(name) is None


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(UserError, match=r"nothing://x/train cannot be opened"):
        open_store("nothing://x/train").read("manifest.json")


@pytest.fixture
def bucket(clips_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The clips in an S3 server on loopback."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(key, value)
    import fsspec
    import s3fs

    # One that an earlier test left would still call that test's server.
    s3fs.S3FileSystem.clear_instance_cache()
    client = fsspec.filesystem("s3")
    name = tmp_path.name.replace("_", "-")
    client.mkdir(name)
    client.put(f"{clips_folder}/train", f"{name}/train", recursive=True)
    yield f"s3://{name}/train"
    server.stop()
    os.environ.pop("AWS_ENDPOINT_URL", None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_object_store_gives_what_the_disk_gives(bucket: str, clips_folder: Path) -> None:
    assert keys(bucket) == keys(clips_folder / "train")
    with pytest.raises(Absent):
        open_store(bucket).read("nothing.json")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_object_store_may_fail_now_and_then(
    bucket: str, clips_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To each range of bytes the first answer is an error, and the second one is cut."""
    import s3fs

    honest, asked = s3fs.S3FileSystem._cat_file, Counter[tuple[str, int | None]]()

    async def now_and_then(self: Any, path: str, **how: Any) -> bytes:
        what = (path, how.get("start"))
        asked[what] += 1
        if asked[what] == 1:
            raise OSError("SlowDown")
        data: bytes = await honest(self, path, **how)
        return data[: len(data) // 2] if asked[what] == 2 and "shard" in path else data

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", now_and_then)
    options = ReadOptions(damaged=0.0)
    assert keys(bucket, options, 8) == keys(clips_folder / "train", None, 8)
    assert min(asked.values()) >= 2 and max(asked.values()) == 3
