"""Every complaint of `hvdm doctor` comes with what to do."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest
import torch

from launcher.arguments import call
from launcher.doctor import checks, doctor, probing
from launcher.doctor.checks import Line
from launcher.workers import reaching


def by_state(lines):
    return {line.state for line in lines}


def test_this_machine_has_what_the_tests_need():
    for check in (checks.python, checks.packages, checks.machine, checks.disk):
        assert "failed" not in by_state(check()), check()


def test_no_compiler_is_said_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (line,) = checks.compiler()
    assert line.state == "failed" and "apt-get install g++" in line.remedy


def test_missing_headers_are_found_by_compiling(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: Python.h: No such file' >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (line,) = checks.compiler()
    assert line.state == "failed" and "Python.h" in line.text and "python3-dev" in line.remedy


def test_a_package_that_is_not_the_pinned_one(monkeypatch):
    real = checks._version
    monkeypatch.setattr(checks, "_version", lambda n: "0.0.1" if n == "torch" else real(n))
    (line,) = checks.packages()
    assert line.state == "failed" and "torch is 0.0.1, expected 2." in line.text


def test_a_disk_that_takes_nothing(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checks.os, "fsync", full)
    line = checks._place("disk", tmp_path)
    assert line.state == "failed" and "No space left" in line.text and "TMPDIR" in line.remedy


def test_a_folder_that_is_not_there_yet_is_judged_by_its_parent(tmp_path):
    assert checks._place("disk", tmp_path / "a" / "b").state in ("ok", "warning")


def test_a_busy_port_names_the_program(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(checks, "RAY_PORTS", {port: "a test"})
        (line,) = checks.ports()
    assert line.state == "warning"
    assert f"{port} (a test) is taken by" in line.text and f"process {os.getpid()}" in line.text


def test_a_ray_that_died_is_found_by_its_note(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    note = tmp_path / "ray_current_cluster"
    note.write_text(address)
    (line,) = checks._dead_address(note)
    assert line.state == "warning" and address in line.text and f"rm {note}" in line.remedy
    assert checks._dead_address(tmp_path / "none") == []


def test_a_cluster_that_is_not_there_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    assert f"nobody answers at {address}" in reaching.silent_cluster(address)
    (tmp_path / "note").write_text(address)
    assert "ray stop --force; rm" in reaching.silent_cluster("auto", tmp_path / "note")
    assert reaching.silent_cluster("auto", tmp_path / "none") is None
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        assert reaching.silent_cluster(f"127.0.0.1:{there.getsockname()[1]}") is None


def test_a_session_folder_without_processes_is_left_over(tmp_path):
    (tmp_path / "hvdm-ray-old").mkdir()
    (line,) = checks._leftovers(tmp_path)
    assert line.state == "warning" and "rm -r" in line.remedy


def test_a_session_of_another_namespace_is_left_alone(tmp_path, monkeypatch):
    """Its process has no number here; its lock is held all the same."""
    from launcher.workers import cluster

    monkeypatch.setattr(cluster.tempfile, "mkdtemp", lambda **_: str(made(tmp_path)))
    monkeypatch.setattr(reaching, "sessions", lambda _: sorted(tmp_path.glob("hvdm-ray-*")))
    monkeypatch.setattr(cluster.os, "getpid", lambda: 2**22 + 1)
    (tmp_path / "hvdm-ray-1-dead").mkdir()
    with cluster._folder() as first:
        assert not (tmp_path / "hvdm-ray-1-dead").exists()
        with cluster._folder():
            assert Path(first).parent.is_dir()
            assert Path(first).parent.stat().st_mode & 0o077 == 0
            assert not checks._leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def made(folder):
    found = folder / f"hvdm-new-{len(list(folder.iterdir()))}"
    found.mkdir(mode=0o700)
    return found


def test_the_token_that_lets_others_in_is_ours_alone(tmp_path):
    from launcher.workers import cluster

    (tmp_path / "auth_token").write_text("secret")
    (tmp_path / "auth_token").chmod(0o644)
    cluster._keep_to_ourselves(tmp_path / "auth_token")
    assert (tmp_path / "auth_token").stat().st_mode & 0o077 == 0
    cluster._keep_to_ourselves(tmp_path / "none")


def test_a_probe_that_crashes_or_hangs_is_a_line(monkeypatch):
    (line,) = probing.probe("no such probe")
    assert line.state == "failed" and "KeyError" in line.text
    (line,) = probing.probe("gpu", timeout_s=0)
    assert line.state == "failed" and "no answer" in line.text


@pytest.mark.parametrize(
    "loaded, installed, state, words",
    [
        (91002, "9.10.2.21", "warning", "-m pip install 'nvidia-cudnn-cu12>=9.15'"),
        (91002, "9.15.1.9", "warning", "9.15.1.9 is there, and another is found first"),
        (91501, "9.15.1.9", "ok", ""),
    ],
)
def test_an_old_cudnn_is_said_with_how_to_replace_it(monkeypatch, loaded, installed, state, words):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: loaded)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(probing.metadata, "version", lambda name: installed)
    line = next(line for line in probing.gpu() if line.name == "cudnn")
    assert line.state == state and words in line.remedy
    assert line.text.startswith(f"9.{loaded // 100 % 100}.")
    assert ("Conv3d in bf16" in line.text) == (state == "warning")


def test_torch_without_cuda_has_no_cudnn_to_replace(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)
    assert "cudnn" not in {line.name for line in probing.gpu()}


def test_probes_of_video_and_attention_answer_here():
    lines = probing.video() + probing.attention()
    assert by_state(lines) == {"ok"}, lines


@pytest.mark.parametrize("state, code", [("ok", 0), ("warning", 0), ("failed", 1)])
def test_the_exit_code_tells_failure_and_json_tells_all(monkeypatch, capsys, state, code):
    line = Line("thing", state, "so it is", "do that")
    monkeypatch.setattr(doctor, "CHECKS", {"thing": lambda: [line]})
    assert call(doctor.doctor, ["--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] == (code == 0) and answer["checks"][0]["remedy"] == "do that"
    assert call(doctor.doctor, []) == code
    assert "-> do that" in capsys.readouterr().out
