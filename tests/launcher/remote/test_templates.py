"""What Slurm, Kubernetes and cloud machines are handed: whole, valid, and saying what it does."""

import json
import re
import shlex
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

NEEDED = ["config=tiny/hvdm_autoencoder", "batch=64", "run=/mnt/hvdm/runs/my_run"]


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
    assert cli.main(["cluster", "template", kind, *NEEDED, *more]) == 0
    return capsys.readouterr().out


def ray_job(capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    job, policy = yaml.safe_load_all(made(capsys, "kuberay", *more))
    jsonschema.validate(policy, POLICY)
    return job


EVIL = "x\n  privileged: true\n#SBATCH --uid=0\ntouch M `touch M` $(touch M) \"' } # : {"


HOSTILE = (
    "image", "time", "storage", "claim", "memory", "region", "machine", "grace_s", "run",
    "data.path",
)  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("key", HOSTILE)
def test_no_value_says_more_than_a_value(
    kind: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is quoted by the language that it enters, or refused."""
    code = cli.main(["cluster", "template", kind, *NEEDED, f"{key}={EVIL}"])
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
        harmless = list(yaml.safe_load_all(made(capsys, kind, f"{key}=harmless")))
        assert _shape(list(yaml.safe_load_all(said.out))) == _shape(harmless)


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
