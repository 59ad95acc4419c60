"""Shards and lists that a stranger made: a sample is refused alone, and nothing else happens."""

import gzip
import http.server
import io
import json
import struct
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.writer import Sample, write_shard
from hvdm.data import child, containers
from hvdm.data.fields import Field, array, label, number, video
from hvdm.data.loader import ClipSpec, Loader, ReadOptions
from hvdm.data.schema import (
    VERSION,
    Entry,
    Manifest,
    Shard,
    index_bytes,
    index_path,
    read_manifest,
    write_manifest,
)
from hvdm.disk import sha256_of
from hvdm.errors import RunError
from hvdm.media.h264 import encode_h264
from hvdm.recipes.image_dynamics import spectra
from launcher import cli

VIDEO = encode_h264(np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), np.uint8), 8)
GOOD = {"mp4": VIDEO, "json": b'{"frames": 8, "label": 1, "motion": 0.5}'}
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"


def png_of(width: int, height: int) -> bytes:
    """A picture of zeros whose bytes are few."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


ODD: dict[str, dict[str, bytes]] = {
    "label": {"mp4": VIDEO, "json": b'{"frames": 8, "label": 1e30}'},
    "nested": {"mp4": VIDEO, "json": b'{"a":' + b"[" * 100_000},
    "bomb": {"png": png_of(40_000, 40_000)},
    "larger-bomb": {"png": png_of(9_000, 9_000)},
    "negative": {"mp4": VIDEO, "json": b'{"frames": -5}'},
    "endless": {"mp4": VIDEO, "json": b'{"frames": Infinity}'},
    "motion": {"mp4": VIDEO, "json": b'{"frames": 8, "motion": NaN}'},
    "session": {"mp4": SDP, "json": b'{"frames": 8}'},
    "script": {"png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"},
    "playlist": {"mp4": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "json": b"{}"},
}

NUMBERS = {"label", "motion"}
"""Odd only where a run reads that."""


def split_of(folder: Path, samples: list[Sample]) -> Path:
    folder.mkdir(parents=True)
    shard = write_shard(folder / "shard-000000.tar", samples)
    write_manifest(folder, Manifest(VERSION, folder.name, len(samples), (shard,), {}))
    return folder


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A data set of odd samples, and as many good ones after them."""
    samples = [Sample(key, parts) for key, parts in ODD.items()]
    split_of(tmp_path / "set/train", samples + [Sample(f"z{n}", GOOD) for n in range(len(ODD))])
    return tmp_path / "set"


