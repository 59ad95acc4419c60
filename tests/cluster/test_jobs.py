"""Runs that a cluster is handed: as a Ray Job, and by the Slurm script."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvdm.run import run
from launcher import compose
from launcher.verbs.distance import difference
from launcher.workers import stop_file
from tests.cluster import hosts
from tests.paced import paced
from tests.paced.holding import Held, hvdm, until

FAKE = """#!{python}
import json, os, signal, subprocess, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
hosts = json.loads(open("{folder}/hosts.json").read())
if name == "scontrol":
    if arguments[0] == "show":
        print("\\n".join(hosts))
    else:
        open("{folder}/requeued", "a").write(arguments[1] + "\\n")
    sys.exit(0)
options = {{}}
while arguments[0].startswith("--"):
    key, _, value = arguments.pop(0).partition("=")
    options[key] = value
names = [options["--nodelist"]] if "--nodelist" in options else list(hosts)
names = [n for n in names if n != options.get("--exclude")]
assert len(names) == int(options["--nodes"]) == int(options["--ntasks"])
running = [subprocess.Popen([*hosts[n], *arguments]) for n in names]
signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in running])
sys.exit(max(child.wait() for child in running))
"""
"""What the script calls of Slurm, with namespaces for nodes."""


@pytest.fixture(scope="module")
def bare_hosts() -> Iterator[hosts.Cluster]:
    """Two, without Ray: the script starts it."""
    with hosts.cluster(2, cpus=1, ray=False) as made:
        yield made


def scripted(held: Held, where: hosts.Cluster, folder: Path) -> list[str]:
    """The command of the batch script, as Slurm runs it: on the first node."""
    script, tools = folder / "job.sh", folder / "slurm"
    typed = [o for o in held.typed[1:] if not o.startswith(("cluster.address", "cluster=existing"))]
    made = hvdm("cluster", "template", "slurm", *typed, "workers_per_node=1", f"out={script}")
    subprocess.run(made, check=True, env=where.environment())
    tools.mkdir()
    for name in ("srun", "scontrol"):
        (tools / name).write_text(FAKE.format(python=sys.executable, folder=folder))
        (tools / name).chmod(0o755)
    return [*where.head.beside, "bash", str(script)]


def batch(command: list[str], where: hosts.Cluster, folder: Path) -> "subprocess.Popen[str]":
    for host in where.hosts:
        host.kill()
        host.boot()
    (folder / "hosts.json").write_text(json.dumps({h.name: h.inside for h in where.hosts}))
    names = ",".join(host.name for host in where.hosts)
    slurm = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": names, "SLURM_JOB_NUM_NODES": "2"}
    path = {"PATH": f"{folder}/slurm{os.pathsep}{where.environment()['PATH']}"}
    with open(folder / "job.log", "a") as log:  # what the script leaves behind may hold it open
        return subprocess.Popen(
            command,
            env={**where.environment(), **slurm, **path},
            stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def test_the_slurm_script_trains_is_preempted_and_resumes(
    bare_hosts: hosts.Cluster, shapes: Path, tmp_path: Path
) -> None:
    held = Held(tmp_path, shapes, *bare_hosts.where(2, limit_s=60))
    command = scripted(held, bare_hosts, tmp_path)
    held.hold(5)
    first = batch(command, bare_hosts, tmp_path)
    held.reached(5, first)
    (script,) = [p for p in bare_hosts.head.pids() if _is_bash(p)]
    os.kill(script, signal.SIGTERM)
    until(lambda: stop_file.asked(held.run) == "asked", first)
    held.release(5)
    assert first.wait(120) == 75, (tmp_path / "job.log").read_text()
    assert (tmp_path / "requeued").read_text() == "41\n"
    assert [e["step"] for e in held.events("stopped")] == [5]
    second = batch(command, bare_hosts, tmp_path)
    assert second.wait(240) == 0, (tmp_path / "job.log").read_text()
    assert [e["step"] for e in held.events("resumed")] == [5]
    assert held.events("finished") and held.events("resumed")[0]["workers"] == 2


def _is_bash(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[0].endswith(b"bash") and words[1].endswith(b"job.sh")


def test_a_submitted_run_survives_a_node_and_is_like_any_other(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of one core each; the second one is killed in step 5, and one worker goes on."""
    with hosts.cluster(2, cpus=1, dashboard=True) as made:
        held = Held(tmp_path, shapes, *made.where("1..2"))
        held.environment = made.environment()
        address = f"address=http://{made.head.address}:8265"
        held.typed = ["submit", address, *held.typed[1:]]
        held.typed = [o for o in held.typed if not o.startswith("cluster.address=")]
        held.hold(5)
        process = held.start(made.head.inside)
        held.reached(5, process)
        made.hosts[1].kill()
        held.happened("lost", 1, process)
        held.release(5)
        told, errors = process.communicate(timeout=240)
        assert process.returncode == 0, told + errors
        assert "submitted train-run" in told and "train-run: succeeded" in told
        assert "resumed: step=3" in told and "goodput" in told
        listed = json.loads(made.run(made.head, *hvdm("jobs", "list", address, "--json")))
        assert [(row["job"], row["status"]) for row in listed] == [("train-run", "SUCCEEDED")]
        assert listed[0]["run"] == str(held.run)
    assert [e["workers"] for e in held.events("resumed")] == [1]
    names = {"config.yaml", "events.jsonl", "metrics.jsonl", "checkpoints", "logs"}
    assert {p.name for p in held.run.iterdir() if not p.name.startswith(".")} == names
    monkeypatch.syspath_prepend(str(Path(paced.__file__).parent))
    alone = [o for o in held.typed if o.startswith(("data.", "model."))]
    typed = [*alone, f"run={tmp_path}/alone", "cluster=inline"]
    run.train(compose.run_config(held.typed[2].removeprefix("config="), typed), sinks=())
    (row,) = difference(f"{tmp_path}/alone", str(held.run)).values()
    assert row["travelled"] >= 0.01 and row["of_travel"] <= 1e-5, row
