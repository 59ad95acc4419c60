import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hvdm.disk import atomic_write, locked, replacing, sha256_of, sha256_of_file
from hvdm.errors import UserError
from hvdm.events import each_line, newest_first


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_atomic_write_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    atomic_write(tmp_path / "x", b"old")
    atomic_write(tmp_path / "x", "näw")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == "näw".encode()
    assert sha256_of_file(tmp_path / "x") == sha256_of("näw".encode())


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    atomic_write(tmp_path / "x.npz", b"old")
    with pytest.raises(OSError, match="full"), replacing(tmp_path / "x.npz") as part:
        part.write_bytes(b"half")
        assert part.suffix == ".npz" and part.parent == tmp_path
        raise OSError("full")
    assert names(tmp_path) == ["x.npz"]
    assert (tmp_path / "x.npz").read_bytes() == b"old"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as first, replacing(tmp_path / "x") as second:
        first.write_bytes(b"1")
        second.write_bytes(b"2")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_durable_is_on_the_disk_before_it_has_its_name(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []

    def fsync(handle: int) -> None:
        seen.append((str(Path(f"/proc/self/fd/{handle}").readlink()), names(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(tmp_path / "x", durable) as part:
        part.write_bytes(b"1")
    expected = [(str(part), [part.name]), (str(tmp_path), ["x"])]
    assert seen == (expected if durable else [])


def test_a_lock_is_one_process_s_and_ends_with_it(tmp_path: Path) -> None:
    hold = "import sys, hvdm.disk as f\nwith f.locked(f.Path(sys.argv[1])): print(1); input()"
    command = [sys.executable, "-c", hold.replace("print(1)", "print(1, flush=True)")]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, tmp_path / "lock"], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        with pytest.raises(UserError, match="^taken$"), locked(tmp_path / "lock", "taken"):
            pass
        other.kill()
    with locked(tmp_path / "lock", "taken"):
        pass


def test_lines_are_read_as_if_each_were_alone(tmp_path: Path) -> None:
    """They are parsed many at once; halves that are rows together are none, nor are two in one."""
    chosen = random.Random(4)
    odd = [
        b'{"a": [1',
        b'2], "b": 3}',
        b'{"c": 4},{"c": 5}',
        b"",
        b"[]",
        b"\xff",
        b"7",
        b'{"cut": ',
    ]
    lines = [
        json.dumps({"step": n}).encode() if chosen.random() < 0.97 else chosen.choice(odd)
        for n in range(5000)
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b"\n" + b"\n".join(odd))
    steps = [json.loads(line) for line in lines if line.startswith(b'{"step"')]
    assert list(each_line(tmp_path / "x.jsonl")) == steps
    assert list(newest_first(tmp_path / "x.jsonl")) == steps[::-1]