def verified(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str | None, str]:
    """What `hvdm data verify` says of each sample."""
    code = cli.main(["data", "verify", str(folder), "full=true", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (1 if report["damage"] else 0)
    return {one["key"]: one["what"] for one in report["damage"]}


def lost_of(split: Path, count: int, *fields: Field) -> dict[str | None, str]:
    """What is substituted when each sample is drawn once, and why."""
    spec, options = ClipSpec(2, 16, 16), ReadOptions(damaged=1.0)
    fields = (video(spec), *fields)
    with Loader(split, spec, lanes=1, threads=1, options=options, fields=fields) as loader:
        assert len(loader.rows(range(count)).keys) == count
        return {one.key: one.reason for one in loader.substitutions()}


def test_each_odd_sample_is_substituted(odd: Path, tmp_path: Path) -> None:
    lost = lost_of(odd / "train", 2 * len(ODD))
    assert lost.keys() == ODD.keys() - NUMBERS
    assert "frames '-5'" in lost["negative"] and "frames 'inf'" in lost["endless"]
    assert "more than 67108864 pixels" in lost["larger-bomb"]
    assert "begins like no video" in lost["session"] and "begins like no" in lost["playlist"]
    samples = [Sample(key, {"mp4": VIDEO, "json": json.dumps(about).encode()}) for key, about in (
        ("label", {"frames": 8, "label": 1e30, "motion": 0.5}),
        ("motion", {"frames": 8, "label": 1, "motion": float("nan")}),
    )]  # fmt: skip
    split = split_of(tmp_path / "numbers", [*samples, Sample("z", GOOD)])
    lost = lost_of(split, 3, label(10), number("motion"))
    assert lost.keys() == NUMBERS and "label '1e+30', which cannot be" in lost["label"]


def test_a_run_goes_on_over_odd_samples(odd: Path, tmp_path: Path) -> None:
    typed = [
        f"run={tmp_path / 'run'}", f"data.path={odd}", "cluster=inline", "steps=10", "batch=2",
        "micro_batch=2", "data.frames=8", "data.height=16", "data.width=16", "data.damaged=1.0",
        "model.width=16", "model.depth=1", "log.tensorboard=false",
    ]  # fmt: skip
    assert cli.main(["train", "config=tiny/hvdm_autoencoder", *typed]) == 0
    lines = (tmp_path / "run/events.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines if "substituted" in line]
    assert {one["key"] for one in told} == ODD.keys() - NUMBERS


def test_verify_names_each_of_them(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verified(capsys, odd)
    # a label or a motion that cannot be learned from is no damage of the file
    assert found.keys() == ODD.keys() - NUMBERS


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server's address, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}", asked
        found.shutdown()


def test_a_playlist_fetches_nothing(
    server: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = server
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
    hls = f"{head}{address}/a.ts\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile {address}/b.mp4\n".encode()
    samples = [Sample("hls", {"mp4": hls}), Sample("concat", {"mkv": concat}), Sample("z", GOOD)]
    split_of(tmp_path / "set/train", samples)
    assert verified(capsys, tmp_path / "set").keys() == {"hls", "concat"}
    with Loader(
        tmp_path / "set/train", ClipSpec(2, 16, 16), options=ReadOptions(damaged=1.0)
    ) as own:
        own.rows(range(3))
    (tmp_path / "films").mkdir()
    (tmp_path / "films/x.mp4").write_bytes(hls)
    cli.main(["data", "shard", f"source={tmp_path / 'films'}", f"out={tmp_path / 'out'}"])
    assert "begins like no video" in capsys.readouterr().out
    assert not asked


def stranger(folder: Path, members: bytes, key: str) -> Path:
    """A split whose one sample is these bytes, under this key; every hash is right."""
    folder.mkdir(parents=True)
    tar = members + bytes(1024)
    (folder / "shard-000000.tar").write_bytes(tar)
    index = index_bytes((Entry(key, 0, len(members), sha256_of(members)),))
    index_path(folder, "shard-000000.tar").write_bytes(index)
    shard = Shard("shard-000000.tar", len(tar), sha256_of(tar), 1, sha256_of(index))
    write_manifest(folder, Manifest(VERSION, folder.name, 1, (shard,), {}))
    return folder


def members_of(name: str, parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for suffix, data in parts.items():
            member = tarfile.TarInfo(f"{name}.{suffix}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        return file.getvalue()[: tar.offset]


def sparse() -> bytes:
    """A member of 512 bytes that says it is 8 GiB of zeros."""
    member = tarfile.TarInfo("a.mp4")
    member.size = 512
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[156:157] = tarfile.GNUTYPE_SPARSE
    head[386:398], head[398:410] = b"00000000000\0", b"00000001000\0"
    head[483:495] = b"77777777777\0"
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 256 + sum(head[156:512]))
    return bytes(head) + bytes(512)


@pytest.mark.parametrize("members", [gzip.compress(bytes(1 << 20)), sparse()])
def test_what_would_grow_is_not_unpacked(
    members: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(tmp_path / "set/train", members, "a")
    assert "its tar members cannot be read" in verified(capsys, tmp_path / "set")["a"]


@pytest.mark.parametrize("key", ["../../x", "/x", '"><script>alert(1)</script>', ""])
def test_a_key_that_is_no_name_is_refused(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(tmp_path / "a/b/set/train", members_of(key, GOOD), key)
    whole = tmp_path / "a/b/set"
    before = {path for path in tmp_path.rglob("*") if "preview" not in path.parts}
    assert "is not of letters, digits" in verified(capsys, whole)[None]
    assert cli.main(["data", "preview", str(whole)]) == 1
    assert "is not of letters, digits" in capsys.readouterr().err
    assert {path for path in tmp_path.rglob("*") if "preview" not in path.parts} == before
    assert not list(whole.rglob("*.html"))


def test_words_of_a_sample_are_text_in_the_preview(tmp_path: Path) -> None:
    words = "<script>alert(1)</script>"
    about = {"frames": 8, "class": words, "caption": words, "source": words}
    split_of(tmp_path / "set/train", [Sample("a", {**GOOD, "json": json.dumps(about).encode()})])
    assert cli.main(["data", "preview", str(tmp_path / "set")]) == 0
    page = (tmp_path / "set/preview/index.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("split", ["../../x", "/tmp/x", "journal", "a/b", ".."])
def test_a_split_in_a_list_stays_inside(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.mp4").write_bytes(VIDEO)
    (tmp_path / "list.csv").write_text(f"path,split\nv.mp4,{split}\n")
    before = set(tmp_path.iterdir())
    typed = [f"source={tmp_path / 'list.csv'}", f"out={tmp_path / 'a/b/out'}", "min_frames=8"]
    assert cli.main(["data", "shard", *typed]) == 2
    error = capsys.readouterr().err
    assert "entry 1" in error and "no name for a folder" in error and len(error.splitlines()) == 1
    assert set(tmp_path.iterdir()) == before


def test_a_range_outside_of_its_shard_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = stranger(tmp_path / "set/train", members_of("a", GOOD), "a")
    shard = read_manifest(split).shards[0]
    index = index_bytes((Entry("a", -1, shard.bytes, "0" * 64),))
    index_path(split, shard.name).write_bytes(index)
    changed = Shard(shard.name, shard.bytes, shard.sha256, 1, sha256_of(index))
    write_manifest(split, Manifest(VERSION, "train", 1, (changed,), {}))
    assert "lies outside of shard-000000.tar" in verified(capsys, tmp_path / "set")[None]


SPOILED = """
import signal, time
import hvdm.data.decode as decode
def spoil(*_):
    {code}
decode.frames_of = spoil
decode.DECODERS["decord"] = spoil
"""


@pytest.fixture
def spoiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """What each video does to the decoder in children that start from now on."""

    def spoil(code: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(SPOILED.format(code=code))
        child._own.child.close()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield spoil
    child._own.child.close()


def test_what_grows_in_a_child_is_refused() -> None:
    own = child.Child()
    with pytest.raises(child.Failed, match="takes more than 4 GiB of memory"):
        own.call(bytearray, 9 << 30, limit_s=60)
    own.close()


def test_a_decoder_that_hangs_is_contained(
    spoiled: Callable[[str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split_of(tmp_path / "set/train", [Sample("a", GOOD)])
    spoiled("time.sleep(600)")
    monkeypatch.setattr(child, "LIMIT_S", 3.0)
    assert verified(capsys, tmp_path / "set") == {"a": "took longer than 3 s and was stopped"}


def test_a_sample_that_kills_its_decoder_gives_way_when_processes_decode(
    spoiled: Callable[[str], None], tmp_path: Path
) -> None:
    samples = [Sample("a", GOOD), Sample("b", {"png": png_of(16, 16)})]
    split_of(tmp_path / "set/train", samples)
    spoiled("signal.raise_signal(signal.SIGSEGV)")
    options = ReadOptions(damaged=1.0, pool="processes")
    spec = ClipSpec(1, 16, 16)
    with Loader(tmp_path / "set/train", spec, threads=1, options=options) as loader:
        assert set(loader.rows([0, 1]).keys) == {"shard-000000.tar/b"}
        (lost,) = loader.substitutions()
    assert lost.key == "a" and "crashed the decoder (SIGSEGV)" in lost.reason


def npy(head: str) -> bytes:
    """An array whose head says this, and that has no numbers."""
    text = head.encode("latin1").ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def spoiled_npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(99.0))
    data = bytearray(file.getvalue())
    data[60:75] = b"\xff" * 15
    return bytes(data)


ARRAYS = {
    "open": npy("{'descr': ("),
    "nested": npy("(" * 100),
    "type": npy("{'descr': ',,,', 'fortran_order': False, 'shape': ()}"),
    "huge": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999,)}"),
    "beyond": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
    "nothing": npy("{'descr': '|S0', 'fortran_order': False, 'shape': (2, 999999999999)}"),
    "archive": b"PK\x03\x04" + b"junk" * 20,
    "deflated": spoiled_npz(),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_whatever_an_array_says_is_damage(kind: str, tmp_path: Path) -> None:
    """Heads are Python, archives are zips: their readers raise more kinds of errors than numpy."""
    kinds = {
        "flow": (array("flow", "flow.npy", (2, 4)), np.zeros((2, 4), np.float32)),
        "spectrum": (spectra.volume(2, 16, 16), np.zeros((2, 2, 2, 16, 16), np.float32)),
    }
    for name, (field, values) in kinds.items():
        good = io.BytesIO()
        np.save(good, values)
        parts = {"a": ARRAYS[kind], "b": good.getvalue()}
        samples = [Sample(key, {f"{name}.npy": data}) for key, data in parts.items()]
        split = split_of(tmp_path / name / "train", samples)
        options = ReadOptions(damaged=1.0)
        with Loader(split, ClipSpec(1, 16, 16), options=options, fields=[field]) as loader:
            assert set(loader.rows([0, 1]).keys) == {"shard-000000.tar/b"}
            assert [lost.key for lost in loader.substitutions()] == ["a"]


def test_a_child_reads_no_manifest(tmp_path: Path) -> None:
    """It is told of the shard that it reads: manifests name a hundred thousand."""
    split = tmp_path / "set/train"
    split_of(split, [Sample("a", {"png": png_of(16, 16)}), Sample("b", {"png": png_of(16, 16)})])
    options = ReadOptions(pool="processes")
    with Loader(split, ClipSpec(1, 16, 16), threads=1, options=options) as loader:
        (split / "manifest.json").unlink()
        assert set(loader.rows([0, 1]).keys) == {"shard-000000.tar/a", "shard-000000.tar/b"}


def test_no_demuxer_is_asked_to_guess() -> None:
    for head in (b"", b"#EXTM3U", SDP, b"ffconcat version 1.0", b"GIF", b"RIFF\0\0\0\0WAVE"):
        assert containers.demuxer_of(head) is None
    with pytest.raises(RunError):
        from hvdm.data.decode import decode_all

        decode_all(SDP)
