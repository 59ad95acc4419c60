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
from launcher import arguments, cli
from launcher.templating import FILES, template

NEEDED = ["config=tiny/hvdm_autoencoder", "batch=64", "run=/mnt/hvdm/runs/my_run"]

POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "terminationGracePeriodSeconds": {"type": "integer"},
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string", "pattern": "^[a-z0-9-]+$"},
                            "image": {"type": "string"},
                            "ports": {"type": "array"},
                            "env": {"type": "array", "items": {
                                "required": ["name", "value"],
                                "properties": {"value": {"type": "string"}},
                            }},
                            "resources": {"type": "object"},
                            "volumeMounts": {"type": "array", "items": {
                                "required": ["name", "mountPath"]}},
                        },
                    },
                },
                "volumes": {"type": "array", "items": {"required": ["name"]}},
            },
        }
    },
}  # fmt: skip
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
GROUP = {
    "type": "object",
    "required": ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    "additionalProperties": False,
    "properties": {
        "groupName": {"type": "string"},
        "replicas": {"type": "integer"},
        "minReplicas": {"type": "integer"},
        "maxReplicas": {"type": "integer"},
        "rayStartParams": TEXTS,
        "template": POD,
    },
}
RAY_JOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {
            "required": ["name"],
            "properties": {"name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]*$"}},
        },
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["entrypoint", "rayClusterSpec"],
            "properties": {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
                "backoffLimit": {"type": "integer"},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer"},
                "runtimeEnvYAML": {"type": "string"},
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "additionalProperties": False,
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "headGroupSpec": {
                            "required": ["rayStartParams", "template"],
                            "additionalProperties": False,
                            "properties": {"rayStartParams": TEXTS, "template": POD},
                        },
                        "workerGroupSpecs": {"type": "array", "items": GROUP},
                    },
                },
            },
        },
    },
}  # fmt: skip
"""The part of KubeRay's RayJob that we use: names and types of its v1 API."""


def made(capsys: pytest.CaptureFixture[str], kind: str, *more: str) -> str:
    assert cli.main(["cluster", "template", kind, *NEEDED, *more]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", FILES)
def test_nothing_is_left_open(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = made(capsys, kind, "cluster.workers=16")
    assert not re.search(r"@[A-Z_]+@", text)
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
    job = yaml.safe_load(made(capsys, "kuberay", "cluster.workers=16", "image=me/hvdm:1"))
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
    assert typed[:2] == ["hvdm", "train"] and cli._find(arguments.parse(typed[1:])).name == "train"


def test_a_wrong_ray_job_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    job = yaml.safe_load(made(capsys, "kuberay"))
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["rayStartParams"] = {"num-cpus": 4}
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
        template(arguments.parse(typed))


def test_a_wrong_key_of_the_run_is_named() -> None:
    with pytest.raises(UserError, match="cluster.workers"):
        template(arguments.parse(["slurm", *NEEDED, "cluster.worker=3"]))
