"""What Slurm, Kubernetes and cloud machines are handed: whole, valid, and saying what it does."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from hvdm.errors import UserError
from launcher import cli
from launcher.arguments import call, parse
from launcher.remote.templating import FILES, template
from tests.paced.holding import until

NEEDED = ["config=tiny/hvdm_autoencoder", "batch=64", "run=/mnt/hvdm/runs/my_run"]
MORE = {"slurm": [], "kuberay": [], "vm": ["mount=sudo mount -t nfs store:/ /mnt/hvdm"]}


def record(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def rows(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
LABEL = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63}
PORT_NAME = {**LABEL, "maxLength": 15}
QUANTITY = {
    "anyOf": [
        {"type": "integer"},
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|Mi|Gi|Ti|M|G|T)?$"},
    ]
}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
TEXTS = {"type": "object", "additionalProperties": TEXT}
CONTAINER = record(
    ["name", "image"],
    name=LABEL,
    image=TEXT,
    workingDir=TEXT,
    ports=rows(record(["containerPort"], containerPort=WHOLE, name=PORT_NAME)),
    env=rows(record(["name", "value"], name=TEXT, value=TEXT)),
    resources=record([], requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=rows(record(["name", "mountPath"], name=LABEL, mountPath=TEXT)),
)
VOLUME = record(
    ["name"],
    name=LABEL,
    persistentVolumeClaim=record(["claimName"], claimName=TEXT),
    emptyDir=record([], medium=TEXT, sizeLimit=QUANTITY),
)
LABELS = {"type": "object", "additionalProperties": LABEL, "minProperties": 1}
POD = record(
    ["metadata", "spec"],
    metadata=record(["labels"], labels=LABELS),
    spec=record(
        ["containers"],
        terminationGracePeriodSeconds=WHOLE,
        containers=rows(CONTAINER),
        volumes=rows(VOLUME),
    ),
)
POLICY = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "networking.k8s.io/v1"},
    kind={"const": "NetworkPolicy"},
    metadata=record(["name"], name=LABEL),
    spec=record(
        ["podSelector", "policyTypes", "ingress"],
        podSelector=record(["matchLabels"], matchLabels=LABELS),
        policyTypes={"const": ["Ingress"]},
        ingress=rows(
            record(
                ["from"],
                **{
                    "from": rows(
                        record(
                            ["podSelector"],
                            podSelector=record([], matchLabels=LABELS),
                            namespaceSelector={"const": {}},
                        )
                    )
                },
            )
        ),
    ),
)
RAY_JOB = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=record(["name"], name=LABEL),
    spec=record(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        backoffLimit=WHOLE,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=WHOLE,
        runtimeEnvYAML=TEXT,
        rayClusterSpec=record(
            ["headGroupSpec"],
            rayVersion=TEXT,
            authOptions=record(["mode"], mode={"const": "token"}),
            enableInTreeAutoscaling=FLAG,
            headGroupSpec=record(
                ["rayStartParams", "template"], rayStartParams=TEXTS, template=POD
            ),
            workerGroupSpecs=rows(
                record(
                    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                    groupName=TEXT,
                    replicas=WHOLE,
                    minReplicas=WHOLE,
                    maxReplicas=WHOLE,
                    rayStartParams=TEXTS,
                    template=POD,
                )
            ),
        ),
    ),
)
"""Fields, types and what is required of KubeRay's v1 RayJob and of Kubernetes' pods, as far as we
use them. Stricter than the CRD, which knows more fields: one that is not here is a slip."""


def made(capsys: pytest.CaptureFixture[str], kind: str, *more: str) -> str:
    assert cli.main(["cluster", "template", kind, *NEEDED, *MORE[kind], *more]) == 0
    return capsys.readouterr().out


def ray_job(capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    job, policy = yaml.safe_load_all(made(capsys, "kuberay", *more))
    jsonschema.validate(policy, POLICY)
    return job


EVIL = "x\n  privileged: true\n#SBATCH --uid=0\ntouch M `touch M` $(touch M) \"' } # : {"


HOSTILE = (
    "image", "mount", "time", "storage", "claim", "memory", "region", "machine", "grace_s", "run",
    "data.path",
)  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("key", HOSTILE)
def test_no_value_says_more_than_a_value(
    kind: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is quoted by the language that it enters, or refused."""
    relative = ["run=runs/my_run"] if kind != "slurm" and key == "storage" else []
    evil = f"/{EVIL}" if key == "storage" else EVIL
    typed = [*NEEDED, *MORE[kind], *relative, f"{key}={evil}"]
    code = cli.main(["cluster", "template", kind, *typed])
    said = capsys.readouterr()
    if code == 2:
        assert len(said.err.splitlines()) == 1 and key in ("grace_s", "time")
    elif kind == "slurm":
        comments = said.out.partition("set -euo")[0].splitlines()
        assert all(line.startswith("#") for line in comments)
        assert "#SBATCH --uid=0" not in comments
        assert key in ("run", "data.path") or EVIL not in said.out
        command = said.out.rpartition("\nhvdm train")[2].partition(" \\\n    cluster.")[0]
        assert "touch" not in shlex.split(command)
    else:
        harmless_value = "/harmless" if key == "storage" else "harmless"
        text = made(capsys, kind, *relative, f"{key}={harmless_value}")
        assert _shape(list(yaml.safe_load_all(said.out))) == _shape(list(yaml.safe_load_all(text)))


def _shape(value: Any) -> Any:
    """What is there, without what it says."""
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    return [_shape(inner) for inner in value] if isinstance(value, list) else type(value)


def test_no_cluster_of_ours_goes_without_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[3]
    job = ray_job(capsys)
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    _, policy = yaml.safe_load_all(made(capsys, "kuberay"))
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    groups = [_at(job, "spec", "rayClusterSpec", "headGroupSpec"), _at(job, *GROUP)]
    assert all(group["template"]["metadata"]["labels"] == chosen for group in groups)
    machines = made(capsys, "vm")
    starts = [line for line in machines.splitlines() if "ray start" in line]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    composed = yaml.safe_load((root / "compose.yaml").read_text())
    assert all(s["environment"]["RAY_AUTH_MODE"] == "token" for s in composed["services"].values())
    assert "RAY_AUTH_MODE:-token" in made(capsys, "slurm")
    for text in (machines, (root / "docs/launching.md").read_text()):
        assert "dashboard-host=0.0.0.0" not in text


@pytest.mark.parametrize("kind", FILES)
def test_nothing_is_left_open(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = made(capsys, kind, "cluster.workers=16")
    assert not re.search(r"@[A-Z_|a-z]+@", text)
    assert "cluster.workers=16" in text and "run=/mnt/hvdm/runs/my_run" in text


def test_the_slurm_script_asks_for_what_the_run_needs(capsys: pytest.CaptureFixture[str]) -> None:
    text = made(capsys, "slurm", "cluster.workers=16", "time=02:00:00", "grace_s=90")
    for line in ("nodes=2", "gpus-per-node=8", "cpus-per-task=32", "time=02:00:00",
                 "signal=B:TERM@90", "requeue", "job-name=hvdm-my-run"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    alone = made(capsys, "slurm", "cluster.workers=4", "cluster.gpus_per_worker=0")
    assert "#SBATCH --nodes=1\n" in alone and "gpus-per-node" not in alone


@pytest.mark.parametrize("workers", [1, 16])
def test_the_slurm_script_is_a_clean_one(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "job.sh"
    made(capsys, "slurm", f"cluster.workers={workers}", f"out={script}")
    subprocess.run(["bash", "-n", str(script)], check=True)
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


STANDS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then printf "one\\ntwo\\n"; fi',
    "hostname": 'echo "10.0.0.1 10.0.0.2"',
    "ray": 'if [ "$1" = start ]; then echo $$ >> "$NOTES.ray"; exec sleep 60; fi',
    "hvdm": """if [ "$1" = train ]; then
        trap 'exit 75' TERM
        until [ "$(grep -c '^ray start' "$NOTES")" = 2 ]; do sleep 0.02; done
        touch "$NOTES.train"
        while [ -n "$HELD" ]; do sleep 0.02; done
        exit "$CODE"
    fi""",
}


def slurm_job(tmp_path: Path, text: str, **more: str) -> "subprocess.Popen[str]":
    """The script, where stand-ins note how they are called."""
    for name, does in STANDS.items():
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "$NOTES"\n{does}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(text)
    slurm = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "one,two", "SLURM_JOB_NUM_NODES": "2"}
    given = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NOTES": str(tmp_path / "notes"), "HELD": ""}
    return subprocess.Popen(
        ["bash", str(tmp_path / "job.sh")], env={**given, **slurm, **more}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(path: Path) -> bool:
    """All processes that are named there; one that nobody asks about any more has ended, too."""
    found = [Path(f"/proc/{pid}/status") for pid in path.read_text().split()]
    return all(not one.exists() or "State:\tZ" in one.read_text() for one in found)


@pytest.mark.parametrize("code", [0, 1])
def test_the_slurm_script_starts_ray_and_trains(
    code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made(capsys, "slurm", "cluster.workers=16")
    with slurm_job(tmp_path, text, CODE=str(code)) as job:
        assert job.wait(30) == code
    notes = (tmp_path / "notes").read_text().splitlines()
    assert "ray get-auth-token --generate" in notes
    (head,) = [n for n in notes if n.startswith("ray start --block --head")]
    assert "--node-ip-address=10.0.0.1 --port=20041 --num-cpus=32 --num-gpus=8" in head
    (others,) = [n for n in notes if n.startswith("srun") and "--exclude=one" in n]
    assert "--nodes=1 --ntasks=1" in others and "--address=10.0.0.1:20041" in others
    train = [n for n in notes if n.startswith("hvdm train")]
    assert len(train) == 1 and train[0].endswith("cluster.address=10.0.0.1:20041")
    ready = "hvdm cluster status address=10.0.0.1:20041 nodes=2 wait_s=300"
    assert notes.index(ready) < notes.index(train[0])
    assert not any("requeue" in note for note in notes)
    until(lambda: ended(tmp_path / "notes.ray"))


def test_a_warned_slurm_job_saves_and_goes_back_into_the_queue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made(capsys, "slurm", "cluster.workers=16")
    with slurm_job(tmp_path, text, HELD="yes", CODE="0", RAY_AUTH_MODE="disabled") as job:
        until((tmp_path / "notes.train").exists)
        job.send_signal(signal.SIGTERM)
        assert job.wait(30) == 75
    notes = (tmp_path / "notes").read_text().splitlines()
    assert notes[-1] == "scontrol requeue 41"
    assert "ray get-auth-token --generate" not in notes
    until(lambda: ended(tmp_path / "notes.ray"))


def test_the_ray_job_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    job = ray_job(capsys, "cluster.workers=16", "image=me/hvdm:1")
    jsonschema.validate(job, RAY_JOB)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (2, 2)
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "me/hvdm:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    typed = shlex.split(job["spec"]["entrypoint"])
    assert typed[:2] == ["hvdm", "train"] and cli.find(parse(typed[1:]))[0].name == "train"


def _at(job: Any, *path: str | int) -> Any:
    for key in path:
        job = job[key]
    return job


GROUP = ("spec", "rayClusterSpec", "workerGroupSpecs", 0)
POD_OF_GROUP = (*GROUP, "template", "spec")


@pytest.mark.parametrize(
    "place, key, value",
    [
        (GROUP, "rayStartParams", {"num-cpus": 4}),
        (GROUP, "replicas", "2"),
        (GROUP, "replica", 2),
        (("spec",), "ttlSeconds", 600),
        ((*POD_OF_GROUP, "containers", 0, "env", 0), "value", 0),
        ((*POD_OF_GROUP, "containers", 0, "resources", "limits"), "memory", "8 GB"),
        ((*POD_OF_GROUP, "volumes", 0), "persistentVolumeClaim", {"claim": "runs"}),
        (("metadata",), "name", "my_run"),
    ],
)
def test_a_wrong_ray_job_is_found(
    place: tuple[str | int, ...], key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ray_job(capsys)
    jsonschema.validate(job, RAY_JOB)
    _at(job, *place)[key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


def test_the_file_for_cloud_machines_is_what_ray_up_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found: dict[str, Any] = yaml.safe_load(made(capsys, "vm", "cluster.workers=16"))
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(found, json.loads(schema.read_text()))
    assert found["available_node_types"]["workers"]["resources"] == {"CPU": 32, "GPU": 8}
    assert found["head_node_type"] in found["available_node_types"]


@pytest.mark.parametrize("typed", [[], ["slrum", *NEEDED], ["slurm", "kuberay", *NEEDED]])
def test_a_wrong_kind_is_named(typed: list[str]) -> None:
    with pytest.raises(UserError, match="slurm"):
        call(template, typed)


def test_a_wrong_key_of_the_run_is_named() -> None:
    with pytest.raises(UserError, match="cluster.workers"):
        call(template, ["slurm", *NEEDED, "cluster.worker=3"])


@pytest.mark.parametrize("kind", ["kuberay", "vm"])
def test_paths_are_on_the_storage_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = made(capsys, kind, "run=runs/mine", "storage=/shared", "data.path=s3://bucket/shapes")
    for word in ("run=/shared/runs/mine", "data.path=s3://bucket/shapes"):
        assert word in text
    assert str(tmp_path) not in text
    mixed = made(capsys, kind, "data.mix={more/a:2}", "data.beside=[flow,depth]")
    assert "data.mix={/mnt/hvdm/more/a:2}" in mixed.replace("'", "")
    assert "data.beside=[/mnt/hvdm/flow,/mnt/hvdm/depth]" in mixed.replace("'", "")
    assert "data.path=/mnt/hvdm/datasets/shapes" in made(capsys, kind), "as the config has it"
    for typed, said in (
        ("data.path=/home/me/shapes", "data.path='/home/me/shapes' is not on storage='/mnt/hvdm'"),
        (f"run={tmp_path}/run", "is not on storage='/mnt/hvdm', which is all that the nodes share"),
        ("data.path=../shapes", "is not on storage='/mnt/hvdm'"),
        ("storage=shared", "storage='shared' is no whole path"),
    ):
        code = cli.main(["cluster", "template", kind, *NEEDED, *MORE[kind], typed])
        error = capsys.readouterr().err.strip()
        assert code == 2 and said in error and len(error.splitlines()) == 1, error


def test_cloud_machines_need_to_be_told_of_the_storage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cluster", "template", "vm", *NEEDED]) == 2
    assert "mount= is missing: a fresh machine has no /mnt/hvdm" in capsys.readouterr().err


@pytest.mark.parametrize("brings, code", [("true", 0), ("false", 1)])
def test_a_fresh_machine_makes_its_storage(
    brings: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands before the container, with stand-ins for sudo and mountpoint."""
    stands = {
        "sudo": '"$@"',
        "mountpoint": f'test "$1" = -q && test -d "$2" && {brings}',
    }
    for name, does in stands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    storage = tmp_path / "a b" / "store"
    more = ["run=runs/mine", f"storage={storage}", f"mount=sudo touch '{storage}/brought'"]
    found = yaml.safe_load(made(capsys, "vm", *more))
    script = " && ".join(found["initialization_commands"])
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == code and (storage / "brought").exists()
    assert ("is no mount: mount= has to bring it" in done.stderr) == bool(code)


def test_nothing_costs_after_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    text = made(capsys, "vm", "cluster.workers=16")
    found = yaml.safe_load(text)
    assert found["available_node_types"]["workers"]["min_workers"] == 0
    assert found["idle_timeout_minutes"] == 5
    for line in (
        "#   ray up --yes cloud.yaml",
        "#   ray down --yes cloud.yaml",
        "# 2 x p5.48xlarge and one m5.2xlarge in us-west-2.",
    ):
        assert line in text.splitlines()
    job = ray_job(capsys)
    assert job["spec"]["shutdownAfterJobFinishes"] and job["spec"]["ttlSecondsAfterFinished"] == 600
